"""Who is at the other end of a loopback connection, asked of the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from shardcast.http.peer_user import user_of

OTHER = 65_534


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
def test_the_owner_of_a_connection_is_who_opened_it(family, host):
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        with socket.socket(family) as client:
            client.connect(listener.getsockname()[:2])
            with listener.accept()[0] as accepted:
                ends = accepted.getpeername()[:2], accepted.getsockname()[:2]
                assert user_of(*ends) == os.geteuid()
                client.close()
                assert user_of(*ends) is None, "a socket that was closed has no owner"


def test_a_connection_that_there_is_not_has_no_owner():
    assert user_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_another_user_is_not_taken_for_ours():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        address = listener.getsockname()
        script = (
            f"import os,socket,sys; os.setuid({OTHER}); s=socket.socket(); "
            f"s.connect((b'127.0.0.1',{address[1]})); sys.stdin.read()"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as other:
            with listener.accept()[0] as accepted:
                assert user_of(accepted.getpeername(), accepted.getsockname()) == OTHER
            other.communicate()


def test_an_ipv4_connection_made_by_an_ipv6_socket_is_found():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        with listener.accept()[0] as accepted:
            assert user_of(accepted.getpeername(), accepted.getsockname()) == os.geteuid()

"""A daemon under a service manager: what it tells, and when."""

from __future__ import annotations

import socket

from tests.loopback.daemons import swarm


def test_a_daemon_says_that_it_is_ready_that_it_lives_and_that_it_stops(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messages, swarm(tmp_path) as made:
        messages.settimeout(20)
        messages.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        daemon = made.origin()
        assert messages.recv(256) == b"READY=1\nSTATUS=serving"
        assert [messages.recv(256) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        assert daemon.stop() == 0
        last = [b"WATCHDOG=1"]
        while last[-1] == b"WATCHDOG=1":
            last.append(messages.recv(256))
        assert last[-1] == b"STOPPING=1"

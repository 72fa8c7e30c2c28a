"""TCP_INFO as this kernel tells it, and as older ones did."""

from __future__ import annotations

import socket
import struct
import sys

import pytest

from shardcast.bulk.tcp_info import parse_tcp_info, read_tcp_info

SIZE = 216


def _raw() -> bytearray:
    raw = bytearray(SIZE)
    raw[0] = 1
    raw[7] = 0x01 if sys.byteorder == "little" else 0x80
    for offset, value in {16: 1448, 24: 7, 68: 40_000, 80: 10, 144: 4096, 148: 20_000}.items():
        struct.pack_into("=I", raw, offset, value)
    for offset, value in {120: 1 << 33, 160: 5, 168: 6_000_000, 176: 7, 184: 8, 200: 1 << 34, 208: 9}.items():
        struct.pack_into("=Q", raw, offset, value)
    return raw


def test_every_field_is_read_from_its_place():
    info = parse_tcp_info(bytes(_raw()))
    assert (info.state, info.is_app_limited, info.snd_mss_bytes, info.unacked_segments) == (1, True, 1448, 7)
    assert (info.rtt_s, info.min_rtt_s) == (pytest.approx(0.04), pytest.approx(0.02))
    assert (info.snd_cwnd_segments, info.acked_bytes, info.notsent_bytes) == (10, 1 << 33, 4096)
    assert (info.delivery_rate_bytes_per_s, info.sent_bytes, info.retrans_bytes) == (5, 1 << 34, 9)
    assert (info.busy_s, info.rwnd_limited_s) == (pytest.approx(6.0), pytest.approx(7e-6))
    assert info.sndbuf_limited_s == pytest.approx(8e-6)


def test_an_older_kernel_leaves_out_what_came_later():
    info = parse_tcp_info(bytes(_raw()[:192]))
    assert (info.acked_bytes, info.sent_bytes, info.retrans_bytes) == (1 << 33, None, None)
    info = parse_tcp_info(bytes(_raw()[:104]))
    assert (info.rtt_s, info.acked_bytes, info.min_rtt_s, info.is_app_limited) == (
        pytest.approx(0.04),
        None,
        None,
        False,
    )
    assert parse_tcp_info(b"\1" * 50) is None


def test_no_round_trip_yet_is_none():
    raw = _raw()
    struct.pack_into("=I", raw, 68, 0)
    struct.pack_into("=I", raw, 148, 0xFFFF_FFFF)
    info = parse_tcp_info(bytes(raw))
    assert (info.rtt_s, info.min_rtt_s) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is read on Linux alone")
def test_a_real_connection_counts_what_its_other_end_took():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            near.sendall(b"x" * 5000)
            assert len(far.recv(5000, socket.MSG_WAITALL)) == 5000
            info = read_tcp_info(near)
            assert info.state == 1
            assert info.acked_bytes is None or 5000 <= info.acked_bytes <= 5001
            assert info.rtt_s > 0
    assert read_tcp_info(near) is None


def test_a_system_without_the_option_tells_nothing(monkeypatch):
    monkeypatch.delattr(socket, "TCP_INFO", raising=False)
    with socket.socket() as sock:
        assert read_tcp_info(sock) is None

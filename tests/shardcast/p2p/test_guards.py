"""The shims on libp2p 0.8.1: the code that each one stands in front of, and what it does."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.tcp.tcp import TCP

from shardcast.p2p import guards, mux_guards
from shardcast.p2p.limits import STREAM_BUFFER_BYTES_MAX, P2pLimits
from shardcast.p2p.quiet_logs import LOGGER_NAME, quiet_libp2p

#: The code that the guards replace or rely on. A change here means: read it again, and the guard in front of it.
UPSTREAM: list[tuple[Callable[..., Any], str]] = [
    (mux_guards._write_frame, "16ff969cdd0d2b1b"),
    (mux_guards._init, "3b11a2a71ca444ca"),
    (YamuxStream.write, "d87f74dfb53ab194"),
    (Yamux.handle_incoming, "ad15ff6943feac20"),
    (Yamux.close, "d80b27e69ccd1b89"),
    (SwarmConn._handle_muxed_stream, "fb51f8a3e37c9800"),
    (SwarmConn.close, "442c6259a8e9e45e"),
    (Swarm._handle_inbound_connection, "0800fdf9770ed8e6"),
    (Swarm._do_handle_inbound_connection, "c22fdfd5289f671c"),
    (Swarm.upgrade_inbound_raw_conn, "e24c4285f494767a"),
    (Swarm._dial_with_retry, "bd2025f00c84dddb"),
    (Swarm.add_conn, "d469d71b3ed1f4df"),
    (BasicHost._schedule_identify, "d24ee6400132b4af"),
    (BasicHost.new_stream, "df9efa1bac504f42"),
    (TrioManager.run_task, "ee6be8e98338d107"),
    (TrioManager._run_and_manage_task, "cfbe961e1a6c8968"),
    (TCP.dial, "e5659d040a9aace1"),
    (Pubsub.continuously_read_stream, "ac0c4ad87ca39288"),
    (Pubsub.push_msg, "1531483ab4d77674"),
    (Pubsub.validate_msg, "9bc61633d2338dc5"),
    (Pubsub.handle_subscription, "c200deee0f0a965c"),
    (GossipSub.handle_rpc, "bb6f7311e2958a22"),
    (GossipSub._do_px, "4b102fbb716dafc9"),
]


@pytest.mark.parametrize(("function", "digest"), UPSTREAM, ids=[function.__qualname__ for function, _ in UPSTREAM])
def test_the_code_behind_a_guard_is_the_one_it_was_written_for(function: Callable[..., Any], digest: str) -> None:
    assert hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16] == digest


def test_libp2p_is_the_release_that_the_guards_know() -> None:
    assert importlib.metadata.version("libp2p") == "0.8.1"


def test_the_guards_are_applied_once_however_often_they_are_asked_for() -> None:
    for _ in range(3):
        mux_guards.guard_muxer()
    assert Yamux._write_frame is mux_guards._shielded_write_frame
    assert mux_guards._write_frame is not mux_guards._shielded_write_frame


def test_a_stream_buffer_refuses_what_is_over_its_bound() -> None:
    buffers = mux_guards._BoundedBuffers()
    buffers[1] = bytearray()
    buffers[1].extend(bytes(STREAM_BUFFER_BYTES_MAX))
    with pytest.raises(BufferError):
        buffers[1].extend(b"x")
    assert len(buffers[1]) == STREAM_BUFFER_BYTES_MAX


def test_a_cancelled_frame_is_written_whole() -> None:
    async def main() -> list[bytes]:
        mux_guards.guard_muxer()
        written: list[bytes] = []

        class SlowConnection:
            is_initiator = True

            async def write(self, data: bytes) -> None:
                await trio.lowlevel.checkpoint()
                written.append(data)

        muxed = Yamux(SlowConnection(), SimpleNamespace())  # type: ignore[arg-type]
        with trio.CancelScope() as scope:
            scope.cancel()
            await muxed._write_frame(b"frame")
        assert scope.cancelled_caught
        return written

    assert trio.run(main) == [b"frame"]


def test_a_raising_stream_handler_costs_its_stream_only() -> None:
    async def fail(_stream: object) -> None:
        raise ValueError("whatever a peer provoked")

    stream = _Stream()
    network = _Network(fail)
    guards.guard_streams(network, streams_max=2)
    for _ in range(5):
        trio.run(network.common_stream_handler, stream)
    assert stream.resets == 5


def test_a_failing_task_of_a_service_closes_what_it_belongs_to() -> None:
    class Connection:
        secured_conn = None
        is_closed = True
        closed = False

        async def start(self) -> None:
            raise ValueError("whatever a peer provoked")

        async def close(self) -> None:
            self.closed = True

    scheduled: list[Any] = []
    manager = SimpleNamespace(run_task=lambda afn, *args, **options: scheduled.append((afn, args)))
    guards.contain_tasks(manager)
    connection = Connection()
    manager.run_task(connection.start)
    afn, args = scheduled[0]
    trio.run(afn, *args)
    assert connection.closed


def test_a_daemon_task_of_a_service_is_not_contained() -> None:
    async def daemon() -> None:
        raise ValueError("the service is of no use without it")

    scheduled: list[Any] = []
    manager = SimpleNamespace(run_task=lambda afn, *args, **options: scheduled.append(afn))
    guards.contain_tasks(manager)
    manager.run_task(daemon, daemon=True)
    assert scheduled == [daemon]


@pytest.mark.parametrize(("ip", "taken"), [("203.0.113.9", 2), ("127.0.0.1", 5), ("::1", 5)])
def test_one_address_gets_only_so_many_inbound_places(ip: str, taken: int) -> None:
    class Visitor:
        closed = False

        def get_remote_address(self) -> tuple[str, int]:
            return ip, 40_000

        async def close(self) -> None:
            self.closed = True

    async def upgrade(_connection: object, _address: object) -> object:
        return SimpleNamespace(event_closed=trio.Event())

    async def main() -> list[Visitor]:
        network = SimpleNamespace(upgrade_inbound_raw_conn=upgrade)
        guards.release_inbound_places(network, P2pLimits(inbound_max=64, inbound_per_ip_max=2))
        visitors = [Visitor() for _ in range(5)]
        async with trio.open_nursery() as nursery:
            for visitor in visitors:
                nursery.start_soon(network._do_handle_inbound_connection, visitor, None, None)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return visitors

    assert sum(not visitor.closed for visitor in trio.run(main)) == taken


def test_a_handshake_that_says_nothing_loses_its_place_to_a_newcomer() -> None:
    class Visitor:
        closed = False

        def get_remote_address(self) -> tuple[str, int]:
            return "127.0.0.1", 40_000

        async def close(self) -> None:
            self.closed = True

    async def upgrade(connection: Any, _address: object) -> object:
        if connection.stream is not speaker:
            await trio.sleep_forever()
        return SimpleNamespace(event_closed=trio.Event())

    speaker = Visitor()

    async def main() -> list[list[bool]]:
        network = SimpleNamespace(upgrade_inbound_raw_conn=upgrade)
        guards.release_inbound_places(network, P2pLimits(inbound_max=3))
        visitors = [speaker, *(Visitor() for _ in range(4))]
        closed = []
        async with trio.open_nursery() as nursery:
            for visitor, pause_s in zip(visitors, (0.0, 0.0, 0.9, 0.2, 0.0), strict=True):
                nursery.start_soon(network._do_handle_inbound_connection, visitor, None, None)
                await trio.testing.wait_all_tasks_blocked()
                closed.append([other.closed for other in visitors])
                clock.jump(pause_s)
            nursery.cancel_scope.cancel()
        return closed[-2:]

    clock = trio.testing.MockClock()
    # the fourth comes before anybody's time is over, the fifth after
    assert trio.run(main, clock=clock) == [[False, False, False, True, False], [False, True, False, True, False]]


def test_what_libp2p_logs_is_debug_under_our_name_and_nowhere_else(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    module_that_uses_the_root_logger: Any = importlib.import_module("libp2p.network.connection.swarm_connection")

    quiet_libp2p()
    root_handlers = list(logging.getLogger().handlers)
    with caplog.at_level(logging.DEBUG, logger=LOGGER_NAME):
        logging.getLogger("libp2p.network.swarm").error("an error about %s", "a peer")
        module_that_uses_the_root_logger.logging.warning("through the root")
    assert [(record.name, record.levelname) for record in caplog.records] == [(LOGGER_NAME, "DEBUG")] * 2
    assert "libp2p.network.swarm: an error about a peer" in caplog.text
    assert logging.getLogger().handlers == root_handlers
    assert capfd.readouterr() == ("", "")


class _Network:
    def __init__(self, handler: Callable[[Any], Any]) -> None:
        self.common_stream_handler = handler

    def set_stream_handler(self, handler: Callable[[Any], Any]) -> None:
        self.common_stream_handler = handler


class _Stream:
    def __init__(self) -> None:
        self.muxed_conn = SimpleNamespace(peer_id="peer")
        self.resets = 0

    async def reset(self) -> None:
        self.resets += 1

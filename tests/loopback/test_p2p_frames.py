"""Control frames between real hosts on 127.0.0.1."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardcast.p2p import P2pLimits, P2pNode
from shardcast_proto.errors import ConfigError, InvariantViolated, LocalProtocolError, TransferError
from shardcast_proto.limits import CONTROL_FRAME_BYTES_MAX
from tests.loopback.p2p_hosts import LOOPBACK, Node, Recorder, nodes, raw_host


async def test_frames_arrive_whole_and_in_order_both_ways() -> None:
    chooser = random.Random(1)
    sent = [bytes([index % 256]) * chooser.choice([1, 100, 70_000]) for index in range(150)]
    async with nodes(2) as (a, b):
        await a.link(b)
        for payload in sent:
            assert a.p2p.send(b.id, payload)
            assert b.p2p.send(a.id, payload)
        for here, there in ((a, b), (b, a)):
            await here.heard.until_count(len(sent), "frame", there.id)
            assert [event[2] for event in here.heard.of("frame", there.id)] == sent


async def test_the_largest_frame_arrives_and_a_larger_one_is_refused() -> None:
    async with nodes(2) as (a, b):
        await a.link(b)
        largest = os.urandom(CONTROL_FRAME_BYTES_MAX)
        assert a.p2p.send(b.id, largest)
        await b.heard.until_count(1, "frame")
        assert b.heard.of("frame") == [("frame", a.id, largest)]
        with pytest.raises(LocalProtocolError, match="1048577 bytes"):
            a.p2p.send(b.id, largest + b"x")


async def test_a_frame_to_a_stranger_is_not_queued() -> None:
    async with nodes(2) as (a, b):
        assert not a.p2p.send(b.id, b"frame")


async def test_two_nodes_that_dial_each_other_at_once_have_one_working_link() -> None:
    for _ in range(5):
        async with nodes(2) as (a, b):
            await asyncio.gather(a.dial(b), b.dial(a), a.dial(b))
            await a.heard.until_count(1, "connected")
            await b.heard.until_count(1, "connected")
            assert a.p2p.send(b.id, b"from a") and b.p2p.send(a.id, b"from b")
            await a.heard.until_count(1, "frame")
            await b.heard.until_count(1, "frame")
            assert [event[0] for event in a.heard.events] == ["connected", "frame"]
            assert [event[0] for event in b.heard.events] == ["connected", "frame"]


async def test_a_hung_up_peer_is_disconnected_once_on_both_sides_and_can_come_back() -> None:
    async with nodes(2) as (a, b):
        await a.link(b)
        await a.p2p.hangup(b.id)
        for here in (a, b):
            await here.heard.until_count(1, "disconnected")
        assert not a.p2p.send(b.id, b"frame")
        await b.dial(a)
        await a.heard.until_count(2, "connected")
        assert [event[0] for event in b.heard.events] == ["connected", "disconnected", "connected"]
        assert [event[0] for event in a.heard.events] == ["connected", "disconnected", "connected"]


async def test_the_remote_ip_of_a_peer_is_reported() -> None:
    async with nodes(2) as (a, b):
        await a.link(b)
        assert a.heard.of("connected") == [("connected", b.id, "127.0.0.1")]
        assert b.heard.of("connected") == [("connected", a.id, "127.0.0.1")]


async def test_a_dial_to_another_key_than_expected_fails_soon() -> None:
    async with nodes(3) as (a, b, c):
        address = b.addresses[0].split("/p2p/")[0]
        began = time.monotonic()
        with pytest.raises(TransferError, match="not reachable") as caught:
            await a.p2p.dial(c.id, [address], timeout_s=5)
        assert caught.value.facts["reason"] == "unreachable"
        assert time.monotonic() - began < 2
        assert not a.heard.events


async def test_a_dial_to_a_closed_port_fails_soon() -> None:
    async with nodes(2) as (a, b):
        with socket.socket() as probe:
            probe.bind(LOOPBACK)
            port = probe.getsockname()[1]
        with pytest.raises(TransferError, match="not reachable"):
            await a.p2p.dial(b.id, [f"/ip4/127.0.0.1/tcp/{port}"], timeout_s=5)


async def test_a_dial_to_a_host_that_never_answers_ends_at_the_deadline() -> None:
    async with nodes(2) as (a, b):
        with socket.socket() as silent:
            silent.bind(LOOPBACK)
            silent.listen()
            began = time.monotonic()
            with pytest.raises(TransferError) as caught:
                await a.p2p.dial(b.id, [f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"], timeout_s=0.5)
        assert caught.value.facts["reason"] == "deadline"
        assert time.monotonic() - began < 1.5


async def test_one_good_address_among_bad_ones_is_enough() -> None:
    async with nodes(2) as (a, b):
        with socket.socket() as silent:
            silent.bind(LOOPBACK)
            silent.listen()
            bad = [
                f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}",
                "/dns4/localhost/tcp/7481",
                "/ip4/10.1.2.3/tcp/7481",
            ]
            await a.p2p.dial(b.id, [*bad, *b.addresses], timeout_s=5)
        assert a.p2p.peers == (b.id,)


async def test_an_address_that_the_rules_refuse_is_not_dialled() -> None:
    async with nodes(2) as (a, b):
        with pytest.raises(TransferError, match="may be dialled") as caught:
            await a.p2p.dial(b.id, ["/ip4/169.254.169.254/tcp/8080", "/ip4/127.0.0.1/tcp/22"], timeout_s=5)
        assert caught.value.facts["reason"] == "refused"


async def test_a_cancelled_dial_leaves_a_node_that_can_dial_again() -> None:
    async with nodes(2) as (a, b):
        with socket.socket() as silent:
            silent.bind(LOOPBACK)
            silent.listen()
            dial = asyncio.create_task(
                a.p2p.dial(b.id, [f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"], timeout_s=60)
            )
            await asyncio.sleep(0.1)
            dial.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dial
        await a.link(b)


async def test_a_peer_that_does_not_read_fills_its_own_queue_only() -> None:
    limits = P2pLimits(send_queue_bytes_max=1 << 20)
    async with nodes(2, limits=limits) as (a, b), raw_host() as deaf:
        await deaf.connect(a)
        await deaf.call(_accept_and_ignore, deaf.host)
        if min(str(deaf.host.get_id()), a.id) != a.id:
            await deaf.open(a, "/shardcast/swarm/1")
        await a.heard.until_count(1, "connected")
        deaf_id = a.heard.of("connected")[0][1]
        taken = 0
        while a.p2p.send(deaf_id, bytes(60_000)):
            taken += 1
            await asyncio.sleep(0)
        assert 17 <= taken <= 30
        await a.link(b)
        assert a.p2p.send(b.id, b"frame")
        await b.heard.until_count(1, "frame")
        began = time.monotonic()
        await a.p2p.aclose()
        assert time.monotonic() - began < 2


async def test_cancelled_writes_do_not_break_the_connection() -> None:
    async with nodes(2) as (a, b):
        await a.link(b)
        await a.p2p._bridge.call(_cancel_many_writes, a, b)
        assert a.p2p.send(b.id, b"frame")
        await b.heard.until_count(1, "frame")
        assert not a.heard.of("disconnected") and not b.heard.of("disconnected")


async def test_closing_takes_less_than_two_seconds_and_tells_the_others() -> None:
    async with nodes(4) as (a, *others):
        for other in others:
            await a.link(other)
        began = time.monotonic()
        await a.p2p.aclose()
        assert time.monotonic() - began < 2
        for other in others:
            await other.heard.until_count(1, "disconnected", a.id, timeout_s=2)
        assert a.p2p.closed.result() is None
        await a.p2p.aclose()
        with pytest.raises(TransferError):
            await a.p2p.subscribe("topic")
        assert not a.p2p.send(others[0].id, b"frame")


async def test_a_port_in_use_is_a_configuration_error() -> None:
    async with nodes(1) as (a,):
        port = int(a.addresses[0].split("/")[4])
        second = P2pNode(
            os.urandom(32), ("127.0.0.1", port), announce=None, events=Recorder(), validate=lambda topic, data: True
        )
        with pytest.raises(ConfigError, match="cannot listen"):
            await second.start()
        await second.aclose()


async def test_an_error_on_the_trio_side_settles_closed_and_ends_the_calls() -> None:
    async with nodes(2) as (a, b):
        await a.link(b)

        async def fail() -> None:
            raise ZeroDivisionError("a bug of ours")

        assert a.p2p._bridge._nursery is not None
        a.p2p._bridge.poke(a.p2p._bridge._nursery.start_soon, fail)
        with pytest.raises(InvariantViolated, match="ZeroDivisionError: a bug of ours"):
            await asyncio.wait_for(asyncio.shield(a.p2p.closed), 5)
        with pytest.raises(TransferError):
            await a.p2p.subscribe("topic")


async def test_a_killed_peer_is_disconnected_once_and_soon() -> None:
    async with nodes(1) as (a,):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHILD, a.id, a.addresses[0], env=_child_environment(), stdout=subprocess.DEVNULL
        )
        try:
            await a.heard.until_count(1, "frame", timeout_s=30)
            child.send_signal(signal.SIGKILL)
            began = time.monotonic()
            await a.heard.until_count(1, "disconnected", timeout_s=5)
            assert time.monotonic() - began < 2
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
        assert [event[0] for event in a.heard.events] == ["connected", "frame", "disconnected"]


async def _cancel_many_writes(a: Node, b: Node) -> None:
    """Write to a stream beside the control stream, and cancel each write at some point of it."""
    import trio
    from libp2p.peer.id import ID

    side = a.p2p._trio_side
    assert side is not None
    stream = await side.links._host.new_stream(ID.from_base58(b.id), ["/ipfs/ping/1.0.0"])

    async def cancel_after(steps: int, scope: trio.CancelScope) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    for number in range(300):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_after, number % 15, scope)
                await stream.write(bytes(32))


async def _accept_and_ignore(host: object) -> None:
    import trio

    async def ignore(_stream: object) -> None:
        await trio.sleep_forever()

    host.set_stream_handler("/shardcast/swarm/1", ignore)  # type: ignore[attr-defined]


def _child_environment() -> dict[str, str]:
    top = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(top / part) for part in (".", "proto", "relay"))}


_CHILD = """
import asyncio, os, sys
from shardcast.p2p import P2pNode

class Nobody:
    def __getattr__(self, name):
        return lambda *args: None

async def main(peer, address):
    node = P2pNode(os.urandom(32), ("127.0.0.1", 0), announce=None, events=Nobody(), validate=lambda t, d: True)
    await node.start()
    await node.dial(peer, [address], timeout_s=10)
    node.send(peer, b"here")
    await node.closed

asyncio.run(main(*sys.argv[1:]))
"""

"""Peers that do not behave, played by raw libp2p hosts against real nodes on 127.0.0.1."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from typing import Any

import pytest
import trio
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from shardcast.p2p import P2pLimits
from shardcast.p2p.control import FRAME_COST_BYTES
from shardcast_proto.framing import frame
from tests.loopback.malformed import malformed_frame
from tests.loopback.p2p_hosts import Node, RawHost, nodes, raw_host

MESHSUB = "/meshsub/1.1.0"
SWARM = "/shardcast/swarm/1"
TOPIC = "topic"
MALFORMED_FRAMES = 10_000
BATCH = 50


async def test_a_node_lives_through_ten_thousand_malformed_pubsub_frames() -> None:
    async with nodes(2) as (a, b), raw_host() as attacker:
        for node in (a, b):
            await node.p2p.subscribe(TOPIC)
        await a.link(b)
        frames_read = _count_frames_read(a)
        await attacker.call(_flood, attacker.host, a, frames_read)
        assert len(frames_read) >= MALFORMED_FRAMES
        assert not a.p2p.closed.done()
        await _still_works(a, b)
        assert not a.heard.of("disconnected", b.id)


async def test_a_peer_that_sends_only_malformed_pubsub_frames_is_hung_up() -> None:
    chooser = random.Random(8)
    async with nodes(1, limits=P2pLimits(malformed_max=20)) as (a,), raw_host() as attacker:
        await a.p2p.subscribe(TOPIC)
        await attacker.connect(a)
        stream = await attacker.open(a, MESHSUB)
        frames = b"".join(encode_varint_prefixed(chooser.randbytes(40)) for _ in range(100))
        await attacker.call(stream.write, frames)
        await attacker.call(_until_closed, attacker.host, a)


async def test_a_message_over_the_cap_is_neither_delivered_nor_passed_on() -> None:
    async with nodes(2) as (a, b), raw_host() as attacker:
        for node in (a, b):
            await node.p2p.subscribe(TOPIC)
        await a.link(b)
        await attacker.connect(a)
        stream = await attacker.open(a, MESHSUB)
        await attacker.call(stream.write, encode_varint_prefixed(_message(attacker, bytes(5_000))))
        with pytest.raises(StreamError):
            await attacker.call(stream.write, encode_varint_prefixed(_message(attacker, bytes(500_000))))
        await _still_works(a, b)
        assert not [event for node in (a, b) for event in node.heard.of("gossip") if event[2] not in (a.id, b.id)]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        struct.pack("!I", (1 << 20) + 1) + bytes(100),
        random.Random(3).randbytes(50_000),
    ],
    ids=["huge length", "zero length", "one byte over", "noise"],
)
async def test_a_malformed_control_frame_costs_only_that_peers_stream(data: bytes) -> None:
    async with nodes(2) as (a, b):
        await a.link(b)
        async with _attacker_that_opens(a) as attacker:
            await attacker.connect(a)
            stream = await attacker.open(a, SWARM)
            await a.heard.until_count(2, "connected")
            attacker_id = a.heard.of("connected")[1][1]
            await attacker.call(stream.write, frame(b"good") + data)
            await a.heard.until_count(1, "disconnected", attacker_id)
            assert a.heard.of("frame", attacker_id) == [("frame", attacker_id, b"good")]
        assert a.p2p.send(b.id, b"frame")
        await b.heard.until_count(1, "frame", a.id)
        assert not a.heard.of("disconnected", b.id)


async def test_a_flood_of_tiny_frames_is_read_no_faster_than_it_is_dealt_with() -> None:
    limits = P2pLimits(receive_queue_bytes_max=64 * 1024)
    async with nodes(1, limits=limits) as (a,), _attacker_that_opens(a) as attacker:
        await attacker.connect(a)
        stream = await attacker.open(a, SWARM)
        await a.heard.until_count(1, "connected")
        await attacker.call(stream.write, frame(b"x") * 10_000)
        await a.heard.until_count(10_000, "frame")
        link = a.p2p._streams[a.heard.of("connected")[0][1]]
        assert link.incoming.most_waiting <= 64 * 1024 + 2 * FRAME_COST_BYTES


async def test_a_second_control_stream_replaces_the_first() -> None:
    async with nodes(1) as (a,), _attacker_that_opens(a) as attacker:
        await attacker.connect(a)
        await attacker.open(a, SWARM)
        await a.heard.until_count(1, "connected")
        second = await attacker.open(a, SWARM)
        await a.heard.until_count(2, "connected")
        await attacker.call(second.write, frame(b"second"))
        await a.heard.until_count(1, "frame")
        assert [event[0] for event in a.heard.events] == ["connected", "disconnected", "connected", "frame"]


async def test_a_peer_that_does_not_speak_our_protocol_is_hung_up() -> None:
    limits = P2pLimits(link_s=0.2, link_failures_max=2)
    async with nodes(1, limits=limits) as (a,), raw_host() as stranger:
        await stranger.connect(a)
        await stranger.call(_until_closed, stranger.host, a)
        assert not a.heard.events


async def test_streams_over_the_cap_are_refused_and_the_peer_stays_linked() -> None:
    async with nodes(2) as (a, b), _attacker_that_opens(a) as attacker:
        await attacker.connect(a)
        stream = await attacker.open(a, SWARM)
        await a.heard.until_count(1, "connected")
        refused = await attacker.call(_open_many, attacker.host, a, 60)
        assert refused >= 60 - P2pLimits().streams_per_connection_max
        await attacker.call(stream.write, frame(b"still here"))
        await a.heard.until_count(1, "frame")
        await a.link(b)


async def test_an_inbound_place_is_free_again_when_its_connection_closes() -> None:
    limits = P2pLimits(inbound_max=3)
    async with nodes(1, limits=limits) as (a,):
        for _ in range(8):
            async with raw_host() as visitor:
                await visitor.connect(a)
        async with raw_host() as one, raw_host() as two, raw_host() as three, raw_host() as four:
            for visitor in (one, two, three):
                await _connect_when_free(visitor, a)
            with pytest.raises(Exception, match=r"."):
                await four.connect(a)


async def test_a_peer_that_overruns_its_window_is_not_buffered() -> None:
    async with nodes(2) as (a, b), _attacker_that_opens(a) as attacker:
        await attacker.connect(a)
        stream = await attacker.open(a, SWARM)
        await a.heard.until_count(1, "connected")
        attacker_id = a.heard.of("connected")[0][1]
        # A reader that does not read, in the place of the asyncio side being busy.
        reader = a.p2p._streams[attacker_id]
        reader.incoming.put(P2pLimits().receive_queue_bytes_max)
        held = await asyncio.gather(
            attacker.call(_overrun, stream, 100), a.p2p._bridge.call(_most_unread_bytes, a, 1.0)
        )
        assert 60_000 < held[1] <= 512 * 1024
        await a.link(b)


async def test_the_node_asks_nobody_for_addresses_and_dials_nobody_by_itself() -> None:
    async with nodes(1) as (a,), raw_host() as visitor, raw_host() as lure:
        await visitor.connect(a)
        lure_id = lure.host.get_id()
        await a.p2p._bridge.call(_learn, a, lure_id, str(lure.host.get_addrs()[0]))
        with pytest.raises(Exception, match="only the application dials"):
            await a.p2p._bridge.call(_network(a).new_stream, lure_id)
        assert not await lure.call(_peers_of, lure.host)


async def _still_works(a: Node, b: Node) -> None:
    assert a.p2p.send(b.id, b"frame") and b.p2p.send(a.id, b"frame")
    for here, there in ((a, b), (b, a)):
        await here.heard.until_count(1, "frame", there.id)
    for origin, hearer in ((a, b), (b, a)):
        async with asyncio.timeout(15):
            while not hearer.heard.of("gossip", TOPIC, origin.id, b"news"):
                await origin.p2p.publish(TOPIC, b"news")
                await asyncio.sleep(0.2)


def _count_frames_read(node: Node) -> list[int]:
    """Return a list that grows with each pubsub frame that the node has read and dealt with."""
    side = node.p2p._trio_side
    assert side is not None
    take, read = side.gossip.pubsub._take_frame, list[int]()

    async def counted(peer: ID, data: bytes) -> None:
        await take(peer, data)
        read.append(len(data))

    side.gossip.pubsub._take_frame = counted  # type: ignore[method-assign, assignment]
    return read


async def _flood(host: Any, node: Node, frames_read: list[int]) -> None:
    """Send malformed frames until the node has read enough of them, connecting again whenever it hangs up."""
    peer, address = ID.from_base58(node.id), Multiaddr(node.addresses[0])
    network, chooser = host.get_network(), random.Random(7)
    stream: Any = None
    while len(frames_read) < MALFORMED_FRAMES:
        try:
            if stream is None:
                if not network.get_connections(peer):
                    await network.dial_addr(address, peer)
                stream = await host.new_stream(peer, [MESHSUB])
            await stream.write(b"".join(malformed_frame(chooser, TOPIC) for _ in range(BATCH)))
        except Exception:  # noqa: BLE001 - whatever libp2p raises when it was hung up
            stream = None
            await trio.sleep(0.05)


def _message(attacker: RawHost, data: bytes) -> bytes:
    message = rpc_pb2.Message(data=data, topicIDs=[TOPIC], from_id=attacker.host.get_id().to_bytes(), seqno=b"\x01" * 8)
    message.signature = attacker.host.get_private_key().sign(b"libp2p-pubsub:" + message.SerializeToString())
    return rpc_pb2.RPC(publish=[message]).SerializeToString()


class _attacker_that_opens:
    """A raw host whose id sorts below the node's, so that opening the control stream is its turn."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._raw = RawHost()

    async def __aenter__(self) -> RawHost:
        from shardcast.p2p import peer_id_of_seed

        number = 0
        while peer_id_of_seed(self._raw.seed) >= self._node.id:
            number += 1
            self._raw.seed = number.to_bytes(32, "big")
        await self._raw.start()
        return self._raw

    async def __aexit__(self, *_exception: object) -> None:
        await self._raw.aclose()


async def _until_closed(host: Any, node: Node) -> None:
    peer = ID.from_base58(node.id)
    with trio.fail_after(10):
        for connection in host.get_network().get_connections(peer):
            await connection.muxed_conn.event_closed.wait()


async def _open_many(host: Any, node: Node, count: int) -> int:
    """Open streams and leave them open; return how many the node did not take."""
    refused = 0
    for _ in range(count):
        try:
            stream = await host.get_network().new_stream(ID.from_base58(node.id))
            # Half a negotiation: the node waits for the rest.
            await stream.write(b"\x13/multistream")
            with trio.move_on_after(0.05):
                await stream.read(1)
        except Exception:  # noqa: BLE001 - whatever libp2p raises for a reset stream
            refused += 1
    return refused


async def _connect_when_free(visitor: RawHost, node: Node) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            await visitor.connect(node)
            return
        except Exception:  # noqa: BLE001 - whatever libp2p raises when it is turned away
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def _overrun(stream: Any, pieces: int) -> None:
    """Write without regard for the window."""
    for _ in range(pieces):
        stream.muxed_stream.send_window = 1 << 30
        try:
            await stream.write(frame(bytes(60_000)))
        except Exception:  # noqa: BLE001 - whatever libp2p raises for a reset stream
            return


def _network(node: Node) -> Any:
    side = node.p2p._trio_side
    assert side is not None
    return side.links._network


async def _most_unread_bytes(node: Node, seconds: float) -> int:
    """Watch for a while; return the most bytes that streams held unread."""
    most = 0
    end_s = trio.current_time() + seconds
    while trio.current_time() < end_s:
        muxed = [connection.muxed_conn for connection in _network(node).get_connections()]
        most = max(most, *(len(unread) for one in muxed for unread in one.stream_buffers.values()), 0)
        await trio.sleep(0.005)
    return most


async def _learn(node: Node, peer: ID, address: str) -> None:
    _network(node).peerstore.add_addrs(peer, [Multiaddr(address)], 3600)
    await _network(node).auto_connector.maybe_connect()
    await trio.sleep(1)


async def _peers_of(host: Any) -> list[Any]:
    return list(host.get_network().get_connections())

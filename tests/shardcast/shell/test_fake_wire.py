"""The contract of the control network, held by the fake one and by the real one alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shardcast.p2p import P2pNode
from shardcast_proto.errors import TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import PeerId
from tests.shardcast.shell.fake_wire import FakeNetwork, FakeP2p


class Heard:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self._changed = asyncio.Event()

    def peer_connected(self, peer: PeerId, remote_ip: str) -> None:
        self._note("connected", peer)

    def peer_disconnected(self, peer: PeerId) -> None:
        self._note("disconnected", peer)

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        self._note("frame", peer, payload)

    def gossip_received(self, topic: str, sender: PeerId, data: bytes) -> None:
        self._note("gossip", sender, data)

    async def until(self, *event: object) -> None:
        async with asyncio.timeout(10):
            while event not in self.events:
                self._changed.clear()
                await self._changed.wait()

    def _note(self, *event: object) -> None:
        self.events.append(event)
        self._changed.set()


class Host:
    """A started host of either kind."""

    def __init__(self, p2p: FakeP2p | P2pNode, heard: Heard, addresses: list[str]) -> None:
        self.p2p, self.heard, self.addresses, self.id = p2p, heard, addresses, p2p.peer_id

    async def link(self, other: Host) -> None:
        await self.p2p.dial(other.id, other.addresses, timeout_s=10)
        await other.heard.until("connected", self.id)


Make = Callable[[str], Awaitable[Host]]


@pytest.fixture(params=["fake", "real"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    network = FakeNetwork()
    hosts: list[Host] = []

    async def make_one(name: str) -> Host:
        heard, seed = Heard(), digest_of(name.encode())

        def validate(topic: str, data: bytes) -> bool:
            return data != b"bad"

        p2p: FakeP2p | P2pNode
        if request.param == "fake":
            p2p = FakeP2p(network, seed, heard, validate)
        else:
            p2p = P2pNode(seed, ("127.0.0.1", 0), announce=None, events=heard, validate=validate)
        hosts.append(Host(p2p, heard, await p2p.start()))
        return hosts[-1]

    yield make_one
    await asyncio.gather(*(host.p2p.aclose() for host in hosts))


async def test_frames_arrive_whole_and_in_order_behind_the_link(make: Make) -> None:
    one, two = await make("one"), await make("two")
    await one.link(two)
    assert one.p2p.peers == (two.id,)
    assert ("connected", two.id) in one.heard.events, "a dial returns after the link was reported"
    sent = [bytes([number]) * (1 + number * 1000) for number in range(20)]
    assert all(one.p2p.send(two.id, payload) for payload in sent)
    await two.heard.until("frame", one.id, sent[-1])
    assert two.heard.events == [("connected", one.id), *(("frame", one.id, payload) for payload in sent)]


async def test_who_cannot_be_dialled_and_who_is_not_linked_is_said(make: Make) -> None:
    one, two = await make("one"), await make("two")
    await two.p2p.aclose()
    with pytest.raises(TransferError) as caught:
        await one.p2p.dial(two.id, two.addresses, timeout_s=5)
    assert caught.value.facts["reason"] == "unreachable"
    assert not one.p2p.send(two.id, b"x")
    await one.p2p.hangup(two.id)


async def test_a_hangup_is_reported_on_both_sides(make: Make) -> None:
    one, two = await make("one"), await make("two")
    await one.link(two)
    await one.p2p.hangup(two.id)
    await two.heard.until("disconnected", one.id)
    await one.heard.until("disconnected", two.id)
    assert one.p2p.peers == two.p2p.peers == ()


async def test_a_host_that_closes_leaves_its_peers_and_takes_no_more_calls(make: Make) -> None:
    one, two = await make("one"), await make("two")
    await one.link(two)
    await one.p2p.aclose()
    await two.heard.until("disconnected", one.id)
    with pytest.raises(TransferError):
        await one.p2p.publish("topic", b"late")
    assert not one.p2p.send(two.id, b"late")


async def test_gossip_reaches_neighbours_of_neighbours_unless_it_is_refused(make: Make) -> None:
    one, two, three = await make("one"), await make("two"), await make("three")
    for host in (one, two, three):
        await host.p2p.subscribe("topic")
    await one.link(two)
    await two.link(three)
    # a subscription takes a moment to be known: say it until it is heard
    async with asyncio.timeout(20):
        while ("gossip", one.id, b"good") not in three.heard.events:
            await one.p2p.publish("topic", b"bad")
            await one.p2p.publish("topic", b"good")
            with_time = asyncio.ensure_future(three.heard.until("gossip", one.id, b"good"))
            await asyncio.wait([with_time], timeout=0.2)
            with_time.cancel()
    assert ("gossip", one.id, b"bad") not in two.heard.events + three.heard.events

"""A network inside one process: a control network and a data plane without sockets, for several nodes on one loop.

`FakeP2p` keeps the promises of `P2pNode` that the shell relies on (`test_fake_wire` holds both to them); `FakeDataClient` reads straight
from the other node's store.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from shardcast.http.chunk_stream import Segments
from shardcast.p2p import AddressPolicy, CarriedReceiver, P2pEvents, parse_p2p_address, peer_id_of_seed
from shardcast.store import Store, close_all
from shardcast_proto.carriage import Answer, Request, Status
from shardcast_proto.errors import IntegrityError, TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId


class FakeNetwork:
    """Who listens where."""

    def __init__(self) -> None:
        self.p2p: dict[int, FakeP2p] = {}
        self.stores: dict[str, Store] = {}
        #: Data-plane addresses whose chunks have a flipped bit.
        self.liars: set[str] = set()
        #: (address, chunk index) of every chunk that was asked for.
        self.asked_chunks: list[tuple[str, int]] = []
        self.asked_objects: list[Digest] = []
        #: (peer, request) of everything that was carried, and peers that carry a flipped bit.
        self.carried: list[tuple[PeerId, Request]] = []
        self.lying_peers: set[PeerId] = set()
        #: Chunks that may still flow before everything stands still; None is no limit.
        self.chunks_left: int | None = None
        self._flow = asyncio.Event()
        self._next_port = 20_000

    def port(self) -> int:
        self._next_port += 1
        return self._next_port

    async def pass_chunk(self) -> None:
        """Wait until one more chunk may flow."""
        while self.chunks_left == 0:
            await self._flow.wait()
        if self.chunks_left is not None:
            self.chunks_left -= 1

    def let_flow(self) -> None:
        """Let every chunk through."""
        self.chunks_left = None
        self._flow.set()


class FakeUpload:
    """A carried upload that lands at its receiver at once."""

    def __init__(self, peer: PeerId, request: Request, receiver: CarriedReceiver, *, is_lie: bool) -> None:
        self.peer, self.request = peer, request
        self.answered: Answer | None = None
        self._receiver = receiver
        self._is_lie = is_lie

    async def answer(self, answer: Answer) -> None:
        self.answered = answer
        if answer.status is Status.OK:
            self._receiver.judge(answer)
            self._receiver.began(answer)

    async def send(self, data: bytes) -> None:
        self._receiver.received(bytes([data[0] ^ self._is_lie]) + data[1:])


class FakeP2p:
    """One host of the control network. Events come later, in order, as from another thread."""

    def __init__(
        self, network: FakeNetwork, seed: bytes, events: P2pEvents, validate: Callable[[str, bytes], bool]
    ) -> None:
        self.peer_id: PeerId = peer_id_of_seed(seed)
        self.policy = AddressPolicy("127.0.0.1")
        #: Answers what linked peers ask to be carried.
        self.serve: Callable[[FakeUpload], Awaitable[None]] | None = None
        self._network = network
        self._events = events
        self._validate = validate
        self._links: dict[PeerId, FakeP2p] = {}
        self._topics: set[str] = set()
        self._port = network.port()
        self._is_closed = False

    @property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(self._links)

    async def start(self) -> list[str]:
        self._network.p2p[self._port] = self
        return [f"/ip4/127.0.0.1/tcp/{self._port}/p2p/{self.peer_id}"]

    async def dial(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        if self._is_closed:
            raise TransferError("the p2p side has ended", reason="p2p_ended")
        if peer not in self._links:
            found = [self._network.p2p.get(parse_p2p_address(address).port) for address in addresses]
            other = next((host for host in found if host is not None and host.peer_id == peer), None)
            if other is None:
                raise TransferError(f"peer {peer} is not reachable", peer=peer, reason="unreachable")
            self._link(other)
            other._link(self)
        await asyncio.sleep(0)

    async def hangup(self, peer: PeerId) -> None:
        other = self._links.get(peer)
        if other is not None:
            self._unlink(peer)
            other._unlink(self.peer_id)

    def send(self, peer: PeerId, payload: bytes) -> bool:
        other = self._links.get(peer)
        if other is None:
            return False
        asyncio.get_running_loop().call_soon(other._frame, self.peer_id, payload)
        return True

    async def subscribe(self, topic: str) -> None:
        self._topics.add(topic)

    async def publish(self, topic: str, data: bytes) -> None:
        if self._is_closed:
            raise TransferError("the p2p side has ended", reason="p2p_ended")
        reached, frontier = {self.peer_id}, [self]
        while frontier:
            for other in frontier.pop()._links.values():
                if other.peer_id in reached or topic not in other._topics:
                    continue
                reached.add(other.peer_id)
                if other._validate(topic, data):
                    frontier.append(other)
                    asyncio.get_running_loop().call_soon(other._events.gossip_received, topic, self.peer_id, data)

    async def carry(
        self, peer: PeerId, request: Request, receiver: CarriedReceiver, *, idle_timeout_s: float
    ) -> Answer:
        other = self._links.get(peer)
        if other is None or other.serve is None:
            raise TransferError(f"peer {peer} is not connected", peer=peer, reason="unreachable")
        self._network.carried.append((peer, request))
        upload = FakeUpload(self.peer_id, request, receiver, is_lie=peer in self._network.lying_peers)
        await other.serve(upload)
        assert upload.answered is not None
        return upload.answered

    async def aclose(self) -> None:
        self._is_closed = True
        self._network.p2p.pop(self._port, None)
        for peer in self.peers:
            await self.hangup(peer)
        await asyncio.sleep(0)

    def _link(self, other: FakeP2p) -> None:
        self._links[other.peer_id] = other
        asyncio.get_running_loop().call_soon(self._events.peer_connected, other.peer_id, "127.0.0.1")

    def _unlink(self, peer: PeerId) -> None:
        if self._links.pop(peer, None) is not None:
            asyncio.get_running_loop().call_soon(self._events.peer_disconnected, peer)

    def _frame(self, peer: PeerId, payload: bytes) -> None:
        if peer in self._links:
            self._events.frame_received(peer, payload)


class FakeDataClient:
    """Fetches from the stores of the network."""

    def __init__(self, network: FakeNetwork) -> None:
        self._network = network

    async def fetch_object(self, base: str, digest: Digest, *, size_max: int, deadline_s: float) -> bytes:
        self._network.asked_objects.append(digest)
        data = await asyncio.to_thread(self._store(base).object, digest)
        if data is None:
            raise TransferError("404", reason="missing", peer=base)
        if len(data) > size_max:
            raise TransferError(f"the object is {len(data)} bytes long", reason="protocol", peer=base)
        if digest_of(data) != digest:
            raise IntegrityError("other bytes", peer=base)
        return data

    async def fetch_run(
        self,
        base: str,
        blob: Digest,
        first: int,
        lengths: Sequence[int],
        *,
        on_chunk: Callable[[int, Segments], Awaitable[None]],
        on_began: Callable[[], None] = lambda: None,
        deadline_s: float,
        idle_timeout_s: float,
    ) -> int:
        places = await asyncio.to_thread(self._store(base).locate_run, blob, first, len(lengths))
        if not places:
            raise TransferError("404", reason="missing", peer=base)
        try:
            on_began()
            for index, place in enumerate(places, first):
                await self._network.pass_chunk()
                self._network.asked_chunks.append((base, index))
                data = bytearray(os.pread(place.file.fileno(), place.length, place.offset))
                data[0] ^= base in self._network.liars
                await on_chunk(index, [memoryview(bytes(data))])
        finally:
            close_all(places)
        return len(places)

    def _store(self, base: str) -> Store:
        store = self._network.stores.get(base)
        if store is None:
            raise TransferError(f"nobody listens at {base}", reason="unreachable", peer=base)
        return store

"""The nodes, recorders and raw hosts that the loopback tests of the control network play with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.config import RetryConfig
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr

from shardcast.p2p import P2pLimits, P2pNode
from shardcast.p2p.bridge import TrioThread
from shardcast.p2p.quiet_logs import quiet_libp2p
from shardcast_proto.ids import PeerId

_T = TypeVar("_T")

LOOPBACK = ("127.0.0.1", 0)


class Recorder:
    """Keeps every event, and wakes who waits for one."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._changed = asyncio.Event()

    def peer_connected(self, peer: PeerId, remote_ip: str) -> None:
        self._note("connected", peer, remote_ip)

    def peer_disconnected(self, peer: PeerId) -> None:
        self._note("disconnected", peer)

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        self._note("frame", peer, payload)

    def gossip_received(self, topic: str, sender: PeerId, data: bytes) -> None:
        self._note("gossip", topic, sender, data)

    def of(self, kind: str, *start: Any) -> list[tuple[Any, ...]]:
        """Return the events that begin with these values."""
        return [event for event in self.events if event[: 1 + len(start)] == (kind, *start)]

    async def until_count(self, count: int, kind: str, *start: Any, timeout_s: float = 10) -> None:
        """Wait until so many events begin with these values."""
        async with asyncio.timeout(timeout_s):
            while len(self.of(kind, *start)) < count:
                self._changed.clear()
                await self._changed.wait()

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self._changed.set()


class Node:
    """A started `P2pNode` with its recorder and its addresses."""

    def __init__(self, p2p: P2pNode, heard: Recorder, addresses: list[str]) -> None:
        self.p2p, self.heard, self.addresses = p2p, heard, addresses
        self.id = p2p.peer_id

    async def dial(self, other: Node, *, timeout_s: float = 10) -> None:
        await self.p2p.dial(other.id, other.addresses, timeout_s=timeout_s)

    async def link(self, other: Node) -> None:
        """Dial, and wait until both sides know."""
        await self.dial(other)
        await other.heard.until_count(1, "connected", self.id)


@asynccontextmanager
async def nodes(
    count: int, *, validate: Sequence[Callable[[str, bytes], bool]] = (), limits: P2pLimits | None = None
) -> AsyncIterator[list[Node]]:
    """Run some nodes on loopback."""
    started: list[Node] = []
    try:
        for index in range(count):
            heard = Recorder()
            judge = validate[index] if index < len(validate) else lambda topic, data: True
            p2p = P2pNode(
                os.urandom(32), LOOPBACK, announce=None, events=heard, validate=judge, limits=limits or P2pLimits()
            )
            started.append(Node(p2p, heard, await p2p.start()))
        yield started
    finally:
        for node in started:
            await node.p2p.aclose()


class RawHost:
    """A stock libp2p host in a thread of its own, for peers that do not behave."""

    def __init__(self) -> None:
        self._thread = TrioThread("raw")
        self.host: Any = None
        self.seed = os.urandom(32)

    async def start(self) -> str:
        return await self._thread.start(self._serve)

    async def call(self, afn: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        return await self._thread.call(afn, *args)

    async def connect(self, node: Node) -> None:
        """Connect to a node (once; a second call makes a second connection)."""
        address = node.addresses[0]
        await self.call(self.host.get_network().dial_addr, Multiaddr(address), ID.from_base58(node.id))

    async def open(self, node: Node, protocol: str) -> Any:
        return await self.call(self.host.new_stream, ID.from_base58(node.id), [protocol])

    async def aclose(self) -> None:
        await self._thread.aclose(grace_s=1)

    async def _serve(self, started: Callable[[str], None]) -> None:
        key_pair = create_new_key_pair(self.seed)
        self.host = new_host(
            key_pair=key_pair,
            sec_opt={NOISE_ID: Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)},
        )
        quiet_libp2p()
        self.host.get_network().retry_config = RetryConfig(max_retries=0)
        async with self.host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            started(str(self.host.get_addrs()[0]))
            await self._thread.wait_stop()
            with trio.move_on_after(1):
                await self.host.close()


@asynccontextmanager
async def raw_host() -> AsyncIterator[RawHost]:
    raw = RawHost()
    await raw.start()
    try:
        yield raw
    finally:
        await raw.aclose()

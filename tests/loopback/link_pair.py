"""Two nodes' bulk links over real sockets: a table on each side, a port that serves both it and HTTP, and an owner that writes down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shardcast.bulk import BulkLinks, LinkLimits
from shardcast.http.bucket import TokenBucket
from shardcast.http.chunk_stream import Segments
from shardcast.http.data_server import DataServer
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.trust import SigningKey
from tests.loopback.data_plane import BLOB, LENGTHS, FileSource

KEYS = [SigningKey(bytes([seed]) * 32) for seed in (4, 5, 6)]


class Owner:
    """Writes down what the links tell it."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.chunks: dict[int, bytes] = {}
        self.lengths: list[int] = list(LENGTHS)
        #: What a pushed chunk waits for before it has landed.
        self.may_land = asyncio.Event()
        self.may_land.set()
        self.news = asyncio.Event()

    def link_opened(self, peer: PeerId, is_sending: bool) -> None:
        self._note("opened", peer, is_sending)

    async def link_closed(self, peer: PeerId, is_sending: bool) -> None:
        self._note("closed", peer, is_sending)

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        self._note("frame", peer, payload)

    def push_length(self, peer: PeerId, blob: Digest, stripe: int, index: int) -> int | None:
        return self.lengths[index] if blob == BLOB else None

    async def push_arrived(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, segments: Segments) -> None:
        await self.may_land.wait()
        self.chunks[index] = b"".join(segments)
        self._note("arrived", index, stripe)

    def push_broken(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, reason: str) -> None:
        self._note("broken", index, reason)

    def _note(self, *what: Any) -> None:
        self.told.append(what)
        self.news.set()

    async def told_of(self, *what: Any) -> None:
        """Wait for one thing."""
        await self.until(lambda: what in self.told)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to have been told."""
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()


class End:
    """One node."""

    def __init__(self, key: SigningKey, source: FileSource, rate: float | None, limits: LinkLimits) -> None:
        self.peer = key.peer
        self.source = source
        self.owner = Owner()
        self.bucket = TokenBucket(rate)
        self.sent: list[int] = []
        self.strangers: set[PeerId] = set()
        self.links = BulkLinks(
            key,
            source=source,
            bucket=self.bucket,
            inbound=TokenBucket(None),
            may_link=lambda peer: peer not in self.strangers,
            on_sent=lambda peer, size: self.sent.append(size),
            limits=limits,
        )
        self.links.events = self.owner
        self.server = DataServer(source, bucket=TokenBucket(None), links=self.links.accept)
        self.base = ""

    async def start(self) -> None:
        host, port = await self.server.start("127.0.0.1", 0)
        self.base = f"{host}:{port}"

    async def aclose(self) -> None:
        self.owner.may_land.set()
        await self.links.aclose()
        await self.server.aclose()


@asynccontextmanager
async def ends(path: Path, *, rate: float | None = None, **limits: Any) -> AsyncIterator[tuple[End, End]]:
    """Two nodes that hold the same blob; no link is up."""
    source = FileSource(path)
    made = [End(key, source, rate, LinkLimits(**limits)) for key in KEYS[:2]]
    for end in made:
        await end.start()
    try:
        yield made[0], made[1]
    finally:
        for end in made:
            await end.aclose()
        assert all(file.closed for file in source.opened)


@asynccontextmanager
async def linked(path: Path, **options: Any) -> AsyncIterator[tuple[End, End]]:
    """Two nodes with a link from the first to the second."""
    async with ends(path, **options) as (sender, receiver):
        await receiver.links.open(sender.peer, [sender.base], is_sending=False, timeout_s=5)
        await sender.owner.until(lambda: ("opened", receiver.peer, True) in sender.owner.told)
        yield sender, receiver

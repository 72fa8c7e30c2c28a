"""The shell's side of bulk links: every order has one ending, every push that began has one arrival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast.bulk import LinkEvents
from shardcast.http.chunk_stream import Segments
from shardcast.shell.fetcher import Fetcher
from shardcast.shell.lander import Lander
from shardcast.shell.linked import Linked
from shardcast.shell.pushes import Pushes
from shardcast.shell.tasks import Tasks
from shardcast.shell.versions import Versions
from shardcast.store import Store
from shardcast_proto import messages
from shardcast_proto.errors import RemoteProtocolError, ShardcastError, StoreError, TransferError
from shardcast_proto.ids import Digest, PeerId
from shardcast_relay.commands import CloseLink, FetchChunks, OpenLink, PushChunk
from shardcast_relay.events import (
    ChunkVerified,
    Event,
    FetchEnded,
    LinkClosed,
    LinkFailed,
    LinkOpened,
    MessageReceived,
    Outcome,
    PushArrived,
    PushBegan,
    PushEnded,
)
from tests.shardcast.shell.fake_wire import FakeDataClient, FakeNetwork
from tests.shardcast.store.trees import CHUNK, chunk_of, manifest_of, model

PEER = PeerId("peer")
BLOB = Digest(b"b" * 32)


class FakeLinks:
    """Links that a test brings up and down."""

    def __init__(self) -> None:
        self.events: LinkEvents
        self.up: set[tuple[PeerId, bool]] = set()
        self.failure: ShardcastError | None = None
        self.sent: list[bytes] = []
        self.chunks: list[bytes] = []

    async def open(self, peer: PeerId, addresses: Sequence[str], *, is_sending: bool, timeout_s: float) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if (peer, is_sending) not in self.up:
            self.up.add((peer, is_sending))
            self.events.link_opened(peer, is_sending)

    def close(self, peer: PeerId, *, is_sending: bool) -> None:
        self.up.discard((peer, is_sending))

    def has(self, peer: PeerId, *, is_sending: bool) -> bool:
        return (peer, is_sending) in self.up

    async def push(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, deadline_s: float) -> None:
        if self.failure is not None:
            raise self.failure

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
        on_began()
        for at in range(len(lengths)):
            await on_chunk(first + at, [self.chunks[first + at]])
        return len(lengths)

    def send(self, peer: PeerId, payload: bytes) -> bool:
        self.sent.append(payload)
        return bool(self.up)


class Desk:
    """The linked part of one shell, with what it told."""

    def __init__(self, store: Store) -> None:
        self.told: list[Event] = []
        self.hung_up: list[PeerId] = []
        self.links = FakeLinks()
        self.versions = Versions(store)
        self.tasks = Tasks()
        self.lander = Lander(self.versions, on_full=lambda version: None, on_store_error=lambda version: None)
        data = FakeDataClient(FakeNetwork())
        self.fetcher = Fetcher(
            data, self.versions, carried=data, lander=self.lander, tell=self.told.append, take_object=_nowhere
        )
        self.pushes = Pushes(self.versions, lander=self.lander, tell=self.told.append)
        self.linked = Linked(
            fetcher=self.fetcher,
            pushes=self.pushes,
            tell=self.told.append,
            tasks=self.tasks,
            on_nonsense=self.hung_up.append,
            is_welcome=lambda peer: True,
        )
        self.linked.use(self.links)

    async def do(self, *commands: OpenLink | CloseLink | PushChunk) -> list[Event]:
        for command in commands:
            self.linked.carry_out(command)
        for _ in range(5):
            await asyncio.sleep(0)
        return self.told


async def _nowhere(digest: Digest, data: bytes) -> None:
    raise AssertionError("no objects here")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with _desk(tmp_path) as made:
        yield made


@asynccontextmanager
async def _desk(home: Path) -> AsyncIterator[Desk]:
    store = Store.open(home / "store")
    made = Desk(store)
    try:
        yield made
    finally:
        await made.fetcher.aclose()
        await made.tasks.aclose()
        await made.pushes.aclose()
        await made.lander.aclose()
        store.close()


def open_link(*, is_sending: bool = True) -> OpenLink:
    return OpenLink(1, PEER, ("127.0.0.1:1",), is_sending, asyncio.get_running_loop().time() + 5)


def push_chunk(push_id: int = 1) -> PushChunk:
    return PushChunk(1, push_id, PEER, BLOB, 0, 3, asyncio.get_running_loop().time() + 5)


async def test_an_order_for_a_link_ends_once(desk: Desk) -> None:
    assert await desk.do(open_link()) == [LinkOpened(PEER, True)]
    assert await desk.do(open_link()) == [LinkOpened(PEER, True)] * 2, "it was up already"


@pytest.mark.parametrize("reason", ["unreachable", "busy", "protocol", "deadline"])
async def test_a_link_that_does_not_come_up_has_failed(desk: Desk, reason: str) -> None:
    desk.links.failure = TransferError("no", reason=reason)
    assert await desk.do(open_link()) == [LinkFailed(PEER, True, Outcome(reason))]


async def test_a_link_that_the_peer_opens_meanwhile_ends_the_order(desk: Desk) -> None:
    desk.links.failure = TransferError("crossed", reason="busy")
    desk.linked.carry_out(open_link())
    desk.linked.link_opened(PEER, True)
    assert await desk.do() == [LinkOpened(PEER, True)]


async def test_a_peer_that_is_hung_up_on_loses_its_links(desk: Desk) -> None:
    await desk.do(open_link(), open_link(is_sending=False))
    desk.linked.drop(PEER)
    assert not desk.links.up


FAILURES = {
    "stalled": (TransferError("no", reason="stalled"), Outcome.STALLED),
    "missing": (TransferError("no", reason="missing"), Outcome.MISSING),
    "unreadable": (StoreError("bad disk"), Outcome.STORE),
    "sent": (None, Outcome.DONE),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_a_push_ends_as(desk: Desk, what: str) -> None:
    desk.links.failure, outcome = FAILURES[what]
    assert await desk.do(push_chunk(7)) == [PushEnded(7, outcome)]


async def test_what_is_pushed_is_landed_and_told_of_before_the_end_of_its_link(desk: Desk) -> None:
    contents = model(1, shard_bytes=4 * CHUNK)
    manifest = manifest_of(contents)
    chunks = [chunk_of(contents, manifest, index) for index in range(3)]
    blob = manifest.blob.id
    version = desk.versions.add(manifest, desk.versions.store.begin(manifest))
    for index in (0, 1, 2):
        assert desk.linked.push_length(PEER, blob, 5, index) == len(chunks[index])
    await desk.linked.push_arrived(PEER, blob, 5, 0, segments=[chunks[0]])
    await desk.linked.push_arrived(PEER, blob, 5, 1, segments=[b"x" * len(chunks[1])])
    await desk.linked.push_arrived(PEER, blob, 5, 0, segments=[chunks[0]])
    desk.linked.push_broken(PEER, blob, 5, 2, reason="short")
    await desk.linked.link_closed(PEER, False)
    assert desk.told[:3] == [PushBegan(PEER, blob, 5, index) for index in (0, 1, 2)]
    assert desk.told[3] == PushArrived(PEER, blob, 5, 2, Outcome.SHORT)
    assert desk.told[4:] == [
        PushArrived(PEER, blob, 5, 0, Outcome.DONE, len(chunks[0]), True),
        PushArrived(PEER, blob, 5, 1, Outcome.CORRUPT),
        PushArrived(PEER, blob, 5, 0, Outcome.DONE, len(chunks[0]), False),
        LinkClosed(PEER, False),
    ]
    assert version.bytes_by_peer[PEER] == 2 * len(chunks[0])
    with pytest.raises(RemoteProtocolError):
        desk.linked.push_length(PEER, blob, 5, manifest.blob.chunk_count)
    assert desk.linked.push_length(PEER, BLOB, 5, 0) is None, "an unknown blob"


async def test_chunks_are_fetched_over_the_link_that_is_up(desk: Desk) -> None:
    contents = model(1, shard_bytes=4 * CHUNK)
    manifest = manifest_of(contents)
    desk.links.chunks = [chunk_of(contents, manifest, index) for index in range(2)]
    desk.versions.add(manifest, desk.versions.store.begin(manifest))
    desk.links.up.add((PEER, False))
    deadline_s = asyncio.get_running_loop().time() + 5
    desk.fetcher.start(FetchChunks(1, 9, PEER, ("127.0.0.1:1",), manifest.blob.id, 0, 2, deadline_s, 5.0))
    await asyncio.sleep(0)
    await desk.linked.link_closed(PEER, False)
    assert [type(event) for event in desk.told] == [ChunkVerified, ChunkVerified, FetchEnded, LinkClosed]
    assert desk.told[2].outcome is Outcome.DONE


async def test_only_the_swarms_small_talk_goes_by_a_link(desk: Desk) -> None:
    desk.links.up.add((PEER, True))
    want, get = messages.Want(BLOB, ()), messages.GetHead(BLOB)
    assert desk.linked.send(PEER, want, messages.encode(want)) and not desk.linked.send(PEER, get, messages.encode(get))
    desk.linked.frame_received(PEER, messages.encode(want))
    assert desk.told == [MessageReceived(PEER, want)] and not desk.hung_up
    for nonsense in (messages.encode(get), b"nonsense"):
        desk.linked.frame_received(PEER, nonsense)
    assert desk.hung_up == [PEER, PEER] and len(desk.told) == 1

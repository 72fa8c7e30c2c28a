"""What the tests of the API share: a small node over real files, a server round it, a client that sends what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from shardcast.http.api import ApiLimits, ApiServer
from shardcast.http.facade import (
    ChannelView,
    EventKind,
    EventsView,
    EventView,
    GcView,
    LeaseView,
    OpenFile,
    PeerView,
    ProgressFn,
    PublishNews,
    PublishNewsFn,
    PublishRequest,
    PublishView,
    SpoolView,
    StatusView,
    TreeView,
    VerifyView,
    VersionView,
)
from shardcast_proto.chunking import chunk_count
from shardcast_proto.errors import ConfigError, NotFound, NotReady, ShardcastError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import format_digest
from shardcast_proto.manifest import Manifest
from tests.loopback import api_engines
from tests.loopback.api_engines import EngineHolder

CHANNEL, CHANNEL_ID = api_engines.CHANNEL, api_engines.CHANNEL_ID
CHUNK = 256 * 1024
SOON_S = 10.0
TOKEN = b"0123456789abcdef"
CONFIG = b'{"model_type": "qwen3"}'
WEIGHTS = bytes((index * 7 + index // 251) % 256 for index in range(1_000_003))
#: Names that a URL must escape, one of them with slashes that mean something.
FILES = {"config.json": CONFIG, "weights 1.bin": WEIGHTS, "empty": b"", "sub/größe #%2F+&.txt": b"odd name"}


@dataclass
class Version:
    seq: int
    step: int
    root: Path
    is_complete: bool = True
    is_pinned: bool = False

    @property
    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    @cached_property
    def manifest(self) -> Manifest:
        rows = [(name, (self.root / name).stat().st_size) for name in self.names]
        ordered = sorted(self.names, key=str.encode)
        digests = b"".join(
            digest_of((self.root / name).read_bytes()[index * CHUNK : (index + 1) * CHUNK])
            for name in ordered
            for index in range(chunk_count((self.root / name).stat().st_size, CHUNK))
        )
        return Manifest.build(rows, CHUNK, digests)

    def view(self) -> VersionView:
        manifest = self.manifest
        chunks = manifest.blob.chunk_count
        return VersionView(
            channel=CHANNEL,
            channel_id=CHANNEL_ID,
            seq=self.seq,
            step=self.step,
            epoch=0,
            manifest=format_digest(manifest.digest),
            bytes=manifest.total_bytes,
            chunks=chunks,
            have_chunks=chunks if self.is_complete else 0,
            chunk_size=CHUNK,
            files=len(manifest.files),
            state="complete" if self.is_complete else "staging",
            received_at=1000.0,
            completed_at=1001.5 if self.is_complete else None,
            signed_at=None,
            explain="all here" if self.is_complete else "waiting",
            error=None,
            bytes_from_origin=0,
            bytes_from_peers=manifest.total_bytes,
            chunks_verified=chunks,
            duplicate_chunks=0,
            first_chunk_at=1000.5,
            pinned=self.is_pinned,
            active_in=[],
            path=str(self.root) if self.is_complete else None,
        )


@dataclass
class FolderNode(EngineHolder):
    """A node whose versions are folders; newest first."""

    versions_held: list[Version]
    #: What `publish` hashes, one progress call each, before it waits for `may_publish`.
    steps: Iterable[tuple[int, int]] = ()
    #: What `publish` tells after that.
    waiting_line: PublishNews | None = None
    publish_error: Exception | None = None
    verify_error: Exception | None = None
    broken: Exception | None = None
    unready: str | None = None
    may_publish: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    published: list[PublishRequest] = field(default_factory=list)
    publishing_count: int = 0
    waiting_count: int = 0
    asked_paths: list[str] = field(default_factory=list)
    opened: list[OpenFile] = field(default_factory=list)
    closed_count: int = 0
    leases: dict[int, tuple[str, float]] = field(default_factory=dict)
    happened: list[EventView] = field(default_factory=list)
    asked_since: list[str | None] = field(default_factory=list)
    spools: list[str] = field(default_factory=list)

    def status(self) -> StatusView:
        if self.broken is not None:
            raise self.broken
        return StatusView(
            version="0",
            peer_id="12D3KooW",
            started_at=1.0,
            p2p=[],
            serve="127.0.0.1:1",
            api="http://127.0.0.1:2",
            data="/data/\udcff",
            roles=["client"],
            channels=[],
            neighbours=0,
            uploads_running=0,
            sent_bytes=0,
            received_bytes=0,
            refused_heads=0,
            store_error=None,
            engines=self.engines(),
        )

    def peers(self) -> list[PeerView]:
        return []

    def channels(self) -> list[ChannelView]:
        held = len(self.versions_held)
        return [
            ChannelView(name=CHANNEL, channel=CHANNEL_ID, epoch=0, freshness="fresh", is_origin=False, versions=held)
        ]

    def versions(self, channel: str) -> list[VersionView]:
        if channel not in (CHANNEL, CHANNEL_ID):
            raise NotFound(f"no channel {channel!r}", channel=channel)
        return [version.view() for version in self.versions_held]

    def version(self, channel: str, selector: str) -> VersionView:
        return self._find(channel, selector).view()

    def tree(self, channel: str, selector: str) -> TreeView:
        view = self.version(channel, selector)
        return TreeView(
            peer_id="12D3KooWself",
            channel=CHANNEL,
            channel_id=CHANNEL_ID,
            seq=view["seq"],
            step=view["step"],
            manifest=view["manifest"],
            state=view["state"],
            chunks=view["chunks"],
            have_chunks=view["have_chunks"],
            explain=view["explain"],
            is_source=False,
            handing_out=None,
            stripes=[],
            children=[],
            links=[],
            links_receiving=0,
            links_sending=0,
        )

    async def wait(self, channel: str, selector: str, timeout_s: float) -> VersionView:
        self.versions(channel)
        self.waiting_count += 1
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_complete(channel, selector):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            if not self._matching(selector):
                raise NotReady(f"no version {selector} yet") from None
        finally:
            self.waiting_count -= 1
        return self.version(channel, selector)

    def manifest_bytes(self, channel: str, selector: str) -> bytes:
        return self._find(channel, selector).manifest.encoded

    async def open_file(self, channel: str, selector: str, path: str) -> OpenFile:
        self.asked_paths.append(path)
        version = self._find(channel, selector)
        if path not in version.names:
            raise NotFound(f"no file {path!r}", path=path)
        if not version.is_complete:
            raise NotReady("not complete", have_chunks=0)
        file = (version.root / path).open("rb", buffering=0)
        etag = f'"blake3:{digest_of((version.root / path).read_bytes()).hex()}"'
        size = (version.root / path).stat().st_size
        opened = OpenFile(file=file, size=size, etag=etag, on_close=self._count_close)
        self.opened.append(opened)
        return opened

    async def publish(self, request: PublishRequest, tell: PublishNewsFn) -> PublishView:
        self.published.append(request)
        self.publishing_count += 1
        try:
            if not Path(request.path).exists():
                raise NotFound(f"{request.path} does not exist")
            for done, total in self.steps:
                await asyncio.to_thread(tell, {"event": "hashing", "done": done, "total": total})
            if self.waiting_line is not None:
                tell(self.waiting_line)
            await self.may_publish.wait()
            if self.publish_error is not None:
                raise self.publish_error
        finally:
            self.publishing_count -= 1
        return PublishView(
            channel=request.channel,
            seq=3,
            step=request.step,
            manifest=CHANNEL_ID,
            bytes=1,
            signed_at=2.0,
            hash_seconds=0.5,
            existing=False,
            link="copy",
            complete_neighbours=0,
        )

    async def lease(self, channel: str, selector: str, *, holder: str, ttl_s: float) -> LeaseView:
        version = self._find(channel, selector)
        if not version.is_complete:
            raise NotReady("not complete")
        number = len(self.leases) + 1
        self.leases[number] = (holder, ttl_s)
        return LeaseView(**{**version.view(), "lease": number, "path": str(version.root)})

    def release_lease(self, lease: int) -> None:
        if self.leases.pop(lease, None) is None:
            raise NotFound(f"no lease {lease}")

    def is_ready(self) -> tuple[bool, str]:
        return (self.unready is None, self.unready or "serving")

    async def events(self, channel: str, since: str | None, timeout_s: float) -> EventsView:
        self.versions(channel)
        self.asked_since.append(since)
        if since not in (None, "0") and int(since or 0) >= len(self.happened):
            self.waiting_count += 1
            try:
                async with asyncio.timeout(timeout_s):
                    self.changed.clear()
                    await self.changed.wait()
            except TimeoutError:
                return EventsView(events=[], next=since or "0")
            finally:
                self.waiting_count -= 1
        events = self.happened[int(since or 0) :]
        return EventsView(events=events, next=events[-1]["id"] if events else since or "0")

    def happen(self, kind: EventKind) -> None:
        """Let something happen to the newest version."""
        number = str(len(self.happened) + 1)
        self.happened.append(
            EventView(id=number, event=kind, at=5.0, versions=[self.versions_held[0].view()], engine=None, detail=None)
        )
        self.changed.set()

    async def pin(self, channel: str, selector: str) -> VersionView:
        return self._set_pin(channel, selector, True)

    async def unpin(self, channel: str, selector: str) -> VersionView:
        return self._set_pin(channel, selector, False)

    def _set_pin(self, channel: str, selector: str, is_pinned: bool) -> VersionView:
        version = self._find(channel, selector)
        version.is_pinned = is_pinned
        return version.view()

    async def verify(self, channel: str, selector: str, progress: ProgressFn) -> VerifyView:
        version = self._find(channel, selector)
        for done, total in self.steps:
            await asyncio.to_thread(progress, done, total)
        self.publishing_count += 1
        try:
            await self.may_publish.wait()
        finally:
            self.publishing_count -= 1
        if self.verify_error is not None:
            raise self.verify_error
        view = version.view()
        return VerifyView(
            channel=CHANNEL,
            seq=view["seq"],
            step=view["step"],
            manifest=view["manifest"],
            bytes=view["bytes"],
            chunks=view["chunks"],
            seconds=0.25,
        )

    async def gc(self, *, dry_run: bool) -> GcView:
        return GcView(deleted=[CHANNEL_ID], bytes=7, dry_run=dry_run)

    async def spool(self, channel: str) -> SpoolView:
        self.versions(channel)
        self.spools.append("s1")
        return SpoolView(spool="s1", path="/data/spool/s1")

    async def drop_spool(self, spool: str) -> None:
        if spool not in self.spools:
            raise NotFound(f"no spool {spool}")
        self.spools.remove(spool)

    def metrics(self) -> bytes:
        return b"shardcast_neighbours 0\n"

    def complete(self, index: int = 0) -> None:
        self.versions_held[index].is_complete = True
        self.changed.set()

    def _count_close(self) -> None:
        self.closed_count += 1

    def _is_complete(self, channel: str, selector: str) -> bool:
        return any(version.is_complete for version in self._matching(selector)[:1])

    def _matching(self, selector: str) -> list[Version]:
        kind, _, rest = selector.partition(":")
        if selector == "latest":
            return self.versions_held[:1]
        if selector.isdecimal():
            return [version for version in self.versions_held if version.step == int(selector)]
        if kind == "seq":
            return [version for version in self.versions_held if version.seq == int(rest)]
        if kind == "b3":
            return [
                version for version in self.versions_held if format_digest(version.manifest.digest).startswith(selector)
            ]
        raise ConfigError(f"{selector!r} selects nothing")

    def _find(self, channel: str, selector: str) -> Version:
        self.versions(channel)
        matching = self._matching(selector)
        if not matching:
            raise NotFound(f"no version {selector}", selector=selector)
        return matching[0]


def folder_node(tmp_path: Path, **options) -> FolderNode:
    """A node with two complete versions, steps 10 and 20."""
    versions = []
    for seq, step in ((2, 20), (1, 10)):
        root = tmp_path / f"v{seq}"
        for name, content in {**FILES, "step": str(step).encode()}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        versions.append(Version(seq, step, root))
        versions[-1].manifest  # noqa: B018 - sealed now: files that a test adds later are no part of it
    return FolderNode(versions, **options)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    def problem(self, status: int) -> dict:
        """The problem document of an answer that must have this status."""
        assert (self.status, self.headers["content-type"]) == (status, "application/problem+json"), self
        assert self.json["status"] == status
        return self.json


@dataclass
class Caller:
    """Sends one request per connection, byte for byte."""

    address: tuple[str, int]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are and return everything that comes back until the server closes."""
        reader, writer = await self.connect()
        writer.write(request)
        async with asyncio.timeout(SOON_S):
            answer = await reader.read()
        writer.close()
        return answer

    async def __call__(self, method: str, target: str, *lines: str, body: bytes | None = None, host="") -> Reply:
        return reply_in(await self.raw(self.request(method, target, *lines, body=body, host=host)), method)

    async def post(self, target: str, value: object, *lines: str) -> Reply:
        return await self("POST", target, "Content-Type: application/json", *lines, body=json.dumps(value).encode())

    def request(self, method: str, target: str, *lines: str, body: bytes | None = None, host="") -> bytes:
        fields = [f"Host: {host or f'{self.address[0]}:{self.address[1]}'}", "Connection: close", *lines]
        if body is not None:
            fields.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *fields])
        return head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (body or b"")


def reply_in(answer: bytes, method: str = "GET") -> Reply:
    """Read one whole answer; its length must be the one it states."""
    head, mark, body = answer.partition(b"\r\n\r\n")
    assert mark, answer
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _dechunked(body)
    elif method != "HEAD" and "content-length" in headers:
        assert len(body) == int(headers["content-length"])
    return Reply(int(first.split(" ")[1]), headers, body)


@asynccontextmanager
async def serving(node: FolderNode, *, token: bytes | None = None, **limits):
    async with ApiServer(node, token=token, limits=ApiLimits(**limits)) as server:
        yield server, Caller(await server.start("127.0.0.1", 0))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is the other end of a socket
            await asyncio.sleep(0.01)


def failing_with(error: ShardcastError, tmp_path: Path, *steps: tuple[int, int]) -> FolderNode:
    node = folder_node(tmp_path, publish_error=error, steps=steps)
    node.may_publish.set()
    return node


def _dechunked(body: bytes) -> bytes:
    whole = b""
    while True:
        size, _, rest = body.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            assert rest == b"\r\n"
            return whole
        whole += rest[:count]
        body = rest[count + 2 :]

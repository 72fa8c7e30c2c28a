"""The serving end of the data plane: verified bytes by digest, over plain HTTP.

    GET /object/{hex}                      one small object (a root, a manifest, a patch index) whole
    GET /chunk/{blob hex}/{first}?count=N  the longest prefix of the chunks [first, first + N) that is held verified here

Ids only, never paths; `GET` and `HEAD` only; no request bodies. A run is answered with an exact `Content-Length` and
`X-Shardcast-Count`, the number of chunks in it, which may be less than asked. 404 means that the first one is not held,
503 with `Retry-After` that all upload slots are taken, by readers that take something: one that does not loses its slot.
Errors are problem documents (`shardcast.http.problems`). How bytes leave is the upload's part (`shardcast.http.upload`), who
may connect for how long the gate's (`shardcast.http.gate`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, Self, TypeVar

import structlog
from aiohttp import web

from shardcast.http.bucket import TokenBucket
from shardcast.http.gate import Door, Gate, GateLimits, listen
from shardcast.http.problems import problem_of_fault, problem_of_status, problem_response
from shardcast.http.stalls import StallWatch
from shardcast.http.upload import ChunkLocation, Uploader, open_transport
from shardcast_proto.errors import ConfigError, NotFound, ShardcastError, TransferError
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.limits import CHUNKS_MAX, MIB

COUNT_HEADER: Final = "X-Shardcast-Count"
#: One request asks for a few seconds of a slow link at most, so that losing a connection loses little.
RUN_CHUNKS_MAX: Final = 64
#: Chunks are added to a run while it is shorter than this, so a run is at most this and one chunk long.
RUN_BYTES_AIM: Final = 8 * MIB
#: The longest request line that means something is 110 bytes; a header field holds a peer id or a user agent.
_LINE_BYTES_MAX: Final = 512
_FIELD_BYTES_MAX: Final = 1024
_FIELDS_MAX: Final = 32
#: Looking up chunks may stat or re-hash a file; it must not wait behind the hashing of incoming chunks.
_LOOKUP_THREADS: Final = 4
#: Running handlers that have not ended by then, after their connections were cut, are cancelled.
_SHUTDOWN_S: Final = 1.0

_OBJECT = re.compile(r"/object/([0-9a-f]{64})")
_CHUNK = re.compile(r"/chunk/([0-9a-f]{64})/([0-9]{1,9})(?:\?count=([0-9]{1,4}))?")
_RETRY: Final = {"Retry-After": "1"}

_Result = TypeVar("_Result")
_log = structlog.get_logger(__name__)


class ChunkSource(Protocol):
    """What a node holds verified. Both methods are called from worker threads and may block."""

    def locate_run(self, blob: Digest, first: int, count: int) -> Sequence[ChunkLocation]:
        """Return the longest prefix of the run that is held verified; empty when the first chunk is not held."""

    def object(self, digest: Digest) -> bytes | None:
        """Return a small object by its digest, or None when it is not held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeLimits:
    """What the serving end does at once, for how long."""

    #: More parallel uploads only make each slower: a swarm wants chunks finished, not begun.
    uploads_max: int = 32
    #: Objects are read whole (up to 32 MiB each); the others wait their turn inside their upload slot.
    objects_max: int = 4
    #: A slice that is not through by then has no reader that matters.
    stall_timeout_s: float = 30.0
    #: … and whose slot goes to the next who asks, when all are taken: our own nodes give a silent peer up after as long.
    stall_patience_s: float = 5.0
    gate: GateLimits = field(default_factory=GateLimits)


class DataServer:
    """The listening end of one node's data plane.

    Args:
        source: Where the bytes come from.
        bucket: Paces all uploads of the node together.
        on_sent: Told (peer hint, payload bytes) for each slice sent; the hint is "" when the peer gave none.
        links: Makes what reads a connection that begins as a bulk link does.
    """

    def __init__(
        self,
        source: ChunkSource,
        *,
        bucket: TokenBucket,
        limits: ServeLimits | None = None,
        on_sent: Callable[[str, int], None] = lambda peer_hint, size_bytes: None,
        links: Callable[[Door], asyncio.BufferedProtocol] | None = None,
    ) -> None:
        self.limits = limits or ServeLimits()
        self._links = links
        #: Connections that are being answered with bytes; never more than `limits.uploads_max`.
        self._uploads: dict[asyncio.Transport, None] = {}
        self.refused_busy_count = 0
        self._source = source
        self._stalls = StallWatch(self.limits.stall_patience_s)
        self._uploader = Uploader(
            bucket=bucket, stall_timeout_s=self.limits.stall_timeout_s, on_sent=on_sent, stalls=self._stalls
        )
        self._objects = asyncio.Semaphore(self.limits.objects_max)
        self._lookups = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="data-lookup")
        self._http: web.Server | None = None
        self._gate: Gate | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and return the address that was bound (`port` 0 picks a free one).

        Raises:
            ConfigError: The address cannot be bound.
        """
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,  # a peer that leaves frees its upload slot at once
            access_log=None,
            lingering_time=0.0,
            keepalive_timeout=self.limits.gate.idle_timeout_s,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_FIELD_BYTES_MAX,
            max_headers=_FIELDS_MAX,
            auto_decompress=False,
        )
        gate = Gate(self._http, self.limits.gate, links=self._links)
        try:
            self._listener = await listen(gate, host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", hint="name a free address with --serve"
            ) from error
        self._gate = await gate.__aenter__()
        bound = self._listener.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    @property
    def uploads_running(self) -> int:
        """How many uploads are being sent now."""
        return len(self._uploads)

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return 0 if self._gate is None else self._gate.connection_count

    async def aclose(self) -> None:
        """Stop listening, cut what is running, and wait until nothing of it is left."""
        if self._listener is not None:
            self._listener.close()
        if self._gate is not None:
            await self._gate.__aexit__()
        if self._http is not None:
            await self._http.shutdown(_SHUTDOWN_S)
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        door = _door_of(request)
        door.request_started()
        try:
            return await self._answer(request)
        except ShardcastError as error:
            return problem_response(error, headers=_RETRY if error.http_status == 503 else None)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - the HTTP boundary: whatever a request runs into ends that request only
            _log.exception("data_request_failed", path=request.raw_path)
            return problem_of_fault()
        finally:
            door.request_ended()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if refusal := _refusal(request):
            return refusal
        if match := _OBJECT.fullmatch(request.raw_path):
            with self._upload_slot(request):
                return await self._answer_object(request, Digest(bytes.fromhex(match[1])))
        if match := _CHUNK.fullmatch(request.raw_path):
            blob, first, count = Digest(bytes.fromhex(match[1])), int(match[2]), int(match[3] or 1)
            if first >= CHUNKS_MAX or count < 1:
                raise ConfigError(f"{count} chunks from {first} on are not a run", first=first, count=count)
            with self._upload_slot(request):
                return await self._answer_run(request, blob, first, min(count, RUN_CHUNKS_MAX))
        raise NotFound("this port serves /object/{digest} and /chunk/{blob}/{index} only")

    async def _answer_object(self, request: web.BaseRequest, digest: Digest) -> web.StreamResponse:
        async with self._objects:
            data = await self._in_thread(lambda: self._source.object(digest))
            if data is None:
                raise NotFound(f"this node does not hold the object {format_digest(digest)}", digest=digest)
            response = await self._uploader.begin(request, len(data))
            if request.method != "HEAD":
                await self._uploader.send_memory(request, response, data)
            return response

    async def _answer_run(self, request: web.BaseRequest, blob: Digest, first: int, count: int) -> web.StreamResponse:
        lookup = self._in_thread(lambda: self._source.locate_run(blob, first, count))
        try:
            held = await asyncio.shield(lookup)
        except asyncio.CancelledError:
            lookup.add_done_callback(_close_located)
            raise
        try:
            run = _within_aim(held[:count])
            if not run:
                raise NotFound(
                    f"this node does not hold chunk {first} of {format_digest(blob)}", blob=blob, first=first
                )
            length = sum(chunk.length for chunk in run)
            response = await self._uploader.begin(request, length, **{COUNT_HEADER: str(len(run))})
            if request.method != "HEAD":
                await self._uploader.send_run(request, response, run)
            return response
        finally:
            _close_located(lookup)

    @contextmanager
    def _upload_slot(self, request: web.BaseRequest) -> Iterator[None]:
        if len(self._uploads) >= self.limits.uploads_max and not self._cut_stalled():
            self.refused_busy_count += 1
            raise TransferError(f"all {self.limits.uploads_max} upload slots of this node are taken", reason="busy")
        transport = open_transport(request)
        self._uploads[transport] = None
        try:
            yield
        finally:
            self._uploads.pop(transport, None)

    def _cut_stalled(self) -> bool:
        """Cut the upload whose reader takes nothing, if there is one, and return whether that made room."""
        stalled = self._stalls.longest_stalled()
        if stalled is None or stalled not in self._uploads:
            return False
        del self._uploads[stalled]
        stalled.abort()
        return True

    def _in_thread(self, work: Callable[[], _Result]) -> asyncio.Future[_Result]:
        return asyncio.get_running_loop().run_in_executor(self._lookups, work)


def _close_located(lookup: asyncio.Future[Sequence[ChunkLocation]]) -> None:
    """Close the files of a finished lookup; one that failed has opened none."""
    if not lookup.cancelled() and lookup.exception() is None:
        for chunk in lookup.result():
            chunk.file.close()


def _within_aim(run: Sequence[ChunkLocation]) -> Sequence[ChunkLocation]:
    total = 0
    for index, chunk in enumerate(run):
        if total >= RUN_BYTES_AIM:
            return run[:index]
        total += chunk.length
    return run


def _refusal(request: web.BaseRequest) -> web.Response | None:
    """Return the response to a request that is wrong whatever it asks for, or None."""
    if request.method not in ("GET", "HEAD"):
        response = problem_of_status(405, "this port answers GET and HEAD", headers={"Allow": "GET, HEAD"})
    elif request.body_exists:
        response = problem_of_status(400, "this port takes no request bodies")
    else:
        return None
    response.force_close()
    return response


def _door_of(request: web.BaseRequest) -> Door:
    door = open_transport(request).get_protocol()
    if not isinstance(door, Door):
        raise TypeError(f"a request came in by {door!r}, not by a door of the gate")
    return door

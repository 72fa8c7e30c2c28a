"""An upload: the body of one response, sent in slices that the token bucket lets go.

After its length is announced a response can only be finished or cut, so whatever ends a body early (a file that shrank,
a reader that takes nothing for `stall_timeout_s`, our own shutdown) aborts the connection, and the peer sees a short
body.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol

import structlog
from aiohttp import web

from shardcast.http.bucket import TokenBucket
from shardcast.http.stalls import StallWatch

#: The receiver's peer id: a hint for counters, never a proof of anything.
PEER_HEADER: Final = "X-Shardcast-Peer"
_PEER_HINT = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,64}")

_log = structlog.get_logger(__name__)


class ChunkLocation(Protocol):
    """Where the verified bytes of one chunk lie; whoever gets it closes `file`."""

    @property
    def file(self) -> BinaryIO:
        """An open file; neighbours may share one."""

    @property
    def offset(self) -> int:
        """Where in the file the chunk begins."""

    @property
    def length(self) -> int:
        """How many bytes the chunk has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploader:
    """Sends bodies for one server."""

    #: Paces all uploads of the node together.
    bucket: TokenBucket
    #: The longest one slice may take to leave; a reader slower than that is none that matters.
    stall_timeout_s: float
    #: Told (peer hint, payload bytes) for each slice that the kernel took; the hint is "" when the peer gave none.
    on_sent: Callable[[str, int], None]
    #: Knows which uploads wait for their readers; without limited slots nobody asks it.
    stalls: StallWatch = field(default_factory=lambda: StallWatch(math.inf))

    async def begin(self, request: web.BaseRequest, length: int, **headers: str) -> web.StreamResponse:
        """Send the header of a response whose body has `length` bytes."""
        response = web.StreamResponse(
            headers={"Content-Type": "application/octet-stream", "Server": "shardcast", **headers}
        )
        response.content_length = length
        await response.prepare(request)
        return response

    async def send_run(
        self, request: web.BaseRequest, response: web.StreamResponse, run: Sequence[ChunkLocation]
    ) -> None:
        """Send the bytes of a run from its files by `sendfile`.

        Raises:
            ConnectionResetError: The upload was cut.
        """
        with _cut_on_failure(request):
            for extent in _extents(run):
                await self._send_extent(request, extent)
            await response.write_eof()

    async def send_memory(self, request: web.BaseRequest, response: web.StreamResponse, data: bytes) -> None:
        """Send a body that lies in memory.

        Raises:
            ConnectionResetError: The upload was cut.
        """
        hint, view = _peer_hint(request), memoryview(data)
        with _cut_on_failure(request):
            offset = 0
            while offset < len(data):
                part = view[offset : offset + self.bucket.slice_bytes]
                await self.bucket.take(len(part))
                with self.stalls.waiting(open_transport(request)):
                    async with asyncio.timeout(self.stall_timeout_s):
                        await response.write(part)
                self.on_sent(hint, len(part))
                offset += len(part)
            async with asyncio.timeout(self.stall_timeout_s):
                await response.write_eof()

    async def _send_extent(self, request: web.BaseRequest, extent: _Extent) -> None:
        loop = asyncio.get_running_loop()
        hint = _peer_hint(request)
        offset, end = extent.offset, extent.offset + extent.length
        while offset < end:
            size = min(self.bucket.slice_bytes, end - offset)
            await self.bucket.take(size)
            transport = open_transport(request)
            with self.stalls.waiting(transport):
                async with asyncio.timeout(self.stall_timeout_s):
                    sent = await loop.sendfile(transport, extent.file, offset, size, fallback=False)
            self.on_sent(hint, sent)
            if sent < size:
                raise ConnectionAbortedError(f"the file ends {size - sent} bytes early")
            offset += sent


@dataclass(slots=True)
class _Extent:
    """Bytes that lie next to each other in one file."""

    file: BinaryIO
    offset: int
    length: int


def open_transport(request: web.BaseRequest) -> asyncio.Transport:
    """Return the connection that a request came by.

    Raises:
        ConnectionResetError: It is closed, or closing.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the peer has gone")
    return transport


def _extents(run: Sequence[ChunkLocation]) -> Iterator[_Extent]:
    """Join chunks that are neighbours in one open file, so that a slice need not end where a chunk does."""
    current: _Extent | None = None
    for chunk in run:
        if current and chunk.file is current.file and chunk.offset == current.offset + current.length:
            current.length += chunk.length
            continue
        if current:
            yield current
        current = _Extent(chunk.file, chunk.offset, chunk.length)
    if current:
        yield current


@contextmanager
def _cut_on_failure(request: web.BaseRequest) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, OSError | RuntimeError | TimeoutError):
            _log.info("upload_cut", path=request.raw_path, remote=request.remote, cause=repr(error))
            raise ConnectionResetError("the upload was cut") from error
        raise


def _peer_hint(request: web.BaseRequest) -> str:
    hint = request.headers.get(PEER_HEADER, "")
    return hint if _PEER_HINT.fullmatch(hint) else ""

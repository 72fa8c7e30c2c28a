"""The carried data plane: chunks and objects over control connections, for peers that nothing else reaches.

`CarriedClient` asks as `DataClient` does, with a peer id in the place of an address; `CarriedServer` answers from the store. What is
carried is verified like everything else, where it lands. Uploads are paced twice: by the node's uplink, which they share with the data
plane, and by a cap of their own, because each byte costs twenty times the CPU.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from shardcast.http.bucket import TokenBucket
from shardcast.http.chunk_stream import ChunkSplitter, ChunkTaker, Segments
from shardcast.http.upload import ChunkLocation
from shardcast.p2p import P2pLimits
from shardcast.p2p.limits import WRITE_BYTES_MAX
from shardcast_proto.carriage import Answer, ChunkRequest, ObjectRequest, Request, Status
from shardcast_proto.errors import IntegrityError, RemoteProtocolError, ShardcastError, TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import CARRIED_CHUNKS_MAX, MIB

from .wires import ControlWire

#: As for objects over the data plane.
_OBJECT_IDLE_TIMEOUT_S: Final = 10.0
#: Chunks are added to a run while it is shorter than this: the asker holds it in memory whole.
RUN_BYTES_AIM: Final = 4 * MIB
#: Read from the disk at a time.
_READ_BYTES: Final = 1 * MIB


class CarriedClient:
    """The fetching end; a `DataWire` whose `base` is a peer id.

    Args:
        wire: Returns the control network, None before it is up.
        inbound: Paces everything that this node receives; what is carried is counted as it comes, and waited for before the next.
    """

    def __init__(self, wire: Callable[[], ControlWire | None], *, inbound: TokenBucket | None = None) -> None:
        self._wire = wire
        self._inbound = inbound or TokenBucket(None)

    async def fetch_object(self, base: str, digest: Digest, *, size_max: int, deadline_s: float) -> bytes:
        """Fetch an object from a peer; see `DataClient.fetch_object`."""
        body = _Body(base, lambda answer: answer.count == 1 and answer.length <= size_max, self._inbound)
        parts: list[bytes] = []

        async def take(data: bytes) -> None:
            parts.append(data)

        idle_timeout_s = min(deadline_s, _OBJECT_IDLE_TIMEOUT_S)
        await self._fetch(ObjectRequest(digest), body, take, deadline_s=deadline_s, idle_timeout_s=idle_timeout_s)
        data = b"".join(parts)
        actual = await asyncio.to_thread(digest_of, data)
        if actual != digest:
            raise IntegrityError(
                f"{base} carried other bytes than the object", peer=base, expected=digest, actual=actual
            )
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
        """Fetch chunks of a blob in a row from a peer; see `DataClient.fetch_run`."""
        asked = list(lengths[:CARRIED_CHUNKS_MAX])

        def is_right(answer: Answer) -> bool:
            return 1 <= answer.count <= len(asked) and answer.length == sum(asked[: answer.count])

        body = _Body(base, is_right, self._inbound, on_began)
        splitter, taker = ChunkSplitter(asked), ChunkTaker(first, on_chunk)

        async def take(data: bytes) -> None:
            for segments in splitter.feed(data):
                await taker.take(segments)

        request = ChunkRequest(blob, first, len(asked))
        try:
            await self._fetch(request, body, take, deadline_s=deadline_s, idle_timeout_s=idle_timeout_s)
            await taker.finish()
        except TransferError:
            await taker.finish()
            raise
        finally:
            await taker.abandon()
        return taker.taken_count

    async def _fetch(
        self,
        request: ObjectRequest | ChunkRequest,
        body: _Body,
        take: Callable[[bytes], Awaitable[None]],
        *,
        deadline_s: float,
        idle_timeout_s: float,
    ) -> None:
        wire = self._wire()
        if wire is None:
            raise body.failure("unreachable", "the control network is not up")
        deadline = asyncio.timeout(deadline_s)
        try:
            async with deadline:
                await self._inbound.take(0)
                call = asyncio.ensure_future(wire.carry(body.peer, request, body, idle_timeout_s=idle_timeout_s))
                call.add_done_callback(lambda _: body.queue.put_nowait(None))
                try:
                    while (data := await body.queue.get()) is not None:
                        await take(data)
                    answer = await call
                finally:
                    call.cancel()
                    await asyncio.wait([call])
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise body.failure("deadline", f"not whole after {deadline_s:.1f} s") from error
        if answer.status is not Status.OK:
            raise body.failure(
                "missing" if answer.status is Status.MISSING else "busy", f"the peer says {answer.status.name}"
            )


class _Body:
    """The receiver of one carried body. Parts wait in a queue, whose size the judged answer bounds: reading never pauses."""

    def __init__(
        self,
        base: str,
        is_right: Callable[[Answer], bool],
        inbound: TokenBucket,
        on_began: Callable[[], None] = lambda: None,
    ) -> None:
        self.peer = PeerId(base)
        #: None at the end.
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_right = is_right
        self._inbound = inbound
        self._on_began = on_began

    def judge(self, answer: Answer) -> None:
        if not self._is_right(answer):
            raise RemoteProtocolError(f"{answer.count} chunks of {answer.length} bytes are no answer to what was asked")

    def began(self, answer: Answer) -> None:
        self._on_began()

    def received(self, data: bytes) -> None:
        self._inbound.reserve(len(data))
        self.queue.put_nowait(data)

    def failure(self, reason: str, what: str) -> TransferError:
        return TransferError(
            f"fetching over the connection to {self.peer} failed ({reason}): {what}", reason=reason, peer=self.peer
        )


class ChunkSource(Protocol):
    """What a node holds verified; the store. Both methods may block."""

    def locate_run(self, blob: Digest, first: int, count: int) -> Sequence[ChunkLocation]:
        """Return the longest prefix of the run that is held verified."""

    def object(self, digest: Digest) -> bytes | None:
        """Return a small object by its digest."""


class Upload(Protocol):
    """One request of a peer; see `shardcast.p2p.Upload`."""

    @property
    def peer(self) -> PeerId:
        """Who asks; the connection has proved it."""

    @property
    def request(self) -> Request:
        """What for."""

    async def answer(self, answer: Answer) -> None:
        """Send the answer, once."""

    async def send(self, data: bytes) -> None:
        """Send the next part of the body, at most `WRITE_BYTES_MAX`."""


class CarriedServer:
    """The serving end.

    Args:
        bucket: The node's uplink, shared with the data plane.
        on_sent: Told (peer, payload bytes) for each piece sent; here the peer is proven.
    """

    def __init__(
        self,
        source: ChunkSource,
        *,
        bucket: TokenBucket,
        limits: P2pLimits | None = None,
        on_sent: Callable[[str, int], None] = lambda peer, size_bytes: None,
    ) -> None:
        self._source = source
        self._bucket = bucket
        self._cap = TokenBucket((limits or P2pLimits()).carried_bytes_per_s)
        self._on_sent = on_sent

    async def serve(self, upload: Upload) -> None:
        """Answer one request of a peer.

        Raises:
            TransferError: The peer is gone, or does not read.
        """
        request = upload.request
        if isinstance(request, ObjectRequest):
            data = await self._object(request.digest)
            if data is None:
                await upload.answer(Answer(Status.MISSING))
                return
            await upload.answer(Answer(Status.OK, 1, len(data)))
            await self._send(upload, data)
            return
        run = await self._run(request)
        try:
            if not run:
                await upload.answer(Answer(Status.MISSING))
                return
            await upload.answer(Answer(Status.OK, len(run), sum(chunk.length for chunk in run)))
            for chunk in run:
                for start in range(0, chunk.length, _READ_BYTES):
                    size = min(_READ_BYTES, chunk.length - start)
                    data = await asyncio.to_thread(os.pread, chunk.file.fileno(), size, chunk.offset + start)
                    if len(data) < size:
                        raise TransferError(f"a file ends {size - len(data)} bytes early", reason="short")
                    await self._send(upload, data)
        finally:
            _close(run)

    async def _object(self, digest: Digest) -> bytes | None:
        try:
            return await asyncio.to_thread(self._source.object, digest)
        except ShardcastError:
            return None

    async def _run(self, request: ChunkRequest) -> Sequence[ChunkLocation]:
        lookup = asyncio.ensure_future(
            asyncio.to_thread(self._source.locate_run, request.blob, request.first, request.count)
        )
        try:
            run = await asyncio.shield(lookup)
        except ShardcastError:
            return ()
        except asyncio.CancelledError:
            lookup.add_done_callback(lambda done: _close(done.result()) if not done.exception() else None)
            raise
        kept, size = 0, 0
        while kept < len(run) and size < RUN_BYTES_AIM:
            size += run[kept].length
            kept += 1
        # neighbours may share a file: what is left out is closed only when nothing that is kept uses it
        _close([chunk for chunk in run[kept:] if all(chunk.file is not other.file for other in run[:kept])])
        return run[:kept]

    async def _send(self, upload: Upload, data: bytes) -> None:
        step = min(self._bucket.slice_bytes, self._cap.slice_bytes, WRITE_BYTES_MAX)
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            await self._cap.take(len(piece))
            await self._bucket.take(len(piece))
            await upload.send(piece)
            self._on_sent(upload.peer, len(piece))


def _close(run: Sequence[ChunkLocation]) -> None:
    for chunk in run:
        chunk.file.close()

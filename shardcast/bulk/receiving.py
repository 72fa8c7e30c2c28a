"""The receiving link: what is asked for over it, what is pushed over it, and how much of both may wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from shardcast.http.chunk_stream import Segments
from shardcast_proto.bulk import CancelGet, ChunkHead, End, EndOutcome, Get, encode_head, message_frame
from shardcast_proto.errors import InvariantViolated, RemoteProtocolError, ShardcastError, TransferError
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import LINK_RUN_CHUNKS_MAX

from .link import Link, LinkNeeds
from .meter import LinkStats, Meter

_log = structlog.get_logger("shardcast.bulk")


@dataclass(eq=False, slots=True)
class _Run:
    """One run that was asked for."""

    blob: Digest
    first: int
    lengths: Sequence[int]
    on_began: Callable[[], None]
    #: When, on the loop's clock.
    asked_s: float
    #: Chunks whose heads came.
    began_count: int = 0
    #: Whole chunks that nobody has taken yet.
    ready: deque[memoryview] = field(default_factory=deque)
    #: Set when no more will come; an error when that is why.
    end: EndOutcome | ShardcastError | None = None
    #: Done when there is something to do.
    news: asyncio.Future[None] | None = None
    #: Whether nobody wants it any more; it stays until its End comes.
    is_dropped: bool = False

    def wake(self) -> None:
        """Tell whoever waits."""
        if self.news is not None and not self.news.done():
            self.news.set_result(None)


class ReceivingLink(Link):
    """A link whose chunks come from the peer.

    Invariant: `_waiting_bytes` of chunks have come and were not taken; while they are too many, nothing is read.
    """

    is_sending = False

    def __init__(
        self,
        peer: PeerId,
        transport: asyncio.Transport,
        needs: LinkNeeds,
        *,
        is_ours: bool,
        on_closed: Callable[[Link], None],
        on_gone: Callable[[], None],
    ) -> None:
        super().__init__(peer, transport, needs, is_ours=is_ours, on_closed=on_closed, on_gone=on_gone)
        self.chunks = Meter(self._loop.time())
        self.control_sent_bytes = 0
        self._runs: dict[int, _Run] = {}
        self._next_request = 1
        self._waiting_bytes = 0
        #: Pushed chunks that came whole, and the task that hands them over, one after the other, while there are some.
        self._arrived: deque[tuple[ChunkHead, memoryview]] = deque()
        self._delivery: asyncio.Task[None] | None = None

    async def fetch_run(
        self,
        blob: Digest,
        first: int,
        lengths: Sequence[int],
        *,
        on_chunk: Callable[[int, Segments], Awaitable[None]],
        on_began: Callable[[], None],
        deadline_s: float,
        idle_timeout_s: float,
    ) -> int:
        """See `BulkLinks.fetch_run`."""
        with self._call():
            run = _Run(blob, first, lengths[:LINK_RUN_CHUNKS_MAX], on_began, self._loop.time())
            request = self._ask(run)
            taken = 0
            deadline = asyncio.timeout(deadline_s)
            try:
                async with deadline:
                    while await self._has_chunk(run, idle_timeout_s):
                        data = run.ready[0]
                        await on_chunk(first + taken, [data])
                        run.ready.popleft()
                        self._taken(len(data))
                        taken += 1
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise self._failure("deadline", f"not whole after {deadline_s:.1f} s", taken) from error
            finally:
                self._drop(request, run)
            return self._ended_well(run, taken)

    def message(self, payload: bytes) -> bool:
        data = message_frame(payload)
        room = self._needs.limits.messages_bytes_max - self._transport.get_write_buffer_size()
        if self.error is not None or len(data) > room:
            return False
        self._write(data)
        return True

    def stats(self) -> LinkStats:
        return LinkStats(
            peer=self.peer,
            is_sending=False,
            sent_bytes=0,
            received_bytes=self.chunks.total_bytes,
            rate_bytes_per_s=self.chunks.rate_bytes_per_s(self._loop.time()),
            control_sent_bytes=self.control_sent_bytes,
            control_received_bytes=self.control_received_bytes,
        )

    def _write(self, data: bytes) -> None:
        self.control_sent_bytes += len(data)
        self._transport.write(data)

    # --- what is asked for ------------------------------------------------------------------------------------------

    def _ask(self, run: _Run) -> int:
        request, self._next_request = self._next_request, self._next_request % (2**32 - 1) + 1
        self._runs[request] = run
        self._write(encode_head(Get(request, run.blob, run.first, len(run.lengths))))
        return request

    async def _has_chunk(self, run: _Run, idle_timeout_s: float) -> bool:
        """Wait until a chunk is ready, or the run has ended.

        Raises:
            TransferError: It ended badly.
        """
        while not run.ready:
            if isinstance(run.end, ShardcastError):
                raise self._failure(str(run.end.facts.get("reason", "protocol")), run.end.message, run.began_count)
            if run.end is not None:
                return False
            run.news = self._loop.create_future()
            left_s = idle_timeout_s
            if not self._inlet.is_paused:
                left_s -= self._loop.time() - max(self._inlet.heard_s, run.asked_s)
            if left_s <= 0:
                raise self._failure("stalled", f"nothing came for {idle_timeout_s:.1f} s", run.began_count)
            await asyncio.wait([run.news], timeout=left_s)
        return True

    def _ended_well(self, run: _Run, taken: int) -> int:
        if run.end is EndOutcome.DONE and taken:
            return taken
        reasons = {EndOutcome.MISSING: "missing", EndOutcome.BUSY: "busy"}
        reason = reasons.get(run.end, "protocol") if isinstance(run.end, EndOutcome) else "protocol"
        raise self._failure(reason, f"the peer says {run.end} after {taken} chunks", taken)

    def _drop(self, request: int, run: _Run) -> None:
        run.is_dropped = True
        for data in run.ready:
            self._taken(len(data))
        run.ready.clear()
        if run.end is None and self.error is None:
            self._write(encode_head(CancelGet(request)))

    def _failure(self, reason: str, what: str, received: int) -> TransferError:
        return TransferError(
            f"fetching over the link from {self.peer} failed ({reason}): {what}",
            reason=reason,
            peer=self.peer,
            received=received,
        )

    # --- what came --------------------------------------------------------------------------------------------------

    def chunk_began(self, head: ChunkHead) -> bool:
        if head.is_push:
            return self._push_began(head)
        run = self._runs.get(head.request)
        if run is None:
            raise RemoteProtocolError(f"a chunk of request {head.request}, which is none", request=head.request)
        at = run.began_count
        if at >= len(run.lengths) or (head.blob, head.index, head.length) != (
            run.blob,
            run.first + at,
            run.lengths[at],
        ):
            raise RemoteProtocolError(f"chunk {head.index} of {head.length} bytes is not what was asked for")
        run.began_count += 1
        if at == 0 and not run.is_dropped:
            run.on_began()
        return not run.is_dropped

    def _push_began(self, head: ChunkHead) -> bool:
        expected = self._needs.events.push_length(self.peer, head.blob, head.stripe, head.index)
        if expected is not None and expected != head.length:
            self._broken(head, "protocol")
            raise RemoteProtocolError(f"chunk {head.index} is announced with {head.length} bytes, it has {expected}")
        return expected is not None

    def chunk_came(self, head: ChunkHead, data: memoryview) -> None:
        self.chunks.add(head.length, self._inlet.heard_s)
        self._waiting_bytes += head.length
        if self._waiting_bytes >= self._needs.limits.waiting_bytes_max:
            self._inlet.pause("landing")
        if head.is_push:
            self._arrived.append((head, data))
            if self._delivery is None:
                self._calls += 1
                self._delivery = self._loop.create_task(self._deliver())
                self._delivery.add_done_callback(self._delivered)
            return
        run = self._runs[head.request]
        if run.is_dropped:
            self._taken(head.length)
            return
        run.ready.append(data)
        run.wake()

    def head_came(self, head: End | Get | CancelGet) -> None:
        if not isinstance(head, End):
            raise InvariantViolated("a request came with the chunks")
        run = self._runs.pop(head.request, None)
        if run is None:
            raise RemoteProtocolError(f"an end of request {head.request}, which is none", request=head.request)
        run.end = head.outcome
        run.wake()

    async def _deliver(self) -> None:
        events = self._needs.events
        while self._arrived:
            head, data = self._arrived.popleft()
            await events.push_arrived(self.peer, head.blob, head.stripe, head.index, segments=[data])
            self._taken(head.length)
        self._delivery = None  # in the same step: what arrives from now on needs another task

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._call_ended()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("delivery_failed", peer=self.peer, error=repr(error), exc_info=error)
            self.close(TransferError("a pushed chunk could not be taken", reason="short"))

    def _taken(self, size_bytes: int) -> None:
        self._waiting_bytes -= size_bytes
        if self._waiting_bytes < self._needs.limits.waiting_bytes_max:
            self._inlet.resume("landing")

    def _broken(self, head: ChunkHead, reason: str) -> None:
        self._needs.events.push_broken(self.peer, head.blob, head.stripe, head.index, reason=reason)

    def _end(self, error: ShardcastError) -> None:
        broken = self._inlet.broken
        if broken is not None and broken.is_push:
            self._broken(broken, str(error.facts.get("reason", "protocol")))
        for run in self._runs.values():
            run.end = error
            run.wake()
        self._runs.clear()

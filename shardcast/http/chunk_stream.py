"""The cutting of a byte stream into chunks on their way to whoever lands them.

`ChunkSplitter` does no I/O: it cuts what the socket brought at the chunk boundaries, without copying. `ChunkTaker`
hands whole chunks over one at a time, so that one is verified and written while the next one comes in, and so that
never more than two are held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias

#: The bytes of one chunk, in order, as the socket brought them.
Segments: TypeAlias = list[bytes | memoryview]


class ChunkSplitter:
    """Cuts a stream into chunks of known lengths.

    Invariant: the segments of a chunk that was given out add up to its length; bytes behind the last chunk are counted,
    not kept.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths
        self._index = 0
        self._segments: Segments = []
        #: Bytes that the current chunk still lacks.
        self._lacking = lengths[0] if lengths else 0
        self.surplus_bytes = 0

    def feed(self, data: bytes) -> Iterator[Segments]:
        """Take what arrived, and give out each chunk that became whole by it."""
        if len(data) < self._lacking:
            self._segments.append(data)
            self._lacking -= len(data)
            return
        view = memoryview(data)
        while view and self._index < len(self._lengths):
            part = view[: self._lacking]
            view = view[len(part) :]
            self._segments.append(part)
            self._lacking -= len(part)
            if not self._lacking:
                whole, self._segments = self._segments, []
                self._index += 1
                self._lacking = self._lengths[self._index] if self._index < len(self._lengths) else 0
                yield whole
        self.surplus_bytes += len(view)


class ChunkTaker:
    """Hands whole chunks to `on_chunk`, in order, at most one running."""

    def __init__(self, first: int, on_chunk: Callable[[int, Segments], Awaitable[None]]) -> None:
        self._next_index = first
        self._on_chunk = on_chunk
        self._running: asyncio.Task[None] | None = None
        #: Chunks that `on_chunk` returned for.
        self.taken_count = 0

    async def take(self, segments: Segments) -> None:
        """Wait until the chunk before is taken, then hand over this one.

        Raises: what `on_chunk` raised for the chunk before.
        """
        await self.finish()
        self._running = asyncio.ensure_future(self._run(self._next_index, segments))
        self._next_index += 1

    async def finish(self) -> None:
        """Wait until everything handed over is taken.

        Raises: what `on_chunk` raised.
        Cancellation: the running `on_chunk` goes on; `abandon` ends it.
        """
        if self._running is not None:
            await asyncio.wait([self._running])
            finished, self._running = self._running, None
            finished.result()

    async def abandon(self) -> None:
        """Cancel what is running and wait for its end, whatever that is."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.exception()
            self._running = None

    async def _run(self, index: int, segments: Segments) -> None:
        await self._on_chunk(index, segments)
        self.taken_count += 1

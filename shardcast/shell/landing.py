"""The landing of one fetch's chunks, in batches.

One way to a worker thread and back costs the loop about as much as hashing and writing a small chunk costs the thread, so chunks share
it: a batch begins when it is worth the way, or has waited for a moment, or nothing follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from shardcast.http.chunk_stream import Segments

#: More than this of one fetch does not wait: whoever brings more is not read from meanwhile. A run is about as long.
WAITING_BYTES_MAX: Final = 4 * 1024 * 1024

#: A batch is worth the way from here on: a megabyte is a millisecond of the thread.
BATCH_BYTES: Final = 1024 * 1024
#: A chunk waits no longer than this for company; neighbours hear of it up to 200 ms later anyway.
BATCH_AGE_S: Final = 0.03

#: Chunks by index, in the order in which they came.
Batch: TypeAlias = list[tuple[int, Segments]]


class Landing:
    """Hands the chunks of one fetch to `land` in batches, at most one of them running.

    Args:
        land: Lands a batch; what it raises ends the landing.
    """

    def __init__(self, land: Callable[[Batch], Awaitable[None]]) -> None:
        self._land = land
        self._waiting: Batch = []
        self._waiting_bytes = 0
        self._running: asyncio.Task[None] | None = None
        #: Begins a batch that has become old.
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, index: int, segments: Segments) -> None:
        """Take a chunk; returns before it has landed, unless too many wait.

        Raises: what `land` raised for a chunk before.
        """
        self._raise_failure()
        self._waiting.append((index, segments))
        self._waiting_bytes += sum(map(len, segments))
        if self._running is None:
            if self._waiting_bytes >= BATCH_BYTES:
                self._begin()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(BATCH_AGE_S, self._begin)
        elif self._waiting_bytes >= WAITING_BYTES_MAX:
            await self.finish()

    async def finish(self) -> None:
        """Wait until every chunk that was taken has landed.

        Raises: what `land` raised.
        """
        self._begin()
        if self._running is not None:
            await asyncio.wait([self._running])
            self._raise_failure()

    async def abandon(self) -> None:
        """Let what was taken land, whatever comes of it: bytes that are here are not fetched again."""
        self._begin()
        running = self._running  # one that ends well takes itself away
        if running is not None:
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is None and self._waiting:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
            await self._land(batch)
        self._running = None

    def _raise_failure(self) -> None:
        if self._running is not None and self._running.done():
            self._running.result()

"""The ring of slabs that all bytes of a version pass through: read from the disk, verified, copied on.

Worker threads read and hash the chunks of the slabs ahead while the copies from the slabs behind are still under way. A slab is read into
again only when the event behind its last copies has happened, so the ring's memory is all that a load takes of the host by itself.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from .backend import Backend
from .plan import Piece, Plan, Run
from .verified import VerifiedFiles

#: Hashing takes 2.7 GB/s a thread; the engine wants its cores.
READ_THREADS: Final = max(2, min(8, (os.cpu_count() or 2) // 2))

#: Takes a piece with the slab's memory that holds it, as a flat `uint8` tensor; called inside `issuing`.
SinkFn = Callable[[Piece, Any], None]


@dataclass(eq=False)
class Slab:
    """One slab; `is_busy` from when copies from it are issued until its event was waited for."""

    memory: Any
    buffer: memoryview
    event: Any
    is_busy: bool = False


class Ring:
    """Slabs that are used in turn, on one stream."""

    def __init__(self, backend: Backend, slab_bytes: int, slabs: int) -> None:
        """Take the memory.

        Raises:
            RuntimeError: The backend has none; what was taken is given back.
        """
        self._backend = backend
        self._slabs: list[Slab] = []
        self._turn = 0
        self.stream = backend.stream()
        try:
            for _ in range(slabs):
                event = backend.event()
                memory = backend.host_memory(slab_bytes)
                self._slabs.append(Slab(memory, memoryview(memory.numpy()), event))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the memory back; nothing is under way."""
        while self._slabs:
            self._backend.release(self._slabs.pop().memory)

    def pass_through(self, plan: Plan, files: VerifiedFiles, sink: SinkFn) -> None:
        """Read every wanted byte of a version, verify it, and give it to a sink; return when what the sink issued has happened.

        Raises:
            IntegrityError: A chunk is not the manifest's; the sink has seen none of that slab.
            StoreError: The disk fails.
            Whatever the sink or the backend raises.
        """
        ahead: deque[tuple[Run, list[Piece], Slab, list[Future[int]]]] = deque()
        with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="hotload") as pool:
            try:
                for run, pieces in plan.runs():
                    files.open(run.file_index)
                    slab = self._next()
                    ahead.append((run, pieces, slab, self._read(pool, files, run, slab)))
                    if len(ahead) == len(self._slabs) - 1:
                        self._copy(ahead.popleft(), sink)
                while ahead:
                    self._copy(ahead.popleft(), sink)
            finally:
                # also after an error: nobody writes into the slabs, and nothing reads them, when this returns
                pool.shutdown(wait=True, cancel_futures=True)
                self._settle()

    def _next(self) -> Slab:
        slab = self._slabs[self._turn]
        self._turn = (self._turn + 1) % len(self._slabs)
        if slab.is_busy:
            self._backend.wait(slab.event)
            slab.is_busy = False
        return slab

    def _read(self, pool: ThreadPoolExecutor, files: VerifiedFiles, run: Run, slab: Slab) -> list[Future[int]]:
        size = files.manifest.blob.chunk_size
        return [
            pool.submit(files.read_chunk, run.first_chunk + number, slab.buffer[number * size :])
            for number in range(run.chunks)
        ]

    def _copy(self, ready: tuple[Run, list[Piece], Slab, list[Future[int]]], sink: SinkFn) -> None:
        _, pieces, slab, reads = ready
        for read in reads:
            read.result()
        slab.is_busy = True
        with self._backend.issuing(self.stream):
            for piece in pieces:
                sink(piece, slab.memory[piece.in_run : piece.in_run + piece.length])
        self._backend.record(slab.event, self.stream)

    def _settle(self) -> None:
        self._backend.drain(self.stream)
        for slab in self._slabs:
            slab.is_busy = False

"""The hashing of chunks where they lie in files.

Whole chunks go to worker threads, one at a time each: BLAKE3 and `preadv` both release the GIL, so the threads run side
by side, and a chunk is read into a buffer that its thread keeps. Chunks are taken from an iterator, so a version of
262,144 chunks needs no list.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from shardcast_proto.manifest import Manifest

from .disk import read_at
from .faults import disk_errors

#: BLAKE3 does 2.7 GB/s per thread; beyond four, memory bandwidth is the limit and the trainer wants its cores.
HASH_THREADS: Final = max(2, min(4, os.cpu_count() or 2))


class ChunkPlace(NamedTuple):
    """Where the bytes of one chunk lie in a file."""

    chunk_index: int
    path: Path
    offset: int
    length: int


def places_in(manifest: Manifest, root: Path, indices: Iterable[int]) -> Iterator[ChunkPlace]:
    """Yield where the given chunks of a version lie below `root`."""
    last, path = -1, root
    for index in indices:
        span = manifest.chunk_span(index)
        if span.file_index != last:
            last, path = span.file_index, root / manifest.files[span.file_index].path
        yield ChunkPlace(index, path, span.offset, span.length)


def wrong_chunks(manifest: Manifest, root: Path, indices: Iterable[int]) -> list[int]:
    """Return which of the given chunks do not have their digest below `root`, ascending.

    Raises:
        StoreError: A file cannot be read.
    """
    wrong: list[int] = []

    def compare(place: ChunkPlace, digest: Digest) -> None:
        if digest != manifest.blob.digest(place.chunk_index):
            wrong.append(place.chunk_index)

    digest_chunks(places_in(manifest, root, indices), compare, chunk_size=manifest.blob.chunk_size)
    return sorted(wrong)


def digest_chunks(
    places: Iterable[ChunkPlace],
    on_digest: Callable[[ChunkPlace, Digest], None],
    *,
    chunk_size: int,
    threads: int = HASH_THREADS,
) -> None:
    """Hash chunks with several threads; `on_digest` is called for each, one call at a time, in no order.

    A chunk that its file ends before has the digest of the bytes that are there.

    Raises:
        StoreError: A file cannot be read.
    """
    work = _Work(iter(places), on_digest, chunk_size)
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        for future in [pool.submit(work.run) for _ in range(threads)]:
            future.result()


class _Work:
    """Chunks that several threads take from one iterator until it ends or one of them fails."""

    def __init__(
        self, places: Iterator[ChunkPlace], on_digest: Callable[[ChunkPlace, Digest], None], chunk_size: int
    ) -> None:
        self._places = places
        self._on_digest = on_digest
        self._chunk_size = chunk_size
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(self) -> None:
        reader = _FileReader()
        buffer = memoryview(bytearray(self._chunk_size))
        try:
            while (place := self._next()) is not None:
                digest = digest_of(buffer[: reader.read(place, buffer[: place.length])])
                with self._lock:
                    self._on_digest(place, digest)
        except BaseException:
            self._is_stopped = True
            raise
        finally:
            reader.close()

    def _next(self) -> ChunkPlace | None:
        with self._lock:
            return None if self._is_stopped else next(self._places, None)


class _FileReader:
    """The one file that a thread reads at the moment."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptor = -1

    def read(self, place: ChunkPlace, buffer: memoryview) -> int:
        with disk_errors("reading", place.path):
            if place.path is not self._path:
                self.close()
                self._descriptor = os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW)
                self._path = place.path
            return read_at(self._descriptor, buffer, place.offset)

    def close(self) -> None:
        if self._path is not None:
            os.close(self._descriptor)
            self._path = None

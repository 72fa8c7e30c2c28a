"""The location of verified chunks, as a sender takes them.

A location holds a real file object, so `loop.sendfile` can send from it; the file stays readable while it is open,
whatever happens to its name. Chunks that follow each other in one file share one file object.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from shardcast_proto.manifest import Manifest


class ChunkLocation(NamedTuple):
    """Where the bytes of one verified chunk can be read."""

    file: io.FileIO
    offset: int
    length: int


def close_all(locations: Iterable[ChunkLocation]) -> None:
    """Close the files of some locations. Closing one again does nothing."""
    for location in locations:
        location.file.close()


def locate(manifest: Manifest, indices: Iterable[int], open_file: Callable[[int], io.FileIO]) -> list[ChunkLocation]:
    """Return the locations of chunks, asking `open_file` once for each file index that they reach."""
    locations: list[ChunkLocation] = []
    last = -1
    try:
        for index in indices:
            span = manifest.chunk_span(index)
            file = locations[-1].file if span.file_index == last else open_file(span.file_index)
            last = span.file_index
            locations.append(ChunkLocation(file, span.offset, span.length))
    except BaseException:
        close_all(locations)
        raise
    return locations


def file_of(descriptor: int) -> io.FileIO:
    """Return a readable file object that owns a descriptor."""
    return os.fdopen(descriptor, "rb", buffering=0)

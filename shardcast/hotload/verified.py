"""The files of a version while they are read: no byte is handed out before its chunk has the digest of the manifest.

A node verified each chunk when it landed, and other programs of this host can write to the disk since. So what is about to be copied is
hashed in the memory that it is copied from; a second reading would prove nothing about the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shardcast_proto.errors import IntegrityError
from shardcast_proto.hashing import digest_of
from shardcast_proto.manifest import Manifest

from ..store.faults import disk_errors

#: Reads into memory at an offset of a file, and returns how many bytes came; 0 at its end.
ReadFn = Callable[[int, memoryview, int], int]

_HINT: Final = "shardcast verify finds what else is wrong; the node fetches a damaged version again"


def read_plainly(descriptor: int, into: memoryview, offset: int) -> int:
    """Read as the operating system does."""
    return os.preadv(descriptor, [into], offset)


class VerifiedFiles:
    """The open files of one version. Reading is safe from several threads, opening and closing is not."""

    def __init__(self, root: Path, manifest: Manifest, read: ReadFn = read_plainly) -> None:
        self.root = root
        self.manifest = manifest
        self._read = read
        self._descriptors: dict[int, int] = {}

    def __enter__(self) -> VerifiedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, file_index: int) -> None:
        """Open a file, so that it can be read also when it is deleted meanwhile.

        Raises:
            StoreError: It cannot be opened.
        """
        if file_index not in self._descriptors:
            path = self.root / self.manifest.files[file_index].path
            with disk_errors("opening", path):
                self._descriptors[file_index] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close what is open."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read_chunk(self, chunk_index: int, into: memoryview) -> int:
        """Read one chunk of an open file, and return its length in bytes.

        Args:
            chunk_index: Which.
            into: At least as long as the chunk. What it holds after an error is not verified.

        Raises:
            IntegrityError: The bytes are not the manifest's.
            StoreError: The disk fails.
        """
        span = self.manifest.chunk_span(chunk_index)
        path = self.root / self.manifest.files[span.file_index].path
        target, got = into[: span.length], 0
        with disk_errors("reading", path):
            while got < span.length:
                count = self._read(self._descriptors[span.file_index], target[got:], span.offset + got)
                if count == 0:
                    break
                got += count
        if got < span.length or digest_of(target) != self.manifest.blob.digest(chunk_index):
            what = f"ends after {span.offset + got} bytes" if got < span.length else "has other bytes"
            raise IntegrityError(
                f"{path} {what} than were signed, in chunk {chunk_index}: it was changed on this host's disk",
                hint=_HINT,
                path=str(path),
                chunk_index=chunk_index,
                offset=span.offset,
            )
        return span.length

    def read_bytes(self, file_index: int, begin: int, length: int) -> bytes:
        """Return some bytes of a file, from chunks that were verified whole.

        Raises:
            IntegrityError: The bytes are not the manifest's.
            StoreError: The disk fails.
        """
        self.open(file_index)
        size = self.manifest.blob.chunk_size
        first = begin // size
        count = -(-(begin + length) // size) - first
        start = self.manifest.files[file_index].first_chunk
        buffer = memoryview(bytearray(count * size))
        for number in range(count):
            self.read_chunk(start + first + number, buffer[number * size :])
        return bytes(buffer[begin - first * size :][:length])

"""A manifest: the sealed list of files and chunk digests of one version.

It is pure content: no step, no time, no base. Equal content has an equal digest, so going back to old weights moves no bytes.

Layout: ["shardcast/manifest", 1, file table, blob]. The file table is one bin of rows [path, size, first chunk] that stand one behind
the other and are decoded one by one; the blob is the bin of an encoded blob, whose digest is the blob's id. Files are sorted by the
bytes of their paths and follow each other in the blob without gaps; each chunk lies in one file; an empty file has none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from .blob import Blob
from .chunking import chunk_count
from .codec import check_fields, fields, pack, unpack, walk
from .errors import LocalProtocolError, RemoteProtocolError
from .hashing import digest_of
from .ids import Digest
from .limits import FILE_TABLE_BYTES_MAX, FILES_MAX, MANIFEST_BYTES_MAX
from .paths import check_paths

TAG: Final = "shardcast/manifest"
VERSION: Final = 1


class FileRow(NamedTuple):
    """One file: its path below the version's directory, its size in bytes, the index of its first chunk."""

    path: str
    size: int
    first_chunk: int


class ChunkSpan(NamedTuple):
    """Where a chunk lies: which file, at which offset in it, how many bytes."""

    file_index: int
    offset: int
    length: int


@dataclass(frozen=True)
class Manifest:
    """The files of one version, with the blob that their bytes make.

    Invariant: the rows are sorted by path, tile the blob's chunks without gap or overlap, and sum to its length.
    """

    files: tuple[FileRow, ...]
    blob: Blob

    def __post_init__(self) -> None:
        if not self.files or len(self.files) > FILES_MAX:
            raise RemoteProtocolError(f"a manifest names {len(self.files)} files, allowed are 1 to {FILES_MAX}")
        check_paths(row.path for row in self.files)
        next_chunk, total, before = 0, 0, b""
        for row in self.files:
            if row.path.encode() <= before:
                raise RemoteProtocolError(f"file {row.path!r} is out of order", path=row.path)
            if row.first_chunk != next_chunk:
                raise RemoteProtocolError(f"file {row.path!r} begins at chunk {row.first_chunk}, not {next_chunk}")
            next_chunk += chunk_count(row.size, self.blob.chunk_size)
            total += row.size
            before = row.path.encode()
        if next_chunk != self.blob.chunk_count or total != self.blob.length:
            raise RemoteProtocolError(
                f"files need {next_chunk} chunks and {total} bytes, the blob has {self.blob.chunk_count} and {self.blob.length}"
            )

    @classmethod
    def build(cls, sizes: Iterable[tuple[str, int]], chunk_size: int, digests: bytes) -> Manifest:
        """Make the manifest of files (path, size), in any order; `digests` follow the files sorted by path."""
        rows: list[FileRow] = []
        next_chunk = total = 0
        for path, size in sort_by_path(sizes):
            rows.append(FileRow(path, size, next_chunk))
            next_chunk += chunk_count(size, chunk_size)
            total += size
        return cls(tuple(rows), Blob(total, chunk_size, digests))

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read an encoded manifest.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a manifest within the limits.
        """
        value = unpack(data, size_max=MANIFEST_BYTES_MAX, what="manifest")
        table, blob = fields(value, TAG, VERSION, (bytes, bytes))
        if len(table) > FILE_TABLE_BYTES_MAX:
            raise RemoteProtocolError(f"file table of {len(table)} bytes, the limit is {FILE_TABLE_BYTES_MAX}")
        rows: list[FileRow] = []
        for row in walk(table, what="file table"):
            if not isinstance(row, list) or len(row) != 3 or len(rows) >= FILES_MAX:
                raise RemoteProtocolError(
                    "a row of the file table is not [path, size, first chunk], or there are too many"
                )
            rows.append(FileRow(*check_fields(row, (str, int, int), "file row")))
        manifest = cls(tuple(rows), Blob.decode(blob))
        if manifest.encoded != data:
            raise RemoteProtocolError("a manifest is not in its canonical encoding")
        return manifest

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        table = b"".join(pack(list(row)) for row in self.files)
        return pack([TAG, VERSION, table, self.blob.encoded])

    @cached_property
    def digest(self) -> Digest:
        """The digest of the encoding: the manifest's name."""
        return digest_of(self.encoded)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return self.blob.length

    @cached_property
    def _first_chunks(self) -> list[int]:
        return [row.first_chunk for row in self.files]

    def chunk_span(self, index: int) -> ChunkSpan:
        """Return where chunk `index` lies.

        Raises:
            LocalProtocolError: There is no such chunk.
        """
        if not 0 <= index < self.blob.chunk_count:
            raise LocalProtocolError(f"chunk {index} of {self.blob.chunk_count}", chunk_index=index)
        # empty files share their first chunk with the file behind them: bisect_right finds the last, which holds the chunk
        file_index = bisect_right(self._first_chunks, index) - 1
        row = self.files[file_index]
        offset = (index - row.first_chunk) * self.blob.chunk_size
        return ChunkSpan(file_index, offset, min(self.blob.chunk_size, row.size - offset))

    def file_chunks(self, file_index: int) -> range:
        """Return the chunk indices of one file."""
        row = self.files[file_index]
        return range(row.first_chunk, row.first_chunk + chunk_count(row.size, self.blob.chunk_size))


def sort_by_path(sizes: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return (path, size) pairs in the order of a manifest."""
    return sorted(sizes, key=lambda pair: pair[0].encode())

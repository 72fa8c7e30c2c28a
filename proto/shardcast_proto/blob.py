"""A blob: bytes cut into chunks, named by the digest of its chunk digests.

Have-bitmaps, requests and store rows name (blob id, chunk index). How long a chunk is follows from what the blob is part of: in a
patch every chunk but the last is full; in a manifest each file's last chunk may be short.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from .chunking import check_chunk_size
from .codec import fields, pack, unpack
from .errors import LocalProtocolError, RemoteProtocolError
from .hashing import digest_of
from .ids import Digest
from .limits import CHUNKS_MAX, DIGEST_BYTES

TAG: Final = "shardcast/blob"
VERSION: Final = 1
_SIZE_MAX: Final = CHUNKS_MAX * DIGEST_BYTES + 64


@dataclass(frozen=True)
class Blob:
    """The length and the chunk digests of some bytes.

    Attributes:
        length: Bytes in all chunks together.
        chunk_size: Bytes of a full chunk, a power of two.
        digests: The chunk digests, one behind the other: 32 bytes × `chunk_count`.
    """

    length: int
    chunk_size: int
    digests: bytes

    def __post_init__(self) -> None:
        check_chunk_size(self.chunk_size)
        count, rest = divmod(len(self.digests), DIGEST_BYTES)
        if rest or count > CHUNKS_MAX:
            raise RemoteProtocolError(f"a blob has {len(self.digests)} bytes of digests")
        if not self.length <= count * self.chunk_size or self.length < count:
            raise RemoteProtocolError(f"a blob of {self.length} bytes cannot have {count} chunks of {self.chunk_size}")

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return len(self.digests) // DIGEST_BYTES

    def digest(self, index: int) -> Digest:
        """Return the digest of chunk `index`.

        Raises:
            LocalProtocolError: There is no such chunk.
        """
        if not 0 <= index < self.chunk_count:
            raise LocalProtocolError(f"chunk {index} of {self.chunk_count}", chunk_index=index)
        return Digest(self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        return pack([TAG, VERSION, self.length, self.chunk_size, self.digests])

    @cached_property
    def id(self) -> Digest:
        """The digest of the encoding: the blob's name."""
        return digest_of(self.encoded)

    @classmethod
    def decode(cls, data: bytes) -> Blob:
        """Read an encoded blob.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a blob within the limits.
        """
        length, chunk_size, digests = fields(
            unpack(data, size_max=_SIZE_MAX, what="blob"), TAG, VERSION, (int, int, bytes)
        )
        blob = cls(length, chunk_size, digests)
        if blob.encoded != data:
            raise RemoteProtocolError("a blob is not in its canonical encoding")
        return blob

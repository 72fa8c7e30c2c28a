"""A patch object: the bytes that turn one version into another.

It stands on its own, apart from heads, so that a head need not wait for the diff and a patch can skip versions. What the segments
mean is the codec's matter; a node may hold and forward the blob of a patch without owning either version.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from .blob import Blob
from .chunking import chunk_count
from .codec import fields, pack, unpack
from .errors import RemoteProtocolError
from .hashing import digest_of
from .ids import Digest, as_digest
from .limits import PATCH_BYTES_MAX, PATCH_SEGMENTS_BYTES_MAX

TAG: Final = "shardcast/patch"
VERSION: Final = 1
_CODEC_CHARS_MAX: Final = 32


@dataclass(frozen=True)
class Patch:
    """What to apply to `base` to get `target`.

    Attributes:
        base: Digest of the manifest the patch starts from.
        target: Digest of the manifest it produces.
        codec: Name of the encoding of the payload.
        segments: The segment index, opaque here.
        blob: The payload.
    """

    base: Digest
    target: Digest
    codec: str
    segments: bytes
    blob: Blob

    def __post_init__(self) -> None:
        if not self.codec.isascii() or not 0 < len(self.codec) <= _CODEC_CHARS_MAX:
            raise RemoteProtocolError("the codec of a patch is not a short ASCII name")
        if len(self.segments) > PATCH_SEGMENTS_BYTES_MAX:
            raise RemoteProtocolError(f"segment index of {len(self.segments)} bytes")
        if self.base == self.target:
            raise RemoteProtocolError("a patch has one manifest as base and target")
        if self.blob.chunk_count != chunk_count(self.blob.length, self.blob.chunk_size):
            raise RemoteProtocolError("the blob of a patch has short chunks before its last")

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        return pack([TAG, VERSION, self.base, self.target, self.codec, self.segments, self.blob.encoded])

    @cached_property
    def digest(self) -> Digest:
        """The digest of the encoding: the patch's name."""
        return digest_of(self.encoded)

    @classmethod
    def decode(cls, data: bytes) -> Patch:
        """Read an encoded patch.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a patch within the limits.
        """
        value = unpack(data, size_max=PATCH_BYTES_MAX, what="patch")
        base, target, codec, segments, blob = fields(value, TAG, VERSION, (bytes, bytes, str, bytes, bytes))
        patch = cls(as_digest(base), as_digest(target), codec, segments, Blob.decode(blob))
        if patch.encoded != data:
            raise RemoteProtocolError("a patch is not in its canonical encoding")
        return patch

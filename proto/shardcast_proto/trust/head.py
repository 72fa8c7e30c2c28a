"""A head: the small signed statement that names one version of a channel.

A head never changes and never expires. Heads of one stream are ordered by (epoch, seq), which only rises; what may follow what is
the matter of `head_order`. `previous` links a head to the one before it for audits: no acceptance depends on it, because a node
that was away has not seen the head before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, cast

from ..codec import check_fields, fields, pack, unpack
from ..errors import RemoteProtocolError
from ..hashing import digest_of
from ..ids import Digest, as_digest
from ..limits import HEAD_BYTES_MAX, HEAD_REFS_MAX, MANIFEST_BYTES_MAX
from .dsse import sign
from .keys import SigningKey

TAG: Final = "shardcast/head"
VERSION: Final = 1
PAYLOAD_TYPE: Final = "application/vnd.shardcast.head.v1+msgpack"

#: Kinds of streams. Codes are never reused.
KIND_WEIGHTS: Final = 0
KIND_CONTRIBUTION: Final = 1
#: The only stream of weights.
STREAM_MAIN: Final = b""

#: Flag bits. A reader ignores bits that it does not know; what it must not ignore gets a new version.
FLAG_REWIND: Final = 1

_RELATION: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class Position(NamedTuple):
    """A place in the order of a stream. Tuples compare as the order goes."""

    epoch: int
    seq: int


class Ref(NamedTuple):
    """A relation of this version to another one."""

    relation: str
    manifest: Digest


@dataclass(frozen=True)
class Head:
    """The statement that a manifest is the version at one place of a stream.

    Attributes:
        channel: The channel id.
        kind: `KIND_WEIGHTS`, or `KIND_CONTRIBUTION`; other kinds are read, and refused by whoever cannot follow them.
        stream: Empty for weights, else the key id of the contributor.
        epoch: The epoch of the root that the signers stand in.
        seq: From 1; rises by one with each version.
        step: The trainer's step. It may fall: see `FLAG_REWIND`.
        manifest: Digest of the manifest.
        manifest_bytes: Length of the manifest.
        total_bytes: Bytes of all its files.
        previous: Digest of the head before it; empty in the first.
        flags: Bits `FLAG_…`.
        refs: At most 4 relations to other versions.
    """

    channel: Digest
    kind: int
    stream: bytes
    epoch: int
    seq: int
    step: int
    manifest: Digest
    manifest_bytes: int
    total_bytes: int
    previous: bytes = b""
    flags: int = 0
    refs: tuple[Ref, ...] = ()

    def __post_init__(self) -> None:
        as_digest(self.channel, "channel id")
        as_digest(self.manifest, "manifest digest")
        if self.previous:
            as_digest(self.previous, "digest of the previous head")
        if self.stream:
            as_digest(self.stream, "stream of a head")
        if (self.kind == KIND_WEIGHTS) != (self.stream == STREAM_MAIN):
            raise RemoteProtocolError(f"a head of kind {self.kind} has a stream id of {len(self.stream)} bytes")
        if self.seq < 1:
            raise RemoteProtocolError("the seq of a head is 0, the first is 1")
        if not 0 < self.manifest_bytes <= MANIFEST_BYTES_MAX:
            raise RemoteProtocolError(f"a head names a manifest of {self.manifest_bytes} bytes")
        if len(self.refs) > HEAD_REFS_MAX:
            raise RemoteProtocolError(f"a head has {len(self.refs)} refs, the limit is {HEAD_REFS_MAX}")
        for relation, manifest in self.refs:
            as_digest(manifest, "digest of a ref")
            if not _RELATION.fullmatch(relation):
                raise RemoteProtocolError(f"{relation[:40]!r} is not the name of a relation")

    @property
    def position(self) -> Position:
        """The place in the order of the stream."""
        return Position(self.epoch, self.seq)

    @property
    def is_rewind(self) -> bool:
        """Whether the trainer has gone back on purpose."""
        return bool(self.flags & FLAG_REWIND)

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding: the payload that is signed."""
        refs = [[relation, manifest] for relation, manifest in self.refs]
        return pack(
            [
                *(TAG, VERSION, self.channel, self.kind, self.stream, self.epoch, self.seq, self.step),
                *(self.manifest, self.manifest_bytes, self.total_bytes, self.previous, self.flags, refs),
            ]
        )

    @cached_property
    def digest(self) -> Digest:
        """The digest of the payload: the head's name, whoever has signed it."""
        return digest_of(self.encoded)

    @classmethod
    def decode(cls, payload: bytes) -> Head:
        """Read the payload of a head's envelope.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a head within the limits.
        """
        value = unpack(payload, size_max=HEAD_BYTES_MAX, what="head")
        kinds = (bytes, int, bytes, int, int, int, bytes, int, int, bytes, int, list)
        channel, kind, stream, epoch, seq, step, manifest, manifest_bytes, total_bytes, previous, flags, refs = cast(
            tuple[bytes, int, bytes, int, int, int, bytes, int, int, bytes, int, list[object]],
            fields(value, TAG, VERSION, kinds),
        )
        if len(refs) > HEAD_REFS_MAX:
            raise RemoteProtocolError(f"a head has {len(refs)} refs, the limit is {HEAD_REFS_MAX}")
        head = cls(
            channel=as_digest(channel, "channel id"),
            kind=kind,
            stream=stream,
            epoch=epoch,
            seq=seq,
            step=step,
            manifest=as_digest(manifest, "manifest digest"),
            manifest_bytes=manifest_bytes,
            total_bytes=total_bytes,
            previous=previous,
            flags=flags,
            refs=tuple(_ref(row) for row in refs),
        )
        if head.encoded != payload:
            raise RemoteProtocolError("a head is not in its canonical encoding")
        return head


def sign_head(head: Head, keys: Sequence[SigningKey]) -> bytes:
    """Return the encoded envelope of `head`, signed by the keys of the origin threshold."""
    return sign(PAYLOAD_TYPE, head.encoded, keys, size_max=HEAD_BYTES_MAX)


def _ref(row: object) -> Ref:
    if not isinstance(row, list) or len(row) != 2:
        raise RemoteProtocolError("a ref of a head is not [relation, manifest digest]")
    relation, manifest = cast(tuple[str, bytes], check_fields(row, (str, bytes), "ref of a head"))
    return Ref(relation, as_digest(manifest, "digest of a ref"))

"""The contract of SHARDCAST: objects, signatures, messages. Pure: no I/O, no clock, no randomness.

Read `SPEC.md` beside this package for the protocol in words, then `manifest` for what a version is, `trust` for who decides what the
weights are, and `messages` for what peers say to each other.
"""

from __future__ import annotations

from .bitmap import Bitmap
from .blob import Blob
from .errors import (
    ConfigError,
    Conflict,
    DaemonUnreachable,
    HotLoadError,
    IntegrityError,
    InvariantViolated,
    LocalProtocolError,
    NotFound,
    NotReady,
    RemoteProtocolError,
    ShardcastError,
    StoreError,
    TransferError,
    TrustError,
)
from .hashing import ChunkHasher, digest_of
from .ids import Digest, PeerId, format_digest, key_of_peer_id, parse_digest, peer_id_of_key
from .manifest import ChunkSpan, FileRow, Manifest
from .patch import Patch

__all__ = [
    "Bitmap",
    "Blob",
    "ChunkHasher",
    "ChunkSpan",
    "ConfigError",
    "Conflict",
    "DaemonUnreachable",
    "Digest",
    "FileRow",
    "HotLoadError",
    "IntegrityError",
    "InvariantViolated",
    "LocalProtocolError",
    "Manifest",
    "NotFound",
    "NotReady",
    "Patch",
    "PeerId",
    "RemoteProtocolError",
    "ShardcastError",
    "StoreError",
    "TransferError",
    "TrustError",
    "digest_of",
    "format_digest",
    "key_of_peer_id",
    "parse_digest",
    "peer_id_of_key",
]

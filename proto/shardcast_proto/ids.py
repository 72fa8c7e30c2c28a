"""The identifiers that objects and peers are named by.

A digest names content. A peer id names a host: it is libp2p's base58 text of the identity multihash of an Ed25519 public key, so the
key can be read back out of the name and no directory of keys is needed.

Source: libp2p specifications, "Peer IDs and keys" (identity multihash of the protobuf-encoded key).
"""

from __future__ import annotations

import re
from typing import Final, NewType

import base58

from .errors import ConfigError, LocalProtocolError, RemoteProtocolError
from .limits import DIGEST_BYTES, KEY_BYTES

Digest = NewType("Digest", bytes)
PeerId = NewType("PeerId", str)

DIGEST_PREFIX: Final = "b3:"
_DIGEST_TEXT: Final = re.compile(r"(?:b3:)?([0-9a-f]{64})")
# identity multihash (0x00), 36 bytes long, of the protobuf {1: Ed25519 (1), 2: key}
_PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
_PEER_ID_CHARS_MAX: Final = 64


def as_digest(value: bytes, what: str = "digest") -> Digest:
    """Return `value` as a digest.

    Raises:
        RemoteProtocolError: It is not 32 bytes long.
    """
    if len(value) != DIGEST_BYTES:
        raise RemoteProtocolError(f"{what} has {len(value)} bytes, a digest has {DIGEST_BYTES}", what=what)
    return Digest(bytes(value))


def format_digest(digest: bytes) -> str:
    """Return the text form, `b3:` and 64 hexadecimal digits."""
    return DIGEST_PREFIX + digest.hex()


def parse_digest(text: str) -> Digest:
    """Read `b3:HEX` or 64 bare hexadecimal digits.

    Raises:
        ConfigError: The text is neither.
    """
    match = _DIGEST_TEXT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text[:80]!r} is not a digest", hint="a digest is b3: followed by 64 hexadecimal digits")
    return Digest(bytes.fromhex(match[1]))


def peer_id_of_key(public_key: bytes) -> PeerId:
    """Return the peer id of a 32-byte Ed25519 public key.

    Raises:
        LocalProtocolError: The key has another length.
    """
    if len(public_key) != KEY_BYTES:
        raise LocalProtocolError(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


def key_of_peer_id(peer: str) -> bytes:
    """Return the 32-byte Ed25519 public key inside a peer id.

    Raises:
        RemoteProtocolError: The text is not the id of an Ed25519 key.
    """
    if len(peer) > _PEER_ID_CHARS_MAX:
        raise RemoteProtocolError(f"peer id of {len(peer)} characters", peer=peer[:_PEER_ID_CHARS_MAX])
    try:
        raw = base58.b58decode(peer)
    except ValueError as error:
        raise RemoteProtocolError(f"peer id {peer!r} is not base58", peer=peer) from error
    if len(raw) != len(_PEER_ID_PREFIX) + KEY_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise RemoteProtocolError(f"peer id {peer!r} is not the id of an Ed25519 key", peer=peer)
    key = raw[len(_PEER_ID_PREFIX) :]
    if peer_id_of_key(key) != peer:  # base58 decoders let white space pass
        raise RemoteProtocolError(f"peer id {peer!r} is not in its canonical form", peer=peer)
    return key

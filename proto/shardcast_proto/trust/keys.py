"""An Ed25519 key, named by what it is.

Thin over PyNaCl, which refuses small-order public keys and malleable signatures. A key is named by its key id, the digest of its 32
public bytes: computed here, never read from a message, so that no key can pass for two. Nothing here makes a key: seeds come from
outside, because this room has no source of randomness.
"""

from __future__ import annotations

from typing import Final

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey as NaclSigningKey
from nacl.signing import VerifyKey as NaclVerifyKey

from ..errors import ConfigError, RemoteProtocolError
from ..hashing import digest_of
from ..ids import Digest, PeerId, key_of_peer_id, peer_id_of_key
from ..limits import KEY_BYTES, SIGNATURE_BYTES

#: RFC 8032 calls it the private key.
SEED_BYTES: Final = 32


class VerifyKey:
    """A public key that is known to be a usable point of the curve.

    Attributes:
        public_key: The 32 bytes of the key.
        key_id: Their digest.
    """

    __slots__ = ("_nacl", "key_id", "public_key")

    def __init__(self, public_key: bytes) -> None:
        """Check `public_key` and hold it.

        Raises:
            RemoteProtocolError: The bytes are not 32 long, or are no point of the prime-order group (a small-order key has
                signatures that anybody can make).
        """
        if len(public_key) != KEY_BYTES:
            raise RemoteProtocolError(f"a public key has {len(public_key)} bytes, not {KEY_BYTES}")
        if not crypto_core_ed25519_is_valid_point(public_key):
            raise RemoteProtocolError(f"public key {public_key.hex()} is no point of the Ed25519 prime-order group")
        self.public_key = public_key
        self.key_id: Digest = digest_of(public_key)
        self._nacl = NaclVerifyKey(public_key)

    @classmethod
    def of_peer(cls, peer: str) -> VerifyKey:
        """Return the key inside a peer id.

        Raises:
            RemoteProtocolError: The text is not the canonical id of a usable Ed25519 key.
        """
        key = cls(key_of_peer_id(peer))
        if key.peer != peer:
            raise RemoteProtocolError(f"peer id {peer!r} is not in its canonical form", peer=peer)
        return key

    @property
    def peer(self) -> PeerId:
        """The libp2p peer id of this key."""
        return peer_id_of_key(self.public_key)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Return whether `signature` is by this key over `message`.

        Cost: 80 µs.
        """
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            self._nacl.verify(message, signature)
        except BadSignatureError:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and other.public_key == self.public_key

    def __hash__(self) -> int:
        return hash(self.public_key)

    def __repr__(self) -> str:
        return f"VerifyKey({self.key_id.hex()[:12]})"


class SigningKey:
    """A private key. Its repr shows the key id and nothing else.

    Attributes:
        verify_key: The public half.
    """

    __slots__ = ("_nacl", "verify_key")

    def __init__(self, seed: bytes) -> None:
        """Derive the pair from a 32-byte seed.

        Raises:
            ConfigError: The seed has another length.
        """
        if len(seed) != SEED_BYTES:
            raise ConfigError(f"the seed of a key has {len(seed)} bytes, not {SEED_BYTES}")
        self._nacl = NaclSigningKey(seed)
        self.verify_key = VerifyKey(bytes(self._nacl.verify_key))

    @property
    def public_key(self) -> bytes:
        """The 32 public bytes."""
        return self.verify_key.public_key

    @property
    def key_id(self) -> Digest:
        """The digest of the public bytes."""
        return self.verify_key.key_id

    @property
    def peer(self) -> PeerId:
        """The libp2p peer id of this key."""
        return self.verify_key.peer

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over `message`; one message has one signature."""
        return self._nacl.sign(message).signature

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id.hex()[:12]})"

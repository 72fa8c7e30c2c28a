"""A patch offer: the signed statement that a patch object exists for a pair of manifests.

It comes when the diff is done, which may be after the head. One origin key signs it: a false offer costs its readers a download and
nothing else, because what a patch produces is checked against the target's chunk digests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from ..codec import fields, pack, unpack
from ..errors import RemoteProtocolError
from ..ids import Digest, as_digest
from ..limits import OFFER_BYTES_MAX, PATCH_BYTES_MAX
from .dsse import sign
from .keys import SigningKey

TAG: Final = "shardcast/offer"
VERSION: Final = 1
PAYLOAD_TYPE: Final = "application/vnd.shardcast.offer.v1+msgpack"


@dataclass(frozen=True)
class PatchOffer:
    """Where a patch leads from and to, and what it costs to fetch.

    Attributes:
        channel: The channel id.
        base: Digest of the manifest it starts from.
        target: Digest of the manifest it produces.
        patch: Digest of the patch object.
        patch_bytes: Length of the patch object.
        payload_bytes: Length of the patch's blob.
    """

    channel: Digest
    base: Digest
    target: Digest
    patch: Digest
    patch_bytes: int
    payload_bytes: int

    def __post_init__(self) -> None:
        for digest in (self.channel, self.base, self.target, self.patch):
            as_digest(digest, "digest of an offer")
        if self.base == self.target:
            raise RemoteProtocolError("an offer has one manifest as base and target")
        if not 0 < self.patch_bytes <= PATCH_BYTES_MAX:
            raise RemoteProtocolError(f"an offer names a patch object of {self.patch_bytes} bytes")

    @property
    def encoded(self) -> bytes:
        """The canonical encoding: the payload that is signed."""
        digests = (self.channel, self.base, self.target, self.patch)
        return pack([TAG, VERSION, *digests, self.patch_bytes, self.payload_bytes])

    @classmethod
    def decode(cls, payload: bytes) -> PatchOffer:
        """Read the payload of an offer's envelope.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of an offer within the limits.
        """
        value = unpack(payload, size_max=OFFER_BYTES_MAX, what="offer")
        channel, base, target, patch, patch_bytes, payload_bytes = cast(
            tuple[bytes, bytes, bytes, bytes, int, int],
            fields(value, TAG, VERSION, (bytes, bytes, bytes, bytes, int, int)),
        )
        offer = cls(
            channel=as_digest(channel, "channel id"),
            base=as_digest(base, "digest of the base"),
            target=as_digest(target, "digest of the target"),
            patch=as_digest(patch, "digest of the patch"),
            patch_bytes=patch_bytes,
            payload_bytes=payload_bytes,
        )
        if offer.encoded != payload:
            raise RemoteProtocolError("an offer is not in its canonical encoding")
        return offer


def sign_offer(offer: PatchOffer, keys: Sequence[SigningKey]) -> bytes:
    """Return the encoded envelope of `offer`; one origin key is enough."""
    return sign(PAYLOAD_TYPE, offer.encoded, keys, size_max=OFFER_BYTES_MAX)

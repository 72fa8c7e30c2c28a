"""A beacon: the short-lived statement that a head is still the newest.

It is re-signed every minute by any one origin key and gossiped with its head, so that a node which is kept from newer heads knows
within minutes. A missing or expired beacon makes the version stale and stops nothing: it is fetched, served and pulled, and marked.
No clock decides what is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from ..codec import fields, pack, unpack
from ..errors import RemoteProtocolError
from ..ids import Digest, as_digest
from ..limits import BEACON_BYTES_MAX, BEACON_TTL_S, CLOCK_SKEW_MAX_S
from .dsse import sign
from .keys import SigningKey

TAG: Final = "shardcast/beacon"
VERSION: Final = 1
PAYLOAD_TYPE: Final = "application/vnd.shardcast.beacon.v1+msgpack"


class Freshness(StrEnum):
    """What a beacon says about its head at one moment."""

    #: Somebody with an origin key has just vouched for it.
    FRESH = "fresh"
    #: Nobody has, or too long ago.
    STALE = "stale"
    #: The beacon is from the future: this clock or the origin's is wrong.
    CLOCK = "clock"


@dataclass(frozen=True)
class Beacon:
    """The statement that a head was the newest at one moment.

    Attributes:
        channel: The channel id.
        head: Digest of the head's payload.
        issued_s: Unix seconds, by the signer's clock.
        ttl_s: Seconds from then for which it vouches.
    """

    channel: Digest
    head: Digest
    issued_s: int
    ttl_s: int = BEACON_TTL_S

    def __post_init__(self) -> None:
        as_digest(self.channel, "channel id")
        as_digest(self.head, "head digest")
        if self.ttl_s < 1:
            raise RemoteProtocolError("a beacon vouches for no time at all")

    def freshness(self, now_s: float) -> Freshness:
        """Return what the beacon says at `now_s`."""
        if self.issued_s > now_s + CLOCK_SKEW_MAX_S:
            return Freshness.CLOCK
        return Freshness.FRESH if now_s < self.issued_s + self.ttl_s else Freshness.STALE

    @property
    def encoded(self) -> bytes:
        """The canonical encoding: the payload that is signed."""
        return pack([TAG, VERSION, self.channel, self.head, self.issued_s, self.ttl_s])

    @classmethod
    def decode(cls, payload: bytes) -> Beacon:
        """Read the payload of a beacon's envelope.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a beacon within the limits.
        """
        value = unpack(payload, size_max=BEACON_BYTES_MAX, what="beacon")
        channel, head, issued_s, ttl_s = cast(
            tuple[bytes, bytes, int, int], fields(value, TAG, VERSION, (bytes, bytes, int, int))
        )
        beacon = cls(as_digest(channel, "channel id"), as_digest(head, "head digest"), issued_s, ttl_s)
        if beacon.encoded != payload:
            raise RemoteProtocolError("a beacon is not in its canonical encoding")
        return beacon


def sign_beacon(beacon: Beacon, keys: Sequence[SigningKey]) -> bytes:
    """Return the encoded envelope of `beacon`; one origin key is enough."""
    return sign(PAYLOAD_TYPE, beacon.encoded, keys, size_max=BEACON_BYTES_MAX)

"""An announcement: the one message that goes by gossip.

It carries a head's envelope and, when there is one, a beacon's. It is a hint like all gossip: unsigned itself, because everything
in it is signed. Its topic names the channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from ..codec import fields, pack, unpack
from ..errors import RemoteProtocolError
from ..ids import Digest
from ..limits import BEACON_BYTES_MAX, GOSSIP_BYTES_MAX, HEAD_BYTES_MAX

TAG: Final = "shardcast/announce"
VERSION: Final = 1


def gossip_topic(channel: Digest) -> str:
    """Return the gossip topic of a channel."""
    return f"/shardcast/1/{channel.hex()}"


@dataclass(frozen=True)
class Announce:
    """The newest head that somebody knows.

    Attributes:
        head: The encoded envelope of a head.
        beacon: The encoded envelope of a beacon; empty when there is none.
    """

    head: bytes
    beacon: bytes = b""

    def __post_init__(self) -> None:
        if not 0 < len(self.head) <= HEAD_BYTES_MAX or len(self.beacon) > BEACON_BYTES_MAX:
            raise RemoteProtocolError(
                f"an announcement has a head of {len(self.head)} and a beacon of {len(self.beacon)} bytes"
            )

    @property
    def encoded(self) -> bytes:
        """The gossip message."""
        return pack([TAG, VERSION, self.head, self.beacon])

    @classmethod
    def decode(cls, data: bytes) -> Announce:
        """Read a gossip message; nothing in it is verified.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of an announcement within the limits.
        """
        value = unpack(data, size_max=GOSSIP_BYTES_MAX, what="announcement")
        head, beacon = cast(tuple[bytes, bytes], fields(value, TAG, VERSION, (bytes, bytes)))
        announce = cls(head, beacon)
        if announce.encoded != data:
            raise RemoteProtocolError("an announcement is not in its canonical encoding")
        return announce

"""A binding: the statement, by an origin key, that one peer is run by the holder of that key.

A peer record says what a peer calls itself; anybody may call himself an origin. A binding is signed by a key that the channel's root
lists, and names the peer id, whose own key the connection has proved. So it is of no use to anybody else, and it ends with the root
that no longer lists the key. It names no time: what it gives is patience, never belief.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from ..codec import fields, pack, unpack
from ..errors import RemoteProtocolError
from ..ids import Digest, PeerId, as_digest
from ..limits import BINDING_BYTES_MAX
from .dsse import sign
from .keys import SigningKey, VerifyKey

TAG: Final = "shardcast/binding"
VERSION: Final = 1
PAYLOAD_TYPE: Final = "application/vnd.shardcast.binding.v1+msgpack"


@dataclass(frozen=True)
class Binding:
    """Which peer acts for an origin key of a channel.

    Attributes:
        channel: The channel id.
        peer: The peer id of the origin's node.
    """

    channel: Digest
    peer: PeerId

    def __post_init__(self) -> None:
        as_digest(self.channel, "channel id")
        VerifyKey.of_peer(self.peer)

    @property
    def encoded(self) -> bytes:
        """The canonical encoding: the payload that is signed."""
        return pack([TAG, VERSION, self.channel, self.peer])

    @classmethod
    def decode(cls, payload: bytes) -> Binding:
        """Read the payload of a binding's envelope.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a binding.
        """
        value = unpack(payload, size_max=BINDING_BYTES_MAX, what="binding")
        channel, peer = cast(tuple[bytes, str], fields(value, TAG, VERSION, (bytes, str)))
        binding = cls(as_digest(channel, "channel id"), PeerId(peer))
        if binding.encoded != payload:
            raise RemoteProtocolError("a binding is not in its canonical encoding")
        return binding


def sign_binding(binding: Binding, keys: Sequence[SigningKey]) -> bytes:
    """Return the encoded envelope of `binding`; one origin key is enough."""
    return sign(PAYLOAD_TYPE, binding.encoded, keys, size_max=BINDING_BYTES_MAX)

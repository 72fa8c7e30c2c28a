"""A ticket: the short-lived permission of one peer to be served by another.

The server signs it with its libp2p key when the client asks over an authenticated connection, and reads it back when the client
comes by a door that does not authenticate. It names both peers, so it is of no use to anybody else or anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from ..codec import fields, pack, unpack
from ..errors import RemoteProtocolError
from ..ids import Digest, PeerId, as_digest
from ..limits import TICKET_BYTES_MAX
from .dsse import Envelope, sign, verify
from .keys import SigningKey, VerifyKey
from .refusals import Reason, refusal

TAG: Final = "shardcast/ticket"
VERSION: Final = 1
PAYLOAD_TYPE: Final = "application/vnd.shardcast.ticket.v1+msgpack"

#: Two tickets for the same pair and second differ; 128 random bits do not meet by chance.
NONCE_BYTES: Final = 16


@dataclass(frozen=True)
class Ticket:
    """Who may come to whom, and until when.

    Attributes:
        channel: The channel id.
        server: Peer id of the signer.
        client: Peer id of the holder.
        expires_s: Unix seconds, by the server's clock, which alone reads it.
        nonce: 16 bytes that make tickets differ.
    """

    channel: Digest
    server: PeerId
    client: PeerId
    expires_s: int
    nonce: bytes

    def __post_init__(self) -> None:
        as_digest(self.channel, "channel id")
        VerifyKey.of_peer(self.server)
        VerifyKey.of_peer(self.client)
        if self.server == self.client:
            raise RemoteProtocolError("a ticket has one peer as server and client", peer=self.server)
        if len(self.nonce) != NONCE_BYTES:
            raise RemoteProtocolError(f"the nonce of a ticket has {len(self.nonce)} bytes, not {NONCE_BYTES}")

    @property
    def encoded(self) -> bytes:
        """The canonical encoding: the payload that is signed."""
        return pack([TAG, VERSION, self.channel, self.server, self.client, self.expires_s, self.nonce])

    @classmethod
    def decode(cls, payload: bytes) -> Ticket:
        """Read the payload of a ticket's envelope.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a ticket within the limits.
        """
        value = unpack(payload, size_max=TICKET_BYTES_MAX, what="ticket")
        channel, server, client, expires_s, nonce = cast(
            tuple[bytes, str, str, int, bytes],
            fields(value, TAG, VERSION, (bytes, str, str, int, bytes)),
        )
        ticket = cls(as_digest(channel, "channel id"), PeerId(server), PeerId(client), expires_s, nonce)
        if ticket.encoded != payload:
            raise RemoteProtocolError("a ticket is not in its canonical encoding")
        return ticket


def sign_ticket(ticket: Ticket, key: SigningKey) -> bytes:
    """Return the encoded envelope of `ticket`, signed by the libp2p key of its server."""
    return sign(PAYLOAD_TYPE, ticket.encoded, [key], size_max=TICKET_BYTES_MAX)


def open_ticket(data: bytes, server: VerifyKey, client: PeerId, *, now_s: float) -> Ticket:
    """Return the ticket in an envelope, if `server` has given it to `client` and it has not run out.

    Raises:
        RemoteProtocolError: The bytes are not a ticket.
        TrustError: A reason of `dsse.verify`, or `wrong_peer`, or `expired`.
    """
    envelope = Envelope.decode(data, size_max=TICKET_BYTES_MAX, what="ticket")
    ticket = Ticket.decode(verify(envelope, PAYLOAD_TYPE, [server], 1))
    if ticket.server != server.peer or ticket.client != client:
        raise refusal(
            Reason.WRONG_PEER,
            f"a ticket from {ticket.server} to {ticket.client} is shown by {client} to {server.peer}",
            expected=client,
            actual=ticket.client,
        )
    if now_s >= ticket.expires_s:
        raise refusal(Reason.EXPIRED, f"a ticket ran out {now_s - ticket.expires_s:.0f} s ago", peer=client)
    return ticket

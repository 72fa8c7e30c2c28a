"""A peer record: what a peer says about itself, signed by its libp2p key.

The key is the one inside the peer id, so a record can be passed on by anybody and made by its peer alone. It names IP addresses as
literals, never names to resolve; which of them may be dialled is decided elsewhere. Time is the reader's matter: `is_current`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, cast

from ..codec import check_fields, fields, pack, unpack
from ..errors import RemoteProtocolError
from ..ids import PeerId
from ..limits import ADDRESS_BYTES_MAX, CLOCK_SKEW_MAX_S, RECORD_ADDRESSES_MAX, RECORD_BYTES_MAX
from .dsse import Envelope, sign, verify
from .keys import SigningKey, VerifyKey
from .refusals import Reason, refusal

TAG: Final = "shardcast/record"
VERSION: Final = 1
PAYLOAD_TYPE: Final = "application/vnd.shardcast.record.v1+msgpack"

#: What a peer may call itself, in this order.
PEER_ROLES: Final = ("origin", "relay", "client")
#: Addresses change: nobody passes on what a peer said about itself yesterday.
RECORD_TTL_S_MAX: Final = 86_400


@dataclass(frozen=True)
class PeerRecord:
    """Where a peer is and what it can do.

    Attributes:
        peer: Its peer id.
        p2p_addresses: Where it takes libp2p connections over TCP: at most 8 of "IP:PORT" or "[IP6]:PORT".
        serve_addresses: Where it serves chunks over HTTP, likewise.
        roles: Some of `PEER_ROLES`, in that order.
        up_bytes_per_s: What it means to upload; 0 for unknown.
        issued_s: Unix seconds, by the peer's clock; of two records the later counts.
        expires_s: Unix seconds, at most a day later.
    """

    peer: PeerId
    p2p_addresses: tuple[str, ...]
    serve_addresses: tuple[str, ...]
    roles: tuple[str, ...]
    up_bytes_per_s: int
    issued_s: int
    expires_s: int

    def __post_init__(self) -> None:
        VerifyKey.of_peer(self.peer)
        for addresses in (self.p2p_addresses, self.serve_addresses):
            if len(addresses) > RECORD_ADDRESSES_MAX or len(set(addresses)) < len(addresses):
                raise RemoteProtocolError(f"a record has {len(addresses)} addresses, or one twice", peer=self.peer)
            for address in addresses:
                check_address(address)
        if self.roles != tuple(role for role in PEER_ROLES if role in self.roles):
            raise RemoteProtocolError("a record names an unknown role, one twice, or out of order", peer=self.peer)
        if not 0 < self.expires_s - self.issued_s <= RECORD_TTL_S_MAX:
            raise RemoteProtocolError(
                f"a record is for {self.expires_s - self.issued_s} s, allowed are 1 to {RECORD_TTL_S_MAX}",
                peer=self.peer,
            )

    def is_current(self, now_s: float) -> bool:
        """Return whether `now_s` lies in the time of the record, give or take the clock error that is usual."""
        return self.issued_s - CLOCK_SKEW_MAX_S <= now_s < self.expires_s + CLOCK_SKEW_MAX_S

    @property
    def encoded(self) -> bytes:
        """The canonical encoding: the payload that is signed."""
        lists = (list(self.p2p_addresses), list(self.serve_addresses), list(self.roles))
        return pack([TAG, VERSION, self.peer, *lists, self.up_bytes_per_s, self.issued_s, self.expires_s])

    @classmethod
    def decode(cls, payload: bytes) -> PeerRecord:
        """Read the payload of a record's envelope.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a record within the limits.
        """
        value = unpack(payload, size_max=RECORD_BYTES_MAX, what="record")
        peer, p2p, serve, roles, up_bytes_per_s, issued_s, expires_s = cast(
            tuple[str, list[object], list[object], list[object], int, int, int],
            fields(value, TAG, VERSION, (str, list, list, list, int, int, int)),
        )
        lists = (_texts(p2p), _texts(serve), _texts(roles))
        record = cls(PeerId(peer), *lists, up_bytes_per_s, issued_s, expires_s)
        if record.encoded != payload:
            raise RemoteProtocolError("a record is not in its canonical encoding")
        return record


def sign_record(record: PeerRecord, key: SigningKey) -> bytes:
    """Return the encoded envelope of `record`, signed by the libp2p key of its peer."""
    return sign(PAYLOAD_TYPE, record.encoded, [key], size_max=RECORD_BYTES_MAX)


def open_record(data: bytes) -> PeerRecord:
    """Return the record in an envelope that its own peer has signed.

    Raises:
        RemoteProtocolError: The bytes are not a record.
        TrustError: They are not signed by the key of the peer that they name.
    """
    envelope = Envelope.decode(data, size_max=RECORD_BYTES_MAX, what="record")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise refusal(Reason.WRONG_TYPE, f"an envelope holds {envelope.payload_type!r}, wanted is a record")
    record = PeerRecord.decode(envelope.payload)
    verify(envelope, PAYLOAD_TYPE, [VerifyKey.of_peer(record.peer)], 1)
    return record


def check_address(address: str) -> tuple[str, int]:
    """Return host and port of "IP:PORT" or "[IP6]:PORT".

    Raises:
        RemoteProtocolError: The text is not a canonical IP literal with a port from 1 to 65535.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if len(address) > ADDRESS_BYTES_MAX or not (port.isascii() and port.isdecimal() and len(port) <= 5):
        raise RemoteProtocolError(f"address {address[:80]!r} is not IP:PORT")
    try:
        ip = ip_address(bare)
    except ValueError as error:
        raise RemoteProtocolError(f"address {address[:80]!r} has no IP literal") from error
    if ip.version == 6 and (ip.scope_id is not None or ip.ipv4_mapped is not None):
        raise RemoteProtocolError(f"address {address[:80]!r} has a scope, or an IPv4 address in IPv6 clothes")
    canonical = f"[{ip}]:{int(port)}" if ip.version == 6 else f"{ip}:{int(port)}"
    if canonical != address or not 0 < int(port) <= 65_535:
        raise RemoteProtocolError(f"address {address[:80]!r} is not in its canonical form", expected=canonical)
    return str(ip), int(port)


def _texts(values: list[object]) -> tuple[str, ...]:
    if len(values) > RECORD_ADDRESSES_MAX:
        raise RemoteProtocolError(f"a list of a record has {len(values)} elements, the limit is {RECORD_ADDRESSES_MAX}")
    return cast(tuple[str, ...], check_fields(values, [str] * len(values), "list of a record"))

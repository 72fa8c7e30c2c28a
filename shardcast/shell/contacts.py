"""The translation between signed peer records and the contacts that the machine works with.

A record comes from a stranger: it is opened (its own key signed it), and every address that this node must not dial is dropped before
the machine hears of it. Its expiry is not looked at: a wall clock decides nothing here, and an address that no longer answers is
forgotten after one dial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shardcast.p2p import AddressPolicy, P2pAddress, parse_endpoint, parse_p2p_address
from shardcast_proto.errors import ConfigError, RemoteProtocolError, ShardcastError
from shardcast_proto.ids import PeerId
from shardcast_proto.limits import RECORD_ADDRESSES_MAX
from shardcast_proto.trust import RECORD_TTL_S_MAX, PeerRecord, SigningKey, check_address, open_record, sign_record
from shardcast_relay.events import Contact

#: Opening a record costs 80 µs; the same few records come again and again with every shuffle.
_CACHE_MAX: Final = 1024


@dataclass(frozen=True)
class OwnAddresses:
    """Where this node says it can be reached."""

    p2p: tuple[str, ...]
    serve: tuple[str, ...]
    roles: tuple[str, ...]
    up_bytes_per_s: int


class Contacts:
    """Opens records, and makes this node's own."""

    def __init__(self, policy: AddressPolicy, key: SigningKey, *, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._key = key
        self._clock = clock
        self._opened: dict[bytes, Contact] = {}
        #: Roles by peer, of the records opened last.
        self._roles: dict[PeerId, tuple[str, ...]] = {}

    def open(self, record: bytes) -> Contact:
        """Return the contact that a signed record describes.

        Raises:
            RemoteProtocolError: The bytes are no record.
            TrustError: Another key than the peer's own has signed it.
        """
        known = self._opened.get(record)
        if known is not None:
            return known
        opened = open_record(record)
        contact = Contact(
            opened.peer,
            record,
            tuple(filter(None, (self._dialable(address, opened.peer) for address in opened.p2p_addresses))),
            tuple(address for address in opened.serve_addresses if self._refusal(address) is None),
            opened.up_bytes_per_s,
            opened.issued_s,
        )
        if len(self._opened) >= _CACHE_MAX:
            del self._opened[next(iter(self._opened))]
        self._opened[record] = contact
        self._note_roles(opened)
        return contact

    def open_all(self, records: Sequence[bytes]) -> tuple[Contact, ...]:
        """Return the contacts of those records that can be opened; a neighbour may pass on others' broken ones."""
        contacts = []
        for record in records:
            try:
                contacts.append(self.open(record))
            except ShardcastError:
                continue
        return tuple(contacts)

    def own_record(self, addresses: OwnAddresses) -> bytes:
        """Return this node's record, signed now and good for a day."""
        issued_s = int(self._clock())
        record = PeerRecord(
            self._key.peer,
            addresses.p2p[:RECORD_ADDRESSES_MAX],
            addresses.serve[:RECORD_ADDRESSES_MAX],
            addresses.roles,
            addresses.up_bytes_per_s,
            issued_s,
            issued_s + RECORD_TTL_S_MAX,
        )
        return sign_record(record, self._key)

    def bootstrap(self, multiaddr: str) -> Contact:
        """Return the contact of a `--bootstrap` multiaddr, which must end in the peer id.

        Raises:
            ConfigError: It is not one, or it must not be dialled from here.
        """
        try:
            address = parse_p2p_address(multiaddr)
        except RemoteProtocolError as error:
            raise ConfigError(error.message, hint="--bootstrap takes /ip4/ADDRESS/tcp/PORT/p2p/PEER") from error
        if address.peer is None:
            raise ConfigError(
                f"{multiaddr!r} does not end in /p2p/PEER", hint="copy it from the other node's ready line"
            )
        reason = self._policy.refusal(str(address.ip), address.port)
        if reason is not None:
            raise ConfigError(f"bootstrap {multiaddr!r} would never be dialled: {reason}", hint="see --allow-private")
        return Contact(address.peer, b"", (str(address),), ())

    def roles_of(self, peer: PeerId) -> tuple[str, ...]:
        """Return the roles that a peer claims in its newest record; nothing is trusted to them."""
        return self._roles.get(peer, ())

    def _dialable(self, address: str, peer: PeerId) -> str | None:
        if self._refusal(address) is not None:
            return None
        ip, port = check_address(address)
        return f"/ip{6 if ':' in ip else 4}/{ip}/tcp/{port}/p2p/{peer}"

    def _refusal(self, address: str) -> str | None:
        try:
            ip, port = parse_endpoint(address)
        except RemoteProtocolError as error:
            return error.message
        return self._policy.refusal(ip, port)

    def _note_roles(self, record: PeerRecord) -> None:
        if len(self._roles) >= _CACHE_MAX and record.peer not in self._roles:
            del self._roles[next(iter(self._roles))]
        self._roles[record.peer] = record.roles


def endpoint_of(multiaddr: str) -> str:
    """Return "IP:PORT" or "[IP6]:PORT" of one of our own multiaddrs."""
    address: P2pAddress = parse_p2p_address(multiaddr)
    host = f"[{address.ip}]" if address.ip.version == 6 else str(address.ip)
    return f"{host}:{address.port}"

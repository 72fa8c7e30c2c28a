"""The rules that say which addresses may be dialled.

Peers tell each other addresses, so an address is hostile input: without a filter any peer could send a node to a
metadata service, a database on the loopback interface, or a neighbour's intranet. What is pure stands here; `transport`
asks it before every dial, and the data plane can ask it with `refusal`.

The rules, in this order:

1. IP literals only (no names: a name can be rebound), ports 1024 to 65535.
2. Never: unspecified, multicast, broadcast, reserved and link-local addresses, the known metadata services, and IPv6
   addresses that carry an IPv4 address inside (mapped, NAT64, 6to4, Teredo), which would walk round the rules for it.
3. Loopback: only when our own bind address is loopback.
4. Inside a network given with `--allow-private`: yes.
5. In the same private network as our own bind address (10/8, 172.16/12, 192.168/16, 100.64/10, or one IPv6 ULA /48): yes.
6. Global unicast: yes. Everything else: no.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from shardcast_proto.errors import ConfigError, RemoteProtocolError
from shardcast_proto.ids import PeerId, key_of_peer_id
from shardcast_proto.limits import ADDRESS_BYTES_MAX

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

#: Below it live the services that a dial must never reach.
PORT_MIN: Final = 1024
PORT_MAX: Final = 65_535

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_PRIVATE_V4: Final = tuple(
    IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)
_UNIQUE_LOCAL: Final = IPv6Network("fc00::/7")
#: A site numbers itself with one /48 (RFC 4193).
_UNIQUE_LOCAL_PREFIX: Final = 48
_EMBEDDING: Final = tuple(
    IPv6Network(text) for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
#: All IPv6 global unicast there is; Python calls more of it global (the deprecated site-local range, for one).
_GLOBAL_V6: Final = IPv6Network("2000::/3")
#: Assigned to protocols, not to hosts: DS-Lite, 6to4 relays.
_PROTOCOL_V4: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
#: Link-local 169.254.169.254 is refused anyway; those here hide in ranges that an operator may allow.
_METADATA: Final = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


@dataclass(frozen=True, slots=True)
class P2pAddress:
    """One `/ip4|ip6/…/tcp/…[/p2p/…]` address."""

    ip: IpAddress
    port: int
    peer: PeerId | None

    def __str__(self) -> str:
        text = f"/ip{self.ip.version}/{self.ip}/tcp/{self.port}"
        return f"{text}/p2p/{self.peer}" if self.peer else text


def parse_p2p_address(text: str) -> P2pAddress:
    """Read a multiaddr of the one shape that we dial: IP literal, TCP, and optionally the peer id.

    Raises:
        RemoteProtocolError: Any other shape: a name, another transport, a relay, trailing parts.
    """
    if len(text) > ADDRESS_BYTES_MAX:
        raise RemoteProtocolError(f"an address of {len(text)} characters, allowed are {ADDRESS_BYTES_MAX}")
    parts = text.split("/")
    peer: PeerId | None = None
    if len(parts) == 7 and parts[5] == "p2p":
        key_of_peer_id(parts[6])
        peer = PeerId(parts[6])
        parts = parts[:5]
    if len(parts) != 5 or parts[0] or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        raise RemoteProtocolError(f"{text!r} is not /ip4|ip6/ADDRESS/tcp/PORT[/p2p/PEER]", address=text)
    ip = _parse_ip(parts[2], text)
    if f"ip{ip.version}" != parts[1]:
        raise RemoteProtocolError(f"{text!r} has an IPv{ip.version} address behind {parts[1]}", address=text)
    return P2pAddress(ip, _parse_port(parts[4], text), peer)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Read `IP:PORT` or `[IPv6]:PORT`.

    Raises:
        RemoteProtocolError: The text is neither.
    """
    if len(text) > ADDRESS_BYTES_MAX:
        raise RemoteProtocolError(f"an address of {len(text)} characters, allowed are {ADDRESS_BYTES_MAX}")
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    ip = _parse_ip(host[1:-1] if bracketed else host, text)
    if bracketed != (ip.version == 6):
        raise RemoteProtocolError(f"{text!r} is not IP:PORT (an IPv6 address stands in brackets)", address=text)
    return str(ip), _parse_port(port, text)


class AddressPolicy:
    """The dial rules of one node, fixed by its own bind address and its `--allow-private` networks."""

    def __init__(self, bind: str, allow_private: Sequence[str] = ()) -> None:
        """Build the policy.

        Raises:
            ConfigError: The bind address or a network is not one.
        """
        try:
            own = ip_address(bind)
            self._allowed: tuple[IpNetwork, ...] = tuple(ip_network(text) for text in allow_private)
        except ValueError as error:
            raise ConfigError(f"{error}", hint="use IP literals and networks such as 10.0.0.0/8") from error
        #: Whether our own bind address is loopback: then, and only then, loopback peers exist.
        self.is_loopback: bool = own.is_loopback
        self._own_network = _private_network_of(own)

    def refusal(self, ip: str, port: int) -> str | None:
        """Return why this address must not be dialled, or None when it may be."""
        if not PORT_MIN <= port <= PORT_MAX:
            return f"port {port} is below {PORT_MIN}" if port < PORT_MIN else f"port {port} does not exist"
        try:
            address = _parse_ip(ip, ip)
        except RemoteProtocolError:
            return "not an IP literal"
        return self._refusal_of_ip(address)

    def refusal_of_multiaddr(self, text: str) -> str | None:
        """Return why this multiaddr must not be dialled, or None when it may be."""
        try:
            address = parse_p2p_address(text)
        except RemoteProtocolError as error:
            return error.message
        return self.refusal(str(address.ip), address.port)

    def _refusal_of_ip(self, ip: IpAddress) -> str | None:
        if int(ip) > 1 and any(ip in network for network in _EMBEDDING):
            return "an IPv6 address that carries an IPv4 address"
        if ip.is_loopback:
            return None if self.is_loopback else "loopback, and our own bind address is not"
        never = _never_dialled(ip)
        if never is not None:
            return never
        if any(ip in network for network in self._allowed):
            return None
        if self._own_network is not None and ip in self._own_network:
            return None
        if (
            ip.is_global
            and not any(ip in network for network in _PROTOCOL_V4)
            and (ip.version == 4 or ip in _GLOBAL_V6)
        ):
            return None
        return "a private range that is neither ours nor allowed with --allow-private"


def _never_dialled(ip: IpAddress) -> str | None:
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved or ip == IPv4Address("255.255.255.255"):
        # Python calls the NAT64 prefix reserved too; both reasons mean no.
        return "unspecified, multicast, broadcast or reserved"
    if ip.is_link_local or ip in _METADATA:
        return "link-local or a metadata service"
    return None


def _private_network_of(ip: IpAddress) -> IpNetwork | None:
    for network in _PRIVATE_V4:
        if ip in network:
            return network
    if ip in _UNIQUE_LOCAL:
        return IPv6Network((int(ip), _UNIQUE_LOCAL_PREFIX), strict=False)
    return None


def _parse_ip(text: str, whole: str) -> IpAddress:
    # A zone ("%eth0") names an interface of ours; nobody else may choose one.
    if "%" in text:
        raise RemoteProtocolError(f"{whole!r} names an interface", address=whole)
    try:
        return ip_address(text)
    except ValueError as error:
        raise RemoteProtocolError(f"{whole!r} has no IP literal", address=whole) from error


def _parse_port(text: str, whole: str) -> int:
    if _PORT.fullmatch(text) is None or int(text) > PORT_MAX:
        raise RemoteProtocolError(f"{whole!r} has no port", address=whole)
    return int(text)

"""The libp2p host, built with what we need and nothing else.

TCP, Noise and yamux; no TLS, QUIC, mplex, plaintext, mDNS, UPnP or relay. No resource manager either: its connection
limit is off by one and it denies without telling the dialler; our own caps (`guards`) replace it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from shardcast_proto.errors import ConfigError

from .addresses import AddressPolicy, P2pAddress
from .guards import contain_tasks, guard_streams, refuse_own_dials, release_inbound_places, sever, stop_identify
from .limits import P2pLimits
from .mux_guards import guard_muxer
from .quiet_logs import quiet_libp2p
from .transport import FilteredTcp

#: What is left to close when all connections are closed takes a millisecond.
_CLOSE_GRACE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class RunningHost:
    """A host that listens."""

    host: Any
    #: Where we listen, as it was bound: the port is real also when 0 was asked for.
    listen: P2pAddress


def build_host(seed: bytes, policy: AddressPolicy, limits: P2pLimits) -> Any:
    """Return a guarded host that does not listen yet."""
    quiet_libp2p()
    guard_muxer()
    key_pair = create_new_key_pair(seed)
    connections_max = limits.inbound_max + limits.outbound_max
    host = new_host(
        key_pair=key_pair,
        sec_opt={NOISE_ID: Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={YAMUX_ID: Yamux},  # type: ignore[dict-item]
        transports=[FilteredTcp(policy)],
        connection_config=ConnectionConfig(
            max_connections=connections_max,
            min_connections=0,
            low_watermark=0,
            high_watermark=connections_max,
            inbound_upgrade_timeout=limits.handshake_s,
            outbound_upgrade_timeout=limits.handshake_s,
            outbound_stream_protocol_negotiation_timeout=limits.handshake_s,
            inbound_stream_protocol_negotiation_timeout=limits.handshake_s,
        ),
        # A failed dial is reported at once; trying again is the caller's decision.
        disable_identify_address_discovery=True,
    )
    network: Any = host.get_network()
    network.retry_config = RetryConfig(max_retries=0)
    network.set_resource_manager(None)
    refuse_own_dials(network)
    release_inbound_places(network, limits)
    guard_streams(network, limits.streams_per_connection_max)
    stop_identify(host)
    return host


@asynccontextmanager
async def run_host(host: Any, listen: tuple[str, int]) -> AsyncIterator[RunningHost]:
    """Run the host and listen; close the host at the end (`close_connections` should come before that).

    Raises:
        ConfigError: The address cannot be bound.
    """
    network = host.get_network()
    ip, port = listen
    _check_free(ip, port)
    # The guard on the service's tasks must be in place before the first connection, so listening comes second.
    async with host.run([]):
        contain_tasks(network.manager)
        if not await network.listen(Multiaddr(f"/ip{ip_address(ip).version}/{ip}/tcp/{port}")):
            raise ConfigError(f"cannot listen on {ip}:{port}", hint="choose another --p2p address")
        bound = next(iter(network.listeners.values())).listeners[0].socket.getsockname()
        try:
            yield RunningHost(host, P2pAddress(ip_address(ip), int(bound[1]), None))
        finally:
            with trio.move_on_after(_CLOSE_GRACE_S):
                await host.close()


async def close_connections(host: Any) -> None:
    """Close all connections at once (libp2p closes one after the other, at 200 ms each)."""
    async with trio.open_nursery() as nursery:
        for connection in host.get_network().get_connections():
            nursery.start_soon(sever, connection)


def _check_free(ip: str, port: int) -> None:
    """Fail when the address is taken: libp2p listens with SO_REUSEPORT, which lets two nodes share a port unnoticed."""
    family = socket.AF_INET6 if ip_address(ip).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            hint = (
                "another process listens there" if error.errno == errno.EADDRINUSE else "choose another --p2p address"
            )
            raise ConfigError(f"cannot listen on {ip}:{port}: {error.strerror}", hint=hint) from error

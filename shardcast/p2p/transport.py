"""The TCP transport: the only door to the network that libp2p gets.

Every dial of the host, whoever asked for it, ends here and is judged by the address policy. Sockets in both directions
are set to give up on a silent peer, so that a black-holed connection is noticed by the kernel at no cost to us.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP, TCPListener
from multiaddr import Multiaddr

from shardcast_proto.errors import RemoteProtocolError

from .addresses import AddressPolicy, parse_p2p_address
from .limits import PEER_SILENCE_MAX_S

#: First probe after 10 s of silence, then every 3 s; the kernel gives up at PEER_SILENCE_MAX_S.
_KEEPALIVE_IDLE_S: Final = 10
_KEEPALIVE_INTERVAL_S: Final = 3
_KEEPALIVE_PROBES: Final = 3


class FilteredTcp(TCP):
    """TCP that dials IP literals which the policy allows, and nothing else."""

    def __init__(self, policy: AddressPolicy) -> None:
        super().__init__()
        self._policy = policy

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect to one address.

        Raises:
            OpenConnectionError: The policy refuses the address, or nobody answers there.
        """
        try:
            address = parse_p2p_address(str(maddr))
        except RemoteProtocolError as error:
            raise OpenConnectionError(error.message) from error
        refusal = self._policy.refusal(str(address.ip), address.port)
        if refusal is not None:
            raise OpenConnectionError(f"{address.ip}:{address.port} is not dialled: {refusal}")
        try:
            stream = await trio.open_tcp_stream(str(address.ip), address.port)
        except OSError as error:
            raise OpenConnectionError(f"{address.ip}:{address.port}: {error}") from error
        return RawConnection(_prepared(TrioTCPStream(stream)), True)

    async def dial_with_source(self, maddr: Multiaddr, source: tuple[str, int]) -> IRawConnection:
        """Connect as `dial` does; a source address (for hole punching) is not used."""
        return await self.dial(maddr)

    def create_listener(self, handler_function: Callable[[Any], Awaitable[None]]) -> TCPListener:
        """Return a listener whose connections are prepared before `handler_function` sees them."""

        async def prepare(stream: Any) -> None:
            await handler_function(_prepared(stream))

        return TCPListener(prepare)


def _prepared(stream: TrioTCPStream) -> TrioTCPStream:
    """Set the socket's timeouts, and note its remote address (libp2p's own look-up fails for IPv6)."""
    handle = stream.stream.socket
    # The peer may have gone already; then reading fails, and that is where it is handled.
    with contextlib.suppress(OSError):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_SILENCE_MAX_S * 1000)
        host, port = handle.getpeername()[:2]
        stream._cached_remote_address = (str(host), int(port))
    return stream

"""The dialler: a peer id with some addresses in, a link out.

libp2p's own `connect` waits 250 ms each time, tries one address per transport, remembers a failed peer for a minute and
hides loopback behind public addresses; so each address is dialled directly, all at once, and the first handshake that
proves the peer's key wins.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from shardcast_proto.errors import RemoteProtocolError, TransferError
from shardcast_proto.ids import PeerId

from .addresses import AddressPolicy, parse_p2p_address
from .guards import sever
from .limits import P2pLimits
from .links import Links

log: Final = logging.getLogger("shardcast.p2p")


class Dialler:
    """Dials peers for one host, on the trio side."""

    def __init__(self, host: Any, links: Links, policy: AddressPolicy, limits: P2pLimits) -> None:
        self._network: Any = host.get_network()
        self._links = links
        self._policy = policy
        self._limits = limits
        self._places = trio.CapacityLimiter(limits.dials_max)
        #: One dial per peer at a time: who comes second waits for the first one's result.
        self._under_way: dict[ID, trio.Lock] = {}

    async def dial(self, peer: PeerId, addresses: Sequence[str], timeout_s: float) -> None:
        """Make sure that there is a link to `peer`.

        Raises:
            TransferError: With `reason` "refused" (no address may be dialled), "unreachable" (nobody with that key
                answers at any of them), "no_link" (connected, but the peer does not speak our protocol) or "deadline".
        """
        peer_id = ID.from_base58(peer)
        lock = self._under_way.setdefault(peer_id, trio.Lock())
        with trio.move_on_after(timeout_s) as scope:
            async with lock:
                if not self._links.is_up(peer_id):
                    if not self._network.get_connections(peer_id):
                        async with self._places:
                            await self._race(peer, peer_id, self._dialable(peer, addresses))
                    await self._links.wait_up(peer_id)
        if not lock.locked() and not lock.statistics().tasks_waiting:
            self._under_way.pop(peer_id, None)
        if self._links.is_up(peer_id):
            return
        if scope.cancelled_caught:
            raise TransferError(f"peer {peer} was not reached within {timeout_s:g} s", peer=peer, reason="deadline")
        raise TransferError(
            f"peer {peer} closed the connection or speaks another protocol", peer=peer, reason="no_link"
        )

    def _dialable(self, peer: PeerId, addresses: Sequence[str]) -> list[Multiaddr]:
        allowed: list[Multiaddr] = []
        refusals: list[str] = []
        for text in addresses:
            refusal = self._refusal(peer, text)
            if refusal is not None:
                refusals.append(f"{text}: {refusal}")
            elif len(allowed) < self._limits.addresses_per_dial_max:
                allowed.append(Multiaddr(text))
        if not allowed:
            raise TransferError(
                f"no address of peer {peer} may be dialled: {'; '.join(refusals) or 'none is known'}",
                hint="private networks other than our own need --allow-private" if refusals else None,
                peer=peer,
                reason="refused",
            )
        return allowed

    def _refusal(self, peer: PeerId, text: str) -> str | None:
        try:
            named = parse_p2p_address(text).peer
        except RemoteProtocolError as error:
            return error.message
        if named is not None and named != peer:
            return f"it names peer {named}"
        return self._policy.refusal_of_multiaddr(text)

    async def _race(self, peer: PeerId, peer_id: ID, addresses: Sequence[Multiaddr]) -> None:
        """Connect to the first address that answers with the right key."""
        connections: list[Any] = []
        failures: list[str] = []

        async with trio.open_nursery() as nursery:

            async def attempt(address: Multiaddr) -> None:
                try:
                    connections.append(await self._network.dial_addr(address, peer_id))
                except (BaseLibp2pError, OSError, trio.TooSlowError, ValueError, EOFError) as error:
                    failures.append(f"{address}: {_innermost(error)}")
                    return
                nursery.cancel_scope.cancel()

            for address in addresses:
                nursery.start_soon(attempt, address)
        for spare in connections[1:]:
            await sever(spare)
        if not connections:
            text = "; ".join(failures)
            raise TransferError(f"peer {peer} is not reachable: {text}", peer=peer, reason="unreachable")


def _innermost(error: BaseException) -> str:
    """Return the text of the error at the bottom: libp2p's own say only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__

"""The control network as the asyncio side sees it.

`P2pNode` owns the trio thread and everything in it, and hands events to a `P2pEvents`. Of the peers it knows only who
is linked and what waits in their queues. Errors of libp2p never come out: calls raise `ShardcastError`, and when the
trio side dies `closed` says why.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

import trio
from libp2p.peer.id import ID

from shardcast_proto.carriage import Answer, Request
from shardcast_proto.errors import ConfigError, LocalProtocolError, RemoteProtocolError, TransferError
from shardcast_proto.ids import PeerId, key_of_peer_id
from shardcast_proto.limits import CONTROL_FRAME_BYTES_MAX, GOSSIP_BYTES_MAX

from .addresses import AddressPolicy, P2pAddress, parse_endpoint
from .bridge import TrioThread
from .carriage import CarriedStream, Carrying
from .control import ControlStream
from .dialler import Dialler
from .events import CarriedReceiver, P2pEvents
from .gossip import Gossip, GuardedPubsub, run_gossip
from .host import build_host, close_connections, run_host
from .identity import peer_id_of_seed
from .limits import P2pLimits
from .links import LinkReports, Links
from .queues import Backlog
from .uploads import ServeFn, Uploads

log: Final = logging.getLogger("shardcast.p2p")

#: Closing is polite for `guards.CLOSE_GRACE_S`, then sockets are closed; it takes 0.3 to 0.7 s. After this it is cancelled.
CLOSE_GRACE_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class _TrioSide:
    """What lives in the other thread; touched there only."""

    links: Links
    gossip: Gossip
    dialler: Dialler
    carrying: Carrying


class P2pNode:
    """One host of the control network.

    Made and used on one asyncio loop; events come on the same loop. `validate` alone is called on the trio thread: it
    must be pure.
    """

    def __init__(
        self,
        seed: bytes,
        listen: tuple[str, int],
        *,
        announce: str | None,
        events: P2pEvents,
        validate: Callable[[str, bytes], bool],
        allow_private: Sequence[str] = (),
        limits: P2pLimits = P2pLimits(),  # noqa: B008 - frozen
        serve: ServeFn | None = None,
    ) -> None:
        """Prepare a node that is not started.

        Args:
            seed: The 32-byte Ed25519 seed of the identity.
            listen: The IP literal and port to bind; port 0 chooses one.
            announce: `IP:PORT` that others should dial instead of the bound one, or None.
            events: Who hears what happens.
            validate: Says of (topic, data) whether a gossip message may be delivered and passed on.
            allow_private: Networks (CIDR) that may be dialled beside our own and the global one.
            limits: What the host accepts.
            serve: Answers what peers ask to be carried, on the asyncio loop; None refuses to carry.

        Raises:
            ConfigError: An address, a network or the seed is wrong.
        """
        self.peer_id: PeerId = peer_id_of_seed(seed)
        #: The dial rules; the data plane may ask it too.
        self.policy = AddressPolicy(listen[0], allow_private)
        self._seed = seed
        self._listen = listen
        self._announce = _announced(announce)
        self._events = events
        self._validate = validate
        self._limits = limits
        self._bridge = TrioThread()
        self._trio_side: _TrioSide | None = None
        self._uploads = None if serve is None else Uploads(serve, self._bridge, limits)
        self._gossip_backlog = Backlog(limits.gossip_queue_max)
        #: The linked peers, from `peer_connected` to `peer_disconnected`.
        self._streams: dict[PeerId, ControlStream] = {}

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the trio side has ended: with None after `aclose`, else with the error that ended it."""
        return self._bridge.closed

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The linked peers, in the order of their links."""
        return tuple(self._streams)

    async def start(self) -> list[str]:
        """Listen; return the multiaddrs to dial us at, each with our peer id.

        Raises:
            ConfigError: The address cannot be bound.
        """
        bound = await self._bridge.start(self._serve)
        address = self._announce or P2pAddress(_reachable_ip(bound), bound.port, None)
        return [str(P2pAddress(address.ip, address.port, self.peer_id))]

    async def dial(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        """Make sure that `peer` is linked; `peer_connected` has been reported when this returns.

        Raises:
            TransferError: With `reason` "refused", "unreachable", "no_link", "deadline" or "p2p_ended".
        """
        if peer == self.peer_id:
            raise LocalProtocolError("a node does not dial itself")
        try:
            key_of_peer_id(peer)
        except RemoteProtocolError as error:
            raise TransferError(f"cannot dial: {error.message}", peer=peer, reason="refused") from error
        await self._bridge.call(self._side().dialler.dial, peer, tuple(addresses), timeout_s)

    async def hangup(self, peer: PeerId) -> None:
        """Close all connections to `peer`; `peer_disconnected` follows when it was linked.

        Raises:
            TransferError: The trio side has ended.
        """
        await self._bridge.call(self._side().links.hang_up, ID.from_base58(peer))

    async def pulse(self) -> None:
        """Return once the trio thread has answered.

        Raises:
            TransferError: It has ended.
        """
        await self._bridge.call(trio.lowlevel.checkpoint)

    def send(self, peer: PeerId, payload: bytes) -> bool:
        """Queue one control frame; return False when the peer is not linked or does not read fast enough.

        Raises:
            LocalProtocolError: The frame is empty or over `CONTROL_FRAME_BYTES_MAX`.
        """
        if not 0 < len(payload) <= CONTROL_FRAME_BYTES_MAX:
            raise LocalProtocolError(
                f"a control frame of {len(payload)} bytes, allowed are 1 to {CONTROL_FRAME_BYTES_MAX}"
            )
        stream = self._streams.get(peer)
        if stream is None or not stream.outgoing.put(payload):
            return False
        self._bridge.poke(stream.wake)
        return True

    async def subscribe(self, topic: str) -> None:
        """Join a topic: its messages are reported, and passed on to neighbours. Joining it again does nothing.

        Raises:
            TransferError: The trio side has ended.
        """
        await self._bridge.call(self._side().gossip.subscribe, topic)

    async def publish(self, topic: str, data: bytes) -> None:
        """Give a message to the neighbours of a topic. Gossip is a hint: nothing says who got it.

        Raises:
            LocalProtocolError: The message is over `GOSSIP_BYTES_MAX`.
            TransferError: The trio side has ended.
        """
        if len(data) > GOSSIP_BYTES_MAX:
            raise LocalProtocolError(f"a gossip message of {len(data)} bytes, allowed are {GOSSIP_BYTES_MAX}")
        await self._bridge.call(self._side().gossip.publish, topic, data)

    async def carry(
        self, peer: PeerId, request: Request, receiver: CarriedReceiver, *, idle_timeout_s: float
    ) -> Answer:
        """Ask a linked peer for content over its connection; return its answer when `receiver` has heard everything.

        Raises:
            TransferError: With `reason` "unreachable", "stalled", "short", "protocol" or "p2p_ended".

        Cancellation: nothing more is received.
        """
        return await self._bridge.call(self._side().carrying.fetch, peer, request, receiver, idle_timeout_s)

    async def aclose(self) -> None:
        """Hang up everybody and stop, within 2 s. Closing again does nothing."""
        if self._uploads is not None:
            await self._uploads.aclose()
        await self._bridge.aclose(grace_s=CLOSE_GRACE_S)

    def _side(self) -> _TrioSide:
        if self._trio_side is None:
            raise TransferError("the p2p side is not running", reason="p2p_ended")
        return self._trio_side

    # On the trio thread:

    async def _serve(self, started: Callable[[P2pAddress], None]) -> None:
        host = build_host(self._seed, self.policy, self._limits)
        async with run_host(host, self._listen) as running, trio.open_nursery() as nursery:

            def hang_up_soon(peer: ID) -> None:
                nursery.start_soon(links.hang_up, peer)

            async with run_gossip(
                host, self._validate, self._post_gossip, limits=self._limits, hang_up=hang_up_soon
            ) as gossip:
                reports = LinkReports(
                    linked=self._post_linked,
                    unlinked=self._post_unlinked,
                    deliver=self._post_frame,
                    gone=_forgetter(host, gossip.pubsub),
                )
                links = Links(host, nursery, self._limits, reports)
                host.get_network().register_notifee(links)
                dialler = Dialler(host, links, self.policy, self._limits)
                offer = None if self._uploads is None else self._post_upload
                carrying = Carrying(host, nursery, self._limits, offer=offer, post=self._bridge.post)
                self._trio_side = _TrioSide(links, gossip, dialler, carrying)
                started(running.listen)
                await self._bridge.wait_stop()
                await close_connections(host)
            nursery.cancel_scope.cancel()

    def _post_linked(self, stream: ControlStream) -> None:
        self._bridge.post(self._linked, stream)

    def _post_unlinked(self, stream: ControlStream) -> None:
        self._bridge.post(self._unlinked, stream)

    def _post_frame(self, stream: ControlStream, payload: bytes) -> None:
        self._bridge.post(self._frame, stream, payload)

    def _post_upload(self, stream: CarriedStream) -> None:
        if self._uploads is not None:
            self._bridge.post(self._uploads.begin, stream)

    def _post_gossip(self, topic: str, sender: PeerId, data: bytes) -> None:
        if self._gossip_backlog.is_full:
            log.debug("gossip message dropped: %d are waiting", self._limits.gossip_queue_max)
            return
        self._gossip_backlog.put(1)
        self._bridge.post(self._gossip, topic, sender, data)

    # On the asyncio loop:

    def _linked(self, stream: ControlStream) -> None:
        self._streams[stream.peer] = stream
        self._events.peer_connected(stream.peer, stream.remote_ip)

    def _unlinked(self, stream: ControlStream) -> None:
        if self._streams.get(stream.peer) is stream:
            del self._streams[stream.peer]
            self._events.peer_disconnected(stream.peer)

    def _frame(self, stream: ControlStream, payload: bytes) -> None:
        if stream.seen(payload):
            self._bridge.poke(stream.wake)
        self._events.frame_received(stream.peer, payload)

    def _gossip(self, topic: str, sender: PeerId, data: bytes) -> None:
        self._gossip_backlog.done(1)
        self._events.gossip_received(topic, sender, data)


def _forgetter(host: Any, pubsub: GuardedPubsub) -> Callable[[ID], None]:
    """Return what drops a departed peer from libp2p's books, which keep every visitor for ever."""

    def forget(peer: ID) -> None:
        pubsub.forget(peer)
        host.get_peerstore().peer_data_map.pop(peer, None)

    return forget


def _announced(announce: str | None) -> P2pAddress | None:
    if announce is None:
        return None
    try:
        ip, port = parse_endpoint(announce)
    except RemoteProtocolError as error:
        raise ConfigError(error.message, hint="--announce-p2p takes IP:PORT") from error
    return P2pAddress(ip_address(ip), port, None)


def _reachable_ip(bound: P2pAddress) -> Any:
    """Return the bound address, or, for a bind to all addresses, the one that our own packets leave from."""
    if not bound.ip.is_unspecified:
        return bound.ip
    family, probe = (socket.AF_INET, "192.0.2.1") if bound.ip.version == 4 else (socket.AF_INET6, "2001:db8::1")
    # A UDP connect sends nothing; it only chooses a route. Without one the host is alone, and loopback is the truth.
    with socket.socket(family, socket.SOCK_DGRAM) as handle, suppress(OSError):
        handle.connect((probe, 9))
        return ip_address(handle.getsockname()[0])
    return ip_address("127.0.0.1" if bound.ip.version == 4 else "::1")

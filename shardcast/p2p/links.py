"""The links: who is connected by a control stream, and how such a stream comes about.

Theory of operation. libp2p connects hosts; we need exactly one control stream per pair of peers, whoever dialled, also
when both dialled at once and two connections exist. So the peer whose id text sorts lower opens the stream and the
other waits for it; which connection it runs on does not matter. One *keeper* task per connected peer repeats:

    obtain a stream (open it, or wait up to `link_s` for the other side)
      → report `linked`, carry frames until the stream ends, report `unlinked`
      → a short random pause, again, while there is a connection

and closes the connection after `link_failures_max` streams in a row that came to nothing, so a peer that does not speak
our protocol, or breaks its framing, does not stay. A second stream from a peer replaces the first: the other side must
have lost it.

All of this is the trio side; `linked`, `unlinked` and `deliver` are called there.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from libp2p.peer.id import ID

from shardcast_proto.errors import RemoteProtocolError
from shardcast_proto.ids import PeerId

from .control import PROTOCOL, ControlStream
from .guards import reset_quietly, sever
from .limits import P2pLimits

log: Final = logging.getLogger("shardcast.p2p")

#: The pause before the next stream is about this, doubled with each failure; random, so that two sides do not stay in
#: step.
_PAUSE_S: Final = 0.1
#: A stream that lived this long was no failure.
_SOUND_AFTER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class LinkReports:
    """What the keepers report."""

    linked: Callable[[ControlStream], None]
    unlinked: Callable[[ControlStream], None]
    deliver: Callable[[ControlStream, bytes], None]
    #: The last connection to a peer is gone.
    gone: Callable[[ID], None]


@dataclass(slots=True)
class _Keeper:
    """What is known of one connected peer."""

    #: A stream that the peer opened and that waits to be used.
    offered: Any | None = None
    #: Set when `offered` changes.
    changed: trio.Event = field(default_factory=trio.Event)
    #: The link in use, and what ends it.
    link: ControlStream | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    #: Set while there is a link, replaced when it ends.
    up: trio.Event = field(default_factory=trio.Event)


class Links:
    """The keepers of one host. Install with `host.get_network().register_notifee(links)`."""

    def __init__(self, host: Any, nursery: trio.Nursery, limits: P2pLimits, reports: LinkReports) -> None:
        self._host = host
        self._network: Any = host.get_network()
        self._me = str(host.get_id())
        self._nursery = nursery
        self._limits = limits
        self._reports = reports
        self._keepers: dict[ID, _Keeper] = {}
        #: Handlers of offered streams wait for their stream's end here.
        self._ends: dict[int, trio.Event] = {}
        host.set_stream_handler(PROTOCOL, self._take_offer)

    def is_up(self, peer: ID) -> bool:
        """Say whether frames can be sent to a peer."""
        keeper = self._keepers.get(peer)
        return keeper is not None and keeper.link is not None

    async def wait_up(self, peer: ID) -> None:
        """Wait until frames can be sent to a connected peer; return at once when the peer is not connected."""
        keeper = self._keepers.get(peer)
        if keeper is not None:
            await keeper.up.wait()

    async def hang_up(self, peer: ID) -> None:
        """Close all connections to a peer."""
        async with trio.open_nursery() as nursery:
            for connection in self._network.get_connections(peer):
                nursery.start_soon(sever, connection)

    # What the swarm tells a notifee:

    async def connected(self, _network: Any, connection: Any) -> None:
        """Start a keeper for a peer that has none."""
        await trio.lowlevel.checkpoint()
        self._keeper_of(connection.muxed_conn.peer_id)

    async def disconnected(self, _network: Any, connection: Any) -> None:
        """Let the keeper see that its connection may be gone."""
        await trio.lowlevel.checkpoint()
        peer = connection.muxed_conn.peer_id
        keeper = self._keepers.get(peer)
        if keeper is not None and not self._is_connected(peer):
            keeper.scope.cancel()
            keeper.changed.set()

    async def opened_stream(self, _network: Any, _stream: Any) -> None:
        """Ignore."""
        await trio.lowlevel.checkpoint()

    async def closed_stream(self, _network: Any, _stream: Any) -> None:
        """Ignore."""
        await trio.lowlevel.checkpoint()

    async def listen(self, _network: Any, _address: Any) -> None:
        """Ignore."""
        await trio.lowlevel.checkpoint()

    async def listen_close(self, _network: Any, _address: Any) -> None:
        """Ignore."""
        await trio.lowlevel.checkpoint()

    # Keepers:

    def _keeper_of(self, peer: ID) -> _Keeper | None:
        """Return the keeper of a connected peer, started when there is none yet."""
        keeper = self._keepers.get(peer)
        if keeper is None and self._is_connected(peer):
            keeper = self._keepers[peer] = _Keeper()
            self._nursery.start_soon(self._keep, peer, keeper)
        return keeper

    async def _keep(self, peer: ID, keeper: _Keeper) -> None:
        failures = 0
        try:
            while self._is_connected(peer):
                stream = await self._obtain(peer, keeper)
                started_s = trio.current_time()
                if stream is not None:
                    await self._carry(keeper, stream)
                is_sound = stream is not None and trio.current_time() - started_s > _SOUND_AFTER_S
                failures = 0 if is_sound else failures + 1
                if failures >= self._limits.link_failures_max:
                    log.debug("hanging up %s: %d control streams in a row came to nothing", peer, failures)
                    await self.hang_up(peer)
                elif self._is_connected(peer):
                    await trio.sleep(_PAUSE_S * 2 ** min(failures, 5) * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        finally:
            self._keepers.pop(peer, None)
            # Whoever waits for this link looks again, and finds none.
            keeper.up.set()
            if keeper.offered is not None:
                self._end_offer(keeper.offered)
            self._reports.gone(peer)

    async def _obtain(self, peer: ID, keeper: _Keeper) -> Any | None:
        stream: Any | None = None
        with trio.move_on_after(self._limits.link_s):
            if self._me < str(peer):
                stream = await self._open(peer)
            else:
                while keeper.offered is None and self._is_connected(peer):
                    keeper.changed = trio.Event()
                    await keeper.changed.wait()
                stream, keeper.offered = keeper.offered, None
        return stream

    async def _open(self, peer: ID) -> Any | None:
        try:
            return await self._host.new_stream(peer, [PROTOCOL])
        except Exception as error:  # noqa: BLE001 - a libp2p guard: it raises a dozen types here
            log.debug("no control stream to %s: %s", peer, error)
            return None

    async def _carry(self, keeper: _Keeper, stream: Any) -> None:
        """Run one link from its first to its last frame."""
        peer = PeerId(str(stream.muxed_conn.peer_id))
        remote = stream.muxed_conn.get_remote_address()
        link = ControlStream(peer, remote[0] if remote is not None else "", self._limits)
        keeper.link, keeper.scope = link, trio.CancelScope()
        self._reports.linked(link)
        keeper.up.set()
        try:
            with keeper.scope:
                await link.run(stream, self._reports.deliver)
        except* RemoteProtocolError as group:
            log.warning("peer %s broke the control protocol: %s", peer, group.exceptions[0])
        except* Exception as group:  # noqa: BLE001 - a libp2p guard: the link pays, not the host
            log.debug("control stream of %s ended: %s", peer, group.exceptions)
        finally:
            keeper.link, keeper.up = None, trio.Event()
            self._reports.unlinked(link)
            self._end_offer(stream)
            # Not awaited: it writes to a connection that may take its time.
            self._nursery.start_soon(reset_quietly, stream)

    async def _take_offer(self, stream: Any) -> None:
        """Handle a control stream that a peer opened; stay until it is not used any more."""
        peer = stream.muxed_conn.peer_id
        keeper = self._keeper_of(peer)
        if keeper is None or self._me < str(peer):
            log.debug("refusing a control stream of %s: it is not its turn to open one", peer)
            await reset_quietly(stream)
            return
        if keeper.offered is not None:
            self._end_offer(keeper.offered)
        ended = self._ends[id(stream)] = trio.Event()
        keeper.offered = stream
        keeper.changed.set()
        keeper.scope.cancel()
        await ended.wait()
        await reset_quietly(stream)

    def _end_offer(self, stream: Any) -> None:
        ended = self._ends.pop(id(stream), None)
        if ended is not None:
            ended.set()

    def _is_connected(self, peer: ID) -> bool:
        return any(not connection.is_closed for connection in self._network.get_connections(peer))

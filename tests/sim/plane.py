"""The data plane: fetches of objects and chunks, over a bulk link where one is up, else by a request of their own.

A host that nobody can reach answers over the control connection, for few at once and slowly. All of it shares the uplink with the pushes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from shardcast_relay.commands import FetchChunks, FetchObject
from shardcast_relay.events import Outcome
from tests.sim.bulk import BulkLink
from tests.sim.checks import Broken
from tests.sim.uplink import Chunk, Flow

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

#: What a host carries over control connections for all peers together, and how many at once.
CARRIED_BYTES_PER_S = 8e6
CARRIED_UPLOADS_MAX = 4


@dataclass(eq=False)
class Fetch:
    """One fetch under way at its receiver."""

    command: FetchChunks | FetchObject
    order: int
    started_s: float
    #: When the last byte that has left arrives.
    moved_s: float
    #: The link that answers it.
    link: BulkLink | None = None
    first_byte_s: float = inf
    #: Whether the connection is lost before the end.
    is_cut: bool = False

    @property
    def is_carried(self) -> bool:
        """Whether it goes over the control connection."""
        return self.link is None and not self.command.addresses

    def idle_from_s(self) -> float:
        """Return when a byte came last, of this one or of what is before it on the link."""
        return self.moved_s if self.link is None else max(self.moved_s, self.link.moved_s)


class Fetched(Chunk):
    """A chunk sent because it was asked for."""

    __slots__ = ("_client", "_fetch", "_index", "_is_true", "_outcome", "_server")

    def __init__(self, client: Host, server: Host, fetch: Fetch, *, index: int, outcome: Outcome | None) -> None:
        if not isinstance(fetch.command, FetchChunks):
            raise Broken("an object was answered with chunks")
        super().__init__(client.world.version_of(fetch.command.blob).chunk_bytes)
        self._client, self._server, self._fetch, self._index = client, server, fetch, index
        #: How the fetch ends with this chunk, None when more follow.
        self._outcome = outcome
        self._is_true = True

    def is_void(self) -> bool:
        """See `Chunk`."""
        return self._client.fetches.get(self._fetch.command.fetch_id) is not self._fetch

    def starts(self, first_byte_s: float) -> None:
        """See `Chunk`."""
        self._is_true = not self._server.is_lying
        self._fetch.first_byte_s = min(self._fetch.first_byte_s, first_byte_s)

    def moves(self, arrives_s: float) -> None:
        """See `Chunk`."""
        self._fetch.moved_s = arrives_s
        if self._fetch.link is not None:
            self._fetch.link.moved_s = arrives_s

    def has_left(self, arrives_s: float) -> None:
        """See `Chunk`."""
        if self._fetch.is_carried:
            self._server.carried_bytes += self.size_bytes
        self._client.world.at(arrives_s, self._arrived)

    def _arrived(self) -> None:
        client, fetch = self._client, self._fetch
        if self.is_void() or not client.is_alive:
            return
        if not self._is_true:
            client.world.false_chunks += 1
            client.end_fetch(fetch.command.fetch_id, Outcome.CORRUPT)
            return
        client.fetched_chunk(fetch.command.fetch_id, self._index, self._server)
        if self._outcome is not None and not self.is_void():
            client.end_fetch(fetch.command.fetch_id, self._outcome)


class DataPlane:
    """Carries out the commands about fetches, at every host."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self, client: Host, command: FetchChunks | FetchObject) -> None:
        """Carry out an order."""
        world, server = self._world, self._world.hosts[command.peer]
        order = client.orders.start(command, command.deadline_s)
        fetch = Fetch(command, order, world.now_s, world.now_s, client.in_links.get(command.peer))
        client.fetches[command.fetch_id] = fetch
        if fetch.link is not None:
            fetch.link.fetches[command.fetch_id] = None
        world.later(client.trip_s(server), self._asked, client, server, fetch)
        world.at(self._look_again_s(fetch), self._watch, client, fetch)

    def _asked(self, client: Host, server: Host, fetch: Fetch) -> None:
        """Answer a request at the server."""
        command, world = fetch.command, self._world
        if client.fetches.get(command.fetch_id) is not fetch or not world.gets_word(client, server):
            return
        outcome = self._refusal(client, server, fetch)
        trip_s = client.trip_s(server)
        if outcome is not None:
            world.later(trip_s, client.end_fetch, command.fetch_id, outcome)
            return
        if fetch.is_carried:
            server.carrying_for[client.peer] = command.fetch_id
        if isinstance(command, FetchObject):
            fetch.first_byte_s = world.now_s + trip_s
            world.later(trip_s, self._object_answered, client, fetch, command.digest in server.manifests)
            return
        above = server.disk.get(command.blob, 0) >> command.first
        held = min((~above & (above + 1)).bit_length() - 1, command.count)
        if not held:
            world.later(trip_s, client.end_fetch, command.fetch_id, Outcome.MISSING)
            return
        if world.loss and world.rng.random() < world.loss and fetch.link is None:
            fetch.is_cut = True
            held = world.rng.randrange(held + 1)
            if not held:
                world.later(trip_s, client.end_fetch, command.fetch_id, Outcome.SHORT)
                return
        ending = Outcome.SHORT if fetch.is_cut else Outcome.DONE if held == command.count else Outcome.PARTIAL
        flow = Flow(server, client) if fetch.link is None else fetch.link.flow
        for index in range(command.first, command.first + held):
            is_last = index == command.first + held - 1
            self._send(flow, Fetched(client, server, fetch, index=index, outcome=ending if is_last else None), fetch)

    def _send(self, flow: Flow, chunk: Fetched, fetch: Fetch) -> None:
        server = flow.sender
        if not fetch.is_carried:
            server.uplink.offer(flow, chunk)
            return
        begins_s = max(server.carry_free_s, self._world.now_s)
        server.carry_free_s = begins_s + chunk.size_bytes / CARRIED_BYTES_PER_S
        self._world.at(begins_s, server.uplink.offer, flow, chunk)

    def _refusal(self, client: Host, server: Host, fetch: Fetch) -> Outcome | None:
        if fetch.link is not None:
            return None
        if not fetch.is_carried:
            return None if server.is_alive and not server.is_unreachable else Outcome.UNREACHABLE
        if not server.is_alive or client.peer not in server.connections:
            return Outcome.UNREACHABLE
        if client.peer in server.carrying_for:
            raise Broken(f"host {client.number} asks host {server.number} to carry two things at once")
        return Outcome.BUSY if len(server.carrying_for) >= CARRIED_UPLOADS_MAX else None

    def _object_answered(self, client: Host, fetch: Fetch, is_known: bool) -> None:
        command = fetch.command
        if client.fetches.get(command.fetch_id) is not fetch or not isinstance(command, FetchObject):
            return
        client.end_fetch(command.fetch_id, Outcome.DONE if is_known else Outcome.MISSING)
        if is_known and client.is_alive:
            client.open(self._world.version_of_manifest(command.digest))

    def _look_again_s(self, fetch: Fetch) -> float:
        return min(fetch.idle_from_s() + self._world.config.fetch_idle_timeout_s, fetch.command.deadline_s)

    def _watch(self, client: Host, fetch: Fetch) -> None:
        """End a fetch that no byte has arrived for, or that is past its deadline."""
        fetch_id, now_s = fetch.command.fetch_id, self._world.now_s
        if client.fetches.get(fetch_id) is not fetch:
            return
        if now_s - fetch.idle_from_s() >= self._world.config.fetch_idle_timeout_s - 1e-6:
            client.end_fetch(fetch_id, Outcome.STALLED)
        elif now_s >= fetch.command.deadline_s:
            client.end_fetch(fetch_id, Outcome.DEADLINE)
        else:
            self._world.at(max(self._look_again_s(fetch), now_s + 0.01), self._watch, client, fetch)

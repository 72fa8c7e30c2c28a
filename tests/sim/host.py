"""The host: one node, a real machine in a small shell with a fake disk."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from shardcast_proto import messages
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId, peer_id_of_key
from shardcast_relay import Machine
from shardcast_relay.commands import (
    CancelFetch,
    CloseLink,
    Command,
    Dial,
    FetchChunks,
    FetchObject,
    Hangup,
    OpenLink,
    PushChunk,
    Send,
)
from shardcast_relay.events import (
    BlobOpened,
    ChunkVerified,
    Contact,
    Event,
    FetchEnded,
    GoodbyeReceived,
    HeadAccepted,
    HelloReceived,
    MessageReceived,
    Outcome,
    PeersReceived,
    Ticked,
)
from tests.sim.bulk import BulkLink
from tests.sim.checks import Orders, check_disk, check_trees
from tests.sim.plane import Fetch
from tests.sim.uplink import Uplink

if TYPE_CHECKING:
    from tests.sim.world import Version, World

CHANNEL = digest_of(b"channel")
MANIFEST_BYTES = 4096
#: A signed record is about so long; here it is the peer's name and spaces.
RECORD_BYTES = 256


@dataclass
class Link:
    """What a host's network can do. Rates are payload bytes per second; `latency_s` is one way to a host of the same kind."""

    up_bytes_per_s: float = 25e6
    down_bytes_per_s: float = 50e6
    latency_s: float = 0.02


class Host:
    """One node."""

    def __init__(self, world: World, number: int, link: Link) -> None:
        self.world = world
        self.number = number
        self.link = link
        self.peer: PeerId = peer_id_of_key(digest_of(f"key of {number}".encode()))
        record = self.peer.encode().ljust(RECORD_BYTES)
        self.contact = Contact(self.peer, record, (f"dial/{number}",), (f"serve/{number}",), int(link.up_bytes_per_s))
        self.machine = self._new_machine()
        #: Control connections, with the time before which no further message arrives at their other end.
        self.connections: dict[PeerId, float] = {}
        self.fetches: dict[int, Fetch] = {}
        self.out_links: dict[PeerId, BulkLink] = {}
        self.in_links: dict[PeerId, BulkLink] = {}
        self.orders = Orders(f"host {number}")
        self.seen_edges: dict[Digest, Any] = {}
        self.seq = 0
        self.manifests: dict[Digest, Version] = {}
        #: Chunks that passed the digest check, by blob, as a mask: what the disk holds.
        self.disk: dict[Digest, int] = {}
        self.completed_at_s: dict[Digest, float] = {}
        self.is_alive = True
        self.is_black_hole = False
        self.is_lying = False
        #: Nobody can connect to it, whatever it announces.
        self.is_unreachable = False
        #: Its hello proves to everybody that it acts for an origin key.
        self.is_proven = False
        #: On which side of a partition it is.
        self.side = 0
        #: What runs over its control connections: the peers it carries for, when the next byte may leave, how much it was.
        self.carrying_for: dict[PeerId, int] = {}
        self.carry_free_s = 0.0
        self.carried_bytes = 0
        self.uplink = Uplink(self)
        self.down_free_s = 0.0
        self.control_bytes = 0
        self.chunks_from: Counter[PeerId] = Counter()
        self._wake_s = inf
        self._carry_out: dict[type, Callable[[Any], None]] = {
            Send: lambda command: world.wire.send(self, command.peer, command.message),
            Dial: lambda command: world.wire.dial(self, command),
            Hangup: lambda command: world.wire.disconnect(self, world.hosts[command.peer]),
            FetchObject: lambda command: world.plane.begin(self, command),
            FetchChunks: lambda command: world.plane.begin(self, command),
            CancelFetch: lambda command: world.later(0.0, self.end_fetch, command.fetch_id, Outcome.CANCELLED),
            OpenLink: lambda command: world.bulk.open(self, command),
            CloseLink: lambda command: world.bulk.close(self, command),
            PushChunk: lambda command: world.bulk.push(self, command),
        }

    @property
    def sent_bytes(self) -> int:
        """The payload that has left."""
        return self.uplink.sent_bytes

    def trip_s(self, other: Host) -> float:
        """Return how long a byte travels to another host, or from there."""
        return (self.link.latency_s + other.link.latency_s) / 2

    # --- in ---------------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Hand the machine a fact and carry out its orders."""
        if not self.is_alive:
            return
        world = self.world
        if world.log is not None:
            world.log.update(repr((world.now_s, self.number, event)).encode())
        commands = self.machine.handle(event, now_s=world.now_s)
        world.events += 1
        if world.events % world.check_every == 0:
            self.check()
        for command in commands:
            self.carry_out(command)
        self._plan_wake()

    def finish(self, order: int, event: Event) -> None:
        """Hand the machine the ending of an order."""
        if self.is_alive:
            self.orders.end(order)
            self.tell(event)

    def check(self) -> None:
        """See that everything holds that must hold here."""
        self.machine.check()
        check_disk(self)
        check_trees(self)
        self.orders.check(self.world.now_s)

    def receive(self, sender: Host, message: messages.Message) -> None:
        """Translate a control message as the daemon's shell does."""
        world, peer = self.world, sender.peer
        if type(message) is messages.Have:  # most are
            self.tell(MessageReceived(peer, message))
        elif isinstance(message, messages.Hello):
            contact = world.contact(message.record)
            self.tell(HelloReceived(peer, contact, message.channels, message.is_urgent, sender.is_proven))
        elif isinstance(message, messages.Peers):
            self.tell(PeersReceived(peer, tuple(map(world.contact, message.records)), message.walk))
        elif isinstance(message, messages.Goodbye):
            self.tell(GoodbyeReceived(peer, message.reason, tuple(map(world.contact, message.records))))
        elif isinstance(message, messages.GetHead):
            world.wire.send(self, peer, messages.HeadIs(CHANNEL, self.seq.to_bytes(4, "big")))
        elif isinstance(message, messages.HeadIs):
            self.see_head(int.from_bytes(message.announce, "big"), peer)
        else:
            self.tell(MessageReceived(peer, message))

    def see_head(self, seq: int, source: PeerId | None) -> None:
        """Accept a newer head, and pass it on by gossip."""
        if seq <= self.seq:
            return
        self.seq = seq
        version = self.world.versions[seq]
        self.tell(HeadAccepted(CHANNEL, seq, version.manifest, MANIFEST_BYTES, source))
        for peer in list(self.connections):
            if peer != source:
                self.world.wire.send(self, peer, messages.HeadIs(CHANNEL, seq.to_bytes(4, "big")))

    def open(self, version: Version, *, is_source: bool = False) -> None:
        """Begin a blob, as when its manifest has arrived or it was published here."""
        self.manifests[version.manifest] = version
        mask = self.disk.setdefault(version.blob, 0)
        self.tell(
            BlobOpened(
                version.blob,
                version.chunk_count,
                version.chunk_bytes,
                mask,
                priority=version.seq,
                manifest=version.manifest,
                is_source=is_source,
            )
        )

    def fetched_chunk(self, fetch_id: int, index: int, server: Host) -> None:
        """Write a true chunk that a fetch brought, and report it."""
        command = self.fetches[fetch_id].command
        if isinstance(command, FetchChunks):
            is_new = self.take_chunk(command.blob, index, server)
            self.tell(ChunkVerified(fetch_id, index, self.world.version_of(command.blob).chunk_bytes, is_new))

    def take_chunk(self, blob: Digest, index: int, sender: Host) -> bool:
        """Write a true chunk to the disk; return whether it is new."""
        before = self.disk.get(blob, 0)
        self.chunks_from[sender.peer] += 1
        self.world.true_chunks += 1
        if before >> index & 1:
            self.world.duplicate_chunks += 1
            return False
        self.disk[blob] = before | 1 << index
        if self.disk[blob] == self.world.version_of(blob).full:
            self.completed_at_s[blob] = self.world.now_s
        return True

    # --- out --------------------------------------------------------------------------------------------------------

    def carry_out(self, command: Command) -> None:
        """Do what the machine ordered."""
        self._carry_out[type(command)](command)

    def end_fetch(self, fetch_id: int, outcome: Outcome) -> None:
        """Report the one ending of a fetch."""
        fetch = self.fetches.pop(fetch_id, None)
        if fetch is None:
            return
        world = self.world
        if fetch.is_carried:
            world.hosts[fetch.command.peer].carrying_for.pop(self.peer, None)
        if fetch.link is not None:
            fetch.link.fetches.pop(fetch_id, None)
        world.outcomes[outcome] += 1
        rtt_s = fetch.first_byte_s - fetch.started_s if fetch.first_byte_s <= world.now_s else None
        self.finish(fetch.order, FetchEnded(fetch_id, outcome, rtt_s))

    # --- life -------------------------------------------------------------------------------------------------------

    def forget_all(self) -> None:
        """Begin anew as after a restart: only the disk is still there."""
        self.machine = self._new_machine()
        self.connections.clear()
        self.fetches.clear()
        self.out_links.clear()
        self.in_links.clear()
        self.carrying_for.clear()
        self.seen_edges.clear()
        self.orders = Orders(f"host {self.number}")
        self.uplink = Uplink(self)
        self._wake_s = inf

    def _new_machine(self) -> Machine:
        world = self.world
        return Machine(self.peer, rng=random.Random(f"{world.seed}/{self.number}/{world.now_s}"), config=world.config)

    def _plan_wake(self) -> None:
        """Make sure the machine is ticked when it wants to be."""
        at_s = max(self.machine.next_wake_s, self.world.now_s + 0.001)
        if at_s < self._wake_s - 1e-9:
            self._wake_s = at_s
            self.world.at(at_s, self._tick, at_s)

    def _tick(self, planned_s: float) -> None:
        """Send `Ticked`, unless an earlier wake has replaced this one."""
        if planned_s == self._wake_s:
            self._wake_s = inf
            self.tell(Ticked())

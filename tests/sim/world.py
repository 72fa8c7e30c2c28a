"""A whole swarm in one process: real machines on a virtual clock, with a fake wire and a fake disk.

Each `Host` is one node: a real `shardcast_relay.Machine` and the little shell that the daemon would be. The `World` owns the clock (a heap
of calls), the wire (latency, loss, uplinks and downlinks as queues) and the only source of randomness, so one seed is one run. Control
messages really are encoded and decoded; payload is a token that tells a true chunk from a false one.

After every event the machine recounts its state (`Machine.check`), and the world checks that no host ever holds a chunk that was not
verified and that every command that starts work has exactly one ending.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from shardcast_proto import messages
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId, peer_id_of_key
from shardcast_relay import Machine, RelayConfig
from shardcast_relay.commands import Command, Dial, FetchChunks, FetchObject, Hangup, Send
from shardcast_relay.events import (
    BlobOpened,
    ChannelJoined,
    ChunkVerified,
    Contact,
    DialFailed,
    Event,
    FetchEnded,
    GoodbyeReceived,
    HeadAccepted,
    HelloReceived,
    MessageReceived,
    Outcome,
    PeerConnected,
    PeerDisconnected,
    PeersReceived,
    Started,
    Ticked,
)

CHANNEL = digest_of(b"channel")
MANIFEST_BYTES = 4096
#: What a host carries over control connections for all peers together, and how many at once.
CARRIED_BYTES_PER_S = 8e6
CARRIED_UPLOADS_MAX = 4


class Broken(AssertionError):
    """An invariant of the swarm does not hold."""


@dataclass
class Link:
    """What a host's network can do."""

    up_bytes_per_s: float = 25e6
    down_bytes_per_s: float = 50e6
    latency_s: float = 0.02


@dataclass
class Transfer:
    """One fetch under way at its receiver."""

    command: FetchChunks | FetchObject
    started_s: float
    moved_s: float
    #: When the last chunk that is on the wire will have arrived.
    arrives_s: float = 0.0
    #: Whether the connection is lost before the end.
    is_cut: bool = False
    rtt_s: float | None = None


@dataclass
class Version:
    """One published version: what its blob looks like."""

    seq: int
    chunk_count: int
    chunk_bytes: int
    manifest: Digest = field(init=False)
    blob: Digest = field(init=False)

    def __post_init__(self) -> None:
        self.manifest = digest_of(f"manifest {self.seq}".encode())
        self.blob = digest_of(f"blob {self.seq}".encode())


class Host:
    """One node: a real machine in a small shell."""

    def __init__(self, world: World, number: int, link: Link) -> None:
        self.world = world
        self.number = number
        self.link = link
        self.peer: PeerId = peer_id_of_key(digest_of(f"key of {number}".encode()))
        self.contact = Contact(
            self.peer, self.peer.encode(), (f"dial/{number}",), (f"serve/{number}",), int(link.up_bytes_per_s)
        )
        rng = random.Random(f"{world.seed}/{number}")
        self.machine = Machine(self.peer, rng=rng, config=world.config)
        self.connections: dict[PeerId, None] = {}
        self.fetches: dict[int, Transfer] = {}
        self.seq = 0
        self.manifests: dict[Digest, Version] = {}
        #: Chunks that passed the digest check, by blob: what the disk holds.
        self.disk: dict[Digest, set[int]] = {}
        self.completed_at_s: dict[Digest, float] = {}
        self.is_alive = True
        self.is_black_hole = False
        self.is_lying = False
        #: Nobody can connect to it, whatever it announces.
        self.is_unreachable = False
        #: Its hello proves to everybody that it acts for an origin key.
        self.is_proven = False
        #: What runs over its control connections: the peers it carries for, when the next byte may leave, how much it was.
        self.carrying_for: dict[PeerId, int] = {}
        self.carry_free_s = 0.0
        self.carried_bytes = 0
        self.up_free_s = self.down_free_s = 0.0
        self.sent_bytes = self.control_bytes = 0
        self.chunks_from: Counter[PeerId] = Counter()
        self.wake_s = float("inf")

    # --- in ---------------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Hand the machine a fact and carry out its orders."""
        if not self.is_alive:
            return
        commands = self.machine.handle(event, now_s=self.world.now_s)
        self.world.events += 1
        if self.world.events % self.world.check_every == 0:
            self.machine.check()
            self.check_disk()
        for command in commands:
            self.carry_out(command)
        self.plan_wake()

    def plan_wake(self) -> None:
        """Make sure the machine is ticked when it wants to be."""
        at_s = max(self.machine.next_wake_s, self.world.now_s + 0.001)
        if at_s < self.wake_s - 1e-9:
            self.wake_s = at_s
            self.world.at(at_s, self.tick, at_s)

    def tick(self, planned_s: float) -> None:
        """Send `Ticked`, unless an earlier wake has replaced this one."""
        if planned_s != self.wake_s:
            return
        self.wake_s = float("inf")
        self.tell(Ticked())

    def receive(self, sender: Host, payload: bytes) -> None:
        """Translate a control message as the daemon's shell does."""
        if sender.peer not in self.connections:
            return
        message = messages.decode(payload)
        world, peer = self.world, sender.peer
        if isinstance(message, messages.Hello):
            contact = world.contact(message.record)
            self.tell(HelloReceived(peer, contact, message.channels, message.is_urgent, sender.is_proven))
        elif isinstance(message, messages.Peers):
            self.tell(PeersReceived(peer, tuple(map(world.contact, message.records)), message.walk))
        elif isinstance(message, messages.Goodbye):
            self.tell(GoodbyeReceived(peer, message.reason, tuple(map(world.contact, message.records))))
        elif isinstance(message, messages.GetHead):
            self.world.send(self, peer, messages.HeadIs(CHANNEL, self.seq.to_bytes(4, "big")))
        elif isinstance(message, messages.HeadIs):
            self.see_head(int.from_bytes(message.announce, "big"), peer)
        elif not isinstance(message, messages.Unknown):
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
                self.world.send(self, peer, messages.HeadIs(CHANNEL, seq.to_bytes(4, "big")))

    def open(self, version: Version, mask: int = 0) -> None:
        """Begin a blob, as when its manifest has arrived or it was published here."""
        self.manifests[version.manifest] = version
        self.disk.setdefault(version.blob, set()).update(i for i in range(version.chunk_count) if mask >> i & 1)
        self.tell(
            BlobOpened(
                version.blob,
                version.chunk_count,
                version.chunk_bytes,
                mask,
                priority=version.seq,
                manifest=version.manifest,
            )
        )

    # --- out --------------------------------------------------------------------------------------------------------

    def carry_out(self, command: Command) -> None:
        """Do what the machine ordered."""
        world = self.world
        if isinstance(command, Send):
            world.send(self, command.peer, command.message)
        elif isinstance(command, Dial):
            world.commands_started += 1
            world.later(2 * self.link.latency_s + 0.25, world.connect, self, world.hosts[command.peer])
        elif isinstance(command, Hangup):
            world.disconnect(self, world.hosts[command.peer])
        elif isinstance(command, FetchObject | FetchChunks):
            world.commands_started += 1
            self.fetches[command.fetch_id] = Transfer(command, world.now_s, world.now_s)
            world.later(self.link.latency_s, world.serve, self, world.hosts[command.peer], command.fetch_id)
            world.later(world.config.fetch_idle_timeout_s, self.watch, command.fetch_id)
        else:
            world.later(0.0, self.end_fetch, command.fetch_id, Outcome.CANCELLED)

    def watch(self, fetch_id: int) -> None:
        """End a fetch that no byte has arrived for, or that is past its deadline."""
        transfer = self.fetches.get(fetch_id)
        if transfer is None:
            return
        idle_s = self.world.config.fetch_idle_timeout_s
        if self.world.now_s - transfer.moved_s >= idle_s - 1e-6:
            self.end_fetch(fetch_id, Outcome.STALLED)
        elif self.world.now_s >= transfer.command.deadline_s:
            self.end_fetch(fetch_id, Outcome.DEADLINE)
        else:
            self.world.at(transfer.moved_s + idle_s, self.watch, fetch_id)

    def end_fetch(self, fetch_id: int, outcome: Outcome) -> None:
        """Report the one ending of a fetch."""
        transfer = self.fetches.pop(fetch_id, None)
        if transfer is None:
            return
        if not transfer.command.addresses:
            self.world.hosts[transfer.command.peer].carrying_for.pop(self.peer, None)
        self.world.commands_ended += 1
        self.world.outcomes[outcome] += 1
        self.tell(FetchEnded(fetch_id, outcome, transfer.rtt_s))

    def chunk_arrived(self, fetch_id: int, index: int, is_true: bool) -> None:
        """Check the digest, write, report."""
        transfer = self.fetches.get(fetch_id)
        if transfer is None or not isinstance(transfer.command, FetchChunks) or not self.is_alive:
            return
        transfer.moved_s = self.world.now_s
        if transfer.rtt_s is None:
            transfer.rtt_s = 2 * self.link.latency_s
        if not is_true:
            self.end_fetch(fetch_id, Outcome.CORRUPT)
            return
        blob = transfer.command.blob
        version = self.world.version_of(blob)
        is_new = index not in self.disk[blob]
        self.disk[blob].add(index)
        self.chunks_from[transfer.command.peer] += 1
        self.tell(ChunkVerified(fetch_id, index, version.chunk_bytes, is_new))
        if is_new and len(self.disk[blob]) == version.chunk_count:
            self.completed_at_s[blob] = self.world.now_s

    def check_disk(self) -> None:
        """Nobody ever holds an unverified chunk: what the machine says is what the disk holds."""
        for blob, transfer in self.machine.downloads.transfers.items():
            if set(transfer.have) != self.disk[blob]:
                raise Broken(f"host {self.number} claims chunks that its disk does not hold")


class World:
    """The clock, the wire and the hosts."""

    def __init__(
        self, seed: int, *, config: RelayConfig | None = None, loss: float = 0.0, check_every: int = 1
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.config = config or RelayConfig()
        self.loss = loss
        self.check_every = check_every
        self.now_s = 0.0
        self.hosts: dict[PeerId, Host] = {}
        self.versions: dict[int, Version] = {}
        #: Hosts that a liar sent a bad chunk; set by the test that plays one.
        self.times_lied_to = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.events = self.commands_started = self.commands_ended = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._calls = 0

    def add_host(self, link: Link | None = None) -> Host:
        """Make a host; it is not started."""
        host = Host(self, len(self.hosts), link or Link())
        self.hosts[host.peer] = host
        return host

    def hide(self, host: Host, *, announces: bool = False) -> None:
        """Put a host where nobody can connect to it; with `announces` its record names addresses all the same."""
        host.is_unreachable = True
        if not announces:
            host.contact = replace(host.contact, dial=(), serve=())

    def start(self, host: Host, *bootstrap: Host) -> None:
        """Start a host with bootstrap contacts."""
        host.tell(ChannelJoined(CHANNEL))
        contacts = tuple(other.contact for other in bootstrap)
        host.tell(Started(host.contact.record, contacts, int(host.link.up_bytes_per_s)))

    def publish(self, origin: Host, *, chunk_count: int, chunk_bytes: int = 262_144) -> Version:
        """Publish the next version at `origin`."""
        version = Version(len(self.versions) + 1, chunk_count, chunk_bytes)
        self.versions[version.seq] = version
        origin.open(version, (1 << chunk_count) - 1)
        origin.completed_at_s[version.blob] = self.now_s
        origin.see_head(version.seq, None)
        return version

    def kill(self, host: Host, *, is_black_hole: bool) -> None:
        """Kill a host: its connections are reset, or (black hole) nobody is told."""
        host.is_alive, host.is_black_hole = False, is_black_hole
        for peer in list(host.connections):
            if not is_black_hole:
                self.later(0.05, self.disconnect, host, self.hosts[peer])
        for other in self.hosts.values():
            for fetch_id, transfer in list(other.fetches.items()):
                if transfer.command.peer == host.peer and not is_black_hole:
                    self.later(0.05, other.end_fetch, fetch_id, Outcome.SHORT)

    # --- clock ------------------------------------------------------------------------------------------------------

    def at(self, time_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call at a time."""
        self._calls += 1
        heapq.heappush(self._heap, (time_s, self._calls, call, args))

    def later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call after a delay."""
        self.at(self.now_s + delay_s, call, *args)

    def run(self, until_s: float, stop: Callable[[], bool] | None = None) -> None:
        """Advance the clock until a time, or until `stop` holds (looked at now and then)."""
        count = 0
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, call, args = heapq.heappop(self._heap)
            call(*args)
            count += 1
            if stop is not None and count % 64 == 0 and stop():
                return
        self.now_s = max(self.now_s, until_s) if stop is None else self.now_s

    # --- wire -------------------------------------------------------------------------------------------------------

    def contact(self, record: bytes) -> Contact:
        """Return what a peer record says (here a record is just the peer's name)."""
        return self.hosts[PeerId(record.decode())].contact

    def version_of(self, blob: Digest) -> Version:
        """Return the version of a blob."""
        return next(version for version in self.versions.values() if version.blob == blob)

    def connect(self, dialler: Host, target: Host) -> None:
        """End a dial."""
        self.commands_ended += 1
        if not dialler.is_alive:
            return
        if not target.is_alive or target.is_unreachable:
            dialler.tell(DialFailed(target.peer, "unreachable"))
            return
        dialler.connections[target.peer] = target.connections[dialler.peer] = None
        target.tell(PeerConnected(dialler.peer))
        dialler.tell(PeerConnected(target.peer))

    def disconnect(self, one: Host, other: Host) -> None:
        """Close a control connection at both ends."""
        for host, peer in ((one, other.peer), (other, one.peer)):
            if peer in host.connections:
                del host.connections[peer]
                self.later(host.link.latency_s, host.tell, PeerDisconnected(peer))

    def send(self, sender: Host, peer: PeerId, message: messages.Message) -> None:
        """Carry a control message, or lose it."""
        target = self.hosts[peer]
        payload = messages.encode(message)
        sender.control_bytes += len(payload) + 4
        if peer not in sender.connections or self.rng.random() < self.loss:
            return
        delay_s = sender.link.latency_s + target.link.latency_s * self.rng.random()
        self.later(delay_s, self._deliver, sender, target, payload)

    def _deliver(self, sender: Host, target: Host, payload: bytes) -> None:
        if target.is_alive:
            target.receive(sender, payload)

    def serve(self, client: Host, server: Host, fetch_id: int) -> None:
        """Answer a request at the server's data plane."""
        transfer = client.fetches.get(fetch_id)
        if transfer is None or server.is_black_hole:
            return
        command = transfer.command
        outcome = self._refusal(client, server, command)
        if outcome is not None:
            self.later(client.link.latency_s, client.end_fetch, fetch_id, outcome)
            return
        if not command.addresses:
            server.carrying_for[client.peer] = fetch_id
        if isinstance(command, FetchObject):
            known = command.digest in server.manifests
            self.later(client.link.latency_s, self._object_answered, client, server, fetch_id, known)
            return
        held = server.disk.get(command.blob, set())
        count = 0
        while count < command.count and command.first + count in held:
            count += 1
        if not count:
            self.later(client.link.latency_s, client.end_fetch, fetch_id, Outcome.MISSING)
            return
        if self.rng.random() < self.loss:
            transfer.is_cut = True
            count = self.rng.randrange(count + 1)
        self._send_chunk(client, server, fetch_id, command.first, command.first + count)

    def _refusal(self, client: Host, server: Host, command: FetchChunks | FetchObject) -> Outcome | None:
        if command.addresses:
            return None if server.is_alive and not server.is_unreachable else Outcome.UNREACHABLE
        if not server.is_alive or client.peer not in server.connections:
            return Outcome.UNREACHABLE
        if client.peer in server.carrying_for:
            raise Broken(f"host {client.number} asks host {server.number} to carry two things at once")
        return Outcome.BUSY if len(server.carrying_for) >= CARRIED_UPLOADS_MAX else None

    def _object_answered(self, client: Host, server: Host, fetch_id: int, known: bool) -> None:
        transfer = client.fetches.get(fetch_id)
        if transfer is None:
            return
        transfer.rtt_s = 2 * client.link.latency_s
        client.end_fetch(fetch_id, Outcome.DONE if known else Outcome.MISSING)
        if known and client.is_alive:
            client.open(server.manifests[transfer.command.digest])

    def _send_chunk(self, client: Host, server: Host, fetch_id: int, index: int, end: int) -> None:
        transfer = client.fetches.get(fetch_id)
        if transfer is None or not server.is_alive:
            return
        command = transfer.command
        if not isinstance(command, FetchChunks):
            raise Broken("an object was answered with chunks")
        if index == end:
            asked_end = command.first + command.count
            outcome = Outcome.SHORT if transfer.is_cut else Outcome.DONE if end == asked_end else Outcome.PARTIAL
            self.at(max(self.now_s + client.link.latency_s, transfer.arrives_s), client.end_fetch, fetch_id, outcome)
            return
        size = self.version_of(command.blob).chunk_bytes
        server.up_free_s = max(server.up_free_s, self.now_s) + size / server.link.up_bytes_per_s
        server.sent_bytes += size
        if not command.addresses:
            server.carry_free_s = max(server.carry_free_s, self.now_s) + size / CARRIED_BYTES_PER_S
            server.up_free_s = max(server.up_free_s, server.carry_free_s)
            server.carried_bytes += size
        client.down_free_s = max(client.down_free_s, server.up_free_s) + size / client.link.down_bytes_per_s
        transfer.arrives_s = client.down_free_s + client.link.latency_s
        self.at(transfer.arrives_s, client.chunk_arrived, fetch_id, index, not server.is_lying)
        self.at(server.up_free_s, self._send_chunk, client, server, fetch_id, index + 1, end)

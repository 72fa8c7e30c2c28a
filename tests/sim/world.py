"""The world: a whole swarm in one process, real machines on a virtual clock with a fake wire and fake disks.

Each `Host` is one node: a real `shardcast_relay.Machine` and the little shell that the daemon would be. The `World` owns the clock, the
control connections (`wire`), the bulk links (`bulk`), the data plane (`plane`) and the only source of randomness, so one seed is one run.
Payload is a token that tells a true chunk from a false one; `uplink` says what the model of bandwidth leaves out.

After every event (or each `check_every`th) the machine of the host that had it recounts its state, and `checks` looks that no host holds a
chunk that was not verified, that no tree has a cycle and that every order has its one ending.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId
from shardcast_relay import RelayConfig
from shardcast_relay.events import ChannelJoined, Contact, Outcome, Started
from tests.sim.bulk import RESET_S, Bulk
from tests.sim.checks import Broken
from tests.sim.clock import Clock
from tests.sim.host import CHANNEL, Host, Link
from tests.sim.plane import DataPlane
from tests.sim.wire import Wire

__all__ = ["Broken", "Host", "Link", "Version", "World"]


@dataclass
class Version:
    """One published version: what its blob looks like."""

    seq: int
    chunk_count: int
    chunk_bytes: int
    manifest: Digest = field(init=False)
    blob: Digest = field(init=False)
    #: The mask of all chunks.
    full: int = field(init=False)

    def __post_init__(self) -> None:
        self.manifest = digest_of(f"manifest {self.seq}".encode())
        self.blob = digest_of(f"blob {self.seq}".encode())
        self.full = (1 << self.chunk_count) - 1


class World(Clock):
    """The hosts and what is between them.

    Args:
        seed: One seed is one run.
        config: Of every machine.
        loss: The share of control messages and of data-plane answers that is lost.
        check_every: Each so many events the host that had one is checked.
        is_logging: Whether `log` is the digest of every event.
        is_mixing: Whether messages of one connection may overtake each other.
        has_links: Whether bulk links can be opened at all.
    """

    def __init__(
        self,
        seed: int,
        *,
        config: RelayConfig | None = None,
        loss: float = 0.0,
        check_every: int = 1,
        is_logging: bool = False,
        is_mixing: bool = False,
        has_links: bool = True,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.rng = random.Random(seed)
        self.config = config or RelayConfig()
        self.loss = loss
        self.check_every = check_every
        self.log: Any = hashlib.sha256() if is_logging else None
        self.has_links = has_links
        self.hosts: dict[PeerId, Host] = {}
        self.versions: dict[int, Version] = {}
        self._by_digest: dict[Digest, Version] = {}
        self.wire = Wire(self, is_mixing=is_mixing)
        self.bulk = Bulk(self)
        self.plane = DataPlane(self)
        #: Hosts that a liar sent a bad chunk; set by the test that plays one.
        self.times_lied_to = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.events = self.true_chunks = self.duplicate_chunks = self.false_chunks = 0
        self.is_parted = False
        #: Word that a partition holds back.
        self._held_back: list[tuple[Host, Callable[..., None], tuple[Any, ...]]] = []

    # --- hosts ------------------------------------------------------------------------------------------------------

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
        bindings = (b"binding",) if host.is_proven else ()
        host.tell(Started(host.contact.record, contacts, int(host.link.up_bytes_per_s), bindings=bindings))

    def publish(self, origin: Host, *, chunk_count: int, chunk_bytes: int = 262_144) -> Version:
        """Publish the next version at `origin`."""
        version = Version(len(self.versions) + 1, chunk_count, chunk_bytes)
        self.versions[version.seq] = version
        self._by_digest[version.blob] = self._by_digest[version.manifest] = version
        origin.disk[version.blob] = version.full
        origin.open(version, is_source=True)
        origin.completed_at_s[version.blob] = self.now_s
        origin.see_head(version.seq, None)
        return version

    def kill(self, host: Host, *, is_black_hole: bool) -> None:
        """Kill a host: its connections are reset, or (black hole) nobody is told."""
        host.is_alive, host.is_black_hole = False, is_black_hole
        if is_black_hole:
            return
        for peer in list(host.connections):
            self.later(RESET_S, self.wire.disconnect, self.hosts[peer], host)
        self.bulk.host_died(host)
        for other in self.hosts.values():
            for fetch_id, fetch in other.fetches.items():
                if fetch.command.peer == host.peer:
                    self.later(RESET_S, other.end_fetch, fetch_id, Outcome.SHORT)

    def revive(self, host: Host, *bootstrap: Host) -> None:
        """Start a dead host again, with what its disk holds; give a reset time to be seen first."""
        host.forget_all()
        host.is_alive, host.is_black_hole = True, False
        for version in list(host.manifests.values()):
            host.open(version)
        self.start(host, *bootstrap)

    # --- partitions -------------------------------------------------------------------------------------------------

    def part(self, hosts: Iterable[Host]) -> None:
        """Cut these hosts off from all others."""
        for host in hosts:
            host.side = 1
        self.is_parted = True

    def heal(self) -> None:
        """End the partition: word that it held back gets through, and so do bytes."""
        self.is_parted = False
        held_back, self._held_back = self._held_back, []
        for host in self.hosts.values():
            host.side = 0
            self.later(0.0, host.uplink.serve)
        for host, call, args in held_back:
            self.later(host.link.latency_s, call, *args)

    def is_cut(self, one: Host, other: Host) -> bool:
        """Whether a partition is between two hosts."""
        return self.is_parted and one.side != other.side

    def gets_through(self, one: Host, other: Host) -> bool:
        """Whether bytes from one host arrive at another."""
        return other.is_alive and not (self.is_parted and one.side != other.side)

    def gets_word(self, one: Host, other: Host) -> bool:
        """Whether anything would answer, be it with a refusal."""
        return not other.is_black_hole and not self.is_cut(one, other)

    def when_through(self, one: Host, other: Host, call: Callable[..., None], *args: Any) -> None:
        """Call when word of one host has reached another."""
        if self.is_cut(one, other):
            self._held_back.append((other, call, args))
        else:
            self.later(one.trip_s(other), call, *args)

    # --- names ------------------------------------------------------------------------------------------------------

    def contact(self, record: bytes) -> Contact:
        """Return what a peer record says (here a record is just the peer's name)."""
        return self.hosts[PeerId(record.decode().rstrip())].contact

    def version_of(self, blob: Digest) -> Version:
        """Return the version of a blob."""
        return self._by_digest[blob]

    def version_of_manifest(self, manifest: Digest) -> Version:
        """Return the version of a manifest."""
        return self._by_digest[manifest]

"""A swarm of the simulator to be measured: its hosts, its bound, its case."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tests.sim.world import Host, Link, Version, World

CHUNK_BYTES = 2 * 1024 * 1024
MBIT = 1e6 / 8
ORIGIN_UP, UPS, DOWN = 200 * MBIT, [rate * MBIT for rate in (50, 50, 100, 100, 200, 200, 400, 400)], 400 * MBIT
#: One way; twice this is the round trip of 40 ms.
LATENCY_S = 0.02
#: Everybody has joined by the first, and is neighboured by the second.
JOINED_S, PUBLISHED_S = 10.0, 30.0
GIVE_UP_S = 1800.0
CASES = ("plain", "churn", "liars")


@dataclass
class Row:
    """What one run gave."""

    case: str
    nodes: int
    seed: int
    bound_s: float
    median_s: float
    last_s: float
    unfinished: int
    origin_copies: float
    duplicates: float
    control_share: float
    messages_per_node_chunk: float
    neighbours_max: int
    tree_links_max: int
    honest_quarantined: int
    wall_s: float
    events: int


def bound_s(size_bytes: int, origin: Host, receivers: list[Host]) -> float:
    """Return the time that no scheme can beat: the origin's uplink, the slowest downlink, all uplinks together."""
    ups = origin.link.up_bytes_per_s + sum(host.link.up_bytes_per_s for host in receivers)
    slowest = min(host.link.down_bytes_per_s for host in receivers)
    return max(size_bytes / origin.link.up_bytes_per_s, size_bytes / slowest, len(receivers) * size_bytes / ups)


class Swarm:
    """One run."""

    def __init__(self, nodes: int, *, chunks: int, seed: int, check_every: int) -> None:
        self.world = World(seed, check_every=check_every)
        self.rng = random.Random(f"case {seed}")
        self.chunks = chunks
        self.seed = seed
        self.origin = self.world.add_host(Link(ORIGIN_UP, DOWN, LATENCY_S))
        self.origin.is_proven = True
        self.hosts = [self.world.add_host(Link(UPS[number % len(UPS)], DOWN, LATENCY_S)) for number in range(nodes)]
        self.began_s: dict[Host, float] = {}
        self.neighbours_max = self.tree_links_max = 0

    def run(self, case: str) -> Row:
        """Join, publish, wait for everybody who is to complete."""
        gc.disable()
        wall_s = time.perf_counter()
        world, nodes = self.world, len(self.hosts)
        world.start(self.origin)
        for number, host in enumerate(self.hosts):
            contacts = (self.origin, *self.rng.sample(self.hosts[:number], min(2, number)))
            world.at(JOINED_S * number / nodes, world.start, host, *contacts)
        world.run(PUBLISHED_S)
        control_bytes, messages = self._control_bytes(), world.wire.message_count
        liars = self.rng.sample(self.hosts, nodes // 3) if case == "liars" else []
        for host in liars:
            host.is_lying = True
        size_bytes = self.chunks * CHUNK_BYTES
        honest = [host for host in self.hosts if host not in liars]
        bound = bound_s(size_bytes, self.origin, honest)
        version = world.publish(self.origin, chunk_count=self.chunks, chunk_bytes=CHUNK_BYTES)
        self.began_s = dict.fromkeys(honest, world.now_s)
        if case == "churn":
            self._churn(bound)
        self._watch(version)
        world.run(PUBLISHED_S + GIVE_UP_S, self._is_over(version))
        spans = [version_s - began_s for began_s, version_s in self._spans(version)]
        wanted = [host for host in self.began_s if host.is_alive]
        gc.enable()
        return Row(
            case,
            nodes,
            self.seed,
            bound,
            median(spans) if spans else float("inf"),
            max(spans, default=float("inf")),
            len(wanted) - len(spans),
            self.origin.sent_bytes / size_bytes,
            world.duplicate_chunks / max(world.true_chunks, 1),
            (self._control_bytes() - control_bytes) / (CHUNK_BYTES * max(world.true_chunks, 1)),
            (world.wire.message_count - messages) / (nodes * self.chunks),
            self.neighbours_max,
            self.tree_links_max,
            self._honest_quarantined(liars),
            time.perf_counter() - wall_s,
            world.events,
        )

    def _churn(self, bound: float) -> None:
        """Let a tenth leave and a tenth join, spread over the bound; every second one leaves as a black hole."""
        world, count = self.world, max(len(self.hosts) // 10, 1)
        for number, host in enumerate(self.rng.sample(self.hosts, count)):
            world.later(bound * self.rng.uniform(0.05, 0.9), self._leave, host, bool(number % 2))
        for number in range(count):
            joiner = world.add_host(Link(UPS[number % len(UPS)], DOWN, LATENCY_S))
            world.later(bound * self.rng.uniform(0.05, 0.9), self._join, joiner)
            self.began_s[joiner] = -1.0

    def _leave(self, host: Host, is_black_hole: bool) -> None:
        self.world.kill(host, is_black_hole=is_black_hole)

    def _join(self, host: Host) -> None:
        self.began_s[host] = self.world.now_s
        contact = self.rng.choice([other for other in self.hosts if other.is_alive])
        self.world.start(host, self.origin, contact)

    def _spans(self, version: Version) -> list[tuple[float, float]]:
        return [
            (began_s, host.completed_at_s[version.blob])
            for host, began_s in self.began_s.items()
            if host.is_alive and version.blob in host.completed_at_s
        ]

    def _is_over(self, version: Version) -> Callable[[], bool]:
        left = list(self.began_s)

        def is_over() -> bool:
            while left and (version.blob in left[-1].completed_at_s or not left[-1].is_alive):
                left.pop()
            return not left

        return is_over

    def _watch(self, version: Version) -> None:
        """Look each second at who is linked to whom."""
        for host in self.world.hosts.values():
            self.neighbours_max = max(self.neighbours_max, len(host.machine.membership.active))
            forest = getattr(host.machine, "trees", None)
            if forest is not None:
                peers = {peer for _, peer in (*forest.edges(version.blob), *forest.children(version.blob))}
                self.tree_links_max = max(self.tree_links_max, len(peers))
        self.world.later(1.0, self._watch, version)

    def _control_bytes(self) -> int:
        return sum(host.control_bytes for host in self.world.hosts.values())

    def _honest_quarantined(self, liars: list[Host]) -> int:
        """Count the honest peers that some honest host refuses now."""
        blamed = {host.peer for host in liars}
        return len(
            {
                peer
                for host in self.began_s
                for peer, record in host.machine.downloads.reputations.items()
                if record.quarantined_until_s > self.world.now_s and peer not in blamed
            }
        )

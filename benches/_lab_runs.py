"""One run in the lab: a system brings a checkpoint to every host while hosts fail, and what that took is written down."""

from __future__ import annotations

import dataclasses
import filecmp
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from lab import Lab, Link, best_seconds, machine_cpu_seconds

ORIGIN: Final = "origin"
_POLL_S: Final = 0.02


@dataclass(frozen=True)
class Fault:
    """Something that happens to a host, at a share of T* after the clock has started."""

    at_share: float
    host: str
    kind: Literal["kill", "cut"]


@dataclass(frozen=True)
class Case:
    """What the links are and what happens to the hosts.

    Attributes:
        name: What `--cases` calls it.
        links: The origin's first.
        is_paced: Whether our nodes are told their uplink by `--up-mbps`.
        faults: What happens when.
        spared: Hosts that nobody waits for; T* is that of the others.
    """

    name: str
    links: tuple[Link, ...]
    is_paced: bool = True
    faults: tuple[Fault, ...] = ()
    spared: tuple[str, ...] = ()

    def scaled(self, factor: float) -> Case:
        """Return the case with every rate times a factor."""
        links = tuple(Link(link.name, link.up_mbps * factor, link.down_mbps * factor) for link in self.links)
        return dataclasses.replace(self, links=links)

    @property
    def awaited(self) -> list[str]:
        """The hosts that must hold the whole in the end."""
        failed = {fault.host for fault in self.faults}
        return [link.name for link in self.links[1:] if link.name not in failed and link.name not in self.spared]

    def best_seconds(self, size_bytes: int) -> float:
        """Return T* of all hosts that are not spared: those that fail count, since nobody knows before."""
        others = [link for link in self.links[1:] if link.name not in self.spared]
        return best_seconds(self.links[0], others, size_bytes)


@dataclass
class Arrival:
    """How far one host is; unix seconds."""

    first_chunk_at: float | None = None
    completed_at: float | None = None
    is_lost: bool = False
    share: float = 0.0


@dataclass(frozen=True)
class Totals:
    """What a system counts itself, over its living hosts; None for what it does not count."""

    origin_payload_bytes: int
    duplicate_bytes: int
    control_bytes: int | None
    hash_seconds: float | None


class System(Protocol):
    """A system under test, in a lab that exists."""

    def prepare(self) -> None:
        """Start every host and wait until they know each other."""
        ...

    def begin(self) -> float:
        """Make the origin offer the checkpoint, and return when it did, in unix seconds; what is hashed before is not in it."""
        ...

    def arrivals(self) -> Mapping[str, Arrival]:
        """Return how far every host is."""
        ...

    def totals(self) -> Totals:
        """Return what was counted."""
        ...

    def copy_at(self, host: str) -> Path:
        """Return the directory with a host's copy."""
        ...


@dataclass
class Run:
    """What one run took.

    Attributes:
        seconds: Until the last awaited host held the whole; None when one never did (a hang).
        best_seconds: T*.
        host_seconds: The same for each host; None for those that did not.
        first_chunk_seconds: Until each awaited host had its first verified chunk.
        origin_copies: Payload that the origin has sent, in sizes of the checkpoint; `origin_wire_copies` is all that left its link.
        duplicate_percent: Payload that arrived although it was there, of the payload that was needed.
        control_percent: The system's own small messages, of the payload that was needed.
        overhead_percent: All bytes that left any link less the payload that was needed, of that payload: headers,
            acknowledgements, what was sent again, duplicates, control.
        cpu_seconds: Of all processes of the system, `cpu_system_seconds` of it in the kernel.
        busy_share: The share of all cores that anybody used meanwhile.
        shares: How much each host held in the end.
        note: What went wrong.
    """

    seconds: float | None = None
    best_seconds: float = 0.0
    host_seconds: dict[str, float | None] = field(default_factory=dict)
    first_chunk_seconds: dict[str, float | None] = field(default_factory=dict)
    origin_copies: float | None = None
    origin_wire_copies: float = 0.0
    duplicate_percent: float | None = None
    control_percent: float | None = None
    overhead_percent: float = 0.0
    hash_seconds: float | None = None
    cpu_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    cpu_origin_seconds: float = 0.0
    busy_share: float = 0.0
    dropped_packets: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    note: str = ""


def measure(lab: Lab, case: Case, system: System, *, checkpoint: Path, hang_factor: float) -> Run:
    """Bring a checkpoint to all hosts of a case once, by a system that is prepared."""
    size_bytes = size_of(checkpoint)
    run = Run(best_seconds=case.best_seconds(size_bytes))
    cpu_before, machine_before = lab.cpu_seconds(), machine_cpu_seconds()
    wire_before = {host: lab.network.sent_bytes(host) for host in lab.hosts}
    drops_before = sum(map(lab.network.dropped_packets, lab.hosts))
    began_s = system.begin()
    _watch(lab, case, system, began_s=began_s, limits_s=(run.best_seconds, hang_factor * run.best_seconds))
    cpu_after, machine_after = lab.cpu_seconds(), machine_cpu_seconds()
    wire = {host: lab.network.sent_bytes(host) - before for host, before in wire_before.items()}
    run.dropped_packets = sum(map(lab.network.dropped_packets, lab.hosts)) - drops_before
    arrivals = system.arrivals()
    _judge(run, case, arrivals, began_s)
    used = {host: sum(cpu_after[host]) - sum(cpu_before[host]) for host in cpu_before}
    run.cpu_seconds, run.cpu_origin_seconds = sum(used.values()), used[ORIGIN]
    run.cpu_system_seconds = sum(cpu_after[host].system - cpu_before[host].system for host in cpu_before)
    run.busy_share = (machine_after[0] - machine_before[0]) / max(machine_after[1] - machine_before[1], 0.01)
    delivered = sum(arrival.share for arrival in arrivals.values()) * size_bytes
    run.origin_wire_copies = wire[ORIGIN] / size_bytes
    run.overhead_percent = 100 * (sum(wire.values()) - delivered) / max(delivered, 1)
    _count(run, system, size_bytes=size_bytes, delivered=delivered)
    if run.seconds is not None:
        wrong = [host for host in case.awaited if not _is_same(checkpoint, system.copy_at(host))]
        if wrong:
            run.seconds, run.note = None, f"{', '.join(wrong)} hold other bytes"
    return run


def _watch(lab: Lab, case: Case, system: System, *, began_s: float, limits_s: tuple[float, float]) -> None:
    """Let the faults happen when they are due, until all awaited hosts are complete or lost, or it is too late."""
    best_s, hang_s = limits_s
    due = sorted(case.faults, key=lambda fault: fault.at_share)
    while time.time() < began_s + hang_s:
        while due and time.time() >= began_s + due[0].at_share * best_s:
            fault = due.pop(0)
            fail = lab.kill if fault.kind == "kill" else lab.cut
            fail(fault.host)
        arrivals = system.arrivals()
        if all(arrivals[host].completed_at is not None or arrivals[host].is_lost for host in case.awaited):
            return
        time.sleep(_POLL_S)


def _judge(run: Run, case: Case, arrivals: Mapping[str, Arrival], began_s: float) -> None:
    ends = {host: arrivals[host].completed_at for host in arrivals}
    firsts = {host: arrivals[host].first_chunk_at for host in case.awaited}
    run.host_seconds = {host: None if end is None else end - began_s for host, end in ends.items()}
    run.first_chunk_seconds = {host: None if first is None else first - began_s for host, first in firsts.items()}
    run.shares = {host: round(arrival.share, 4) for host, arrival in arrivals.items()}
    waited = [run.host_seconds[host] for host in case.awaited]
    finished = [seconds for seconds in waited if seconds is not None]
    if len(finished) == len(waited):
        run.seconds = max(finished)
    else:
        missing = [f"{host} at {run.shares[host]:.0%}" for host in case.awaited if ends[host] is None]
        run.note = f"not complete: {', '.join(missing)}"


def _count(run: Run, system: System, *, size_bytes: int, delivered: float) -> None:
    totals = system.totals()
    run.hash_seconds = totals.hash_seconds
    run.origin_copies = totals.origin_payload_bytes / size_bytes
    run.duplicate_percent = 100 * totals.duplicate_bytes / max(delivered, 1)
    if totals.control_bytes is not None:
        run.control_percent = 100 * totals.control_bytes / max(delivered, 1)


def size_of(directory: Path) -> int:
    """Return the bytes of a directory's files."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _is_same(expected: Path, found: Path) -> bool:
    names = [str(file.relative_to(expected)) for file in expected.rglob("*") if file.is_file()]
    _, mismatch, errors = filecmp.cmpfiles(expected, found, names, shallow=False)
    return not mismatch and not errors


def last_first_chunk(run: Run) -> float | None:
    """Return when the last awaited host had its first verified chunk; None when one never had."""
    seconds = [value for value in run.first_chunk_seconds.values() if value is not None]
    return max(seconds) if seconds and len(seconds) == len(run.first_chunk_seconds) else None


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of what there is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None

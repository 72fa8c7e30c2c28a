"""Fan-out bench: one checkpoint from an origin to eight hosts over shaped links, by us and by libtorrent.

Needs root: every host is a network namespace with a link of its own rate (see `lab.py`). Each run starts every process anew. The
clock starts when the head is signed (of ours) or the seed seeds (of libtorrent), and ends when the last host holds all bytes, verified;
they are compared with the published ones afterwards. A run that has not ended after six times T* is a hang, and is counted as one.

    make setup && .venv/bin/python benches/bench_fanout_lab.py                          # all cases, three runs of each system
    .venv/bin/python benches/bench_fanout_lab.py --cases equal,mixed --systems ours --runs 1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import _libtorrent_swarm
from _lab_nodes import Nodes
from _lab_runs import ORIGIN, Case, Fault, Run, System, last_first_chunk, measure, median, size_of
from _measure import commit, machine, table
from lab import TMPFS, Lab, LabUnavailable, Link, why_not

from shardcast.demo.interrupts import Interrupts

MIB: Final = 1 << 20
HANG_FACTOR: Final = 6.0
SHARDS: Final = 4
SYSTEMS: Final = ("ours", "lt", "lt-super")
#: A host keeps a copy, libtorrent's too; the origin's is the written one.
COPIES_MAX: Final = 10


def _links(origin: float, ups: list[float], downs: list[float]) -> tuple[Link, ...]:
    hosts = [Link(f"host-{number}", up, down) for number, (up, down) in enumerate(zip(ups, downs, strict=True), 1)]
    return (Link(ORIGIN, origin, max(downs)), *hosts)


_EQUAL: Final = _links(200, [200] * 8, [200] * 8)
_MIXED: Final = _links(200, [50, 50, 100, 100, 200, 200, 400, 400], [400] * 8)
_VICTIMS: Final = (("host-3", 0.3), ("host-6", 0.6))

CASES: Final = {
    case.name: case
    for case in (
        Case("equal", _EQUAL),
        Case("mixed", _MIXED),
        Case("killed", _EQUAL, faults=tuple(Fault(share, host, "kill") for host, share in _VICTIMS)),
        Case("cut", _EQUAL, faults=tuple(Fault(share, host, "cut") for host, share in _VICTIMS)),
        Case("slow", _links(200, [200] * 8, [200] * 7 + [25]), spared=("host-8",)),
        Case("equal-unpaced", _EQUAL, is_paced=False),
        Case("mixed-unpaced", _MIXED, is_paced=False),
    )
}


def main() -> int:
    """Run what the options ask for."""
    options = _options()
    if why := why_not():
        print(f"no lab here: {why}", file=sys.stderr)
        return 2
    if shutil.disk_usage(TMPFS).free < COPIES_MAX * options.size_mib * MIB:
        print(f"no lab here: {TMPFS} has too little room for {COPIES_MAX} copies", file=sys.stderr)
        return 2
    with Interrupts():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    found: dict[str, dict[str, list[Run]]] = {}
    is_interrupted = False
    home = Path(tempfile.mkdtemp(prefix=f"sc-lab-{os.getpid()}-bench-", dir=TMPFS))
    try:
        bench = Bench(options, home)
        for name in options.cases:
            found[name] = {}
            bench.run_case(CASES[name].scaled(options.rate_factor), found[name])
    except LabUnavailable as error:
        print(f"the lab failed: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        if options.keep:
            print(f"kept: {home}", file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)
    print(report(found, options))
    if options.json:
        plain = {
            case: {name: [dataclasses.asdict(run) for run in runs] for name, runs in systems.items()}
            for case, systems in found.items()
        }
        heads = {"machine": machine(), "commit": commit(), "command": shlex.join(sys.argv)}
        options.json.write_text(
            json.dumps(
                {**heads, "size_mib": options.size_mib, "rate_factor": options.rate_factor, "runs": plain}, indent=2
            )
        )
    if is_interrupted:
        return 130
    runs = [run for systems in found.values() for run in systems.get("ours", [])]
    return 1 if any(run.seconds is None for run in runs) else 0


class Bench:
    """The checkpoint, and the systems that can be run."""

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self._options = options
        self._home = home
        self._checkpoint = write_checkpoint(home / "checkpoint", options.size_mib * MIB)
        self._systems = [name for name in options.systems if name == "ours"]
        self._python = Path()
        wanted = [name for name in options.systems if name != "ours"]
        try:
            if wanted:
                self._python = _libtorrent_swarm.install(home / "libtorrent")
                for name in wanted:
                    _libtorrent_swarm.make_torrent(
                        self._python, self._checkpoint, home / f"{name}.torrent", is_tuned=name == "lt-super"
                    )
                self._systems += wanted
        except _libtorrent_swarm.Unavailable as error:
            print(f"without libtorrent: {error}", file=sys.stderr)

    def run_case(self, case: Case, found: dict[str, list[Run]]) -> None:
        """Add the runs of each system; they take turns, so that a busy minute meets them all."""
        found.update({name: [] for name in self._systems if case.is_paced or name == "ours"})
        for number in range(self._options.runs):
            for name, runs in found.items():
                run = self._run(case, name)
                runs.append(run)
                print(f"{case.name} {number + 1} {name}: {_one_line(run)}", file=sys.stderr, flush=True)

    def _run(self, case: Case, name: str) -> Run:
        with Lab(case.links) as lab:
            try:
                system = self._system(lab, case, name)
                system.prepare()
                return measure(lab, case, system, checkpoint=self._checkpoint, hang_factor=HANG_FACTOR)
            except (RuntimeError, _libtorrent_swarm.Unavailable) as error:
                return Run(best_seconds=case.best_seconds(size_of(self._checkpoint)), note=str(error))
            finally:
                if self._options.keep:
                    self._keep_logs(lab, f"{case.name}-{name}")

    def _system(self, lab: Lab, case: Case, name: str) -> System:
        if name == "ours":
            return Nodes(lab, self._checkpoint, is_paced=case.is_paced)
        torrent = self._home / f"{name}.torrent"
        is_tuned = name == "lt-super"
        return _libtorrent_swarm.Torrents(lab, self._python, torrent, checkpoint=self._checkpoint, is_tuned=is_tuned)

    def _keep_logs(self, lab: Lab, name: str) -> None:
        target = self._home / "logs" / name
        target.mkdir(parents=True, exist_ok=True)
        for log in lab.home.glob("*.log"):
            shutil.copy(log, target)


def write_checkpoint(directory: Path, size_bytes: int) -> Path:
    """Write random safetensors files of exactly `size_bytes` together, headers included, and return the directory."""
    directory.mkdir()
    for number in range(SHARDS):
        whole = size_bytes // SHARDS + (size_bytes % SHARDS if number == 0 else 0)
        weights = whole - 8 - 120
        tensor = {"dtype": "U8", "shape": [weights], "data_offsets": [0, weights]}
        header = json.dumps({f"weights.{number}": tensor}).encode().ljust(120)
        with (directory / f"model-{number}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for offset in range(0, weights, MIB):
                file.write(os.urandom(min(MIB, weights - offset)))
    return directory


def report(found: dict[str, dict[str, list[Run]]], options: argparse.Namespace) -> str:
    """Return the table of medians, with what it was measured on."""
    header = ["case", "system", "T* s", "median s", "range s", "x T*", "hangs", "origin copies", "on its link"]
    header += ["first chunk s", "duplicates %", "control %", "overhead %", "hashing s", "CPU-s", "cores busy"]
    rows = [_row(case, name, runs) for case, systems in found.items() for name, runs in systems.items() if runs]
    notes = [
        f"{case} {name} run {number}: {run.note}"
        for case, systems in found.items()
        for name, runs in systems.items()
        for number, run in enumerate(runs, 1)
        if run.note
    ]
    rates = "" if options.rate_factor == 1 else f", all rates times {options.rate_factor:g}"
    title = f"{options.size_mib} MiB from an origin to 8 hosts{rates}, medians of {options.runs} runs\n{machine()}, commit {commit()}"
    command = f"command: {shlex.join(['python', *sys.argv])}"
    return "\n".join([title, command, "", table(header, rows), *notes])


def _row(case: str, name: str, runs: list[Run]) -> list[str]:
    ended = [run for run in runs if run.seconds is not None]
    seconds = median([run.seconds for run in ended])
    best = runs[0].best_seconds
    known = [run.seconds for run in ended if run.seconds is not None]
    return [
        case,
        name,
        f"{best:.2f}",
        _number(seconds, 2),
        f"{min(known):.2f}–{max(known):.2f}" if known else "–",
        _number(None if seconds is None else seconds / best, 2),
        str(len(runs) - len(ended)),
        _number(median([run.origin_copies for run in ended]), 2),
        _number(median([run.origin_wire_copies for run in ended]), 2),
        _number(median([last_first_chunk(run) for run in ended]), 2),
        _number(median([run.duplicate_percent for run in ended]), 2),
        _number(median([run.control_percent for run in ended]), 3, none="n/a"),
        _number(median([run.overhead_percent for run in ended]), 1),
        _number(median([run.hash_seconds for run in ended]), 2, none="n/a"),
        _number(median([run.cpu_seconds for run in ended]), 1),
        _number(median([100 * run.busy_share for run in ended]), 0) + " %",
    ]


def _number(value: float | None, digits: int, *, none: str = "–") -> str:
    return none if value is None else f"{value:.{digits}f}"


def _one_line(run: Run) -> str:
    if run.seconds is None:
        return f"HANG ({run.note})"
    return (
        f"{run.seconds:.2f} s = {run.seconds / run.best_seconds:.2f} T*, {run.origin_copies or 0:.2f} copies, "
        f"{run.cpu_seconds:.1f} CPU-s ({run.cpu_system_seconds:.1f} in the kernel), "
        f"cores {run.busy_share:.0%} busy, {run.dropped_packets} packets dropped"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=_chosen(tuple(CASES)), default=list(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--systems", type=_chosen(SYSTEMS), default=list(SYSTEMS), help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--runs", type=int, default=3, help="runs of each system in each case (default 3)")
    parser.add_argument("--size-mib", type=int, default=256, help="size of the checkpoint (default 256)")
    parser.add_argument(
        "--rate-factor", type=float, default=1.0, help="multiply all rates, where the cores are too few (default 1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to this file")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint and the logs of all nodes")
    return parser.parse_args()


def _chosen(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())

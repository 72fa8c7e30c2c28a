"""A transfer on loopback, ours beside the first SHARDCAST: one origin, two relays, four clients, one file.

    .venv/bin/python benches/bench_loopback.py [--runs 5] [--bytes 268435456] [--json FILE]

Each run starts one system, publishes a small version so that everybody knows everybody, waits for a moment chosen at random, then
publishes a new random file and waits until the last client holds all of it, verified; then every client's bytes are compared with the
published ones. The systems take turns, and the one that begins changes with each round. A run that does not end is a hang. The ratio is
that of the medians of the runs that ended, which favours the system that hangs. Exit code 1: a run of ours hung or brought a wrong byte,
or, with --strict, our median on tmpfs is above half of the other's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import _first
import _ours
from _measure import (
    Run,
    commit,
    file_system_of,
    machine,
    median_cpu_seconds,
    median_seconds,
    table,
    write_random_file,
)

from shardcast.demo.fleet import NodeFailed

RELAYS, CLIENTS = 2, 4
TARGET_RATIO = 0.5
WARM_UP_BYTES = 4 * 1024 * 1024
#: Both warm up with something that no step of the measured transfer depends on.
WARM_UP_TIMEOUT_S = 90.0
#: A tmpfs is memory: both systems keep up to three copies of the file in each of seven nodes.
COPIES_MAX = 21

System = _ours.Ours | _first.First
Start = Callable[[Path], AbstractContextManager[System]]


def main() -> int:
    options = _options()
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="shardcast-bench-") as disk:
        starts: dict[str, Start] = {}
        if options.only != "first":
            starts["ours"] = lambda home: _ours.running(home, relays=RELAYS, clients=CLIENTS)
        if options.only != "ours":
            try:
                packages = _first.install(Path(disk) / "first")
                starts["first"] = lambda home: _first.running(packages, home, relays=RELAYS, clients=CLIENTS)
            except _first.Unavailable as error:
                print(f"without the first SHARDCAST: {error}", file=sys.stderr)
        places = {"disk": Path(disk)}
        if _has_room(shared_memory, options.bytes):
            places = {"tmpfs": shared_memory, **places}
        else:
            print(f"without tmpfs: {shared_memory} has too little room", file=sys.stderr)
        counts = {"tmpfs": options.runs, "disk": options.disk_runs if "tmpfs" in places else options.runs}
        found = {
            place: _compare(starts, parent, options, count=counts[place])
            for place, parent in places.items()
            if counts[place]
        }
        kinds = {place: file_system_of(parent) for place, parent in places.items()}
    print(_report(found, kinds, options))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "commit": commit(), "runs": _plain(found)}, indent=2))
    return 0 if _is_good(found, is_strict=options.strict) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each system on tmpfs (default 5)")
    parser.add_argument("--disk-runs", type=int, default=3, help="runs of each on the temporary directory (default 3)")
    parser.add_argument("--bytes", type=int, default=256 * 1024 * 1024, help="size of the file (default 256 MiB)")
    parser.add_argument(
        "--hang-after", type=float, default=60.0, metavar="S", help="a longer run is a hang (default 60)"
    )
    parser.add_argument("--only", choices=["ours", "first"], help="measure one of the systems")
    parser.add_argument("--strict", action="store_true", help="fail unless ours takes half of the other's time")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    return parser.parse_args()


def _has_room(path: Path, size_bytes: int) -> bool:
    if not path.is_dir() or not os.access(path, os.W_OK):
        return False
    return shutil.disk_usage(path).free > 1.2 * COPIES_MAX * size_bytes


def _compare(
    starts: dict[str, Start], parent: Path, options: argparse.Namespace, *, count: int
) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {name: [] for name in starts}
    for number in range(count):
        names = list(starts) if number % 2 == 0 else list(reversed(starts))
        for name in names:
            with tempfile.TemporaryDirectory(prefix="shardcast-bench-", dir=parent) as home:
                run = _run(starts[name], Path(home), options)
            found[name].append(run)
            seconds = f"{run.seconds:.2f} s" if run.seconds is not None else f"HANG ({run.note})"
            print(f"{parent} run {number + 1} {name}: {seconds}, {run.cpu_seconds:.1f} CPU-s", file=sys.stderr)
    return found


def _run(start: Start, home: Path, options: argparse.Namespace) -> Run:
    try:
        with start(home / "nodes") as system:
            warm_up, measured = home / "warm-up", home / "measured"
            system.transfer(warm_up, _write(warm_up, WARM_UP_BYTES), timeout_s=WARM_UP_TIMEOUT_S)
            digest = _write(measured, options.bytes)
            time.sleep(1 + random.random())  # the first one looks every second: it is met at any moment of that
            return system.transfer(measured, digest, timeout_s=options.hang_after)
    except NodeFailed as error:
        return Run(None, 0.0, "\n".join([error.message, *error.log_tail]))


def _write(directory: Path, size_bytes: int) -> bytes:
    directory.mkdir()
    return write_random_file(directory / "weights.dat", size_bytes)


def _report(found: dict[str, dict[str, list[Run]]], kinds: dict[str, str], options: argparse.Namespace) -> str:
    rows = []
    for place, systems in found.items():
        first = median_seconds(systems.get("first", []))
        for name, runs in systems.items():
            seconds = [run.seconds for run in runs if run.seconds is not None]
            median, delivered_gb = median_seconds(runs), (RELAYS + CLIENTS) * options.bytes / 1e9
            rows.append(
                [
                    f"{place} ({kinds[place]})",
                    name if name == "ours" else f"first ({_first.REQUIREMENT.split('==')[1]})",
                    "hang" if median is None else f"{median:.2f}",
                    f"{min(seconds):.2f}–{max(seconds):.2f}" if seconds else "–",
                    str(len(runs) - len(seconds)),
                    "–" if median is None or first is None else f"{median / first:.2f}",
                    f"{median_cpu_seconds(runs):.1f}",
                    f"{median_cpu_seconds(runs) / delivered_gb:.1f}",
                ]
            )
    header = ["data on", "system", "median s", "range s", "hangs", "ratio", "CPU-s", "CPU-s/GB"]
    size = f"{options.bytes / 1e6:.0f} MB, 1 origin, {RELAYS} relays, {CLIENTS} clients on loopback"
    return f"{size}\n{machine()}, commit {commit()}\n\n{table(header, rows)}"


def _is_good(found: dict[str, dict[str, list[Run]]], *, is_strict: bool) -> bool:
    if any(run.seconds is None for systems in found.values() for run in systems.get("ours", [])):
        return False
    systems = found.get("tmpfs", {})
    ours, first = median_seconds(systems.get("ours", [])), median_seconds(systems.get("first", []))
    return not is_strict or ours is None or first is None or ours <= TARGET_RATIO * first


def _plain(found: dict[str, dict[str, list[Run]]]) -> dict[str, dict[str, list[dict[str, object]]]]:
    return {
        place: {name: [dataclasses.asdict(run) for run in runs] for name, runs in systems.items()}
        for place, systems in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())

"""A hot-load, measured beside a bare `copy_` of the same bytes: is it right, how long is the pause, what memory does it take?

    .venv/bin/python benches/bench_hotload.py [--size-mib 1024] [--repeats 15] [--loads 500] [--device auto|cpu|cuda] [--json FILE]

Four questions, each a table. Exit code 1 when a line about correctness or memory fails, or, with --strict, when the pause is longer
than 1.2 bare copies; that of in-place staging, which reads and hashes the files, is shown and not judged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _weights
import torch
from _measure import commit, machine, table

from shardcast.hotload import HotLoader, TornWeights, VersionOnDisk
from shardcast.hotload.backend import backend_for
from shardcast.hotload.recording import InjectedFault, RecordingBackend, RuleBroken
from shardcast_proto.errors import HotLoadError

PAUSE_RATIO_MAX = 1.2
#: What Python itself takes while it plans: headers, tasks of the readers, their stacks.
SLACK_BYTES = 16 * 2**20
MIB = 2**20
STAGINGS = ("device", "host", "inplace")
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8 e4m3fn": torch.float8_e4m3fn,
    "fp8 e5m2": torch.float8_e5m2,
    "int8": torch.int8,
}
Row = dict[str, Any]


def main() -> int:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if options.memory_of:
        print(json.dumps(_memory_here(Path(options.memory_of), options.staging, options.rollback_copies, device)))
        return 0
    with tempfile.TemporaryDirectory(prefix="shardcast-bench-", dir=options.dir) as home:
        versions = _weights.publish_two(Path(home) / "large", options.size_mib * MIB)
        found = {
            "equal": list(_equal(Path(home), device)),
            "pause": _pause(versions, device, options.repeats),
            "memory": list(_memory(versions[0].path.parent, device)),
            "faults": list(_faults(Path(home), device, options.loads)),
        }
    print(_report(found, device, options))
    if options.json:
        about = {"machine": machine(), "commit": commit(), "device": _name(device), "torch": torch.__version__}
        options.json.write_text(json.dumps({**about, **found}, indent=2))
    bad = [row for part in found.values() for row in part if not row["good"]]
    slow = [row for row in found["pause"] if row["staging"] != "inplace" and row["ratio"] > PAUSE_RATIO_MAX]
    return 1 if bad or (options.strict and slow) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=1024, help="weights for pause and memory (default 1024)")
    parser.add_argument("--repeats", type=int, default=15, help="commits and bare copies, in turns (default 15)")
    parser.add_argument("--loads", type=int, default=500, help="loads with a fault, of each kind (default 500)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch, for both sides alike (default: its own)")
    parser.add_argument("--dir", type=Path, help="where versions are written (default: the temporary directory)")
    parser.add_argument("--strict", action="store_true", help="fail when a pause is longer than 1.2 bare copies")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--staging", help=argparse.SUPPRESS)
    parser.add_argument("--rollback-copies", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- is it right? ---


def _equal(home: Path, device: str) -> Iterator[Row]:
    for name, dtype in DTYPES.items():
        tensors = _weights.model(24 * MIB, dtype, seed=1)
        version = _weights.publish(home / name.replace(" ", "-"), tensors)
        for staging in STAGINGS:
            live = _weights.blank(tensors, device)
            where = [tensor.data_ptr() for tensor in live.values()]
            with HotLoader(live, staging=staging) as loader:
                loader.load(version)
                loader.commit()
            wrong = [key for key, tensor in live.items() if not _weights.same(tensor, tensors[key])]
            moved = where != [tensor.data_ptr() for tensor in live.values()]
            tied = live["lm_head.weight"].data_ptr() == live["embed.weight"].data_ptr()
            good = not wrong and not moved and tied
            yield {
                "dtype": name,
                "staging": staging,
                "tensors": len(live),
                "wrong": len(wrong),
                "moved": moved,
                "good": good,
            }


# --- how long is the pause? ---


def _pause(versions: Sequence[VersionOnDisk], device: str, repeats: int) -> list[Row]:
    tensors = [_weights.read(version, device) for version in versions]
    rows: list[Row] = []
    for staging in STAGINGS:
        live = _weights.blank(tensors[0], device)
        where = [tensor.data_ptr() for tensor in live.values()]
        pauses: list[float] = []
        copies: list[float] = []
        loads: list[float] = []
        with HotLoader(live, staging=staging) as loader:
            for turn in range(repeats + 1):
                version, source = versions[turn % 2], tensors[turn % 2]
                loads.append(loader.load(version).seconds)
                # which of both comes first changes with each turn; the copy writes what is live then
                if turn % 2:
                    pauses.append(loader.commit().pause_seconds)
                    copies.append(_bare_copy(live, source))
                else:
                    before = tensors[(turn + 1) % 2] if turn else live
                    copies.append(_bare_copy(live, before))
                    pauses.append(loader.commit().pause_seconds)
                _tell(f"{staging} {turn}: load {loads[-1]:.2f} s, pause {pauses[-1]:.3f} s, copy_ {copies[-1]:.3f} s")
                if any(not _weights.same(live[key], source[key]) for key in live):
                    raise SystemExit(f"the weights are not those of the version, staged {staging}")
            size = sum(tensor.nbytes for tensor in _weights.unique(live))
        pause, copy = statistics.median(pauses[1:]), statistics.median(copies[1:])
        rows.append(
            {
                "staging": staging,
                "bytes": size,
                "pause_s": pause,
                "pauses_s": pauses[1:],
                "copy_s": copy,
                "copies_s": copies[1:],
                "ratio": pause / copy,
                "load_s": statistics.median(loads[1:]),
                "good": where == [tensor.data_ptr() for tensor in live.values()],
            }
        )
    return rows


def _bare_copy(live: dict[str, Any], source: dict[str, Any]) -> float:
    pairs = list(zip(_weights.unique(live), _weights.unique(source), strict=True))
    _settle(live)
    began_s = time.monotonic()
    with torch.inference_mode():
        for target, new in pairs:
            target.copy_(new)
    _settle(live)
    return time.monotonic() - began_s


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _settle(live: dict[str, Any]) -> None:
    if next(iter(live.values())).is_cuda:
        torch.cuda.synchronize()


# --- what memory does it take? ---


def _memory(directory: Path, device: str) -> Iterator[Row]:
    for staging in STAGINGS:
        for copies in (0, 1):
            command = [sys.executable, __file__, "--memory-of", str(directory), "--device", device]
            command += ["--staging", staging, "--rollback-copies", str(copies)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield json.loads(done.stdout)


def _memory_here(directory: Path, staging: str, rollback_copies: int, device: str) -> Row:
    """Load two versions in this process, which has done nothing before, and compare its peak with the plan."""
    versions = [_weights.sealed(path) for path in sorted(directory.iterdir())]
    live = _weights.read(versions[0], device)
    options: Row = {"staging": staging, "rollback_copies": rollback_copies, "current": versions[0]}
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    with HotLoader(live, **options) as loader:
        for version in (versions[1], versions[0], versions[1]):
            loader.load(version)
            loader.commit()
        plan = loader.memory
        extra = _status("VmHWM") - before
    if plan is None:
        raise SystemExit("nothing was loaded")
    return {
        "staging": staging,
        "rollback_copies": rollback_copies,
        "weights": sum(tensor.nbytes for tensor in _weights.unique(live)),
        "slabs": plan.slabs * plan.slab_bytes,
        "planned": plan.host_bytes,
        "planned_device": plan.device_bytes,
        "peak_extra": extra,
        "left": _status("VmRSS") - before,
        "good": extra <= plan.host_bytes + SLACK_BYTES,
    }


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


# --- what do faults leave? ---


def _faults(home: Path, device: str, loads: int) -> Iterator[Row]:
    tensors = [_weights.mixed(seed) for seed in (1, 2)]
    versions = [
        _weights.publish(home / f"mixed-{seed}", each, shard_bytes=400_000) for seed, each in enumerate(tensors)
    ]
    for staging in STAGINGS:
        for copies in (0, 1):
            yield _faults_of(versions, tensors, device, {"staging": staging, "rollback_copies": copies}, loads)


def _faults_of(versions: Sequence[VersionOnDisk], tensors: Sequence[Any], device: str, how: Row, loads: int) -> Row:
    live = _weights.blank(tensors[0], device)
    for key, tensor in live.items():
        tensor.copy_(tensors[0][key])
    where = [tensor.data_ptr() for tensor in live.values()]
    row: Row = {**how, "loads": loads, "steps": 0, "failed": 0, "mixtures": 0, "torn": 0, "leaks": 0, "moved": 0}
    step, now = 0, 0
    descriptors, threads = _descriptors(), threading.active_count()
    for _ in range(loads):
        step += 1
        backend = RecordingBackend(backend_for(torch.device(device)), live=list(live.values()))
        backend.arm(step)
        new = 1 - now
        loader = HotLoader(live, backend=backend, slab_bytes=_weights.CHUNK_BYTES, current=versions[now], **how)
        try:
            loader.load(versions[new])
            loader.commit()
        except TornWeights:
            row["torn"] += 1
        except (HotLoadError, InjectedFault):
            row["failed"] += 1
        now = new if loader.current == versions[new].digest else now
        loader.close()
        row["steps"] = max(row["steps"], step if backend.total >= step else 0)
        row["mixtures"] += any(not _weights.same(live[key], tensors[now][key]) for key in live)
        row["leaks"] += (
            sum(backend.taken.values()) > 0 or _descriptors() != descriptors or threading.active_count() != threads
        )
        row["moved"] += where != [tensor.data_ptr() for tensor in live.values()]
        if backend.total < step:
            step = 0  # the load ended before this step: begin again with the first
    row["good"] = not any(row[key] for key in ("mixtures", "torn", "leaks", "moved")) and row["failed"] > 0
    return row


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# --- report ---


def _report(found: dict[str, list[Row]], device: str, options: argparse.Namespace) -> str:
    def mib(size: int) -> str:
        return f"{size / MIB:.0f}"

    equal = [
        [name, str(rows[0]["tensors"]), *("equal" if row["good"] else "WRONG" for row in rows)]
        for name in DTYPES
        if (rows := [row for row in found["equal"] if row["dtype"] == name])
    ]
    pause = [
        [
            row["staging"],
            mib(row["bytes"]),
            f"{row['load_s']:.2f}",
            f"{row['pause_s'] * 1e3:.1f}",
            f"{row['copy_s'] * 1e3:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in found["pause"]
    ]
    memory = [
        [
            row["staging"],
            str(row["rollback_copies"]),
            mib(row["weights"]),
            mib(row["slabs"]),
            mib(row["planned"]),
            mib(row["peak_extra"]),
            mib(row["left"]),
            "within" if row["good"] else "ABOVE",
        ]
        for row in found["memory"]
    ]
    keys = ("staging", "rollback_copies", "loads", "steps", "failed", "mixtures", "torn", "leaks", "moved")
    faults = [[*(str(row[key]) for key in keys), "good" if row["good"] else "BAD"] for row in found["faults"]]
    return "\n".join(
        [
            f"{_name(device)}, torch {torch.__version__}; {machine()}, commit {commit()}",
            "\nlive tensors beside the published ones, ties included, addresses unchanged\n",
            table(["type", "tensors", *STAGINGS], equal),
            f"\nmedians of {options.repeats} commits and {options.repeats} bare copies, in turns\n",
            table(["staging", "MiB", "load s", "pause ms", "copy_ ms", "ratio"], pause),
            "\nhost memory beside the live tensors, MiB\n",
            table(["staging", "old kept", "weights", "slabs", "planned", "peak", "after close", ""], memory),
            f"\nloads with a fault, at every step in turn ({_weights.mixed_bytes() / MIB:.1f} MiB, every type)\n",
            table([*(key.replace("rollback_copies", "old kept") for key in keys), ""], faults),
        ]
    )


def _name(device: str) -> str:
    return str(torch.cuda.get_device_name()) if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuleBroken as error:
        sys.exit(f"a rule of the device is broken: {error}")

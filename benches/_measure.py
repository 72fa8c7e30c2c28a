"""What the benches measure with: CPU time of processes, medians of the runs that ended, tables, a line about the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_READ_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Run:
    """One transfer.

    Attributes:
        seconds: From the call that publishes until the last client holds the whole, verified; None when that never came (a hang).
        cpu_seconds: User and system time of all processes of the system meanwhile, over all cores.
        note: What went wrong.
    """

    seconds: float | None
    cpu_seconds: float
    note: str = ""


class CpuMeter:
    """The CPU time of some processes, with that of the children they have waited for (wget, for one)."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._before = self._now()

    def seconds(self) -> float:
        """Return what they have used since the meter was made."""
        return self._now() - self._before

    def _now(self) -> float:
        return sum(_cpu_seconds(pid) for pid in self._pids)


def _cpu_seconds(pid: int) -> float:
    # the command's name stands in brackets and may hold anything; fields 14 to 17 are utime, stime, cutime, cstime
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS_PER_S


def median_seconds(runs: Sequence[Run]) -> float | None:
    """Return the median of the seconds of the runs that ended; None when none did."""
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return statistics.median(seconds) if seconds else None


def median_cpu_seconds(runs: Sequence[Run]) -> float:
    """Return the median of the CPU seconds."""
    return statistics.median(run.cpu_seconds for run in runs)


def write_random_file(path: Path, size_bytes: int) -> bytes:
    """Write a file that nothing can compress or has seen before, and return its digest."""
    digest = hashlib.blake2b()
    with path.open("wb") as file:
        for offset in range(0, size_bytes, _READ_BYTES):
            part = os.urandom(min(_READ_BYTES, size_bytes - offset))
            digest.update(part)
            file.write(part)
    return digest.digest()


def digest_of_file(path: Path) -> bytes:
    """Return the digest of a file's bytes."""
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.digest()


def file_system_of(path: Path) -> str:
    """Return the type of the file system that a path lies on."""
    best, kind = Path("/"), "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, this_kind, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(Path(mount).parts) >= len(best.parts):
            best, kind = Path(mount), this_kind
    return kind


def machine() -> str:
    """Return one line about where this was measured."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory_gb = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")) / 1e6
    return (
        f"{os.cpu_count()} cores ({model}), {memory_gb:.0f} GB, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )


def commit() -> str:
    """Return the commit of this tree, with a `+` when it has changes; `unknown` outside a repository."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are as wide as their cells."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()

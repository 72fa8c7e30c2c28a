"""The lab: hosts on one machine, each in a network namespace with a link of its own rate, and the processes that run in them.

    with Lab([Link("origin", 200, 200), Link("host-1", 200, 200)]) as lab:
        process = lab.start("origin", ["some", "command"])
        lab.kill("origin")      # SIGKILL
        lab.cut("host-1")       # its link goes down

Needs root, the kernel's veth, bridge and tbf, and `ip` and `tc` of iproute2. Everything that hosts write lies in `lab.home`, on a tmpfs.
On leaving, also by Ctrl-C, the processes are killed by their numbers and the namespaces, the links and the files are removed. All
clocks are this machine's. `_lab_network` holds the links, `_lab_nodes` our nodes, `_libtorrent_swarm` those of libtorrent.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, NamedTuple, Self, TypeVar

from _lab_network import LabUnavailable, Link, Network, namespaces, why_not

from shardcast.demo.interrupts import Interrupts

__all__ = ["TMPFS", "Lab", "LabUnavailable", "Link", "best_seconds", "machine_cpu_seconds", "namespaces", "why_not"]

T = TypeVar("T")

TMPFS: Final = Path("/dev/shm")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class CpuSeconds(NamedTuple):
    """CPU time of one process: its own code's, and the kernel's on its behalf."""

    user: float
    system: float


def best_seconds(origin: Link, others: Sequence[Link], size_bytes: int) -> float:
    """Return T*: no system can bring `size_bytes` from the origin to all others in less, were a link's every bit payload.

    Source: Kumar, Ross: Peer-Assisted File Distribution, The Minimum Distribution Time (2006).
    """
    size_mbit = size_bytes * 8 / 1e6
    together = origin.up_mbps + sum(link.up_mbps for link in others)
    slowest = min(link.down_mbps for link in others)
    return max(size_mbit / origin.up_mbps, size_mbit / slowest, len(others) * size_mbit / together)


class Lab:
    """Some hosts, of which each runs one process.

    Raises:
        LabUnavailable: On entering.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = {link.name: link for link in links}
        self.network = Network(links)
        self._stack = ExitStack()
        self._interrupts = Interrupts()
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.home = TMPFS

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._interrupts)
            # entered first, left last: no Ctrl-C ends the cleaning
            stack.callback(self._clean)
            with self._interrupts.held():
                self.network.__enter__()
                self.home = Path(tempfile.mkdtemp(prefix=f"sc-lab-{os.getpid()}-", dir=TMPFS))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def hosts(self) -> list[str]:
        """The names of all hosts."""
        return list(self.links)

    @property
    def living(self) -> list[str]:
        """The hosts whose process runs."""
        return [host for host in self._processes if self.is_running(host)]

    def start(
        self, host: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None, stdin: bool = False
    ) -> subprocess.Popen[str]:
        """Start the process of a host; its output goes to `log_of` and its stdout to a pipe."""
        with self._interrupts.held(), self.log_of(host).open("a") as log:
            process = subprocess.Popen(
                [*self.network.command(host), *command],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                process_group=0,
            )
            self._processes[host] = process
        return process

    def run(self, host: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
        """Run a command inside a host to its end, and return what it printed.

        Raises:
            RuntimeError: It failed.
        """
        words = [*self.network.command(host), *command]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, process_group=0)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def call(self, host: str, function: Callable[[], T]) -> Future[T]:
        """Call a function on a thread whose sockets are those of a host."""
        return self.network.call(host, function)

    def stdout_of(self, host: str) -> IO[str]:
        """Return the pipe that a host's process prints to."""
        stdout = self._processes[host].stdout
        if stdout is None:
            raise ValueError(f"{host} has no pipe")
        return stdout

    def log_of(self, host: str) -> Path:
        """Return the file with what a host's process says on stderr."""
        return self.home / f"{host}.log"

    def address(self, host: str) -> str:
        """Return a host's IP address."""
        return self.network.address(host)

    def is_running(self, host: str) -> bool:
        """Whether a host's process runs. A dead one is not reaped: its CPU time stays readable."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._processes[host].returncode is None and not os.waitid(os.P_PID, self._processes[host].pid, flags)

    def kill(self, host: str) -> None:
        """End a host's process by SIGKILL; the kernel closes its connections, as of any process that crashes."""
        process = self._processes[host]
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    def cut(self, host: str) -> None:
        """Set a host's link down: neither it nor anybody else is told."""
        self.network.cut(host)

    def mend(self, host: str) -> None:
        """Set a host's link up again."""
        self.network.mend(host)

    def cpu_seconds(self) -> dict[str, CpuSeconds]:
        """Return the CPU time that each host's process has used, dead ones included."""
        return {host: _cpu_seconds(process.pid) for host, process in self._processes.items()}

    def _clean(self) -> None:
        with self._interrupts.held():
            for process in self._processes.values():
                process.kill()
            for process in self._processes.values():
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
            self.network.remove()
            if self.home != TMPFS:
                shutil.rmtree(self.home, ignore_errors=True)


def _cpu_seconds(pid: int) -> CpuSeconds:
    # the command's name stands in brackets and may hold anything; fields 14 and 15 are user and system time
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return CpuSeconds(int(fields[11]) / _TICKS_PER_S, int(fields[12]) / _TICKS_PER_S)


def machine_cpu_seconds() -> tuple[float, float]:
    """Return how many CPU seconds this machine has been busy, by anybody, and how many there were; the kernel's own work counts."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS_PER_S, sum(fields) / _TICKS_PER_S

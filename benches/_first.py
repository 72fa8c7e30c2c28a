"""The other system under test: the first SHARDCAST (`shardcast==0.3.2`), in an environment of the bench's own.

It is run with its defaults (50 MB shards, five versions kept), the middle nodes and the clients looking for new versions every second.
Some things of it need care, and get it here:

- its server binds all addresses: `_first_node` binds loopback instead;
- a client keeps the list of versions in one file beside the installed package, and a trial download in /tmp: two clients of one
  installation would take each other's files away, so each node has a copy of the package, and they start one after another;
- it asks each server for `data1.bin` when it starts: the file is put there;
- a client reads the list of versions twice, each time from a server drawn at random. When the second one has not yet got the version it
  guesses ten shards, and asks for those that do not exist without end. The more the middle nodes look at different times, the more
  often: so they begin in step. It still happens, and is reported as a hang.
"""

from __future__ import annotations

import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from _measure import CpuMeter, Run, digest_of_file

REQUIREMENT: Final = "shardcast==0.3.2"
_NODE: Final = Path(__file__).with_name("_first_node.py")
_START_TIMEOUT_S: Final = 60.0
_TRIAL_BYTES: Final = 1_000_000


class Unavailable(Exception):
    """The first SHARDCAST cannot be run here; the message says why."""


def install(home: Path) -> Path:
    """Make the environment, and return the folder with the installed package.

    Raises:
        Unavailable: A package or `wget` is missing.
    """
    if shutil.which("wget") is None:
        raise Unavailable("it downloads with wget, which is not installed")
    venv.create(home, with_pip=True, symlinks=True)
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(
            f"pip could not install {REQUIREMENT}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}"
        )
    return next((home / "lib").glob("python*/site-packages"))


class _Process:
    """One node, with the lines that it says."""

    def __init__(self, packages: Path, home: Path, *arguments: str) -> None:
        home.mkdir()
        copy = home / "package"
        copy.mkdir()
        shutil.copytree(packages / "shardcast", copy / "shardcast")
        self.data = home / "data"
        self.data.mkdir()
        self.log = home / "log"
        role, *rest = arguments
        # found first in its own copy, everything else in the environment that it is a copy from
        command = [
            sys.executable,
            "-I",
            "-c",
            _LAUNCH,
            str(copy),
            str(packages),
            str(_NODE),
            role,
            str(self.data),
            *rest,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, process_group=0
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, line: str) -> None:
        if self.process.stdin is None:
            raise ValueError("a node without stdin")
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self, deadline_s: float) -> str | None:
        """Return the next line, or None when there is none in time."""
        try:
            return self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            return None

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self._lines.put(line.rstrip("\n"))


_LAUNCH: Final = (
    "import runpy, sys; copy, packages, script = sys.argv[1:4]; sys.path[:0] = [copy, packages]; "
    "sys.argv = sys.argv[3:]; runpy.run_path(script, run_name='__main__')"
)


class First:
    """A running tree of one origin, middle nodes and clients."""

    name = "first"

    def __init__(self, origin: _Process, middles: Sequence[_Process], clients: Sequence[_Process]) -> None:
        self._origin = origin
        self._clients = clients
        self._pids = [node.process.pid for node in (origin, *middles, *clients)]

    def transfer(self, directory: Path, digest: bytes, *, timeout_s: float) -> Run:
        """Broadcast the one file of a directory, and wait until all clients have put it together; then compare the bytes of each."""
        file = next(directory.iterdir())
        meter = CpuMeter(self._pids)
        began_s, deadline_s = time.time(), time.monotonic() + timeout_s
        self._origin.say(str(file))
        version = (self._origin.hear(deadline_s) or "").removeprefix("published ")
        if not version:
            return Run(None, meter.seconds(), "the origin did not publish")
        ends: list[tuple[float, Path]] = []
        for client in self._clients:
            while (line := client.hear(deadline_s)) is not None:
                _, done, at_s, path = line.split(" ", 3)
                if done == version:
                    ends.append((float(at_s), Path(path)))
                    break
        cpu_s = meter.seconds()
        if len(ends) < len(self._clients):
            return Run(None, cpu_s, f"{len(self._clients) - len(ends)} clients hang after {timeout_s:g} s")
        wrong = [path for _, path in ends if digest_of_file(path) != digest]
        for _, path in ends:
            path.unlink()
        return (
            Run(None, cpu_s, f"{len(wrong)} clients hold other bytes") if wrong else Run(max(ends)[0] - began_s, cpu_s)
        )


@contextmanager
def running(packages: Path, home: Path, *, relays: int, clients: int) -> Iterator[First]:
    """Start a tree below `home`, and end it afterwards."""
    home.mkdir()
    nodes: list[_Process] = []

    def start(name: str, *arguments: str, until: str = "ready") -> _Process:
        node = _Process(packages, home / name, *arguments)
        nodes.append(node)
        if arguments[0] != "client":
            (node.data / "data1.bin").write_bytes(bytes(_TRIAL_BYTES))
        _await_line(node, until)
        return node

    try:
        ports = _free_ports(1 + relays)
        origin = start("origin", "origin", str(ports[0]))
        upstream = f"http://127.0.0.1:{ports[0]}"
        middles = [
            start(f"middle-{number}", "middle", str(port), upstream, until="imported")
            for number, port in enumerate(ports[1:], 1)
        ]
        for middle in middles:
            middle.say("begin")
            _await_line(middle, "ready")
        servers = ",".join(f"http://127.0.0.1:{port}" for port in ports[1:])
        leaves = [start(f"client-{number}", "client", servers) for number in range(1, clients + 1)]
        yield First(origin, middles, leaves)
    finally:
        for node in nodes:
            node.process.kill()
        for node in nodes:
            node.process.wait()


def _await_line(node: _Process, line: str) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while (heard := node.hear(min(deadline_s, time.monotonic() + 0.5))) != line:
        if time.monotonic() > deadline_s or node.process.poll() is not None or heard is not None:
            raise Unavailable(f"a node of it did not start: {node.log.read_text()[-500:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports

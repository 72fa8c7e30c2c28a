"""Real `shardcast-node` processes on loopback, as the tests of whole swarms start, ask, kill and read them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from shardcast.channel_files import ChannelFiles, create_channel
from shardcast.demo_data import write_demo_checkpoint

T = TypeVar("T")

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 40.0
#: What Python runs as a node; `-c` with a text that ends in the same `main` makes one with something changed.
NODE = ("-m", "shardcast.daemon")


class Daemon:
    """One `shardcast-node` process.

    Args:
        wrap: Words before the command, of a program that makes surroundings and then becomes the node.
        program: What Python is given to run.
    """

    def __init__(
        self, home: Path, name: str, flags: list[str], *, wrap: Sequence[str] = (), program: Sequence[str] = NODE
    ) -> None:
        self.name = name
        self._command = [*wrap, sys.executable, *program]
        self.data = home / name
        self._log_path = home / f"{name}.log"
        self._flags = flags
        self._process: subprocess.Popen[str] | None = None
        self.ready: dict[str, Any] = {}

    def start(self) -> Daemon:
        """Start the process; `wait_ready` waits for it."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))}
        with self._log_path.open("a") as log:
            self._process = subprocess.Popen(
                [*self._command, "--data", str(self.data), *self._flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        return self

    def wait_ready(self) -> Daemon:
        """Read the ready line."""
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self.name} ended with {self._process.wait(5)}: {self.log()[-2000:]}"
        self.ready = json.loads(line)
        return self

    @property
    def multiaddr(self) -> str:
        return str(self.ready["p2p"])

    @property
    def peer(self) -> str:
        return str(self.ready["peer_id"])

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        assert self._process is not None
        self._process.send_signal(number)

    def log(self) -> str:
        """Return everything that it has logged."""
        return self._log_path.read_text()

    def get(self, path: str) -> Any:
        """GET below /v1; JSON."""
        with urllib.request.urlopen(f"{self.ready['api']}/v1/{path}", timeout=70) as response:
            return json.load(response)

    def get_bytes(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        """GET below /v1; bytes."""
        request = urllib.request.Request(f"{self.ready['api']}/v1/{path}", headers=headers or {})
        with urllib.request.urlopen(request, timeout=70) as response:
            data: bytes = response.read()
            return data

    def publish(self, path: Path, step: int, **more: Any) -> dict[str, Any]:
        """Publish a checkpoint; return the last line of the answer."""
        body = json.dumps({"path": str(path), "step": step, **more}).encode()
        request = urllib.request.Request(
            f"{self.ready['api']}/v1/channels/demo/versions", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                last: dict[str, Any] = json.loads(response.read().splitlines()[-1])
        except urllib.error.HTTPError as error:
            last = {"event": "error", "problem": json.load(error)}
        return last

    def version(self, step: int) -> dict[str, Any]:
        """Return this node's view of a step, or an announced nothing."""
        try:
            view: dict[str, Any] = self.get(f"channels/demo/versions/{step}")
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return {"state": "unknown", "have_chunks": 0, "chunks": 0, "chunks_verified": 0}
        return view

    def wait_complete(self, step: int, *, timeout_s: float = 90.0) -> dict[str, Any]:
        """Return the view of a step once it is complete."""
        until(
            lambda: self.version(step)["state"] == "complete", timeout_s, lambda: f"{self.name}: {self.version(step)}"
        )
        return self.version(step)

    def pulled_tree(self, step: int) -> dict[str, bytes]:
        """Return the files of a complete version, read over the pull endpoint's local directory."""
        return tree_of(Path(self.version(step)["path"]))

    def has_neighbour(self) -> bool:
        """Whether it has joined the swarm."""
        return bool(self.get("status")["neighbours"])

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and wait; return the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(15)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code


class Swarm:
    """An origin and others of one channel, each a process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.channel: ChannelFiles = create_channel("demo", home)
        self.daemons: list[Daemon] = []

    def daemon(
        self,
        name: str,
        *flags: str,
        bootstrap: Daemon | None = None,
        wrap: Sequence[str] = (),
        program: Sequence[str] = NODE,
    ) -> Daemon:
        """Start a daemon of the channel; it is not waited for."""
        door = ["--bootstrap", bootstrap.multiaddr] if bootstrap else []
        ports = [part for plane in ("p2p", "serve", "api") for part in (f"--{plane}", "127.0.0.1:0")]
        everything = ["--channel", str(self.channel.root), *ports, *door, *flags]
        daemon = Daemon(self.home, name, everything, wrap=wrap, program=program)
        self.daemons.append(daemon)
        return daemon.start()

    def origin(self, *flags: str) -> Daemon:
        """Start the origin and wait for it."""
        return self.daemon("origin", "--origin-key", str(self.channel.origin_key), *flags).wait_ready()

    def others(self, origin: Daemon, *names: str, flags: tuple[str, ...] = ()) -> list[Daemon]:
        """Start some nodes that join at the origin, and wait until each has a neighbour."""
        started = [self.daemon(name, *flags, bootstrap=origin) for name in names]
        for daemon in started:
            daemon.wait_ready()
        for daemon in started:
            until(daemon.has_neighbour, 20.0, daemon.log)
        return started

    def checkpoint(self, step: int, size_bytes: int = 16 * MIB) -> Path:
        """Write a checkpoint."""
        path = self.home / f"step-{step}"
        write_demo_checkpoint(path, size_bytes, seed=7, step=step)
        return path


@contextmanager
def swarm(home: Path) -> Iterator[Swarm]:
    """Run a swarm, and end every process of it."""
    made = Swarm(home)
    try:
        yield made
    finally:
        for daemon in made.daemons:
            daemon.kill()


def until(condition: Callable[[], bool], timeout_s: float, explain: Callable[[], str] = lambda: "") -> None:
    """Wait until a condition of other processes holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {explain()}"
        time.sleep(0.05)


def tree_of(path: Path) -> dict[str, bytes]:
    """Return the files below a directory."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}

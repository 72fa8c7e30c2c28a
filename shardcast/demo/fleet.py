"""The fleet: `shardcast-node` processes that the demo has started, each of which it also ends.

A node writes its ready line and its log into files, so that neither can block it and both can be read when it has died. Every process
is the leader of a group of its own: Ctrl-C reaches the demo alone, which then ends them one by one, by process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from shardcast.api_client import ApiClient
from shardcast_proto.errors import ConfigError, TransferError

from .interrupts import Interrupts

Role = Literal["origin", "relay", "client"]

#: Importing libp2p takes 1.2 s of CPU; six nodes share what cores there are with the checkpoint's writer.
READY_TIMEOUT_S: Final = 60.0
#: A node that is told to stop does so within five seconds, or is killed.
STOP_TIMEOUT_S: Final = 7.0
LOG_TAIL_LINES: Final = 12
_POLL_S: Final = 0.05


class NodeFailed(TransferError):
    """A node of the demo ended, or did not do its part; `facts["log_tail"]` is the end of its log."""

    code = "demo_node_failed"

    @property
    def log_tail(self) -> list[str]:
        """The end of the node's log."""
        lines = self.facts.get("log_tail")
        return [str(line) for line in lines] if isinstance(lines, list) else []


@dataclass
class Node:
    """One node of the fleet.

    Attributes:
        name: What the demo calls it.
        role: What it does.
        process: The process.
        output: The file with its ready line.
        log: The file with its log.
        api: Its API, once it is ready.
        address: The multiaddr that others join at, once it is ready.
    """

    name: str
    role: Role
    process: subprocess.Popen[bytes]
    output: Path
    log: Path
    api: ApiClient | None = None
    address: str = ""

    def log_tail(self) -> list[str]:
        """Return the last lines of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]

    def failed(self, what: str) -> NodeFailed:
        """Return the error for a node that did not do its part."""
        return NodeFailed(f"{self.name} {what}", node=self.name, log=str(self.log), log_tail=self.log_tail())


class Fleet:
    """The running nodes, in the order in which they were started."""

    def __init__(self, directory: Path, interrupts: Interrupts) -> None:
        self._directory = directory
        self._interrupts = interrupts
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every node. Called again, it finds nothing to do."""
        with self._interrupts.held():
            stop_all([node.process for node in self.nodes])

    def start(self, name: str, role: Role, arguments: Sequence[str]) -> Node:
        """Start a node, without waiting for it."""
        home = self._directory / name
        home.mkdir()
        output, log = home / "ready.json", home / "log"
        command = [sys.executable, "-P", "-m", "shardcast.daemon", "--data", str(home / "data"), *arguments]
        for plane in ("p2p", "serve", "api"):
            command += [f"--{plane}", "127.0.0.1:0"]
        with output.open("wb") as stdout, log.open("wb") as stderr, self._interrupts.held():
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=_environment(),
                process_group=0,
            )
            node = Node(name, role, process, output, log)
            self.nodes.append(node)
        return node

    def await_ready(self, node: Node) -> ApiClient:
        """Wait until a node serves, and return its API.

        Raises:
            NodeFailed: It ended, or does not serve in time.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not (line := node.output.read_bytes()).endswith(b"\n"):
            self.check()
            if time.monotonic() > deadline_s:
                raise node.failed(f"was not ready within {READY_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
        try:
            ready = json.loads(line)
            node.api = ApiClient(ready["api"])
            node.address = ready["p2p"]
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise node.failed(f"said {line[:200]!r} instead of that it is ready") from error
        return node.api

    def check(self) -> None:
        """Make sure that every node still runs.

        Raises:
            NodeFailed: One has ended.
        """
        for node in self.nodes:
            if (code := node.process.poll()) is not None:
                raise node.failed(f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}")


def stop_all(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End processes: all are told at once, and those that have not ended in time are killed."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.kill(process.pid, number)


def _environment() -> dict[str, str]:
    """Return the variables for a node: ours without settings for nodes, with the places where we import from."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("SHARDCAST_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

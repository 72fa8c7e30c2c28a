"""The hosts of the loop: each a directory with a `shardcast-node` that is started, killed and started again.

In earnest these are machines. A host knows of another one what an operator would tell it: the channel's public root, an address to join at.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

_READY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 8.0
_LOG_TAIL_BYTES: Final = 2000


class HostFailed(Exception):
    """A process of a host ended, or did not do its part. The message has the end of its log."""


class Host:
    """One host: its directory, its node, and the program beside it.

    Attributes:
        name: What the demo calls it.
        api: The URL of the node's API, once it is ready.
        address: The multiaddr that others join at, once it is ready.
        program: The trainer or sampler, while there is one.
        starts: How often the program was started.
    """

    def __init__(self, home: Path, name: str, root: Path) -> None:
        self.name = name
        self.directory = home / name
        self.directory.mkdir()
        shutil.copy(root, self.directory / "channel.root")
        self.api = ""
        self.address = ""
        self.program: subprocess.Popen[str] | None = None
        self.starts = 0
        self._flags: list[str] = []
        self._node: subprocess.Popen[bytes] | None = None

    def start_node(self, *flags: str) -> None:
        """Start the node; `wait_ready` waits for it. A second start has the ports of the first."""
        self._flags = list(flags) or self._flags
        port = urlsplit(self.api).port or 0
        ports = ["--p2p", "127.0.0.1:0", "--serve", "127.0.0.1:0", "--api", f"127.0.0.1:{port}"]
        where = ["--data", str(self.directory / "data"), "--channel", str(self.directory / "channel.root")]
        (self.directory / "ready").unlink(missing_ok=True)
        with (self.directory / "ready").open("wb") as ready, (self.directory / "node.log").open("ab") as log:
            self._node = subprocess.Popen(
                [sys.executable, "-m", "shardcast.daemon", *where, *ports, *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=ready,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which ends its processes itself
            )

    def wait_ready(self) -> None:
        """Wait until the node serves.

        Raises:
            HostFailed: It ended, or was not ready in time.
        """
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        while not (text := (self.directory / "ready").read_text()).endswith("\n"):
            if self._node is None or self._node.poll() is not None or time.monotonic() > deadline_s:
                raise HostFailed(f"the node of {self.name} does not serve:\n{self._tail('node.log')}")
            time.sleep(0.05)
        ready: dict[str, Any] = json.loads(text)
        self.api, self.address = ready["api"], ready["p2p"]

    def start_program(self, module: str, *arguments: str) -> IO[str]:
        """Start the trainer or the sampler, and return what it tells."""
        with (self.directory / "program.log").open("a") as log:
            self.program = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.{module}", "--api", self.api, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.starts += 1
        if self.program.stdout is None:
            raise RuntimeError("a pipe was asked for")
        return self.program.stdout

    def kill_node(self) -> None:
        """SIGKILL the node."""
        _end(self._node, signal.SIGKILL)

    def kill_program(self) -> None:
        """SIGKILL the trainer or the sampler."""
        _end(self.program, signal.SIGKILL)

    def check(self) -> None:
        """Make sure that what was started runs.

        Raises:
            HostFailed: It does not.
        """
        if self.program is not None and self.program.poll() is not None:
            raise HostFailed(f"{self.name} ended with {self.program.returncode}:\n{self._tail('program.log')}")
        if self._node is not None and self._node.poll() is not None:
            raise HostFailed(f"the node of {self.name} ended with {self._node.returncode}:\n{self._tail('node.log')}")

    def stop(self) -> None:
        """End both processes."""
        _end(self.program, signal.SIGKILL)
        _end(self._node, signal.SIGTERM)

    def _tail(self, name: str) -> str:
        path = self.directory / name
        return path.read_text(errors="replace")[-_LOG_TAIL_BYTES:] if path.exists() else "(no log)"


def python_path() -> None:
    """Let processes that are started from here find the packages where this one has them."""
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(part for part in sys.path if part))


def _end(process: subprocess.Popen[Any] | None, number: signal.Signals) -> None:
    if process is None:
        return
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()

"""Our system under test in the lab: a `shardcast-node` in every host.

Published with the command `shardcast`, as a trainer does; followed over each node's API, from inside its host.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from _lab_runs import ORIGIN, Arrival, Totals
from _measure import ROOT
from lab import Lab

from shardcast.api_client import ApiClient
from shardcast.channel_files import create_channel
from shardcast_proto.errors import DaemonUnreachable, NotFound, NotReady, ShardcastError

CHANNEL: Final = "lab"
_READY_TIMEOUT_S: Final = 60.0
_SETTLE_S: Final = 4.0
_FIRST_CHUNK_POLL_S: Final = 0.02
_LONG_POLL_S: Final = 2.0
_API: Final = "http://127.0.0.1:7480"


class Nodes:
    """A swarm of our nodes, one in each host of a lab.

    Args:
        checkpoint: What is published first.
        is_paced: Whether each node is told its uplink.
    """

    def __init__(self, lab: Lab, checkpoint: Path, *, is_paced: bool = True, flags: tuple[str, ...] = ()) -> None:
        self._lab = lab
        #: What is published next.
        self.checkpoint = checkpoint
        self._is_paced = is_paced
        self._flags = flags
        self._environment = _environment()
        self._step = 0
        self._others = [host for host in lab.hosts if host != ORIGIN]
        self._arrivals = {host: Arrival() for host in self._others}
        self._views: dict[str, dict[str, Any]] = {}
        self._before: dict[str, dict[str, float]] = {}
        self._followers: list[Future[None]] = []
        self._is_over = threading.Event()
        self.published: dict[str, Any] = {}

    def prepare(self) -> None:
        """Start the origin, then all others with its address, and wait until their neighbourhoods have settled."""
        files = create_channel(CHANNEL, self._lab.home / "channel")
        self._start(ORIGIN, "--channel", str(files.root), "--role", "relay", "--origin-key", str(files.origin_key))
        door = self._await_ready(ORIGIN)["p2p"]
        for host in self._others:
            self._start(host, "--channel", str(files.root), "--role", "relay", "--bootstrap", door)
        for host in self._others:
            self._await_ready(host)
        self._settle()

    def begin(self) -> float:
        """Publish the next step, and follow it at all hosts; the clock starts when the head is signed."""
        self._step += 1
        self._is_over.clear()
        self._views = {}
        self._before = {host: self._metrics(host) for host in self._lab.living}
        self._arrivals = {host: Arrival() for host in self._others}
        words = ["publish", str(self.checkpoint), "--channel", CHANNEL, "--step", str(self._step), "--json"]
        command = [sys.executable, "-P", "-m", "shardcast.cli", *words]
        self.published = json.loads(self._lab.run(ORIGIN, command, environment=self._environment))
        self._followers = [self._lab.call(host, lambda host=host: self._follow(host)) for host in self._others]
        return float(self.published["signed_at"])

    def arrivals(self) -> dict[str, Arrival]:
        """Return how far every host is."""
        for host, arrival in self._arrivals.items():
            if arrival.completed_at is None and not arrival.is_lost:
                arrival.is_lost = not self._lab.is_running(host)
        return self._arrivals

    def totals(self) -> Totals:
        """Return what the nodes that live have counted."""
        self._is_over.set()
        for follower in self._followers:
            follower.result()
        living = self._lab.living
        counts = {host: self._metrics(host) for host in living}
        gained = {
            host: {name: value - self._before[host].get(name, 0.0) for name, value in counts[host].items()}
            for host in living
        }
        control = [gains["shardcast_control_bytes_total"] for gains in gained.values() if _counts_control(gains)]
        chunk_size = max((int(view["chunk_size"]) for view in self._views.values()), default=0)
        duplicates = sum(int(view["duplicate_chunks"]) for view in self._views.values())
        return Totals(
            origin_payload_bytes=int(gained[ORIGIN]["shardcast_sent_bytes_total"]),
            duplicate_bytes=duplicates * chunk_size,
            control_bytes=int(sum(control)) if control else None,
            hash_seconds=float(self.published["hash_seconds"]),
        )

    def copy_at(self, host: str) -> Path:
        """Return the directory of the version in a node's store."""
        return Path(self._views[host]["path"])

    def _start(self, host: str, *flags: str) -> None:
        address, link = self._lab.address(host), self._lab.links[host]
        planes = ["--p2p", f"{address}:7481", "--serve", f"{address}:7482", "--api", "127.0.0.1:7480"]
        pace = ["--up-mbps", str(link.up_mbps)] if self._is_paced else []
        data = ["--data", str(self._lab.home / host), "--keep", "2"]
        command = [sys.executable, "-P", "-m", "shardcast.daemon", *data, *planes, *pace, *flags, *self._flags]
        self._lab.start(host, command, environment=self._environment)

    def _await_ready(self, host: str) -> dict[str, Any]:
        line = self._lab.stdout_of(host).readline()
        if not line:
            raise RuntimeError(f"{host} did not start: {self._lab.log_of(host).read_text()[-2000:]}")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _settle(self) -> None:
        """Wait until everybody has neighbours, and nobody has found another one for a while."""
        deadline_s, before, since_s = time.monotonic() + _READY_TIMEOUT_S, [0], time.monotonic()
        while 0 in before or time.monotonic() < since_s + _SETTLE_S:
            now = [self._lab.call(host, lambda: ApiClient(_API).status()["neighbours"]) for host in self._lab.hosts]
            counts = [answer.result() for answer in now]
            if counts != before:
                before, since_s = counts, time.monotonic()
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"neighbours after {_READY_TIMEOUT_S:g} s: {counts}")
            time.sleep(0.1)

    def _follow(self, host: str) -> None:
        """Follow the version at one host until it is complete; the first chunk is looked for unless the node says when it came."""
        api, arrival = ApiClient(_API), self._arrivals[host]
        try:
            while not self._is_over.is_set() and arrival.completed_at is None:
                view = self._look(api, is_long=arrival.first_chunk_at is not None)
                if view is None:
                    time.sleep(_FIRST_CHUNK_POLL_S)
                    continue
                self._views[host] = view
                arrival.share = int(view["have_chunks"]) / max(int(view["chunks"]), 1)
                arrival.completed_at = view["completed_at"]
                told = view.get("first_chunk_at")
                if told is not None:
                    arrival.first_chunk_at = float(told)
                elif arrival.first_chunk_at is None and int(view["chunks_verified"]):
                    arrival.first_chunk_at = time.time()
                elif arrival.first_chunk_at is None:
                    time.sleep(_FIRST_CHUNK_POLL_S)
        except DaemonUnreachable:
            arrival.is_lost = True

    def _look(self, api: ApiClient, *, is_long: bool) -> dict[str, Any] | None:
        selector = str(self._step)
        try:
            return api.wait(CHANNEL, selector, timeout_s=_LONG_POLL_S) if is_long else api.version(CHANNEL, selector)
        except NotReady:
            return api.version(CHANNEL, selector)
        except NotFound:
            return None
        except DaemonUnreachable:
            raise
        except ShardcastError as error:
            raise DaemonUnreachable(str(error)) from error

    def _metrics(self, host: str) -> dict[str, float]:
        return self._lab.call(host, _read_metrics).result()


def _read_metrics() -> dict[str, float]:
    """Return every sample of a node's metrics by its name; those that differ in labels alone are added up."""
    import urllib.request

    with urllib.request.urlopen(f"{_API}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    samples: dict[str, float] = {}
    for line in lines:
        is_received = line.startswith("shardcast_control_bytes_total{") and 'direction="sent"' not in line
        if not line.startswith("#") and not is_received:  # what one node sends another receives: it is counted once
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            samples[name] = samples.get(name, 0.0) + float(value)
    return samples


def _counts_control(gains: dict[str, float]) -> bool:
    return "shardcast_control_bytes_total" in gains


def _environment() -> dict[str, str]:
    """Return the variables for a node of this tree: ours, without settings for nodes."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("SHARDCAST_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))}

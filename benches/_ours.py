"""One system under test: our nodes, as `shardcast-node` processes on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from _measure import CpuMeter, Run, digest_of_file

from shardcast.channel_files import create_channel
from shardcast.demo.fleet import Fleet, Node
from shardcast.demo.interrupts import Interrupts
from shardcast_proto.errors import ShardcastError

CHANNEL: Final = "bench"
_NEIGHBOURS_TIMEOUT_S: Final = 30.0


class Ours:
    """A running swarm of one origin, relays and clients."""

    name = "ours"

    def __init__(self, fleet: Fleet, *, relays: int, clients: int) -> None:
        self._fleet = fleet
        self._origin = fleet.nodes[0]
        self._clients = fleet.nodes[1 + relays :]
        self._step = 0
        if len(self._clients) != clients:
            raise ValueError("a node is missing")

    def transfer(self, directory: Path, digest: bytes, *, timeout_s: float) -> Run:
        """Publish the one file of a directory, and wait until all clients hold it; afterwards each one's bytes are compared."""
        self._step += 1
        step = str(self._step)
        meter = CpuMeter([node.process.pid for node in self._fleet.nodes])
        began_s = time.time()
        try:
            self._fleet.await_ready(self._origin).publish(CHANNEL, {"path": str(directory), "step": self._step})
            with ThreadPoolExecutor(len(self._clients)) as pool:
                views = list(
                    pool.map(
                        lambda node: self._fleet.await_ready(node).wait(CHANNEL, step, timeout_s=timeout_s),
                        self._clients,
                    )
                )
        except ShardcastError as error:
            return Run(None, meter.seconds(), error.message)
        cpu_s = meter.seconds()
        file = next(directory.iterdir()).name
        wrong = [view for view in views if digest_of_file(Path(view["path"]) / file) != digest]
        if wrong:
            return Run(None, cpu_s, f"{len(wrong)} clients hold other bytes")
        return Run(max(float(view["completed_at"]) for view in views) - began_s, cpu_s)


@contextmanager
def running(home: Path, *, relays: int, clients: int) -> Iterator[Ours]:
    """Start a swarm below `home`, wait until everybody has a neighbour, and end it afterwards."""
    home.mkdir()
    with Interrupts() as interrupts, Fleet(home, interrupts) as fleet:
        files = create_channel(CHANNEL, home / "channel")
        # `--keep 1`: what the bench wrote before must not fill the memory that a tmpfs is
        follow = ["--channel", str(files.root), "--keep", "1"]
        origin = fleet.start("origin", "origin", [*follow, "--role", "relay", "--origin-key", str(files.origin_key)])
        fleet.await_ready(origin)
        for role, count in (("relay", relays), ("client", clients)):
            for number in range(1, count + 1):
                arguments = [*follow, "--role", role, "--bootstrap", origin.address]
                fleet.start(f"{role}-{number}", "relay" if role == "relay" else "client", arguments)
        for node in fleet.nodes:
            _await_neighbour(fleet, node)
        yield Ours(fleet, relays=relays, clients=clients)


def _await_neighbour(fleet: Fleet, node: Node) -> None:
    api = fleet.await_ready(node)
    deadline_s = time.monotonic() + _NEIGHBOURS_TIMEOUT_S
    while not api.status()["neighbours"]:
        fleet.check()
        if time.monotonic() > deadline_s:
            raise node.failed("found no neighbour")
        time.sleep(0.1)

"""The story that the demo tells: a channel, six nodes, two steps, and nothing taken on trust.

It does what a user would do, through the same API: publish, wait, pull, fetch a part of a file. It ends without an error only if every
pulled directory is byte for byte the published one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardcast.api_client import ApiClient, View
from shardcast.channel_files import ChannelFiles, create_channel
from shardcast.demo_data import write_demo_checkpoint
from shardcast.pull import pull
from shardcast.store.faults import disk_errors, free_bytes
from shardcast_proto.errors import Conflict, StoreError

from .compare import compare_trees, probe_range
from .fleet import Fleet, Node, NodeFailed
from .interrupts import Interrupts
from .report import DemoReport, NodeRow, StepReport
from .screen import Mode, Screen
from .watch import Glance, Watch

CHANNEL: Final = "demo"
STEPS: Final = (1, 2)
RELAYS: Final = 3
CLIENTS: Final = 2
#: Any number; the same one gives the same weights.
SEED: Final = 20_240_611
#: Slower than any disk that the demo is worth running on.
RATE_BYTES_PER_S_MIN: Final = 4_000_000
STEP_TIMEOUT_S: Final = 60.0
NEIGHBOURS_TIMEOUT_S: Final = 20.0
#: Two published checkpoints, two in each store of five nodes; the origin's and the pulled ones are links.
_COPIES: Final = len(STEPS) * (1 + RELAYS + CLIENTS)


@dataclass(frozen=True)
class DemoOptions:
    """What the user chose.

    Attributes:
        size_bytes: About how large a checkpoint is.
        keep: Where to work, and leave everything; None for a directory that is removed.
        mode: How much is shown meanwhile.
    """

    size_bytes: int
    keep: Path | None = None
    mode: Mode = "plain"


def run_demo(options: DemoOptions) -> DemoReport:
    """Run the demo and return its report.

    Raises:
        NodeFailed: A node ended, or did not do its part.
        IntegrityError: A byte is not as it was published.
        StoreError: There is not enough room.
        KeyboardInterrupt: Somebody ended it; all nodes have been ended too.
    """
    screen = Screen(options.mode)
    with Interrupts() as interrupts, _workplace(options, interrupts) as directory:
        try:
            with Fleet(directory, interrupts) as fleet:
                report = _Demo(options, screen, directory, fleet).run()
                with screen.phase("ending the nodes"):
                    fleet.stop()
                return report
        except NodeFailed as error:
            screen.trouble(error.log_tail)
            error.hint = (
                f"its log is {error.facts['log']}" if options.keep else "run it again with --keep DIR to keep its log"
            )
            raise


@contextmanager
def _workplace(options: DemoOptions, interrupts: Interrupts) -> Iterator[Path]:
    """Make the directory that everything happens in."""
    if options.keep is not None:
        with disk_errors("looking at", options.keep):
            directory = options.keep.absolute()
            is_used = os.path.lexists(directory) and any(directory.iterdir())
        if is_used:
            raise Conflict(f"{directory} is not empty", hint="choose a new directory for --keep", path=str(directory))
        # nothing is made where there is no room
        _check_room(directory, options.size_bytes)
        with disk_errors("creating", directory):
            directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    try:
        directory = Path(tempfile.mkdtemp(prefix="shardcast-demo-"))
    except OSError as error:
        raise StoreError(
            f"cannot make a temporary directory: {error.strerror}", hint="name a directory with --keep"
        ) from error
    try:
        _check_room(directory, options.size_bytes)
        yield directory
    finally:
        with interrupts.held():
            shutil.rmtree(directory, ignore_errors=True)


def _check_room(directory: Path, size_bytes: int) -> None:
    needed, free = int(1.1 * _COPIES * size_bytes), free_bytes(directory)
    if free < needed:
        raise StoreError(
            f"the demo needs {needed / 1e9:.1f} GB in {directory}, {free / 1e9:.1f} GB are free",
            hint="name a directory on a larger disk with --keep, or take less with --bytes",
            needed_bytes=needed,
            free_bytes=free,
        )


class _Demo:
    """One run, from the channel to the report."""

    def __init__(self, options: DemoOptions, screen: Screen, directory: Path, fleet: Fleet) -> None:
        self._options = options
        self._screen = screen
        self._directory = directory
        self._fleet = fleet

    def run(self) -> DemoReport:
        began_s = time.monotonic()
        origin = self._set_up()
        steps = tuple(self._step(origin, step) for step in STEPS)
        reader = self._fleet.nodes[-1]
        with self._screen.phase(f"fetching one tensor from {reader.name} by HTTP Range, as an engine would"):
            api = self._fleet.await_ready(reader)
            probe = probe_range(api, CHANNEL, str(STEPS[-1]), self._checkpoint(STEPS[-1]), node=reader.name)
        kept = str(self._directory) if self._options.keep is not None else None
        return DemoReport(steps, probe, time.monotonic() - began_s, kept)

    def _set_up(self) -> ApiClient:
        """Write the checkpoints while the nodes start, and return the origin's API."""
        files = create_channel(CHANNEL, self._directory / "channel")
        size = f"{self._options.size_bytes / 1e6:.0f} MB"
        follow = ["--channel", str(files.root)]
        origin = self._fleet.start("origin", "origin", [*follow, "--role", "relay", *_keys(files)])
        with self._screen.phase(f"writing a checkpoint of {size}, starting the origin"):
            self._write(STEPS[0])
            api = self._fleet.await_ready(origin)
        for role, count in (("relay", RELAYS), ("client", CLIENTS)):
            for number in range(1, count + 1):
                arguments = [*follow, "--role", role, "--bootstrap", origin.address]
                self._fleet.start(f"{role}-{number}", "relay" if role == "relay" else "client", arguments)
        with self._screen.phase(f"writing the next one, starting {RELAYS} relays and {CLIENTS} clients"):
            for step in STEPS[1:]:
                self._write(step)
            for node in self._fleet.nodes:
                self._await_neighbour(node)
        return api

    def _write(self, step: int) -> None:
        path = self._checkpoint(step)
        with disk_errors("writing", path):
            write_demo_checkpoint(path, self._options.size_bytes, SEED, step)

    def _checkpoint(self, step: int) -> Path:
        return self._directory / f"step-{step}"

    def _await_neighbour(self, node: Node) -> None:
        api = self._fleet.await_ready(node)
        deadline_s = time.monotonic() + NEIGHBOURS_TIMEOUT_S
        while not api.status()["neighbours"]:
            self._fleet.check()
            if time.monotonic() > deadline_s:
                raise node.failed(f"found no neighbour within {NEIGHBOURS_TIMEOUT_S:g} s")
            time.sleep(0.1)

    def _step(self, origin: ApiClient, step: int) -> StepReport:
        path = self._checkpoint(step)
        watch = Watch(self._fleet, step)
        timeout_s = STEP_TIMEOUT_S + self._options.size_bytes / RATE_BYTES_PER_S_MIN
        title = f"step {step} of {len(STEPS)}, from the origin to {RELAYS} relays and {CLIENTS} clients"
        with self._screen.transfer(title) as show:
            show(watch.glances())
            published = origin.publish(CHANNEL, {"path": str(path), "step": step})
            glances = watch.until_complete(timeout_s, show)
        with self._screen.phase(f"pulling step {step} from each node, comparing every byte"):
            identical = {node.name: self._pull(node, step) for node in self._fleet.nodes if node.role != "origin"}
        rows = tuple(_row(glance, published, identical.get(glance.name)) for glance in glances)
        return StepReport(
            step, published["seq"], published["manifest"], published["bytes"], published["hash_seconds"], rows
        )

    def _pull(self, node: Node, step: int) -> int:
        """Pull a version from a node as a user would, and return how many bytes were compared."""
        api = self._fleet.await_ready(node)
        target = self._directory / node.name / f"pulled-{step}"
        pull(api, api.version(CHANNEL, str(step)), target)
        return compare_trees(self._checkpoint(step), target, name=f"step {step} from {node.name}")


def _keys(files: ChannelFiles) -> list[str]:
    return ["--origin-key", str(files.origin_key)]


def _row(glance: Glance, published: View, identical_bytes: int | None) -> NodeRow:
    view: View = glance.view or {}
    seconds = None
    if identical_bytes is not None:
        seconds = max(0.001, float(view["completed_at"]) - float(published["signed_at"]))
    return NodeRow(
        node=glance.name,
        role=glance.role,
        seconds=seconds,
        mb_per_s=None if seconds is None else published["bytes"] / 1e6 / seconds,
        bytes_from_origin=glance.from_origin_bytes,
        bytes_from_peers=glance.from_peers_bytes,
        bytes_sent=glance.sent_bytes,
        chunks_verified=int(view.get("chunks_verified", 0)),
        duplicate_chunks=int(view.get("duplicate_chunks", 0)),
        identical_bytes=identical_bytes,
    )

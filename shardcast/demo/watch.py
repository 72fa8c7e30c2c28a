"""The watch over a fleet: how far each node is with one version, several times a second.

Every node is asked by a thread of its own, so that a slow one does not hold up the picture of the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from shardcast.api_client import ApiClient, View
from shardcast_proto.errors import DaemonUnreachable, TransferError

from .fleet import Fleet, Node, Role

ASK_INTERVAL_S: Final = 0.2
#: A busy node may miss some looks; what ends the demo is the version's own deadline.
_ASK_TIMEOUT_S: Final = 5.0
#: A rate is taken over this many looks: one second.
_LOOKS: Final = 6


@dataclass(frozen=True)
class Glance:
    """One node at one moment, for one version.

    Attributes:
        name: The node.
        role: What it does.
        share: How much of the version it holds, from 0 to 1.
        rate_bytes_per_s: How fast it receives; for the origin, how fast it sends.
        from_origin_bytes: Bytes of the version that came from the origin.
        from_peers_bytes: Bytes of the version that came from other nodes.
        sent_bytes: Bytes of chunks that it has sent since the version was published.
        view: The version as the node shows it; None while it does not know it.
    """

    name: str
    role: Role
    share: float
    rate_bytes_per_s: float
    from_origin_bytes: int
    from_peers_bytes: int
    sent_bytes: int
    view: View | None

    @property
    def is_complete(self) -> bool:
        """Whether the node holds the version complete."""
        return self.view is not None and self.view["state"] == "complete"


class Watch:
    """Looks at all nodes of a fleet for one step until each holds it complete."""

    def __init__(self, fleet: Fleet, step: int) -> None:
        self._fleet = fleet
        self._step = step
        self._meters = {node.name: _Meter() for node in fleet.nodes}
        self._sent_before = {node.name: int(_api(node).status()["sent_bytes"]) for node in fleet.nodes}
        self._last = {node.name: Glance(node.name, node.role, 0.0, 0.0, 0, 0, 0, None) for node in fleet.nodes}

    def glances(self) -> list[Glance]:
        """Return the nodes as they were seen last."""
        return list(self._last.values())

    def until_complete(self, timeout_s: float, show: Callable[[Sequence[Glance]], None]) -> list[Glance]:
        """Look until every node holds the version complete, and return how they are then.

        Raises:
            NodeFailed: A node ended, failed to store the version, or is not complete in time.
        """
        deadline_s = time.monotonic() + timeout_s
        for glances in self._looks():
            show(glances)
            if all(glance.is_complete for glance in glances):
                return glances
            self._fleet.check()
            for node, glance in zip(self._fleet.nodes, glances, strict=True):
                if glance.view is not None and glance.view["state"] == "failed":
                    raise node.failed(f"failed at step {self._step}: {glance.view['error']}")
            if time.monotonic() > deadline_s:
                late = next(node for node in self._fleet.nodes if not self._last[node.name].is_complete)
                raise late.failed(f"did not complete step {self._step} within {timeout_s:g} s")
        raise TransferError("nobody looks any more")

    def _looks(self) -> Iterator[list[Glance]]:
        nodes = self._fleet.nodes
        with ThreadPoolExecutor(len(nodes), thread_name_prefix="watch") as pool:
            while True:
                began_s = time.monotonic()
                for glance in pool.map(self._look, nodes):
                    self._last[glance.name] = glance
                yield self.glances()
                time.sleep(max(0.0, began_s + ASK_INTERVAL_S - time.monotonic()))

    def _look(self, node: Node) -> Glance:
        try:
            status = _api(node).status(timeout_s=_ASK_TIMEOUT_S)
        except DaemonUnreachable:
            # it may be busy, or have ended: that is for `Fleet.check` to say
            return self._last[node.name]
        view = _version(status, self._step)
        sent = int(status["sent_bytes"]) - self._sent_before[node.name]
        if view is None:
            return Glance(node.name, node.role, 0.0, 0.0, 0, 0, sent, None)
        share = 1.0 if view["state"] == "complete" else view["have_chunks"] / max(1, view["chunks"])
        from_origin, from_peers = int(view["bytes_from_origin"]), int(view["bytes_from_peers"])
        moved = sent if node.role == "origin" else from_origin + from_peers
        rate = self._meters[node.name].rate(moved)
        return Glance(node.name, node.role, share, rate, from_origin, from_peers, sent, view)


class _Meter:
    """The rate of a counter over the last looks."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_LOOKS)

    def rate(self, value: int) -> float:
        now_s = time.monotonic()
        self._samples.append((now_s, value))
        first_s, first = self._samples[0]
        return (value - first) / (now_s - first_s) if now_s > first_s else 0.0


def _api(node: Node) -> ApiClient:
    if node.api is None:
        raise node.failed("is not ready")
    return node.api


def _version(status: View, step: int) -> View | None:
    for channel in status["channels"]:
        for view in (channel["head"], *channel["fetching"]):
            if view is not None and view["step"] == step:
                found: View = view
                return found
    return None

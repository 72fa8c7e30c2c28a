"""The checkers of a swarm: what must hold after every event, whatever happens to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shardcast_proto.ids import Digest, PeerId

if TYPE_CHECKING:
    from tests.sim.host import Host

#: An order may end so long after its deadline: with the idle timeout of a fetch, and what a lost reset takes to be seen.
GRACE_S = 20.0


class Broken(AssertionError):
    """An invariant of the swarm does not hold."""


class Orders:
    """The orders of one host that have started work and not ended: each has exactly one ending, and not long after its deadline."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._open: dict[int, tuple[object, float]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._open)

    def start(self, what: object, deadline_s: float) -> int:
        """Note an order; return its number."""
        self._count += 1
        self._open[self._count] = (what, deadline_s)
        return self._count

    def end(self, number: int) -> None:
        """Note the ending of an order."""
        if self._open.pop(number, None) is None:
            raise Broken(f"an order of {self._owner} ended twice")

    def check(self, now_s: float) -> None:
        """See that the oldest order is not overdue: one whose ending was lost becomes the oldest soon."""
        for what, deadline_s in self._open.values():
            if now_s > deadline_s + GRACE_S:
                raise Broken(f"an order of {self._owner} never ended: {what}")
            return

    def check_all(self, now_s: float) -> None:
        """See that no order is overdue."""
        for what, deadline_s in self._open.values():
            if now_s > deadline_s + GRACE_S:
                raise Broken(f"an order of {self._owner} never ended: {what}")


def check_disk(host: Host) -> None:
    """Nobody ever holds an unverified chunk: what the machine says is what the disk holds."""
    for blob, transfer in host.machine.downloads.transfers.items():
        if transfer.have.mask != host.disk[blob]:
            raise Broken(f"host {host.number} and its disk disagree about the chunks that are held")


def check_trees(host: Host) -> None:
    """No tree has a cycle through this host. Walks only when the host's own edges have changed, since a new cycle has a new edge."""
    forest = getattr(host.machine, "trees", None)
    if forest is None:
        return
    for blob in host.disk:
        edges = (tuple(forest.edges(blob)), tuple(forest.children(blob)))
        if host.seen_edges.get(blob) != edges:
            host.seen_edges[blob] = edges
            for stripe, _ in edges[0]:
                _walk_up(host, blob, stripe)


def _walk_up(host: Host, blob: Digest, stripe: int) -> None:
    path = {host.peer: None}
    node = host
    while (parent := next(_parents(node, blob, stripe), None)) is not None:
        if parent.peer in path:
            numbers = [host.world.hosts[peer].number for peer in path]
            raise Broken(f"the tree of stripe {stripe} has a cycle: {numbers} and back to {parent.number}")
        path[parent.peer] = None
        node = parent


def _parents(node: Host, blob: Digest, stripe: int) -> Iterator[Host]:
    """Yield the parent in a stripe, when it too says that it is."""
    for edge_stripe, peer in node.machine.trees.edges(blob):
        parent = node.world.hosts.get(peer)
        if edge_stripe == stripe and parent is not None and _has_child(parent, blob, stripe, node.peer):
            yield parent


def _has_child(parent: Host, blob: Digest, stripe: int, child: PeerId) -> bool:
    return parent.is_alive and (stripe, child) in parent.machine.trees.children(blob)

"""The place of this node in the trees of one blob: a parent and children for each stripe.

Theory. A stripe is a share of the chunks with a spanning tree of its own, rooted at the source; which stripe a chunk goes by is decided
when the source hands it out. A node attaches to a neighbour that is in the stripe already and has room for another child; the neighbour
adopts it, or redirects it to children of its own.

*No cycles.* Only a node without children in a stripe attaches in it, and while it waits for the answer it adopts nobody there: whoever
becomes a child is nobody's ancestor, so no edge can close a cycle. A node that loses its parent lets its children go, and they attach
anew by themselves. The one exception, a parent that is the source, cannot close a cycle either: a source has no parent.

*Room.* A node can feed k = stripes * uplink / mean uplink of its neighbourhood children: that many times a stripe's share of the rate at
which the swarm as a whole can go. To keep the trees flat it gives its room to as few stripes as will take it. Where all nodes are
neighbours, the children of the source feed each other whatever their room: these trees are one level deep, and the source gives each of
them as much as it passes on. In a larger swarm a node gives `tree_share` of its uplink to trees below the roots (nothing, by default: see
there), slow nodes are leaves, and the mesh, which uses whatever is left wherever it is, does the rest.

Source: SplitStream (Castro et al., SOSP 2003) for interior nodes in few stripes; the rest is of this package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.messages import DEPTH_MAX, Trees

#: The stripe under which an Attach to a source is kept while it is not known which one it will be.
ANY: Final = -1


@dataclass(frozen=True)
class Parent:
    """Who feeds us in a stripe, and how deep that puts us below the source."""

    peer: PeerId
    depth: int


@dataclass
class Stripes:
    """The edges of one blob at this node. It sends nothing.

    Invariant: children in a stripe only with a parent in it, or at the source; nobody is parent and child in one stripe.
    """

    blob: Digest
    is_source: bool
    #: Our parents, by stripe.
    parents: dict[int, Parent] = field(default_factory=dict)
    #: Our children and the stripes that each is fed in.
    children: dict[PeerId, dict[int, None]] = field(default_factory=dict)
    #: Whom we asked to adopt us, by stripe, with the time until which we wait.
    asked: dict[int, tuple[PeerId, float]] = field(default_factory=dict)
    #: Who declined, by stripe, and until when it is not asked again.
    declined: dict[tuple[PeerId, int], float] = field(default_factory=dict)
    #: Former roots that passed nothing on.
    dismissed: dict[PeerId, None] = field(default_factory=dict)
    #: What neighbours said of their places.
    heard: dict[PeerId, Trees] = field(default_factory=dict)

    @property
    def edge_count(self) -> int:
        """How many children there are, each counted once for each stripe."""
        return sum(map(len, self.children.values()))

    def interior(self) -> dict[int, int]:
        """Return the stripes in which we feed somebody, with the number of children."""
        counts: dict[int, int] = {}
        for stripes in self.children.values():
            for stripe in stripes:
                counts[stripe] = counts.get(stripe, 0) + 1
        return counts

    def fed_in(self, stripe: int) -> list[PeerId]:
        """Return the children in a stripe."""
        return [peer for peer, stripes in self.children.items() if stripe in stripes]

    def sources(self) -> list[PeerId]:
        """Return the neighbours that are sources of the blob."""
        return [peer for peer, trees in self.heard.items() if trees.depths == (0,)]

    def would_feed(self, stripe: int, *, room: int, interior_max: int, is_small: bool) -> bool:
        """Whether another child is welcome in a stripe. `is_small`: all nodes that are known are neighbours."""
        parent = self.parents.get(stripe)
        if parent is None or stripe in self.asked:
            return False
        if is_small:
            return parent.depth == 1
        interior = self.interior()
        return room > self.edge_count and (stripe in interior or len(interior) < interior_max)

    def may_adopt(self, peer: PeerId, stripe: int, *, room: int, interior_max: int, is_small: bool) -> bool:
        """Whether a peer that asked may become a child."""
        parent = self.parents.get(stripe)
        if parent is None or parent.peer == peer or parent.depth >= DEPTH_MAX:
            return False
        return self.would_feed(stripe, room=room, interior_max=interior_max, is_small=is_small)

    def adopt(self, peer: PeerId, stripe: int) -> None:
        """Make a peer a child."""
        self.children.setdefault(peer, {})[stripe] = None

    def let_go(self, peer: PeerId, stripe: int) -> None:
        """Forget a child in one stripe."""
        stripes = self.children.get(peer)
        if stripes is not None:
            stripes.pop(stripe, None)
            if not stripes:
                del self.children[peer]

    def orphaned(self, stripe: int) -> list[PeerId]:
        """Lose the parent in a stripe; return the children, which are let go."""
        self.parents.pop(stripe, None)
        lost = self.fed_in(stripe)
        for peer in lost:
            self.let_go(peer, stripe)
        return lost

    def unassigned(self, stripes: range) -> int | None:
        """Return the first stripe of a source's own that has no root."""
        taken = self.interior()
        return next((stripe for stripe in stripes if stripe not in taken), None)

    def candidates(self, stripe: int, now_s: float) -> list[PeerId]:
        """Return the neighbours that might adopt us in a stripe, the least deep ones."""
        best: list[PeerId] = []
        depth_min = 0
        for peer, trees in self.heard.items():
            depth = trees.depths[stripe] if stripe < len(trees.depths) else 0
            if not depth or not trees.free:
                continue
            if now_s < self.declined.get((peer, stripe), 0.0):
                continue
            if not best or depth < depth_min:
                best, depth_min = [peer], depth
            elif depth == depth_min:
                best.append(peer)
        return best

    def known_stripes(self) -> list[int]:
        """Return the stripes that some neighbour is in."""
        count = max((len(trees.depths) for trees in self.heard.values()), default=0)
        return [
            stripe
            for stripe in range(count)
            if any(stripe < len(trees.depths) and trees.depths[stripe] for trees in self.heard.values())
        ]

    def check(self) -> None:
        """Check the invariant.

        Raises:
            InvariantViolated: It is broken.
        """
        for peer, stripes in self.children.items():
            for stripe in stripes:
                parent = self.parents.get(stripe)
                if (parent is None and not self.is_source) or (parent is not None and parent.peer == peer):
                    raise InvariantViolated(f"{peer} is a child in stripe {stripe}, where the parent is {parent}")

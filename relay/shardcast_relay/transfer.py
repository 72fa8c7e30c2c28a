"""One blob at this node: what is held, what is wanted, who of the neighbours has what, who wants to hear of it."""

from __future__ import annotations

from collections import deque
from typing import Final

from shardcast_proto.bitmap import Bitmap, full_mask
from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, PeerId

from .availability import Availability

#: Of the greatest lag of a push so much is kept with each further push: half of it after 70.
_LAG_KEPT: Final = 0.99


class Transfer:
    """The bookkeeping of one open blob. It sends nothing.

    Invariant: `have`, `wanted` and the chunks under way are disjoint and together all chunks of the blob.
    """

    def __init__(self, blob: Digest, *, chunk_count: int, chunk_bytes: int, mask: int, priority: int) -> None:
        self.blob = blob
        self.chunk_bytes = chunk_bytes
        self.priority = priority
        #: The manifest whose blob this is, when it is a version's.
        self.manifest: Digest | None = None
        #: Chunks verified here.
        self.have = Bitmap(chunk_count, mask)
        #: Chunks neither held nor under way.
        self.wanted = self.have.missing
        #: Who of the neighbours has what.
        self.holders: dict[PeerId, int] = {}
        self.availability = Availability()
        #: Neighbours to tell of new chunks.
        self.listeners: dict[PeerId, None] = {}
        #: Sources of the blob, which look whether what they hand out is passed on; told like listeners.
        self.followers: dict[PeerId, None] = {}
        #: Whether nobody is to know yet what is held.
        self.is_withheld = False
        #: What neighbours hold and we lack, by when it was first seen here, and what of it has been left to the trees long enough.
        self.seen: deque[tuple[float, int]] = deque()
        self.seen_mask = 0
        self.ripe = 0
        #: How long chunks that neighbours held were under way in the trees, at most, of late.
        self.push_lag_s = 0.0
        #: Neighbours that were sent a snapshot since they came, and those that are owed another one.
        self.answered: dict[PeerId, None] = {}
        self.unanswered: dict[PeerId, None] = {}
        #: Chunks verified since the last have-update to listeners, and since that to followers; when the former was.
        self.untold = self.unshown = 0
        self.told_s = 0.0
        #: Chunks that were asked for a second time at the end.
        self.hedged_count = 0
        #: Chunks that arrived although they were held.
        self.duplicate_count = 0

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is held."""
        return self.have.is_complete

    @property
    def shown(self) -> int:
        """The chunks that others may know are held."""
        return 0 if self.is_withheld else self.have.mask

    def ripen(self, now_s: float, grace_s: float) -> float | None:
        """Let the chunks that neighbours have held for `grace_s` become ripe to be pulled; return when the next ones will."""
        fresh = self.availability.held_by_anyone & ~self.seen_mask
        if fresh:
            self.seen_mask |= fresh
            self.seen.append((now_s, fresh))
        while self.seen and self.seen[0][0] + grace_s <= now_s:
            self.ripe |= self.seen.popleft()[1]
        return self.seen[0][0] + grace_s if self.seen else None

    def push_came(self, index: int, now_s: float) -> None:
        """Learn how long the trees took with a chunk that neighbours hold."""
        lag_s = next((now_s - seen_s for seen_s, mask in self.seen if mask >> index & 1), 0.0)
        self.push_lag_s = max(lag_s, self.push_lag_s * _LAG_KEPT)

    def holder_has(self, peer: PeerId, mask: int, *, is_snapshot: bool) -> None:
        """A neighbour holds these chunks; a snapshot replaces what was known of it."""
        before = self.holders.get(peer, 0)
        if is_snapshot:
            self.availability.remove(before & ~mask)
        new = mask & ~before
        self.availability.add(new)
        self.holders[peer] = mask if is_snapshot else before | new

    def holder_lacks(self, peer: PeerId, mask: int) -> None:
        """A neighbour turned out not to have these chunks."""
        before = self.holders.get(peer, 0)
        if before & mask:
            self.availability.remove(before & mask)
            self.holders[peer] = before & ~mask

    def holder_left(self, peer: PeerId) -> None:
        """A neighbour is gone."""
        self.availability.remove(self.holders.pop(peer, 0))
        for peers in (self.listeners, self.followers, self.answered, self.unanswered):
            peers.pop(peer, None)

    def chunk_verified(self, index: int) -> bool:
        """Mark a chunk held and return whether it is new."""
        if not self.have.add(index):
            self.duplicate_count += 1
            return False
        bit = 1 << index
        self.wanted &= ~bit
        self.untold |= bit
        self.unshown |= bit
        return True

    def chunks_found(self, mask: int) -> bool:
        """Mark chunks held that came by another way than a fetch; return whether any is new."""
        new = mask & ~self.have.mask
        self.have = Bitmap(self.have.count, self.have.mask | new)
        self.wanted &= ~new
        self.untold |= new
        self.unshown |= new
        return bool(new)

    def full(self) -> int:
        """Return the mask of all chunks."""
        return full_mask(self.have.count)

    def check(self, under_way: int) -> None:
        """Compare with a recount; `under_way` are the chunks that fetches still bring.

        Raises:
            InvariantViolated: A chunk is in two states or in none, or a count is off.
        """
        under_way &= ~self.have.mask
        if self.wanted & (self.have.mask | under_way) or self.wanted | self.have.mask | under_way != self.full():
            raise InvariantViolated(f"chunks of blob {self.blob.hex()[:12]} are in two states or in none")
        self.availability.check(self.holders.values())

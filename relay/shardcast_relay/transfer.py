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
#: Holders that are remembered after they were lost: enough to say where a chunk was seen last.
_LOST_MAX: Final = 8
#: The pace is counted over spans of at least this length.
_PACE_SPAN_S: Final = 1.0


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
        #: Who held what we lack and does so no more, the last one last: what it was, and when it was last known.
        self.lost: dict[PeerId, tuple[int, float]] = {}
        #: Chunks that came to be held in a second, of late.
        self.pace_per_s = 0.0
        #: When the pace was counted last, with the chunks that were held then; and when anything was looked at.
        self._paced: tuple[float, int] | None = None
        self._looked_s = 0.0

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
        self._looked_s = now_s
        self._count_pace(now_s)
        held, seen = self.availability.held_by_anyone, self.seen
        if held != self.seen_mask:
            fresh = held & ~self.seen_mask
            if fresh:
                self.seen_mask |= fresh
                seen.append((now_s, fresh))
        while seen:
            ripens_s = seen[0][0] + grace_s
            if ripens_s > now_s:
                return ripens_s
            self.ripe |= seen.popleft()[1]
        return None

    @property
    def is_ending(self) -> bool:
        """Whether nothing is missing here that no neighbour holds: what the trees still bring are their last copies."""
        return self.availability.held_by_anyone | self.have.mask == self.full()

    def ripen_last(self, count: int) -> None:
        """Let `count` of the chunks that neighbours hold be pulled at once: those that the trees would bring last.

        What only a source holds is on its way to the first of its roots.
        """
        held = 0
        for peer, mask in self.holders.items():
            if peer not in self.followers:
                held |= mask
        unripe = self.wanted & ~self.ripe & held
        for _ in range(min(count, unripe.bit_count())):
            bit = 1 << unripe.bit_length() - 1
            self.ripe |= bit
            unripe ^= bit

    def push_came(self, index: int, now_s: float) -> None:
        """Learn how long the trees took with a chunk that neighbours hold."""
        bit, lag_s = 1 << index, 0.0
        if self.seen_mask & bit and not self.ripe & bit:
            lag_s = next((now_s - seen_s for seen_s, mask in self.seen if mask & bit), 0.0)
        self.push_lag_s = max(lag_s, self.push_lag_s * _LAG_KEPT)

    def holder_has(self, peer: PeerId, mask: int, *, is_snapshot: bool) -> None:
        """A neighbour holds these chunks; a snapshot replaces what was known of it."""
        before = self.holders.get(peer, 0)
        if is_snapshot:
            gone = before & ~mask
            if gone:
                self.availability.remove(gone)
        new = mask & ~before
        if new:
            self.availability.add(new)
        if peer in self.lost:
            self._forget_lost(peer, mask)
        self.holders[peer] = mask if is_snapshot else before | new

    def holder_omits(self, peer: PeerId, mask: int) -> None:
        """A parent holds these chunks and does not push them."""
        self.holder_has(peer, mask, is_snapshot=False)
        self.ripe |= mask

    def holder_lacks(self, peer: PeerId, mask: int) -> None:
        """A neighbour turned out not to have these chunks."""
        before = self.holders.get(peer, 0)
        if before & mask:
            self.availability.remove(before & mask)
            self.holders[peer] = before & ~mask
            self._note_lost(peer, before & mask)

    def holder_left(self, peer: PeerId) -> None:
        """A neighbour is gone."""
        before = self.holders.pop(peer, 0)
        self.availability.remove(before)
        # a source has all of it, also while it does not show that
        self._note_lost(peer, self.full() if peer in self.followers else before)
        for peers in (self.listeners, self.followers, self.answered, self.unanswered):
            peers.pop(peer, None)

    def last_holder(self, mask: int) -> tuple[PeerId, float] | None:
        """Return who of those that were lost held some of these chunks last, and when it was last known to."""
        return next(((peer, at_s) for peer, (held, at_s) in reversed(self.lost.items()) if held & mask), None)

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

    def _note_lost(self, peer: PeerId, mask: int) -> None:
        mask &= ~self.have.mask
        if not mask:
            return
        before, _ = self.lost.pop(peer, (0, 0.0))
        self.lost[peer] = (before | mask, self._looked_s)
        if len(self.lost) > _LOST_MAX:
            del self.lost[next(iter(self.lost))]

    def _forget_lost(self, peer: PeerId, mask: int) -> None:
        """A holder that was lost holds these chunks again."""
        before, at_s = self.lost[peer]
        if before & ~mask:
            self.lost[peer] = (before & ~mask, at_s)
        else:
            del self.lost[peer]

    def _count_pace(self, now_s: float) -> None:
        since_s, held = self._paced or (now_s, self.have.held)
        if self._paced is None or now_s - since_s >= _PACE_SPAN_S:
            self.pace_per_s = (self.have.held - held) / max(now_s - since_s, _PACE_SPAN_S)
            self._paced = (now_s, self.have.held)

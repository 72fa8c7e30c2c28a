"""The pushed chunks that are coming in: header seen, bytes on the way."""

from __future__ import annotations

from dataclasses import dataclass

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, PeerId


@dataclass
class Arrival:
    """One pushed chunk on its way in."""

    began_s: float
    #: Whether it takes so long that the chunk is looked for elsewhere meanwhile.
    is_late: bool = False


class Arrivals:
    """What arrives unasked, until it is here or broken off.

    Invariant: `_masks[blob]` has bit i set exactly when some arrival of chunk i of the blob is not late.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[PeerId, Digest, int], list[Arrival]] = {}
        self._masks: dict[Digest, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def began(self, peer: PeerId, blob: Digest, index: int, now_s: float) -> None:
        """A push began to arrive."""
        self._entries.setdefault((peer, blob, index), []).append(Arrival(now_s))
        self._masks[blob] = self._masks.get(blob, 0) | 1 << index

    def ended(self, peer: PeerId, blob: Digest, index: int) -> bool:
        """A push is over; return whether it had begun."""
        entries = self._entries.get((peer, blob, index))
        if not entries:
            return False
        entries.pop(0)
        if not entries:
            del self._entries[peer, blob, index]
        self._recount(blob, index)
        return True

    def give_up_late(self, before_s: float) -> list[tuple[Digest, int]]:
        """Rely no more on what began before a time; return the chunks that nothing brings now."""
        lost: list[tuple[Digest, int]] = []
        for (_, blob, index), entries in self._entries.items():
            late = [entry for entry in entries if entry.began_s < before_s and not entry.is_late]
            for entry in late:
                entry.is_late = True
            if late:
                lost.append((blob, index))
        for blob, index in lost:
            self._recount(blob, index)
        return [(blob, index) for blob, index in lost if not self.covering(blob) >> index & 1]

    def covering(self, blob: Digest) -> int:
        """Return the mask of the chunks of `blob` that are coming in."""
        return self._masks.get(blob, 0)

    def oldest_s(self) -> float | None:
        """Return when the oldest arrival that is relied on began."""
        times = (entry.began_s for entries in self._entries.values() for entry in entries if not entry.is_late)
        return min(times, default=None)

    def check(self) -> None:
        """Compare with a recount.

        Raises:
            InvariantViolated: They differ.
        """
        masks: dict[Digest, int] = {}
        for (_, blob, index), entries in self._entries.items():
            if not all(entry.is_late for entry in entries):
                masks[blob] = masks.get(blob, 0) | 1 << index
        if masks != self._masks:
            raise InvariantViolated("the chunks that are coming in differ from their recount")

    def _recount(self, blob: Digest, index: int) -> None:
        """Clear the bit of a chunk unless some arrival of it is relied on. Cost: as many steps as there are arrivals."""
        for (_, other, number), entries in self._entries.items():
            if other == blob and number == index and not all(entry.is_late for entry in entries):
                return
        mask = self._masks.get(blob, 0) & ~(1 << index)
        if mask:
            self._masks[blob] = mask
        else:
            self._masks.pop(blob, None)

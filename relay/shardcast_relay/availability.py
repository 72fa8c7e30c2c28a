"""The count, for each chunk, of how many neighbours hold it.

Kept as one mask for each count ("level"): `levels[n]` has bit i set when exactly n neighbours hold chunk i. A have-update of any size is
then a few operations on whole masks, and the rarest wanted chunk is the first level that intersects the wanted mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shardcast_proto.errors import InvariantViolated


class Availability:
    """How many neighbours hold each chunk.

    Invariant: the levels from 1 on are disjoint; a chunk in none of them is held by nobody.
    """

    def __init__(self) -> None:
        #: levels[n]: the chunks that exactly n neighbours hold; levels[0] is unused and stays 0.
        self.levels: list[int] = [0]

    def add(self, mask: int) -> None:
        """One neighbour more holds the chunks of `mask`."""
        known = 0
        self.levels.append(0)
        for level in range(len(self.levels) - 2, 0, -1):
            moved = self.levels[level] & mask
            known |= moved
            self.levels[level] ^= moved
            self.levels[level + 1] |= moved
        self.levels[1] |= mask & ~known
        self._trim()

    def remove(self, mask: int) -> None:
        """One neighbour fewer holds the chunks of `mask`."""
        for level in range(1, len(self.levels)):
            moved = self.levels[level] & mask
            mask ^= moved
            self.levels[level] ^= moved
            if level > 1:
                self.levels[level - 1] |= moved
        if mask:
            raise InvariantViolated("a chunk that nobody holds is taken from its holder")
        self._trim()

    def rarest(self, candidates: int) -> Iterator[int]:
        """Yield the parts of `candidates` that somebody holds, the rarest level first."""
        for level in self.levels[1:]:
            found = level & candidates
            if found:
                yield found

    @property
    def held_by_anyone(self) -> int:
        """The chunks that at least one neighbour holds."""
        everything = 0
        for level in self.levels:
            everything |= level
        return everything

    def check(self, masks: Iterable[int]) -> None:
        """Compare with a recount of the neighbours' masks.

        Raises:
            InvariantViolated: They differ.
        """
        recount = Availability()
        for mask in masks:
            recount.add(mask)
        if recount.levels != self.levels:
            raise InvariantViolated("availability differs from its recount")

    def _trim(self) -> None:
        while len(self.levels) > 1 and not self.levels[-1]:
            self.levels.pop()

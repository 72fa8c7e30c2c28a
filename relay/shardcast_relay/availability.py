"""The count, for each chunk, of how many neighbours hold it.

Kept as one mask for each count ("level"): `levels[n]` has bit i set when exactly n neighbours hold chunk i. A have-update of any size is
then a few operations on whole masks, and the rarest wanted chunk is the first level that intersects the wanted mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shardcast_proto.errors import InvariantViolated


class Availability:
    """How many neighbours hold each chunk.

    Invariant: the levels from 1 on are disjoint, and `held_by_anyone` is all of them together; a chunk in none is held by nobody.
    """

    def __init__(self) -> None:
        #: levels[n]: the chunks that exactly n neighbours hold; levels[0] is unused and stays 0.
        self.levels: list[int] = [0]
        #: The chunks that at least one neighbour holds.
        self.held_by_anyone = 0

    def add(self, mask: int) -> None:
        """One neighbour more holds the chunks of `mask`."""
        rising = mask & ~self.held_by_anyone
        left = mask ^ rising  # what must still be found in some level
        self.held_by_anyone |= mask
        levels = self.levels
        level = 1
        while left or rising:
            if level == len(levels):
                levels.append(0)
            here = levels[level]
            found = here & left
            levels[level] = here ^ found | rising
            left ^= found
            rising = found
            level += 1

    def remove(self, mask: int) -> None:
        """One neighbour fewer holds the chunks of `mask`."""
        levels = self.levels
        level = 1
        while mask:
            if level == len(levels):
                raise InvariantViolated("a chunk that nobody holds is taken from its holder")
            moved = levels[level] & mask
            mask ^= moved
            levels[level] ^= moved
            if level > 1:
                levels[level - 1] |= moved
            else:
                self.held_by_anyone ^= moved
            level += 1
        self._trim()

    def rarest(self, candidates: int) -> Iterator[int]:
        """Yield the parts of `candidates` that somebody holds, the rarest level first."""
        for level in self.levels[1:]:
            found = level & candidates
            if found:
                yield found

    def check(self, masks: Iterable[int]) -> None:
        """Compare with a recount of the neighbours' masks.

        Raises:
            InvariantViolated: They differ.
        """
        recount = Availability()
        for mask in masks:
            recount.add(mask)
        if recount.levels != self.levels or recount.held_by_anyone != self.held_by_anyone:
            raise InvariantViolated("availability differs from its recount")

    def _trim(self) -> None:
        while len(self.levels) > 1 and not self.levels[-1]:
            self.levels.pop()

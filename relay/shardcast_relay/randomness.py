"""The source of randomness that the machine is given: one seed is one whole run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Rng(Protocol):
    """The part of `random.Random` that the machine uses."""

    def random(self) -> float:
        """Return a number in [0, 1)."""

    def randrange(self, stop: int, /) -> int:
        """Return a whole number in [0, stop)."""

    def choice(self, seq: Sequence[T], /) -> T:
        """Return one element."""

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Return k distinct elements."""


def random_bit(mask: int, rng: Rng) -> int:
    """Return the index of a set bit of `mask` (not 0), chosen by a random starting point.

    A bit behind a gap is likelier than one behind a set bit; for spreading requests over a blob that is good enough.
    """
    start = rng.randrange(mask.bit_length())
    above = mask >> start
    return start + (above & -above).bit_length() - 1

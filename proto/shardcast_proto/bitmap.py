"""The set of chunks that somebody holds, as bits of one Python integer.

Masks (plain ints, bit i = chunk i) are what the scheduler computes with: a set operation over 262,144 chunks is one pass over
32 KiB. A `Bitmap` is the mutable have-bitmap of one blob. Runs, pairs (first, count) of consecutive chunks, are the wire form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .errors import LocalProtocolError, RemoteProtocolError

Run = tuple[int, int]


def full_mask(count: int) -> int:
    """Return the mask of the chunks 0 to count - 1."""
    return (1 << count) - 1


def runs_of(mask: int) -> list[Run]:
    """Return the maximal runs of set bits, ascending.

    Cost: one pass over the mask for each run; the text form keeps it linear for masks of many runs.
    """
    runs: list[Run] = []
    bits = bin(mask)[:1:-1]  # lowest bit first
    position = bits.find("1")
    while position >= 0:
        end = bits.find("0", position)
        if end < 0:
            end = len(bits)
        runs.append((position, end - position))
        position = bits.find("1", end)
    return runs


def mask_of_runs(runs: Iterable[Run], count: int) -> int:
    """Return the mask of `runs`, each of which must lie in range(count) above the one before it.

    Raises:
        RemoteProtocolError: A run is empty, out of order, overlapping or out of range.
    """
    bits = bytearray((count + 7) // 8)
    mask_end = 0
    for first, length in runs:
        if first < mask_end or length < 1 or first + length > count:
            raise RemoteProtocolError(f"run ({first}, {length}) is out of order or beyond {count} chunks")
        mask_end = first + length
        _fill(bits, first, mask_end)
    return int.from_bytes(bits, "little")


def _fill(bits: bytearray, first: int, end: int) -> None:
    head, tail = first >> 3, end >> 3
    if head == tail:
        bits[head] |= (0xFF << (first & 7)) & ((1 << (end & 7)) - 1)
        return
    bits[head] |= (0xFF << (first & 7)) & 0xFF
    bits[head + 1 : tail] = b"\xff" * (tail - head - 1)
    if end & 7:
        bits[tail] |= (1 << (end & 7)) - 1


def flatten(runs: Sequence[Run]) -> list[int]:
    """Return the runs as one flat list [first, count, first, count, …], the wire form."""
    return [number for run in runs for number in run]


def unflatten(numbers: Sequence[object]) -> tuple[Run, ...]:
    """Read the flat wire form.

    Raises:
        RemoteProtocolError: The list is of odd length or holds something that is no chunk number.
    """
    if len(numbers) % 2:
        raise RemoteProtocolError("a list of runs has an odd number of elements")
    checked: list[int] = []
    for number in numbers:
        if type(number) is not int or number < 0:
            raise RemoteProtocolError("a run is not a pair of chunk numbers")
        checked.append(number)
    return tuple(zip(checked[::2], checked[1::2], strict=True))


class Bitmap:
    """Which of `count` chunks are held. Bits only ever rise.

    Invariant: `held` equals the number of set bits of `mask`.
    """

    def __init__(self, count: int, mask: int = 0) -> None:
        if mask < 0 or mask >> count:
            raise LocalProtocolError(f"mask has bits beyond {count} chunks")
        #: Number of chunks, held or not.
        self.count = count
        #: Bit i is set when chunk i is held.
        self.mask = mask
        #: Number of chunks held.
        self.held = mask.bit_count()

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.count and bool(self.mask >> index & 1)

    def __iter__(self) -> Iterator[int]:
        for first, length in runs_of(self.mask):
            yield from range(first, first + length)

    def __repr__(self) -> str:
        return f"Bitmap({self.held}/{self.count})"

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is held."""
        return self.held == self.count

    @property
    def missing(self) -> int:
        """The mask of the chunks that are not held."""
        return full_mask(self.count) ^ self.mask

    def add(self, index: int) -> bool:
        """Mark chunk `index` held and return whether it is new.

        Raises:
            LocalProtocolError: There is no such chunk.
        """
        if not 0 <= index < self.count:
            raise LocalProtocolError(f"chunk {index} is beyond {self.count} chunks", chunk_index=index)
        bit = 1 << index
        if self.mask & bit:
            return False
        self.mask |= bit
        self.held += 1
        return True

    def to_bytes(self) -> bytes:
        """Return the bits, lowest chunk in the lowest bit of the first byte."""
        return self.mask.to_bytes((self.count + 7) // 8, "little")

    @classmethod
    def from_bytes(cls, count: int, data: bytes) -> Bitmap:
        """Read what `to_bytes` wrote.

        Raises:
            RemoteProtocolError: The length is wrong, or a bit beyond the last chunk is set.
        """
        if len(data) != (count + 7) // 8:
            raise RemoteProtocolError(f"bitmap of {len(data)} bytes for {count} chunks")
        mask = int.from_bytes(data, "little")
        if mask >> count:
            raise RemoteProtocolError(f"bitmap has bits beyond its {count} chunks")
        return cls(count, mask)

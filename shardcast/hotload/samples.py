"""The samples by which a commit is checked: a few elements of many tensors, as they must be afterwards.

Comparing everything would make the pause twice as long. A copy that was left out, cut short, or went to the wrong tensor shows in windows
at a place that differs from version to version, and at the end of the tensor. The values come from verified bytes on the host, not from the
image that was copied, so the way through the device is checked too. `HotLoader.verify` compares every byte, outside the pause.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final, NamedTuple

import torch

from shardcast_proto.errors import HotLoadError
from shardcast_proto.hashing import digest_of

from ..tensors import ELEMENT_BYTES
from .plan import Piece
from .slots import Slot, as_bytes

#: Tensors that are looked at, two windows each: under a millisecond of a GPU's pause.
TENSORS_MAX: Final = 128
_WINDOW_ELEMENTS: Final = 16


class _Window(NamedTuple):
    slot: Slot
    row: tuple[int, ...]
    column: int
    elements: int
    #: In bytes: where it begins in the tensor and in all windows, how long it is.
    begin: int
    place: int
    length: int


class Samples:
    """Windows into the slots, with the bytes that are expected in them."""

    def __init__(self, slots: list[Slot], seed: bytes) -> None:
        """Choose the windows.

        Args:
            slots: The live tensors.
            seed: Decides which; the version's digest, so that every host looks at the same.
        """
        full = [slot for slot in slots if slot.size_bytes]
        step = -(-len(full) // TENSORS_MAX)
        chosen = full[_draw(seed, "first", step) :: step] if full else []
        self._windows: list[_Window] = []
        self._of_slot: dict[Slot, list[_Window]] = {}
        place = 0
        for slot in chosen:
            count = prod(slot.shape)
            for start in (_draw(seed, slot.names[0], count), max(0, count - _WINDOW_ELEMENTS)):
                window = _window(slot, start, place)
                place += window.length
                self._windows.append(window)
                self._of_slot.setdefault(slot, []).append(window)
        self.expected = torch.zeros(place, dtype=torch.uint8)

    def collect(self, piece: Piece, source: Any) -> None:
        """Take over what a verified piece on the host has of the windows."""
        for slot in piece.transfer.slots:
            for window in self._of_slot.get(slot, ()):
                begin = max(window.begin, piece.in_tensor)
                end = min(window.begin + window.length, piece.in_tensor + piece.length)
                if begin < end:
                    at = window.place + begin - window.begin
                    part = source[begin - piece.in_tensor : end - piece.in_tensor]
                    with torch.inference_mode():
                        self.expected[at : at + end - begin].copy_(part)

    def collect_live(self) -> None:
        """Expect what is live now."""
        self.expected = self._live()

    def check(self) -> None:
        """Compare the live tensors with what is expected.

        Raises:
            HotLoadError: They differ.
        """
        live = self._live()
        if torch.equal(live, self.expected):
            return
        wrong = [
            window.slot.names[0]
            for window in self._windows
            if not torch.equal(*(all[window.place : window.place + window.length] for all in (live, self.expected)))
        ]
        raise HotLoadError(
            f"{wrong[0]!r} and {len(set(wrong)) - 1} other tensors do not hold what was copied into them",
            hint="something else writes to them, or the device fails",
            tensors=sorted(set(wrong)),
        )

    def _live(self) -> Any:
        if not self._windows:
            return self.expected
        with torch.inference_mode():
            return torch.cat([_look(window) for window in self._windows]).to("cpu")


def _draw(seed: bytes, name: str, count: int) -> int:
    return int.from_bytes(digest_of(seed + name.encode())[:8], "big") % max(count, 1)


def _window(slot: Slot, start: int, place: int) -> _Window:
    """Return the window at an element, cut where its row ends, so that also a tensor with gaps can be looked at there."""
    width = slot.shape[-1] if slot.shape else 1
    row, column = divmod(start, width)
    elements = min(_WINDOW_ELEMENTS, width - column)
    size = ELEMENT_BYTES[slot.dtype]
    index: list[int] = []
    for extent in reversed(slot.shape[:-1]):
        row, last = divmod(row, extent)
        index.append(last)
    return _Window(slot, tuple(reversed(index)), column, elements, start * size, place, elements * size)


def _look(window: _Window) -> Any:
    tensor = window.slot.tensor
    line = tensor[window.row] if tensor.dim() > 1 else tensor.view(-1)
    return as_bytes(line[window.column : window.column + window.elements].contiguous())

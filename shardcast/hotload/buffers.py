"""The memory that a loader holds beside the live tensors: a ring, and an image for each version that it keeps.

It is taken once and used for every load: locking pages takes longer than copying them.
"""

from __future__ import annotations

from typing import Any

from .backend import Backend
from .memory import MemoryPlan
from .ring import Ring
from .slots import Slot


class Buffers:
    """What a `MemoryPlan` says, taken."""

    def __init__(self, backend: Backend, memory: MemoryPlan) -> None:
        """Take it.

        Raises:
            RuntimeError: There is less than there seemed to be; what was taken is given back.
        """
        self._backend = backend
        self.memory = memory
        self.ring = Ring(backend, memory.slab_bytes, memory.slabs)
        self._images: list[Any] = []
        try:
            self.staged = self._image(memory.staging)
            self.old = self._image(memory.rollback)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it back; nothing is under way."""
        self.ring.close()
        self.staged = self.old = None
        while self._images:
            self._backend.release(self._images.pop())

    def save(self, slots: list[Slot]) -> None:
        """Copy the live tensors into the image of the old ones, and return when they are there."""
        try:
            with self._backend.issuing(self.ring.stream):
                for slot in slots:
                    self._backend.copy(slot.view_in(self.old), slot.tensor)
        finally:
            self._backend.drain(self.ring.stream)

    def _image(self, place: str) -> Any:
        if place not in ("device", "host"):
            return None
        take = self._backend.device_memory if place == "device" else self._backend.host_memory
        image = take(self.memory.image_bytes)
        self._images.append(image)
        return image

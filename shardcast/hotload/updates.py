"""An update of the live tensors, which a load makes ready and a commit writes.

This is where other sources of new weights plug in: `Stager.stage` makes updates, `swap` writes them. An update owns whatever it needs
until it is released, knows the samples that the live tensors must show afterwards, and `write`s inside the pause, from one thread, with
nothing else using the tensors. It need not know how to undo itself: the loader keeps an update that writes the old weights back.
`ImageUpdate` writes whole tensors from memory, `FileUpdate` whole tensors from verified files; an update that changes only some words of
a tensor, at positions, has the same members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shardcast_proto.errors import HotLoadError

from .backend import Backend
from .plan import Piece, Plan
from .ring import Ring, SinkFn
from .samples import Samples
from .slots import Slot, as_bytes
from .verified import VerifiedFiles


class Update(Protocol):
    """New contents of the live tensors, ready to be written."""

    @property
    def digest(self) -> str | None:
        """The version that the tensors are afterwards, `b3:HEX`; None when nobody has named it."""

    @property
    def samples(self) -> Samples:
        """What the live tensors must show afterwards."""

    def write(self) -> None:
        """Write all of it; when this returns, it is there. May be called again, also after a call that failed."""

    def release(self) -> None:
        """Give up what is held; `write` is not called any more."""


class ImageUpdate:
    """All tensors, from an image in memory that the loader lends."""

    def __init__(
        self, backend: Backend, stream: Any, pairs: Sequence[tuple[Any, Any]], *, digest: str | None, samples: Samples
    ) -> None:
        """Hold what is written: pairs of a live tensor and its new content."""
        self.digest = digest
        self.samples = samples
        self._backend = backend
        self._stream = stream
        self._pairs = pairs

    def write(self) -> None:
        """Copy tensor by tensor, as fast as memory goes."""
        copy = self._backend.copy
        try:
            with self._backend.issuing(self._stream):
                for live, new in self._pairs:
                    copy(live, new)
        finally:
            self._backend.drain(self._stream)

    def release(self) -> None:
        """Let go of the image."""
        self._pairs = ()


class FileUpdate:
    """All tensors, from the files of a version, which stay open so that they can be read also when they are deleted."""

    def __init__(self, ring: Ring, plan: Plan, files: VerifiedFiles, sink: SinkFn, *, samples: Samples) -> None:
        """Hold what is read: the ring that it goes through, the plan, the open files, and what writes a piece."""
        self.digest: str | None = plan.version.digest
        self.samples = samples
        self._ring = ring
        self._plan = plan
        self._files = files
        self._sink = sink

    def write(self) -> None:
        """Read, verify and copy, slab by slab: a chunk that is not the manifest's ends it, and what was written stays."""
        self._ring.pass_through(self._plan, self._files, self._sink)

    def release(self) -> None:
        """Close the files."""
        self._files.close()


def image_sink(backend: Backend, image: Any) -> SinkFn:
    """Return what copies pieces into an image."""

    def sink(piece: Piece, source: Any) -> None:
        for slot in piece.transfer.slots:
            begin = slot.place + piece.in_tensor
            backend.copy(image[begin : begin + piece.length], source)

    return sink


def live_sink(backend: Backend) -> SinkFn:
    """Return what copies pieces into contiguous live tensors."""
    views: dict[Slot, Any] = {}

    def sink(piece: Piece, source: Any) -> None:
        for slot in piece.transfer.slots:
            if slot not in views:
                views[slot] = slot.bytes_of()
            backend.copy(views[slot][piece.in_tensor : piece.in_tensor + piece.length], source)

    return sink


def comparing() -> SinkFn:
    """Return a sink that raises `HotLoadError` where a live tensor is not what was published."""
    views: dict[Slot, Any] = {}

    def sink(piece: Piece, source: Any) -> None:
        for slot in piece.transfer.slots:
            if slot not in views:
                views[slot] = as_bytes(slot.tensor.contiguous())
            part = views[slot][piece.in_tensor : piece.in_tensor + piece.length].to("cpu")
            if not part.equal(source):
                raise HotLoadError(
                    f"{slot.names[0]!r} is not what was published, from byte {piece.in_tensor} on",
                    hint="something else writes to it: load the version again",
                    tensor=slot.names[0],
                )

    return sink

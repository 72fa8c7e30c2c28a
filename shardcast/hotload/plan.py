"""The plan of a load: which bytes of which file become which live tensor, decided from headers before anything is written.

`copy_` broadcasts a wrong shape and converts a wrong type without a word, so everything is compared here, and one error lists all
that does not fit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

from .errors import DoesNotFit
from .layout import Layout, Span
from .memory import MemoryPlan
from .slots import Slot
from .versions import VersionOnDisk

#: The live name of a published tensor; None leaves the tensor out.
RenameFn = Callable[[str], str | None]

#: Names of each kind that an error's text lists; its facts have all.
_LISTED_MAX: Final = 8


class Transfer(NamedTuple):
    """A published tensor with the slots that it becomes. One without slots is only compared: it is `twin_of` another one."""

    span: Span
    slots: tuple[Slot, ...]
    twin_of: str | None


class Run(NamedTuple):
    """Consecutive chunks of one file that are read into one slab: the first, how many, where they begin and end in the file."""

    first_chunk: int
    chunks: int
    file_index: int
    begin: int
    end: int


class Piece(NamedTuple):
    """The part of a transfer that lies in a run: where it begins in the run and in the tensor, and its length; all in bytes."""

    transfer: Transfer
    in_run: int
    in_tensor: int
    length: int


@dataclass(frozen=True)
class Plan:
    """What a load will do, and the memory that it takes.

    Attributes:
        version: What is loaded.
        slots: Every live tensor, once.
        transfers: In the order of the files' bytes; none is empty.
        memory: What is taken, and where.
        bytes: What is written into live tensors; tied weights count once.
    """

    version: VersionOnDisk
    slots: list[Slot]
    transfers: list[Transfer]
    memory: MemoryPlan
    bytes: int

    def runs(self) -> Iterator[tuple[Run, list[Piece]]]:
        """Yield what is read, slab by slab; chunks without a wanted byte are left out."""
        chunk_size = self.version.manifest.blob.chunk_size
        chunks_max = self.memory.slab_bytes // chunk_size
        for file_index, group in groupby(self.transfers, key=lambda transfer: transfer.span.file_index):
            transfers = list(group)
            ends = [transfer.span.begin + transfer.span.length for transfer in transfers]
            row = self.version.manifest.files[file_index]
            for first, count in _grouped(_chunks_of(transfers, chunk_size), chunks_max):
                begin = first * chunk_size
                run = Run(row.first_chunk + first, count, file_index, begin, min(row.size, begin + count * chunk_size))
                yield run, list(_pieces(run, transfers, bisect_right(ends, begin)))


def match(layout: Layout, slots: list[Slot], rename: RenameFn | None) -> list[Transfer]:
    """Find which published tensor becomes which slot.

    Args:
        layout: What was published.
        slots: What is live.
        rename: Gives published names their live names.

    Raises:
        DoesNotFit: Names are missing or left over, shapes or types differ.
    """
    live = {name: slot for slot in slots for name in slot.names}
    aliases: dict[str, list[str]] = {}
    for alias, name in layout.ties.items():
        aliases.setdefault(name, []).append(alias)
    misfit = _Misfit()
    source: dict[Slot, Span] = {}
    transfers: list[Transfer] = []
    for span in layout.spans:
        names = [span.name, *aliases.get(span.name, ())]
        if rename is not None:
            names = [own for published in names if (own := rename(published)) is not None]
        if not names:
            continue
        found = list(dict.fromkeys(live[name] for name in names if name in live))
        if not found:
            misfit.extra.append(names[0])
        misfit.compare(span, found)
        fresh = tuple(slot for slot in found if slot not in source)
        twins = [source[slot].name for slot in found if slot in source]
        source.update(dict.fromkeys(fresh, span))
        if span.length:
            transfers.append(Transfer(span, fresh, twins[0] if twins else None))
    misfit.missing += [slot.names[0] for slot in slots if slot not in source]
    misfit.raise_if_any()
    return transfers


@dataclass
class _Misfit:
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)

    def compare(self, span: Span, slots: list[Slot]) -> None:
        for slot in slots:
            if slot.shape != span.shape:
                self.shapes.append(f"{slot.names[0]} is {list(slot.shape)} here and {list(span.shape)} there")
            if slot.dtype != span.dtype:
                self.dtypes.append(f"{slot.names[0]} is {slot.dtype} here and {span.dtype} there")

    def raise_if_any(self) -> None:
        kinds = {"missing": self.missing, "extra": self.extra, "shapes": self.shapes, "dtypes": self.dtypes}
        texts = [
            f"{len(names)} {kind}: {', '.join(name[:200] for name in names[:_LISTED_MAX])}"
            + (", …" if len(names) > _LISTED_MAX else "")
            for kind, names in kinds.items()
            if names
        ]
        if texts:
            raise DoesNotFit(
                f"the version does not fit the live tensors, nothing was written ({'; '.join(texts)})",
                hint="publish from the same model and in the same types, or give names= to rename or leave out",
                **kinds,
            )


# --- runs ---


def _chunks_of(transfers: list[Transfer], chunk_size: int) -> Iterator[int]:
    """Yield the chunks of one file that hold a wanted byte, counted in that file, ascending."""
    last = -1
    for transfer in transfers:
        span = transfer.span
        first, end = span.begin // chunk_size, (span.begin + span.length - 1) // chunk_size + 1
        yield from range(max(first, last + 1), end)
        last = max(last, end - 1)


def _grouped(chunks: Iterator[int], chunks_max: int) -> Iterator[tuple[int, int]]:
    first, count = -1, 0
    for chunk in chunks:
        if count and (chunk != first + count or count == chunks_max):
            yield first, count
            count = 0
        if count == 0:
            first = chunk
        count += 1
    if count:
        yield first, count


def _pieces(run: Run, transfers: list[Transfer], start: int) -> Iterator[Piece]:
    for transfer in transfers[start:]:
        span = transfer.span
        if span.begin >= run.end:
            return
        begin, end = max(run.begin, span.begin), min(run.end, span.begin + span.length)
        yield Piece(transfer, begin - run.begin, begin - span.begin, end - begin)

"""A checkpoint under way from tensors to files: safetensors shards in the layout of Hugging Face.

    model.safetensors                                       when one shard is enough, else
    model-00001-of-00003.safetensors …, model.safetensors.index.json

Tensors come one by one, and each is on its way to the disk before the next is asked for. A header stands before the bytes that it
describes, so room is left for it, and what is not needed of that room is filled with spaces, as the format allows. The same tensors
in the same order make the same bytes.

**Ties.** A tensor whose memory was written already under another name is not written again: the header of the shard that has it says
`"lm_head.weight": "model.embed_tokens.weight"` in `__metadata__`, as `safetensors.torch.save_model` does. The name that came first stays.

**Alignment.** Readers take a tensor's bytes where they lie, so each begins at a multiple of its element's size. Tensors of whole 8 bytes
are written as they come, others behind them when the shard ends, the widest elements first. Those are small (scales, scalars); a large
one gets a shard of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from shardcast_proto.errors import ConfigError, InvariantViolated
from shardcast_proto.limits import MIB

from .store.faults import disk_errors
from .tensors import ELEMENT_BYTES, TensorView, view_of

#: What Hugging Face's own writer takes: small enough to be read in parallel.
SHARD_BYTES: Final = 5_000_000_000
#: Room for the header of a shard when nobody knows how many tensors come: over a thousand.
HEADER_ROOM_BYTES: Final = 256 * 1024
#: A header without tensors.
_EMPTY_BYTES: Final = 64
#: What a tensor adds to a header beside its name, as a guess from above: type, offsets, a handful of extents.
_ENTRY_BYTES: Final = 200
#: More than any offset, to count digits with.
_OFFSET_MAX: Final = 1 << 60
#: A tensor of a broken number of bytes that is larger than this is not kept in memory until its shard ends.
_KEPT_BYTES_MAX: Final = MIB
_ALIGNMENT: Final = 8
_WRITE_BYTES_MAX: Final = 1 << 30

_METADATA: Final = "__metadata__"
_FORMAT: Final = "format"


class Written(NamedTuple):
    """What was written: the tensors that have bytes of their own, with their size, and the names tied to others."""

    tensors: int
    bytes: int
    ties: dict[str, str]


def write_tensors(
    folder: Path,
    tensors: Mapping[str, object] | Iterable[tuple[str, object]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write a checkpoint's tensors into a directory.

    Args:
        folder: An existing directory without a model in it.
        tensors: Names with tensors (`shardcast.tensors`), in the order in which they are to lie there.
        shard_bytes: A shard ends before it has more than these; one tensor alone may.

    Raises:
        ConfigError: A name or tensor cannot be written, or there are none; a shard is to hold nothing.
        StoreError: The disk is full or fails.
        Whatever the iterator raises. Files that are half written stay: the directory is the caller's.
    """
    if shard_bytes < 1:
        raise ConfigError(f"a shard of {shard_bytes} bytes holds no tensor", shard_bytes=shard_bytes)
    if isinstance(tensors, Mapping):
        room, pairs = _room_for(tensors), iter(tensors.items())
    else:
        room, pairs = HEADER_ROOM_BYTES, map(_pair, tensors)
    model = _Model(folder, shard_bytes, room)
    try:
        for name, tensor in pairs:
            model.add(name, view_of(_checked(name), tensor))
        with disk_errors("writing", folder):
            return model.finish()
    finally:
        model.close()


def _room_for(tensors: Mapping[str, object]) -> int:
    needed = _EMPTY_BYTES + sum(len(_json(str(name))) + _ENTRY_BYTES for name in tensors)
    return min(HEADER_ROOM_BYTES, needed + -needed % _ALIGNMENT)


def _pair(item: object) -> tuple[str, object]:
    if not isinstance(item, tuple) or len(item) != 2:
        raise ConfigError(
            f"tensors come as pairs of a name and a tensor, not as {type(item).__name__}",
            hint="publish a directory, model.state_dict(), or its items()",
        )
    return item


def _checked(name: object) -> str:
    if (
        not isinstance(name, str)
        or not name
        or name == _METADATA
        or not _is_text(name)
        or len(_json(name)) > HEADER_ROOM_BYTES // 4
    ):
        raise ConfigError(f"{str(name)[:80]!r} is no name for a tensor")
    return name


def _is_text(name: str) -> bool:
    """Say whether a name can be written as UTF-8: JSON would take half of a surrogate pair, and no reader would."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _entry_bytes(name: str, view: TensorView) -> int:
    """Return what a tensor adds to a header, at most."""
    return len(_json({name: _entry(view.dtype, view.shape, _OFFSET_MAX, _OFFSET_MAX)}))


@dataclass
class _Shard:
    """One file, as far as it is written.

    Attributes:
        path: Its name until all are known.
        room: Bytes for the header.
        entries: The tensors in it: type, shape, first byte, byte behind the last.
        ties: Other names of its tensors.
        kept: Tensors that will be written when it ends: name, type, shape, bytes.
        end: Bytes of tensors so far, `kept` not among them.
        kept_bytes: Bytes of `kept`.
        header: Bytes of the header so far.
    """

    path: Path
    room: int
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    kept: list[tuple[str, str, tuple[int, ...], bytes]] = field(default_factory=list)
    end: int = 0
    kept_bytes: int = 0
    header: int = _EMPTY_BYTES

    def encoded(self) -> bytes:
        entries = {name: _entry(*entry) for name, entry in self.entries.items()}
        header = _json({_METADATA: {_FORMAT: "pt", **self.ties}, **entries}).ljust(self.room)
        if len(header) > self.room:
            raise InvariantViolated(
                f"a header of {len(header)} bytes was counted as {self.header}, the room is {self.room}"
            )
        return len(header).to_bytes(8, "little") + header


class _Model:
    """The shards of a checkpoint, with the places of what is in them."""

    def __init__(self, folder: Path, shard_bytes: int, room: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._room = room
        self._shards: list[_Shard] = []
        self._file = -1
        self._names: dict[str, _Shard] = {}
        #: Where each memory was written: the name, with what tells that the memory is still the same tensor's.
        self._places: dict[Hashable, tuple[str, Callable[[], bool]]] = {}

    def add(self, name: str, view: TensorView) -> None:
        """Write one tensor, or note whose bytes are its own."""
        if name in self._names:
            raise ConfigError(f"{name[:200]!r} comes twice", tensor=name)
        if self._tie(name, view):
            return
        is_broken = view.size_bytes % _ALIGNMENT != 0
        is_alone = is_broken and view.size_bytes > _KEPT_BYTES_MAX
        shard = self._shard_for(name, view, is_alone=is_alone)
        self._names[name] = shard
        if view.place is not None and view.size_bytes:
            # what reads the tensor is not kept: it would keep the tensor
            self._places[view.place] = (name, view.is_alive)
        data = view.read()
        if len(data) != view.size_bytes:
            raise ConfigError(f"{name[:200]!r} has {len(data)} bytes, not {view.size_bytes}", tensor=name)
        if is_broken and not is_alone:
            shard.kept.append((name, view.dtype, view.shape, bytes(data)))
            shard.kept_bytes += len(data)
        else:
            self._append(shard, name, (view.dtype, view.shape), data)
        if is_alone:
            self._end_shard()

    def _tie(self, name: str, view: TensorView) -> bool:
        """Note that a tensor is another one, if it is."""
        if view.place not in self._places or name == _FORMAT:
            return False
        first, is_alive = self._places[view.place]
        shard, needed = self._names[first], len(_json({name: first}))
        # without room, a copy of its own is as right, only larger
        if not is_alive() or shard.header + needed > shard.room:
            return False
        shard.ties[name] = first
        shard.header += needed
        self._names[name] = shard
        return True

    def _shard_for(self, name: str, view: TensorView, *, is_alone: bool) -> _Shard:
        """Return the shard that a tensor goes into, with the room for its entry taken."""
        needed = _entry_bytes(name, view)
        if self._file >= 0:
            last = self._shards[-1]
            size = last.end + last.kept_bytes
            is_full = size > 0 and size + view.size_bytes > self._shard_bytes
            if not is_full and not is_alone and last.header + needed <= last.room:
                last.header += needed
                return last
            self._end_shard()
        room = self._room if _EMPTY_BYTES + needed <= self._room else HEADER_ROOM_BYTES
        shard = _Shard(self._folder / f"shard-{len(self._shards) + 1}", room, header=_EMPTY_BYTES + needed)
        with disk_errors("creating", shard.path):
            self._file = os.open(shard.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.lseek(self._file, 8 + room, os.SEEK_SET)
        self._shards.append(shard)
        return shard

    def _append(self, shard: _Shard, name: str, kind: tuple[str, tuple[int, ...]], data: memoryview | bytes) -> None:
        rest = memoryview(data)
        with disk_errors("writing", shard.path):
            while rest:
                rest = rest[os.write(self._file, rest[:_WRITE_BYTES_MAX]) :]
        shard.entries[name] = (*kind, shard.end, shard.end + len(data))
        shard.end += len(data)

    def _end_shard(self) -> None:
        shard = self._shards[-1]
        # stable, so that equal input makes equal bytes
        shard.kept.sort(key=lambda kept: -ELEMENT_BYTES[kept[1]])
        for name, dtype, shape, data in shard.kept:
            self._append(shard, name, (dtype, shape), data)
        shard.kept.clear()
        shard.kept_bytes = 0
        self.close()

    def close(self) -> None:
        """Close the file that is being written, if one is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def finish(self) -> Written:
        """Write the headers, give the files their names, write the index."""
        if not self._shards:
            raise ConfigError("there are no tensors to publish")
        if self._file >= 0:
            self._end_shard()
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(self._shards, 1):
            name = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            with shard.path.open("r+b") as file:
                file.write(shard.encoded())
            shard.path.rename(self._folder / name)
            weight_map.update(dict.fromkeys(shard.entries, name))
        total = sum(shard.end for shard in self._shards)
        if count > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        ties = {alias: name for shard in self._shards for alias, name in shard.ties.items()}
        return Written(len(weight_map), total, ties)

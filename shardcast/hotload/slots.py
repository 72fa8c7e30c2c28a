"""The live tensors of an engine: each memory once, with all the names that it has.

Two names are one slot when they name the same bytes in the same way (tied weights); what shares only some of its bytes with another is
refused, because nobody could say what it holds after both were written. A slot is written where it is: its address never changes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch

from shardcast_proto.errors import ConfigError

from ..tensors import view_of

#: Where each tensor begins in an image of all of them: what a CUDA kernel likes, and any element's size divides.
_ALIGNMENT: Final = 256


@dataclass(frozen=True, eq=False)
class Slot:
    """One memory that a version is written into.

    Attributes:
        names: All of its names, the one that came first first.
        tensor: The live tensor, detached: writing it writes the engine's own.
        dtype: The type's name in safetensors.
        shape: The extents.
        size_bytes: How many bytes the elements have.
        place: Where it begins in an image of all slots, in bytes.
        pointer: The address of its first element.
        is_contiguous: Whether its elements lie in the order of their indices, without gaps.
    """

    names: tuple[str, ...]
    tensor: Any
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    place: int
    pointer: int
    is_contiguous: bool

    def bytes_of(self) -> Any:
        """Return the live bytes as a flat `uint8` tensor; only of a contiguous slot."""
        return as_bytes(self.tensor)

    def view_in(self, image: Any) -> Any:
        """Return what this slot is in an image: a tensor of its type and shape."""
        part = image[self.place : self.place + self.size_bytes]
        return part.view(self.tensor.dtype).view(self.shape)


def as_bytes(tensor: Any) -> Any:
    """Return a contiguous tensor's own memory as a flat `uint8` tensor."""
    return tensor.view(-1).view(torch.uint8) if tensor.dim() else tensor.view(1).view(torch.uint8)


def image_bytes(slots: list[Slot]) -> int:
    """Return how many bytes an image of all slots has: the weights, and up to 255 bytes of padding for each."""
    return slots[-1].place + _padded(slots[-1].size_bytes) if slots else 0


def slots_of(target: object) -> list[Slot]:
    """Return the slots of a model, or of a mapping of names to tensors.

    Args:
        target: A `torch.nn.Module` (its parameters and persistent buffers, under the names of its `state_dict`), or a mapping of
            names to `torch.Tensor`.

    Raises:
        ConfigError: There are no tensors; or one is no dense, local tensor with bytes of its own on the one device of all.
    """
    groups: dict[object, list[str]] = {}
    tensors: dict[object, Any] = {}
    for name, tensor in _named(target):
        view = view_of(name, tensor)
        # what has no elements has no memory to share
        key = (name,) if view.size_bytes == 0 else view.place
        groups.setdefault(key, []).append(name)
        tensors.setdefault(key, (view, tensor.detach()))
    if not groups:
        raise ConfigError("there are no tensors to load into", hint="give a model, or a mapping of names to tensors")
    slots: list[Slot] = []
    place = 0
    for key, names in groups.items():
        view, tensor = tensors[key]
        _check_plain(names[0], tensor)
        slots.append(
            Slot(
                names=tuple(names),
                tensor=tensor,
                dtype=view.dtype,
                shape=view.shape,
                size_bytes=view.size_bytes,
                place=place,
                pointer=int(tensor.data_ptr()),
                is_contiguous=bool(tensor.is_contiguous()),
            )
        )
        place += _padded(view.size_bytes)
    _check_device(slots)
    _check_overlap(slots)
    return slots


def device_of(slots: list[Slot]) -> Any:
    """Return the device that all slots are on."""
    return slots[0].tensor.device


def _named(target: object) -> Iterator[tuple[str, Any]]:
    if isinstance(target, torch.nn.Module):
        # what get_extra_state adds is no tensor, and no checkpoint of tensors has it
        yield from (item for item in target.state_dict(keep_vars=True).items() if isinstance(item[1], torch.Tensor))
        return
    if not isinstance(target, Mapping):
        raise ConfigError(
            f"{type(target).__name__} holds no tensors to load into",
            hint="give a torch.nn.Module, or a mapping of names to tensors",
        )
    for name, tensor in target.items():
        if not isinstance(tensor, torch.Tensor):
            raise ConfigError(f"{str(name)[:200]!r} is {type(tensor).__name__}, not a torch tensor", tensor=str(name))
        yield name, tensor


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _check_plain(name: str, tensor: Any) -> None:
    if any(extent > 1 and stride == 0 for extent, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        raise ConfigError(
            f"{name[:200]!r} repeats one memory (it was expanded): its elements cannot be written apart",
            hint="load into the tensor that it was expanded from",
            tensor=name,
        )
    if tensor.is_conj() or tensor.is_neg():
        raise ConfigError(f"{name[:200]!r} is a lazy conjugate or negative", hint="resolve it first", tensor=name)


def _check_device(slots: list[Slot]) -> None:
    devices = sorted({str(slot.tensor.device) for slot in slots})
    if len(devices) > 1:
        raise ConfigError(
            f"the tensors are on {len(devices)} devices: {', '.join(devices)}",
            hint="make one HotLoader for each device, with the tensors that are on it",
        )


def _check_overlap(slots: list[Slot]) -> None:
    """Refuse slots that share some bytes; where tensors with gaps interleave, nobody could tell, so these are refused too."""
    spans = sorted((*_extent(slot), slot.names[0]) for slot in slots if slot.size_bytes)
    for (_, end, name), (begin, _, other) in pairwise(spans):
        if begin < end:
            raise ConfigError(
                f"{name[:200]!r} and {other[:200]!r} lie in the same memory and are not one tensor",
                hint="give the tensor that they are both views of, or copies of their own",
                tensors=[name, other],
            )


def _extent(slot: Slot) -> tuple[int, int]:
    steps = zip(slot.shape, slot.tensor.stride(), strict=True)
    last = sum((extent - 1) * stride for extent, stride in steps)
    return slot.pointer, slot.pointer + (last + 1) * int(slot.tensor.element_size())

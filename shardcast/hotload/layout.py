"""The tensors of a version, known from the headers of its files alone.

    model.safetensors.index.json        names the files, where there is one;
    model.safetensors                   else this one;
    *.safetensors                       else all of the top directory, as long as no name comes twice.

A header says `"lm_head.weight": "model.embed_tokens.weight"` in `__metadata__` where a name has no bytes of its own, as
`shardcast.tensor_files` and `safetensors.torch.save_model` write it. What stands there beside ties is not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple, TypeGuard

from shardcast_proto.errors import HotLoadError

from ..checkpoint import JSON_BYTES_MAX
from ..tensors import ELEMENT_BYTES
from .verified import VerifiedFiles

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_SUFFIX: Final = ".safetensors"
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_EXTENT_MAX: Final = 1 << 60


class Span(NamedTuple):
    """Where the bytes of a tensor lie.

    Attributes:
        name: As the file names it.
        dtype: The type's name in safetensors.
        shape: The extents.
        file_index: Which file of the manifest.
        begin: The offset of its first byte in that file.
        length: How many bytes it has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file_index: int
    begin: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Every tensor of a version, in the order of its files' bytes, and the names that are tied to them."""

    spans: tuple[Span, ...]
    ties: dict[str, str]


def read_layout(files: VerifiedFiles) -> Layout:
    """Read the headers.

    Raises:
        HotLoadError: There are no tensors, or the headers contradict themselves, the files or each other.
        IntegrityError: The bytes read are not the manifest's.
        StoreError: The disk fails.
    """
    spans: dict[str, Span] = {}
    ties: dict[str, str] = {}
    for file_index in _weight_files(files):
        path = files.manifest.files[file_index].path
        header, begin = _header(files, file_index)
        metadata = header.pop(_METADATA, None) or {}
        for span in sorted(_spans(header, path, file_index, begin), key=lambda span: (span.begin, span.length)):
            if span.name in spans:
                raise _broken(path, f"has tensor {span.name!r}, and so has another file")
            spans[span.name] = span
        _check_places(
            path, files.manifest.files[file_index].size, [s for s in spans.values() if s.file_index == file_index]
        )
        if isinstance(metadata, dict):
            ties.update((alias, name) for alias, name in metadata.items() if name in header and alias not in header)
    return Layout(tuple(spans.values()), {alias: name for alias, name in ties.items() if alias not in spans})


def _weight_files(files: VerifiedFiles) -> list[int]:
    numbers = {row.path: number for number, row in enumerate(files.manifest.files)}
    if _INDEX in numbers:
        index = _json(_INDEX, files.read_bytes(numbers[_INDEX], 0, _size(files, numbers[_INDEX])))
        weights = index.get("weight_map")
        if not isinstance(weights, dict):
            raise _broken(_INDEX, "has no weight_map")
        shards = sorted({str(shard) for shard in weights.values()})
        if missing := [shard for shard in shards if shard not in numbers]:
            raise _broken(_INDEX, f"names {missing[0]}, which the version does not have")
        return [numbers[shard] for shard in shards]
    found = [number for path, number in numbers.items() if path.endswith(_SUFFIX) and "/" not in path]
    if _SINGLE in numbers:
        return [numbers[_SINGLE]]
    if not found:
        raise HotLoadError(
            f"{files.root} has no {_SUFFIX} file in its top directory", hint="publish weights as safetensors"
        )
    return found


def _size(files: VerifiedFiles, file_index: int) -> int:
    size = files.manifest.files[file_index].size
    if size > JSON_BYTES_MAX:
        raise _broken(files.manifest.files[file_index].path, f"has {size} bytes of JSON, at most {JSON_BYTES_MAX}")
    return size


def _header(files: VerifiedFiles, file_index: int) -> tuple[dict[str, Any], int]:
    """Return a file's header, with the offset behind it, where the tensors begin."""
    row = files.manifest.files[file_index]
    if row.size < _LENGTH_BYTES:
        raise _broken(row.path, f"has {row.size} bytes, too few for a header")
    length = int.from_bytes(files.read_bytes(file_index, 0, _LENGTH_BYTES), "little")
    if length > min(JSON_BYTES_MAX, row.size - _LENGTH_BYTES):
        raise _broken(row.path, f"says that its header has {length} bytes, of {row.size} in all")
    return _json(row.path, files.read_bytes(file_index, _LENGTH_BYTES, length)), _LENGTH_BYTES + length


def _spans(header: dict[str, Any], path: str, file_index: int, start: int) -> Iterator[Span]:
    for name, value in header.items():
        entry: dict[str, object] = value if isinstance(value, dict) else {}
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
            raise _broken(path, f"describes tensor {name[:80]!r} without a type, shape and offsets")
        begin, length = offsets[0], offsets[1] - offsets[0]
        if length < 0 or (dtype in ELEMENT_BYTES and prod(shape) * ELEMENT_BYTES[dtype] != length):
            raise _broken(path, f"gives tensor {name[:80]!r} {length} bytes, which its type and shape do not have")
        yield Span(name, dtype, tuple(shape), file_index, start + begin, length)


def _check_places(path: str, size: int, spans: list[Span]) -> None:
    end = 0
    for span in spans:
        if span.begin < end:
            raise _broken(path, f"has tensors that overlap, one is {span.name[:80]!r}")
        end = span.begin + span.length
    if end > size:
        raise _broken(path, f"promises {end} bytes and has {size}")


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < _EXTENT_MAX for number in value)


def _json(path: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"does not hold valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise _broken(path, "holds no JSON object")
    return value


def _broken(path: str, what: str) -> HotLoadError:
    return HotLoadError(f"{path} {what}", hint="publish the checkpoint again", path=path)

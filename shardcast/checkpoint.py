"""A checkpoint on the disk: the directory that a trainer wrote, read with suspicion.

`scan` lists its files, and refuses what must not be published: a checkpoint that is still being written, or was cut short (an index
that names missing files, a safetensors header that does not fit its file, names of temporary files), what would run code on the hosts
that load it (pickles), and what is no plain file of that directory (sockets, devices, links that lead out of it). Every refusal
names the file, with what to do about it. Nothing is read but headers.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO, ClassVar, Final, NamedTuple, TypeGuard

from shardcast_proto.errors import ConfigError, NotFound, RemoteProtocolError, StoreError
from shardcast_proto.limits import FILES_MAX, MIB
from shardcast_proto.manifest import sort_by_path
from shardcast_proto.paths import check_paths

#: JSON takes about ten times its size as Python objects; a header of 16 MiB names over 100,000 tensors.
JSON_BYTES_MAX: Final = 16 * MIB
#: Bytes of a file's beginning in which a pickle inside a zip archive shows: torch writes `…/data.pkl` first.
_MAGIC_BYTES: Final = 4096

#: Characters of a path that is too long, in the error that says so.
_QUOTED_CHARS: Final = 200
_RIGHTS: Final = "the user that runs the node needs the right to read there, and to enter every directory above"

_PICKLE_NAMES: Final = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})
_TEMPORARY_NAMES: Final = (".tmp", ".incomplete", ".part", ".partial")

#: Bits of an element, by safetensors type name. A type that is not here is left to the engines.
_BITS: Final = {
    **dict.fromkeys(["BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"], 8),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 16),
    **dict.fromkeys(["I32", "U32", "F32"], 32),
    **dict.fromkeys(["I64", "U64", "F64", "C64"], 64),
    "F4": 4,
}


class CheckpointRefused(ConfigError):
    """A checkpoint must not be published as it is. The message names the file, the hint what to do."""

    code: ClassVar[str] = "checkpoint_refused"


class ScannedFile(NamedTuple):
    """A file of a checkpoint: its path below the directory, its size in bytes."""

    path: str
    size: int


def scan(path: Path) -> list[ScannedFile]:
    """Return the files of a checkpoint, sorted as a manifest sorts them.

    Raises:
        NotFound: There is nothing at `path`.
        ConfigError: There cannot be anything: it is too long, or a loop of links.
        CheckpointRefused: It must not be published as it is; `facts["reason"]` is a slug.
        StoreError: It cannot be read.
    """
    if not _is_directory(path):
        raise CheckpointRefused(
            f"{path} is not a directory",
            hint="publish the directory that holds the checkpoint's files",
            reason="not_a_directory",
            path=str(path),
        )
    try:
        root = path.resolve()
        sizes = sort_by_path(_walk(root, ""))
        _check_names(path, sizes)
        files = dict(sizes)
        for name in files:
            _check_content(root, name, files)
    except OSError as error:
        raise _unreadable(path, error) from error
    return [ScannedFile(name, size) for name, size in sizes]


def _is_directory(path: Path) -> bool:
    """Return whether there is a directory at `path`; where there is anything else, it is not."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{path} does not exist", path=str(path)) from error
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise _unreadable(path, error) from error
        text = str(path)[:_QUOTED_CHARS]
        raise ConfigError(f"the path {text!r} leads nowhere: {error.strerror}", path=text) from error


def _unreadable(path: Path, error: OSError) -> StoreError:
    hint = _RIGHTS if error.errno in (errno.EACCES, errno.EPERM) else None
    return StoreError(f"cannot read {error.filename or path}: {error.strerror}", hint=hint, path=str(path))


# --- which files there are ---


def _walk(root: Path, below: str) -> Iterator[tuple[str, int]]:
    with os.scandir(root / below) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if not name.isprintable() and any("\ud800" <= char <= "\udfff" for char in name):
                raise _refusal(ascii(name), "is no valid UTF-8 file name", "name", "rename it")
            if _is_temporary(entry.name):
                raise _refusal(
                    name, "is a temporary file", "temporary", "publish when the writer has finished, or remove it"
                )
            if entry.is_symlink():
                _check_link(root, name)
            if entry.is_dir():
                yield from _walk(root, f"{name}/")
            elif not entry.is_file():
                raise _refusal(name, "is no plain file (a socket, a pipe, a device)", "special", "remove it")
            else:
                yield name, entry.stat().st_size


def _is_temporary(name: str) -> bool:
    folded = name.casefold()
    return folded.startswith((".tmp-", "tmp-")) or folded.endswith(_TEMPORARY_NAMES)


def _check_link(root: Path, name: str) -> None:
    target = Path(os.path.realpath(root / name))
    if not target.exists():
        raise _refusal(name, "is a symbolic link to nothing", "broken_link", "complete the checkpoint, or remove it")
    if not target.is_relative_to(root):
        raise _refusal(
            name, f"is a symbolic link out of the checkpoint, to {target}", "link_out", "copy it with cp -rL first"
        )
    if target.is_dir():
        raise _refusal(name, "is a symbolic link to a directory", "link_to_directory", "copy it with cp -rL first")


def _check_names(path: Path, sizes: list[tuple[str, int]]) -> None:
    if not any(size for _, size in sizes):
        raise CheckpointRefused(
            f"{path} holds no bytes", hint="name the checkpoint's directory", reason="empty", path=str(path)
        )
    if len(sizes) > FILES_MAX:
        raise CheckpointRefused(
            f"{path} holds {len(sizes)} files, at most {FILES_MAX} can be published",
            hint="publish the checkpoint's own directory, not one above it",
            reason="too_many_files",
            path=str(path),
        )
    try:
        check_paths(name for name, _ in sizes)
    except RemoteProtocolError as error:
        raise CheckpointRefused(error.message, hint="rename it", reason="name", **error.facts) from error


# --- what is in them ---


def _check_content(root: Path, name: str, files: dict[str, int]) -> None:
    suffix = PurePosixPath(name).suffix.casefold()
    if suffix in _PICKLE_NAMES:
        raise _pickle(name, f"is a pickle by its name ({suffix})")
    with (root / name).open("rb") as file:
        start = file.read(_MAGIC_BYTES)
        file.seek(0)
        fault = _safetensors_fault(name, file, files[name]) if suffix == ".safetensors" else None
        # the length in front of a sound safetensors header may look like the first bytes of a pickle
        if suffix != ".safetensors" or fault:
            _refuse_pickle(name, start)
        if fault:
            raise _refusal(name, fault, "safetensors", "publish when the writer has finished, or write it again")
        if name.casefold().endswith(".index.json"):
            file.seek(0)
            _check_index(name, file, files)


def _refuse_pickle(name: str, start: bytes) -> None:
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise _pickle(name, "is a pickle by its first bytes")
    if start[:4] == b"PK\x03\x04" and b".pkl" in start:
        raise _pickle(name, "is an archive that holds a pickle")


def _pickle(name: str, what: str) -> CheckpointRefused:
    return _refusal(name, f"{what}: loading it runs code", "pickle", "save the weights as .safetensors, and remove it")


def _check_index(name: str, file: BinaryIO, files: dict[str, int]) -> None:
    index = _json_of(name, file.read(JSON_BYTES_MAX + 1))
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        raise _refusal(name, "has no weight_map", "index", "write the checkpoint again")
    folder = name.rpartition("/")[0]
    for shard in sorted({str(shard) for shard in weights.values()}):
        if (f"{folder}/{shard}" if folder else shard) not in files:
            raise _refusal(
                name, f"names {shard}, which is missing", "missing_shard", "publish when the writer has finished"
            )


def _safetensors_fault(name: str, file: BinaryIO, size: int) -> str | None:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        return f"has a header of {length} bytes, but {size} bytes in all"
    if length > JSON_BYTES_MAX:
        return f"has a header of {length} bytes, at most {JSON_BYTES_MAX} are read"
    header = _json_of(name, file.read(length))
    if not isinstance(header, dict):
        return "has a header that is no object"
    header.pop("__metadata__", None)
    spans: list[tuple[int, int]] = []
    for tensor, entry in header.items():
        span = _span_of(entry)
        if span is None:
            return f"describes tensor {tensor[:80]!r} by what is no type, shape, offsets that agree"
        spans.append(span)
    spans.sort()
    end = spans[-1][1] if spans else 0
    if end != size - 8 - length:
        return f"promises {end} bytes of tensors and has {size - 8 - length}"
    if (spans and spans[0][0]) or any(before[1] != after[0] for before, after in pairwise(spans)):
        return "has tensors that overlap, or bytes that belong to none"
    return None


def _span_of(entry: object) -> tuple[int, int] | None:
    """Return where a tensor's bytes begin and end, or None when its description contradicts itself."""
    if not isinstance(entry, dict):
        return None
    offsets, shape, dtype = entry.get("data_offsets"), entry.get("shape"), entry.get("dtype")
    if not _are_sizes(offsets) or not _are_sizes(shape) or not isinstance(dtype, str):
        return None
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        return None
    elements = 1
    for extent in shape:
        elements *= extent
        if elements > 1 << 60:
            return None
    if dtype in _BITS and elements * _BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        return None
    return offsets[0], offsets[1]


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _json_of(name: str, data: bytes) -> object:
    if len(data) > JSON_BYTES_MAX:
        raise _refusal(name, f"has more than {JSON_BYTES_MAX} bytes of JSON", "json", "split the checkpoint")
    try:
        value: object = json.loads(data, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _refusal(
            name, f"does not hold valid JSON ({error})", "json", "publish when the writer has finished"
        ) from error
    return value


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _refusal(name: str, what: str, reason: str, hint: str) -> CheckpointRefused:
    return CheckpointRefused(f"{name} {what}", hint=hint, reason=reason, file=name)

"""The client's part: a complete version becomes a directory of the user's.

Large files are hard links to the store's (they are read-only, and cost neither time nor space), small ones copies that may be
edited. The directory appears whole or not at all: it is built beside its place, made durable, then renamed. An identical directory that
is there already is left as it is; any other is never touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from shardcast_proto.errors import Conflict, StoreError
from shardcast_proto.ids import Digest
from shardcast_proto.limits import MIB
from shardcast_proto.manifest import Manifest

from .store import ChunkPlace, digest_chunks
from .store.disk import copy_bytes, opened, remove_tree, rename_durably, sync_directories
from .store.faults import disk_errors

#: Smaller files are configs and tokenizers, which people edit; a link would let them edit the store.
LINK_BYTES_MIN: Final = MIB
#: Differences that an error message quotes.
_QUOTED: Final = 3


class Difference(NamedTuple):
    """One way in which a directory is not what a manifest says."""

    path: str
    kind: Literal["missing", "extra", "not_a_file", "size", "content"]
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


@dataclass(frozen=True)
class Materialised:
    """What it took to make a directory of a version.

    Attributes:
        path: The directory.
        was_there: Whether an identical one was there already, so that nothing was done.
        linked_bytes: Bytes of files that are hard links to the store's.
        copied_bytes: Bytes of files that were copied.
    """

    path: Path
    was_there: bool
    linked_bytes: int
    copied_bytes: int


def materialise(
    source: Path, manifest: Manifest, target: Path, *, link_bytes_min: int | None = LINK_BYTES_MIN
) -> Materialised:
    """Make a directory of a complete version, atomically.

    Args:
        source: Where the version lies in the store (`VersionRow.path`); hold a lease on it meanwhile.
        manifest: What the version is.
        target: The directory to make; an empty one may be there.
        link_bytes_min: Files of at least this size are hard links where the file system allows it; None copies all.

    Raises:
        Conflict: Something else is at `target`.
        StoreError: The disk is full or fails, or a file of the version is not as it should be.
    """
    target = target.absolute()
    with disk_errors("looking at", target):
        is_free = not os.path.lexists(target) or (_is_directory(target) and not any(target.iterdir()))
    if not is_free:
        _compare(target, manifest)
        return Materialised(target, True, 0, 0)
    with disk_errors("creating", target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
    with _temporary_beside(target) as temporary:
        linked, copied = _fill(source, manifest, temporary, link_bytes_min)
        with disk_errors("moving into place", target):
            sync_directories(temporary)
            _move(temporary, target)
    return Materialised(target, False, linked, copied)


def verify_tree(path: Path, manifest: Manifest) -> list[Difference]:
    """Return every way in which a directory is not what a manifest says: none when each byte is right.

    Raises:
        StoreError: The directory cannot be read.
    """
    wanted = {row.path: index for index, row in enumerate(manifest.files)}
    differences: list[Difference] = []
    with disk_errors("reading", path):
        found = dict(_entries(path, ""))
    for name in sorted(found.keys() - wanted.keys()):
        differences.append(Difference(name, "extra", "does not belong to the version"))
    readable: list[int] = []
    for name, index in wanted.items():
        difference = _difference_in_status(name, found.get(name), manifest.files[index].size)
        if difference is None:
            readable.append(index)
        else:
            differences.append(difference)
    return differences + _differences_in_content(path, manifest, readable)


# --- comparing ---


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _compare(target: Path, manifest: Manifest) -> None:
    if not _is_directory(target):
        raise Conflict(f"{target} is there and is no directory", hint="choose another place", path=str(target))
    differences = verify_tree(target, manifest)
    if differences:
        quoted = "; ".join(str(difference) for difference in differences[:_QUOTED])
        more = f"; {len(differences) - _QUOTED} more" if len(differences) > _QUOTED else ""
        raise Conflict(
            f"{target} is there with other content ({quoted}{more})",
            hint="choose another directory, or remove it",
            path=str(target),
            differences=len(differences),
        )


def _entries(root: Path, below: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(root, f"{below}{entry.name}/")
            else:
                yield f"{below}{entry.name}", entry.stat(follow_symlinks=False)


def _difference_in_status(name: str, status: os.stat_result | None, size: int) -> Difference | None:
    if status is None:
        return Difference(name, "missing", "is missing")
    if not stat.S_ISREG(status.st_mode):
        return Difference(name, "not_a_file", "is no plain file")
    if status.st_size != size:
        return Difference(name, "size", f"has {status.st_size} bytes instead of {size}")
    return None


def _differences_in_content(path: Path, manifest: Manifest, file_indices: list[int]) -> list[Difference]:
    wrong: dict[str, int] = {}

    def compare(place: ChunkPlace, digest: Digest) -> None:
        if digest != manifest.blob.digest(place.chunk_index):
            name = manifest.files[manifest.chunk_span(place.chunk_index).file_index].path
            wrong[name] = min(wrong.get(name, place.offset), place.offset)

    places = (place for index in file_indices for place in _places(path, manifest, index))
    digest_chunks(places, compare, chunk_size=manifest.blob.chunk_size)
    return [
        Difference(name, "content", f"has other bytes in the chunk at offset {wrong[name]}") for name in sorted(wrong)
    ]


def _places(root: Path, manifest: Manifest, file_index: int) -> Iterator[ChunkPlace]:
    path = root / manifest.files[file_index].path
    for chunk in manifest.file_chunks(file_index):
        span = manifest.chunk_span(chunk)
        yield ChunkPlace(chunk, path, span.offset, span.length)


# --- building ---


def _fill(source: Path, manifest: Manifest, temporary: Path, link_bytes_min: int | None) -> tuple[int, int]:
    linked = copied = 0
    for row in manifest.files:
        origin, target = source / row.path, temporary / row.path
        with disk_errors("writing", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened(origin) as reader:
                _check_source(origin, os.fstat(reader), row.size)
                if link_bytes_min is not None and row.size >= link_bytes_min and _linked(origin, target):
                    linked += row.size
                    continue
                with opened(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644) as writer:
                    copied += copy_bytes(reader, writer)
                    os.fsync(writer)
    return linked, copied


def _check_source(path: Path, status: os.stat_result, size: int) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise StoreError(
            f"{path} has {status.st_size} bytes instead of {size}: it was changed after the version was complete",
            hint="fetch or publish the version again",
            reason="changed",
            path=str(path),
        )


def _linked(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _move(temporary: Path, target: Path) -> None:
    try:
        rename_durably(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise Conflict(f"{target} was made by somebody else meanwhile", path=str(target)) from error
        raise


@contextlib.contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """Make a directory beside `target`, locked while it is being filled, gone afterwards unless it was renamed."""
    path, descriptor = _make_locked(target)
    try:
        yield path
    finally:
        with disk_errors("removing", path):
            remove_tree(path)
            os.close(descriptor)


def _make_locked(target: Path) -> tuple[Path, int]:
    while True:
        path = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}")
        with disk_errors("creating", target):
            path.mkdir()
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                return path, descriptor
            # another run swept it in the moment before it was locked
            os.close(descriptor)


def _sweep(target: Path) -> None:
    """Remove what killed runs left beside `target`: directories that nobody holds locked."""
    for path in target.parent.glob(f"{_glob_escaped(_prefix(target))}*"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(path)
        finally:
            os.close(descriptor)


def _prefix(target: Path) -> str:
    return f".tmp-{target.name}-"


def _glob_escaped(text: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)

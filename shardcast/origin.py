"""The origin's part in publishing: a checkpoint is hashed where it lies, then sealed as a version.

No byte is copied when the file system can help it: the store gets reflinks or hard links of its own, so the trainer may delete its
files the next moment. A trainer that rewrites them *in place* reaches the linked bytes too; that is found out before they are
served (see `store.held_tree`), and `--link copy` is for such trainers. Signing is not done here: what is returned is what to sign.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from shardcast_proto.chunking import check_chunk_size, chunk_count, default_chunk_size
from shardcast_proto.errors import ConfigError, Conflict, RemoteProtocolError
from shardcast_proto.ids import Digest
from shardcast_proto.limits import CHUNKS_MAX, DIGEST_BYTES
from shardcast_proto.manifest import Manifest

from .checkpoint import ScannedFile, scan
from .store import ChunkPlace, FileIdentity, Link, Store, digest_chunks
from .store.disk import SEALED_MODE, STAGED_MODE, copy_bytes, opened, remove_tree
from .store.faults import disk_errors, disk_fault

LinkWish = Literal["auto", "reflink", "hardlink", "copy"]
#: Called with the bytes hashed so far, and the bytes in all.
Progress = Callable[[int, int], None]

#: The ioctl that lets two files share their blocks (linux/fs.h); btrfs, xfs, bcachefs have it, ext4 has not.
_FICLONE: Final = 0x40049409


@dataclass(frozen=True)
class Sealed:
    """A version that was sealed from a checkpoint, complete in the store.

    Attributes:
        manifest: What it is.
        digest: The manifest's digest: what a head names.
        bytes: The size of all files.
        hash_seconds: How long hashing took.
        linked: How its files came into the store.
    """

    manifest: Manifest
    digest: Digest
    bytes: int
    hash_seconds: float
    linked: Link


def seal(
    path: Path,
    store: Store,
    *,
    link: LinkWish = "auto",
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Sealed:
    """Make a complete version of a checkpoint, without signing anything.

    Args:
        path: The checkpoint's directory.
        store: Where the version goes.
        link: How its files come into the store; `auto` takes the first of reflink, hard link, copy that works.
        chunk_size: Bytes of a chunk; the default follows from the checkpoint's size.
        progress: Told how hashing goes, from worker threads.

    Raises:
        NotFound: There is nothing at `path`.
        CheckpointRefused: The checkpoint must not be published as it is.
        ConfigError: The chunk size is not one, makes too many chunks, or the files cannot be linked as asked.
        Conflict: Somebody wrote to the checkpoint meanwhile.
        StoreError: The disk is full or fails.
    """
    files = scan(path)
    total = sum(file.size for file in files)
    size = _chunk_size(files, total, chunk_size)
    root = path.resolve()
    staged = store.sealing_directory(secrets.token_hex(8))
    try:
        sources = _identities(root, files)
        used = _place_files(root, staged, files, link)
        placed = _identities(staged, files)
        started = time.monotonic()
        digests = _hash(staged, files, size, _Meter(total, progress))
        hash_seconds = time.monotonic() - started
        _refuse_changes(sources, _identities(root, files), files)
        if placed != _identities(staged, files) or scan(path) != files:
            raise _changed(str(path))
        manifest = Manifest.build(files, size, digests)
        row = store.install_sealed(manifest, staged, link=used, identities=placed)
    except BaseException:
        with disk_errors("removing", staged):
            remove_tree(staged)
        raise
    return Sealed(manifest, manifest.digest, total, hash_seconds, row.link)


def _chunk_size(files: list[ScannedFile], total: int, wish: int | None) -> int:
    size = default_chunk_size(total) if wish is None else wish
    if wish is not None:
        try:
            check_chunk_size(size)
        except RemoteProtocolError as error:
            raise ConfigError(error.message, chunk_size=size) from error
    count = sum(chunk_count(file.size, size) for file in files)
    if count > CHUNKS_MAX:
        raise ConfigError(
            f"{total} bytes in {len(files)} files make {count} chunks of {size}, at most {CHUNKS_MAX} are allowed",
            hint="use larger chunks, or fewer small files",
            chunk_size=size,
        )
    return size


# --- links ---


def _place_files(root: Path, staged: Path, files: list[ScannedFile], wish: LinkWish) -> Link:
    """Bring every file into `staged` in one way, and return which one it was."""
    largest = max(files, key=lambda file: file.size)
    ways: tuple[Link, ...] = ("reflink", "hardlink", "copy") if wish == "auto" else (wish,)
    refusals: list[str] = []
    for way in ways:
        try:
            _place(root, staged, largest, way)
            break
        except OSError as error:
            refusal = disk_fault(error, f"linking ({way})", root / largest.path)
            if way == "copy":
                raise refusal from error
            refusals.append(refusal.message)
    else:
        raise ConfigError(
            f"cannot {wish} the checkpoint into {staged.parent.parent}: {'; '.join(refusals)}",
            hint="use --link auto or --link copy, or put the data directory on the checkpoint's file system",
            link=wish,
        )
    for file in files:
        if file is not largest:
            with disk_errors(f"linking ({way})", root / file.path):
                _place(root, staged, file, way)
    return way


def _place(root: Path, staged: Path, file: ScannedFile, way: Link) -> None:
    source = Path(os.path.realpath(root / file.path))
    target = staged / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    if way == "hardlink":
        target.hardlink_to(source)
        return
    try:
        with opened(source) as reader, opened(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, STAGED_MODE) as writer:
            if way == "reflink":
                fcntl.ioctl(writer, _FICLONE, reader)
            else:
                copy_bytes(reader, writer)
            os.fchmod(writer, SEALED_MODE)
    except OSError:
        target.unlink(missing_ok=True)
        raise


# --- hashing ---


class _Meter:
    """Bytes hashed so far, passed on."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _hash(root: Path, files: list[ScannedFile], chunk_size: int, meter: _Meter) -> bytes:
    digests = bytearray(DIGEST_BYTES * sum(chunk_count(file.size, chunk_size) for file in files))

    def keep(place: ChunkPlace, digest: Digest) -> None:
        digests[place.chunk_index * DIGEST_BYTES : (place.chunk_index + 1) * DIGEST_BYTES] = digest
        meter.add(place.length)

    digest_chunks(_places(root, files, chunk_size), keep, chunk_size=chunk_size)
    return bytes(digests)


def _places(root: Path, files: list[ScannedFile], chunk_size: int) -> Iterator[ChunkPlace]:
    index = 0
    for file in files:
        path = root / file.path
        for offset in range(0, file.size, chunk_size):
            yield ChunkPlace(index, path, offset, min(chunk_size, file.size - offset))
            index += 1


# --- changes under our hands ---


def _identities(root: Path, files: list[ScannedFile]) -> dict[int, FileIdentity]:
    identities: dict[int, FileIdentity] = {}
    for index, file in enumerate(files):
        with disk_errors("reading the status of", root / file.path):
            try:
                identities[index] = FileIdentity.of((root / file.path).stat())
            except FileNotFoundError as error:
                raise _changed(file.path) from error
    return identities


def _refuse_changes(before: dict[int, FileIdentity], after: dict[int, FileIdentity], files: list[ScannedFile]) -> None:
    for index, file in enumerate(files):
        # our own hard links have moved ctime
        if before[index].size != file.size or not before[index].is_same(after[index], with_ctime=False):
            raise _changed(file.path)


def _changed(what: str) -> Conflict:
    return Conflict(
        f"{what} changed while it was being published", hint="publish when the trainer has finished", path=what
    )

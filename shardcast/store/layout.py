"""The layout of a staged version on the disk: its directories, its files at their full sizes.

Disk space is reserved before the first chunk lands, so that a full disk shows at the beginning and not in the middle.
What an earlier run left is taken over as far as it is sound. Functions raise plain `OSError` unless they say otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shardcast_proto.bitmap import Bitmap, full_mask
from shardcast_proto.errors import StoreError
from shardcast_proto.manifest import Manifest

from .chunk_files import wrong_chunks
from .disk import DIRECTORY_MODE, STAGED_MODE, allocate, sync_directories
from .faults import free_bytes


def make_directories(manifest: Manifest, root: Path) -> None:
    """Create `root` and every directory that a file of the version lies in."""
    for folder in sorted({root, *(root / path for path in _folders(manifest))}):
        folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)


def _folders(manifest: Manifest) -> Iterator[str]:
    for row in manifest.files:
        folder = row.path.rpartition("/")[0]
        while folder:
            yield folder
            folder = folder.rpartition("/")[0]


def sound_chunks(manifest: Manifest, root: Path, kept: Bitmap, *, is_suspect: bool) -> int:
    """Return the mask of the `kept` chunks that an earlier run's files really hold.

    Chunks of files that are gone or have another size are not; when the run is suspect every chunk is hashed again.

    Raises:
        StoreError: A file cannot be read.
    """
    mask = kept.mask
    for file_index, status in _statuses(manifest, root):
        if status is None or status.st_size != manifest.files[file_index].size:
            mask &= ~file_mask(manifest, file_index)
    if is_suspect and mask:
        for index in wrong_chunks(manifest, root, Bitmap(kept.count, mask)):
            mask ^= 1 << index
    return mask


def drop_unfinished_links(manifest: Manifest, root: Path, mask: int) -> int:
    """Remove read-only files that are not held whole, and return the mask without their chunks.

    A run that ends between linking a file and noting it leaves a link to another version's file, which must never be written to.
    """
    for file_index, status in _statuses(manifest, root):
        chunks = file_mask(manifest, file_index)
        if status is not None and stat.S_IMODE(status.st_mode) != STAGED_MODE and mask & chunks != chunks:
            (root / manifest.files[file_index].path).unlink()
            mask &= ~chunks
    return mask


def reserve(manifest: Manifest, root: Path) -> None:
    """Give every file its full size, with its blocks reserved, durably.

    Raises:
        StoreError: There is not enough space; nothing was reserved.
    """
    lacking = [
        (file_index, row.size - (status.st_blocks * 512 if status else 0))
        for (file_index, status), row in zip(_statuses(manifest, root), manifest.files, strict=True)
        if status is None or status.st_size != row.size or (status.st_blocks * 512 < row.size and status.st_nlink == 1)
    ]
    needed = sum(max(size, 0) for _, size in lacking)
    free = free_bytes(root)
    if 0 <= free < needed:
        raise StoreError(
            f"disk full: {needed} bytes needed in {root}, {free} free",
            hint="free space on that disk, or lower --keep or --quota",
            reason="disk_full",
            path=str(root),
            needed_bytes=needed,
            free_bytes=free,
        )
    for file_index, _ in lacking:
        row = manifest.files[file_index]
        allocate(root / row.path, row.size)
    sync_directories(root)


def file_mask(manifest: Manifest, file_index: int) -> int:
    """Return the mask of one file's chunks."""
    chunks = manifest.file_chunks(file_index)
    return full_mask(len(chunks)) << chunks.start


def _statuses(manifest: Manifest, root: Path) -> Iterator[tuple[int, os.stat_result | None]]:
    for file_index, row in enumerate(manifest.files):
        try:
            yield file_index, os.lstat(root / row.path)
        except FileNotFoundError:
            yield file_index, None

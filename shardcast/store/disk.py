"""The disk operations that durability is made of.

A name is durable once its directory has been fsynced, bytes once their file has: a rename without the directory's fsync
leaves only the old name after a power cut. All functions raise plain `OSError`; callers wrap them in
`faults.disk_errors`, which knows what was being done.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

DIRECTORY_MODE: Final = 0o700
STAGED_MODE: Final = 0o600
SEALED_MODE: Final = 0o444

#: Linux refuses longer vectors (IOV_MAX).
_SEGMENTS_PER_CALL: Final = 1024
_COPY_BYTES: Final = 64 * 1024 * 1024

Buffer = bytes | bytearray | memoryview


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directories(root: Path) -> None:
    """Make all names below `root` durable, the deepest first."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync_directory(Path(folder))


def rename_durably(source: Path, target: Path) -> None:
    """Rename, then make both the new and the missing name durable."""
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file such that it exists complete or not at all, also after a power cut."""
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, STAGED_MODE)
    try:
        try:
            write_at(descriptor, [data], 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        rename_durably(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_at(descriptor: int, segments: Sequence[Buffer], offset: int) -> int:
    """Write all segments one behind the other from `offset` on, and return how many bytes that was."""
    waiting = [memoryview(segment).cast("B") for segment in segments if len(segment)]
    position = offset
    while waiting:
        written = os.pwritev(descriptor, waiting[:_SEGMENTS_PER_CALL], position)
        if not written:
            raise OSError(errno.EIO, "the file system takes no bytes")
        position += written
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:
            waiting[0] = waiting[0][written:]
    return position - offset


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from `offset` on, and return how many bytes were there before the file ended."""
    filled = 0
    while filled < len(buffer):
        count = os.preadv(descriptor, [buffer[filled:]], offset + filled)
        if not count:
            break
        filled += count
    return filled


def allocate(path: Path, size: int) -> None:
    """Create a file of `size` bytes whose blocks are reserved, so that a full disk shows now; an existing one is completed.

    In memory (tmpfs) nothing is reserved: it would clear every page, a second for 5 GB, to have it overwritten.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, STAGED_MODE)
    try:
        status = os.fstat(descriptor)
        is_in_memory = _is_in_memory(status.st_dev)
        if status.st_size > size or is_in_memory:
            os.ftruncate(descriptor, size)
        if size and not is_in_memory:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


@functools.lru_cache(maxsize=16)
def _is_in_memory(device: int) -> bool:
    """Whether a device is a tmpfs, as far as /proc tells."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields, _, kind = line.partition(" - ")
            if fields.split()[2] == number:
                return kind.split()[0] in ("tmpfs", "ramfs")
    return False


def seal_file(path: Path) -> os.stat_result:
    """Make a file's bytes durable, its mode read-only, and return its status after that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != SEALED_MODE:
            os.fchmod(descriptor, SEALED_MODE)
        os.fsync(descriptor)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def replace_by_link(source: Path, target: Path) -> None:
    """Put a hard link to `source` at `target`, over whatever is there."""
    temporary = target.with_name(f".tmp-{secrets.token_hex(8)}")
    temporary.hardlink_to(source)
    try:
        temporary.rename(target)
    finally:
        # renaming one link over another of the same file is no operation: the temporary name stays
        temporary.unlink(missing_ok=True)


def copy_bytes(source: int, target: int) -> int:
    """Copy a whole file inside the kernel, sharing blocks where the file system can, and return its bytes."""
    position = 0
    while True:
        try:
            count = os.copy_file_range(source, target, _COPY_BYTES, position, position)
        except OSError as error:
            if position or error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            return _copy_by_sendfile(source, target)
        if not count:
            return position
        position += count


def _copy_by_sendfile(source: int, target: int) -> int:
    position = 0
    while count := os.sendfile(target, source, position, _COPY_BYTES):
        position += count
    return position


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = STAGED_MODE) -> Iterator[int]:
    """Open a descriptor that never follows a symbolic link, for the length of a block."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

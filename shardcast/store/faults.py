"""The translation of the operating system's errors.

Every call that touches the disk runs inside `disk_errors`, so that nothing above this room sees an `OSError`. A full or
failing disk is a state that the operator can read and end, not a crash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shardcast_proto.errors import StoreError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_HINTS: Final = {
    errno.EIO: "the disk failed: look at the kernel's log, then replace the disk or move the data directory",
    errno.EROFS: "the file system is read-only: look at the kernel's log, then mount it writable again",
    errno.EACCES: "the user that runs this needs the right to read and write there",
    errno.EPERM: "the user that runs this needs the right to read and write there",
    errno.EFBIG: "the file system, or a limit of this process (ulimit -f), allows no file of that size",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files of the whole system (fs.file-max)",
}


@contextmanager
def disk_errors(action: str, path: Path) -> Iterator[None]:
    """Raise what goes wrong inside as a `StoreError` that says what was being done to which path."""
    try:
        yield
    except OSError as error:
        raise disk_fault(error, action, path) from error


def disk_fault(error: OSError, action: str, path: Path) -> StoreError:
    """Return the error of ours for an `OSError` that came up while `action` was done to `path`."""
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    if error.errno in _FULL:
        free = free_bytes(path)
        return StoreError(
            f"disk full while {action} {path}: {free} bytes free",
            hint="free space on that disk, or lower --keep or --quota",
            reason="disk_full",
            path=str(path),
            errno=name,
            free_bytes=free,
        )
    return StoreError(
        f"{name} while {action} {path}: {error.strerror or error}",
        hint=_HINTS.get(error.errno or 0),
        reason="disk_error",
        path=str(path),
        errno=name,
    )


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write to the file system of `path`, or -1 when nobody can say."""
    for place in (path, *path.parents):
        try:
            status = os.statvfs(place)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize
    return -1

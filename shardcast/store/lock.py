"""The lock that makes a data directory one daemon's.

The kernel drops it when the process ends in any way, so a lock file that is left behind means nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from shardcast_proto.errors import StoreError

from .faults import disk_errors

#: Who has just taken the lock says who it is at once, if its disk and processor are not busy with something else.
_NAME_WAIT_S: Final = 5.0
#: A name of no process of ours is that of an earlier holder, which is about to be replaced, or comes from another container.
_OLD_NAME_WAIT_S: Final = 0.5
_LOOK_S: Final = 0.01


class DirectoryLock:
    """An exclusive lock on a data directory, held from construction until `release`."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreError: Another process holds it; the message names its process id.
        """
        with disk_errors("opening", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                self._take(descriptor, path)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor: int | None = descriptor

    def _take(self, descriptor: int, path: Path) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder_of(descriptor)
            raise StoreError(
                f"data directory {path.parent} is in use by process {holder}",
                hint="one daemon per data directory: stop that one, or choose another --data",
                reason="in_use",
                path=str(path.parent),
                pid=holder,
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. Calling it again does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _holder_of(descriptor: int) -> str:
    """Return the process id in a lock file; its holder writes it a moment after it has taken the lock."""
    began_s = time.monotonic()
    while True:
        name = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if name.isdecimal() and Path("/proc", name).exists():
            return name
        if time.monotonic() - began_s >= (_OLD_NAME_WAIT_S if name else _NAME_WAIT_S):
            return name or "unknown"
        time.sleep(_LOOK_S)

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

#: Half a second for who has just taken the lock to say who it is.
_LOOKS: Final = 50
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
    for _ in range(_LOOKS):
        if name := os.pread(descriptor, 32, 0).decode("ascii", "replace").strip():
            return name
        time.sleep(_LOOK_S)
    return "unknown"

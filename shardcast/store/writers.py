"""The pool of files that chunks are being written to.

A file stays open from its first write until a flush has made that write durable: the kernel reports a failed write-back
to the descriptors that were open when it failed, and a file opened later might never hear of it. Between flushes idle
files are closed, so that a version of many small files does not hold them all.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardcast.descriptors import at_most
from shardcast_proto.manifest import Manifest

#: Files held open at most when none of them waits for a flush, or a sixteenth of what this process may open: the files that a
#: swarm's neighbouring chunks lie in.
OPEN_FILES_AIM: Final = 32


@dataclass
class _Writer:
    descriptor: int
    #: Threads that write at the moment.
    users: int = 0
    #: Written to since the last flush began.
    is_dirty: bool = False


class WriterPool:
    """Descriptors by file index. All methods may be called from any thread; they raise plain `OSError`."""

    def __init__(self, manifest: Manifest, root: Path) -> None:
        self._manifest = manifest
        self._root = root
        self._writers: dict[int, _Writer] = {}
        self._changed = threading.Condition()
        self._open_aim = at_most(OPEN_FILES_AIM, share=0.0625)

    @property
    def open_count(self) -> int:
        """Files open now."""
        return len(self._writers)

    def borrow(self, file_index: int) -> int:
        """Return a descriptor to write to; `give_back` must follow."""
        with self._changed:
            writer = self._writers.get(file_index)
            if writer is None:
                path = self._root / self._manifest.files[file_index].path
                writer = _Writer(os.open(path, os.O_WRONLY | os.O_NOFOLLOW))
                self._writers[file_index] = writer
            writer.users += 1
            writer.is_dirty = True
            return writer.descriptor

    def give_back(self, file_index: int) -> None:
        """End one use of a descriptor."""
        with self._changed:
            self._writers[file_index].users -= 1
            self._changed.notify_all()

    def sync(self) -> None:
        """Make durable what was written before this call. One thread at a time may call it.

        Raises:
            OSError: Some of it is lost; it must not be tried again.
        """
        with self._changed:
            dirty = [writer for writer in self._writers.values() if writer.is_dirty]
            for writer in dirty:
                writer.users += 1
                # still dirty while somebody writes: that write may not be covered
                writer.is_dirty = writer.users > 1
        try:
            for writer in dirty:
                os.fdatasync(writer.descriptor)
        finally:
            with self._changed:
                for writer in dirty:
                    writer.users -= 1
                self._close_idle()
                self._changed.notify_all()

    def _close_idle(self) -> None:
        for file_index, writer in list(self._writers.items()):
            if len(self._writers) <= self._open_aim:
                return
            if not writer.users and not writer.is_dirty:
                os.close(writer.descriptor)
                del self._writers[file_index]

    def discard(self, file_index: int) -> bool:
        """Close a file that is about to be replaced, and return False when somebody writes to it now."""
        with self._changed:
            writer = self._writers.get(file_index)
            if writer is not None and writer.users:
                return False
            if writer is not None:
                os.close(writer.descriptor)
                del self._writers[file_index]
            return True

    def close(self) -> None:
        """Wait for the threads that write, then close all files."""
        with self._changed:
            self._changed.wait_for(lambda: not any(writer.users for writer in self._writers.values()))
            for writer in self._writers.values():
                os.close(writer.descriptor)
            self._writers.clear()

"""The spools of a node: directories below the data directory, lent to publishers that make a checkpoint from memory.

They lie on the data directory's file system, so that publishing one links its files instead of copying them, and are open to the
node's own user only. One goes when it was published or given back; what a publisher that died has left goes at the next start, or when
it has not been written to for a while and another one is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from shardcast.http.facade import SpoolView
from shardcast.store.disk import DIRECTORY_MODE, remove_tree
from shardcast.store.faults import disk_errors
from shardcast_proto.errors import Conflict, NotFound

#: A publisher needs one at a time, or two when it writes the next step while one is published.
SPOOLS_MAX: Final = 16
#: Nobody who is alive needs an hour from one write to the next.
IDLE_S: Final = 3600.0

_log = structlog.get_logger("shardcast.node")


class Spools:
    """Lends directories. All methods block on the disk and may be called from any thread.

    Args:
        clock: Unix seconds, to compare with times of files.
    """

    def __init__(self, data_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        #: Where the spools are, as the file system calls it.
        self.root = Path(os.path.realpath(data_dir)) / "spool"
        self._clock = clock
        self._lock = threading.Lock()
        #: The spools that are being published.
        self._in_use: set[str] = set()

    def open(self) -> None:
        """Make the place anew, without what an earlier run has left.

        Raises:
            StoreError: The disk fails.
        """
        with self._lock, disk_errors("sweeping", self.root):
            remove_tree(self.root)
            self.root.mkdir(mode=DIRECTORY_MODE)

    def lend(self) -> SpoolView:
        """Make an empty directory.

        Raises:
            Conflict: There are too many.
            StoreError: The disk fails.
        """
        with self._lock, disk_errors("creating a directory in", self.root):
            lent = self._live()
            if len(lent) >= SPOOLS_MAX:
                raise Conflict(
                    f"{len(lent)} spools are lent, which is all there are",
                    hint=f"give some back; one that is not written to for {IDLE_S:g} s counts as given back",
                    spools_max=SPOOLS_MAX,
                )
            name = secrets.token_hex(16)
            path = self.root / name
            path.mkdir(mode=DIRECTORY_MODE)
        return {"spool": name, "path": str(path)}

    def drop(self, name: str) -> None:
        """Delete a spool with what is in it.

        Raises:
            NotFound: There is none of that name.
            Conflict: It is being published.
            StoreError: The disk fails.
        """
        with self._lock:
            path = self.root / name
            with disk_errors("removing", path):
                if name not in self._names():
                    raise NotFound(f"there is no spool {name[:40]!r}", spool=name[:40])
                if name in self._in_use:
                    raise Conflict(f"spool {name} is being published", spool=name)
                remove_tree(path)

    def holds(self, path: Path) -> bool:
        """Say whether a path, as the file system calls it, is a spool or lies in one."""
        return self._name_in(path) is not None

    @contextlib.contextmanager
    def publishing(self, path: Path) -> Iterator[None]:
        """Keep the spool that a path is, or lies in, while it is published.

        Raises:
            Conflict: It is being published already.
        """
        name = self._name_in(path)
        if name is None:
            yield
            return
        with self._lock:
            if name in self._in_use:
                raise Conflict(f"spool {name} is being published already", spool=name)
            self._in_use.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._in_use.discard(name)

    def _name_in(self, path: Path) -> str | None:
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        return path.relative_to(self.root).parts[0]

    def _live(self) -> list[str]:
        """Drop what nobody writes to any more, and return the rest."""
        live: list[str] = []
        for name in self._names():
            if name in self._in_use or self._clock() - _touched_s(self.root / name) < IDLE_S:
                live.append(name)
            else:
                _log.info("spool_given_up", spool=name)
                remove_tree(self.root / name)
        return live

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False))


def _touched_s(path: Path) -> float:
    """Return when something in a directory, or the directory, was last written to; 0 when it is gone."""
    touched_s = 0.0
    below = (Path(folder, name) for folder, _, files in os.walk(path) for name in [".", *files])
    for entry in itertools.chain([path], below):
        # whoever writes there renames and deletes between the listing and this look
        with contextlib.suppress(FileNotFoundError):
            touched_s = max(touched_s, os.lstat(entry).st_mtime)
    return touched_s

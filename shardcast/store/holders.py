"""The holders of verified bytes: which stagings, which complete versions can be read from now.

A complete version is looked up when it is first asked for: its manifest may be megabytes. Nothing here is durable; the
table of versions is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from shardcast_proto.errors import StoreError
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.manifest import Manifest

from .held_tree import HeldTree
from .location import ChunkLocation, close_all
from .objects import ObjectShelf
from .staging import Staging
from .version_table import VersionTable

Holder = HeldTree | Staging


class Holders:
    """Live holders by manifest. All methods may be called from any thread.

    Invariant: its lock is held for look-ups only, never while a holder is asked for anything.
    """

    def __init__(self, table: VersionTable, objects: ObjectShelf) -> None:
        self._table = table
        self._objects = objects
        self._live: dict[Digest, Holder] = {}
        self._lock = threading.Lock()
        #: Told of each complete version that was given up because its files were changed; must not block, from any thread.
        self.on_failed: Callable[[HeldTree], None] = lambda tree: None

    def add(self, holder: Holder) -> None:
        """Let a holder be read from."""
        with self._lock:
            self._live[holder.manifest.digest] = holder

    def forget(self, holder: Holder) -> None:
        """Let a holder be read from no more."""
        with self._lock:
            if self._live.get(holder.manifest.digest) is holder:
                del self._live[holder.manifest.digest]

    def get(self, manifest: Digest) -> Holder | None:
        """Return the live holder of a version."""
        with self._lock:
            return self._live.get(manifest)

    def staging(self, manifest: Digest) -> Staging | None:
        """Return the staging of a version that is being landed."""
        holder = self.get(manifest)
        return holder if isinstance(holder, Staging) else None

    def stagings(self) -> list[Staging]:
        """Return the versions that are being landed."""
        with self._lock:
            return [holder for holder in self._live.values() if isinstance(holder, Staging)]

    def tree(self, manifest: Digest) -> HeldTree | None:
        """Return a complete version, or None when it is not complete.

        Raises:
            StoreError: Its manifest is gone or damaged; the version is now failed.
        """
        holder = self.get(manifest)
        if isinstance(holder, HeldTree):
            return holder
        row = self._table.row(manifest)
        if row is None or row.state != "complete":
            return None
        encoded = self._objects.get(manifest)
        if encoded is None:
            self._table.fail(manifest, "its manifest is gone")
            raise StoreError(
                f"the manifest of version {format_digest(manifest)} is gone",
                hint="fetch or publish the version again",
                reason="changed",
                manifest=format_digest(manifest),
            )
        tree = HeldTree(Manifest.decode(encoded), self._table, link=row.link, on_failed=self._give_up)
        with self._lock:
            other = self._live.get(manifest)
            if isinstance(other, HeldTree):
                return other
            self._live[manifest] = tree
        return tree

    def _give_up(self, tree: HeldTree) -> None:
        self.forget(tree)
        self.on_failed(tree)

    def locate_run(self, blob: Digest, first: int, count: int) -> list[ChunkLocation]:
        """Return the longest run that some holder of a blob has; see `Store.locate_run`."""
        best: list[ChunkLocation] = []
        failure: StoreError | None = None
        for holder in self._holding(blob):
            try:
                found = holder.locate(first, count)
            except StoreError as error:
                failure = failure or error
                continue
            best, worse = (found, best) if len(found) > len(best) else (best, found)
            close_all(worse)
            if len(best) == count:
                break
        if failure is not None and not best:
            raise failure
        return best

    def locate_staged(self, blob: Digest, index: int) -> list[ChunkLocation]:
        """Return where a chunk of a version that is being landed can be read; see `Store.locate_staged`."""
        with self._lock:
            live = [holder for holder in self._live.values() if holder.manifest.blob.id == blob]
        for holder in live:
            if isinstance(holder, Staging) and (found := holder.locate(index, 1)):
                return found
        return []

    def _holding(self, blob: Digest) -> list[Holder]:
        with self._lock:
            live = [holder for holder in self._live.values() if holder.manifest.blob.id == blob]
        if live:
            return live
        trees = (self.tree(row.manifest) for row in self._table.rows("WHERE blob = ? AND state = 'complete'", [blob]))
        return [tree for tree in trees if tree is not None]

    def find_copy(self, content: Digest) -> Path | None:
        """Return the path of a sound file of a complete version with some content (`content_of`), if there is one."""
        for name, file_index in self._table.files_with(content):
            try:
                tree = self.tree(name)
                if tree is not None:
                    tree.open_file(file_index).close()
                    return tree.root / tree.manifest.files[file_index].path
            except StoreError:
                continue  # that version is failed now; another may have the file
        return None

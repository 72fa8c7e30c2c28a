"""The store: everything of one node that outlives its process.

    DATA/lock           held while a daemon runs
    DATA/state.db       trust state, versions, have-bitmaps, leases
    DATA/objects/HEX    manifests and other small objects, by digest
    DATA/staging/HEX/   versions that are being landed (or sealed)
    DATA/versions/HEX/  complete versions, each file read-only, laid out as it will be read

It is synchronous: call it from worker threads, from as many as you like. `Staging` tells how chunks become durable,
`HeldTree` what is checked before bytes leave, `recovery` what a kill leaves behind.

Locks, in the order in which they are taken: `_structure` (one thread adds or removes versions), those of a staging or a
held tree, that of `Holders` (look-ups only), the database's.
"""

from __future__ import annotations

import io
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shardcast_proto.errors import Conflict, NotFound, ShardcastError, StoreError
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.manifest import Manifest

from .activations import ActivationBook
from .database import Database
from .disk import DIRECTORY_MODE, remove_tree, rename_durably, sync_directories, sync_directory
from .faults import disk_errors
from .holders import Holders
from .identity import FileIdentity
from .leases import LeaseBook
from .location import ChunkLocation
from .lock import DirectoryLock
from .objects import ObjectShelf
from .recovery import reconcile
from .retention import KEEP_DEFAULT, UNNAMED, HeldVersion, plan_retention
from .staging import Staging
from .trust_ledger import TrustLedger
from .version_table import Link, VersionRow, VersionTable

#: The mark that says that the last run closed the store.
_CLEAN: Final = "clean"


class Store(TrustLedger, LeaseBook, ActivationBook):
    """An open data directory.

    Invariant: nothing that a method returns as held, complete or accepted is lost or altered by a kill or a power cut
    after it returned.
    """

    def __init__(self, data_dir: Path, lock: DirectoryLock, database: Database) -> None:
        super().__init__(database)
        #: The data directory.
        self.data_dir = data_dir
        #: Whether the run before this one ended without `close`.
        self.was_killed = database.mark(_CLEAN) == 0
        self._lock = lock
        self._objects = ObjectShelf(data_dir / "objects")
        self._table = VersionTable(database, data_dir)
        self._structure = threading.RLock()
        self._holders = Holders(self._table, self._objects)
        self._is_closed = False

    @classmethod
    def open(cls, data_dir: Path) -> Store:
        """Open a data directory, creating it when it is missing, and reconcile what a killed run left.

        Raises:
            StoreError: Another daemon has it open, others may write to it, the disk fails, or the database is damaged.
        """
        data_dir = data_dir.absolute()
        with disk_errors("creating", data_dir):
            for path in (data_dir, *(data_dir / name for name in ("objects", "staging", "versions"))):
                path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            sync_directory(data_dir)
        _refuse_open_to_others(data_dir)
        lock = DirectoryLock(data_dir / "lock")
        try:
            database = Database(data_dir / "state.db")
            try:
                store = cls(data_dir, lock, database)
                store._recover()
            except BaseException:
                database.close()
                raise
        except BaseException:
            lock.release()
            raise
        return store

    def _recover(self) -> None:
        if self.was_killed:
            self._table.suspect_all()
        self._database.set_mark(_CLEAN, 0)
        reconcile(self.data_dir, self._table, self._objects)

    def close(self) -> None:
        """Flush what is staged, then give the directory back. Doing it again does nothing.

        Raises:
            StoreError: The disk failed; the directory is given back all the same.
        """
        with self._structure:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                for staging in self._holders.stagings():
                    staging.close()
                self._database.set_mark(_CLEAN, 1)
            finally:
                try:
                    self._database.close()
                finally:
                    self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- objects ---

    def put_object(self, data: bytes) -> Digest:
        """Keep a small object, durably, and return its digest.

        Raises:
            StoreError: The disk is full or fails.
        """
        return self._objects.put(data)

    def object(self, digest: Digest) -> bytes | None:
        """Return an object, or None when it is not here.

        Raises:
            StoreError: The disk fails.
        """
        return self._objects.get(digest)

    def manifest(self, digest: Digest) -> Manifest | None:
        """Return a manifest, or None when it is not here.

        Raises:
            StoreError: The disk fails.
            RemoteProtocolError: There is an object of that name, but it is no manifest.
        """
        holder = self._holders.get(digest)
        if holder is not None:
            return holder.manifest
        encoded = self._objects.get(digest)
        return None if encoded is None else Manifest.decode(encoded)

    # --- versions ---

    def version(self, manifest: Digest) -> VersionRow | None:
        """Return what is held of a version; a chunk counts once it is verified."""
        row = self._table.row(manifest)
        return row and self._with_live_count(row)

    def versions(self) -> list[VersionRow]:
        """Return what is held of every version, by manifest."""
        return [self._with_live_count(row) for row in self._table.rows()]

    def _with_live_count(self, row: VersionRow) -> VersionRow:
        staging = self._holders.staging(row.manifest) if row.state == "staging" else None
        return row._replace(have_count=staging.have_count) if staging else row

    def begin(self, manifest: Manifest) -> Staging:
        """Begin to land a version, or go on where an earlier run stopped.

        Files that another version holds are linked in at once. After an unclean end staged chunks are hashed again
        first (2.7 GB/s per thread). A failed version is begun anew. While it is being landed, the same object is
        returned each time.

        Raises:
            Conflict: The version is complete.
            StoreError: The disk is full (the row's error says so, and `begin` may be called again) or fails.
        """
        name = manifest.digest
        with self._structure:
            staging = self._holders.staging(name)
            row = self._table.row(name)
            if row is not None and row.state == "complete":
                raise Conflict(f"version {format_digest(name)} is complete already", manifest=format_digest(name))
            failure = staging.failure if staging is not None else None
            if failure is not None:
                self._table.fail(name, failure.message)
            if failure is not None or (row is not None and row.state == "failed"):
                self._discard(name)
                row = staging = None
            if staging is not None:
                return staging
            self._objects.put(manifest.encoded)
            if row is None:
                self._table.insert(manifest)
            staging = Staging(
                manifest, self._table, find_copy=self._holders.find_copy, on_complete=self._holders.forget
            )
            self._prepare(staging)
            self._holders.add(staging)
            return staging

    def _prepare(self, staging: Staging) -> None:
        name = staging.manifest.digest
        try:
            staging.prepare(is_suspect=self._table.is_suspect(name))
        except ShardcastError as error:
            self._table.set_error(name, error.message)
            if not staging.have_count:
                with disk_errors("removing", staging.root):
                    remove_tree(staging.root)
            raise
        self._table.set_error(name, None)

    def install_sealed(
        self, manifest: Manifest, staged: Path, *, link: Link, identities: Mapping[int, FileIdentity]
    ) -> VersionRow:
        """Take over a directory that a publisher's files were linked or copied into, as a complete version.

        Its bytes need not be durable: the publisher wrote them, and waiting for 60 GB to reach the disk would hold
        every step up. After an unclean end they are hashed again before they are handed out.

        A version that is complete keeps its files, unless they are the publisher's own (hard links) and the new ones are not:
        who asks for a copy may write into those files from now on.

        Raises:
            StoreError: The disk is full or fails.
        """
        name = manifest.digest
        final = self._table.path_of(name, "complete")
        with self._structure:
            self._objects.put(manifest.encoded)
            tree = self._holders.tree(name)
            if tree is not None:
                if tree.link == "hardlink" and link != "hardlink":
                    tree.take_over(staged, link=link, identities=identities)
                with disk_errors("removing", staged):
                    remove_tree(staged)
                return self._table.rows("WHERE manifest = ?", [name])[0]
            if self._table.row(name) is not None:
                self._discard(name)
            with disk_errors("moving into place", final):
                sync_directories(staged)
                rename_durably(staged, final)
            self._table.complete(manifest, link=link, completed_at_s=time.time(), identities=identities)
            return self._table.rows("WHERE manifest = ?", [name])[0]

    def sealing_directory(self, name: str) -> Path:
        """Create an empty directory for `install_sealed`; one that is never installed is swept when the store is next
        opened.

        Raises:
            StoreError: The disk fails.
        """
        path = self.data_dir / "staging" / f"seal-{name}"
        with disk_errors("creating", path):
            path.mkdir(mode=DIRECTORY_MODE)
        return path

    def on_given_up(self, tell: Callable[[Digest, Link], None]) -> None:
        """Have `tell` told of each complete version that is given up because somebody changed its files.

        It is called from the thread that found out, and must not block.
        """
        self._holders.on_failed = lambda tree: tell(tree.manifest.digest, tree.link)

    # --- reading ---

    def locate_run(self, blob: Digest, first: int, count: int) -> list[ChunkLocation]:
        """Return where the longest run of verified chunks of a blob that starts at `first` can be read, at most `count`
        of them.

        The caller closes the files (`close_all`). Chunks of one file share one file object.

        Raises:
            StoreError: A file was changed behind our back, and no other version has the chunk; or the disk fails.
        """
        return self._holders.locate_run(blob, first, count)

    def locate_staged(self, blob: Digest, index: int) -> list[ChunkLocation]:
        """Return where a chunk can be read if it belongs to a version that is being landed, else nothing.

        Unlike `locate_run` this neither hashes nor reads: it opens one file that this process is writing. The caller closes it.

        Raises:
            StoreError: The file cannot be opened.
        """
        return self._holders.locate_staged(blob, index)

    def open_file(self, manifest: Digest, file_index: int) -> io.FileIO:
        """Open one file of a complete version. The caller closes it.

        Raises:
            NotFound: The version is not complete here, or has no such file.
            StoreError: The file was changed behind our back; the version is now failed.
        """
        tree = self._holders.tree(manifest)
        if tree is None or not 0 <= file_index < len(tree.manifest.files):
            raise NotFound(f"file {file_index} of version {format_digest(manifest)} is not here")
        return tree.open_file(file_index)

    def check_files(self, manifest: Digest) -> None:
        """Make sure that every file of a complete version has its bytes, hashing only those whose status has changed.

        Raises:
            NotFound: The version is not complete here.
            StoreError: A file was changed behind our back; the version is now failed.
        """
        tree = self._holders.tree(manifest)
        if tree is None:
            raise NotFound(f"version {format_digest(manifest)} is not complete here")
        for file_index in range(len(tree.manifest.files)):
            tree.open_file(file_index).close()

    def verify(self, manifest: Digest, progress: Callable[[int, int], None]) -> tuple[list[str], int]:
        """Hash every chunk of a complete version again; return the files that are not right, and how many chunks are wrong.

        Where there are any, the version is now failed. `progress` is told (bytes done, bytes in total) from worker threads, and
        may raise to end the work.

        Raises:
            NotFound: The version is not complete here.
            StoreError: A file cannot be read.
        """
        tree = self._holders.tree(manifest)
        if tree is None:
            raise NotFound(f"version {format_digest(manifest)} is not complete here")
        return tree.verify(progress)

    # --- keeping ---

    def flush(self) -> None:
        """Make durable every chunk that has waited for too long. Call it about once a second.

        Raises:
            StoreError: The disk failed.
        """
        for staging in self._holders.stagings():
            staging.flush_if_aged()

    def delete(self, manifest: Digest) -> None:
        """Delete a version with its manifest. Deleting what is not here does nothing.

        Raises:
            Conflict: A reader leases it, or the operator pinned it.
            StoreError: The disk fails.
        """
        with self._structure:
            readers = self.leased().get(manifest)
            if readers or manifest in self.pinned():
                why = f"in use by {', '.join(sorted(set(readers)))}" if readers else "pinned"
                raise Conflict(f"version {format_digest(manifest)} is {why}", manifest=format_digest(manifest))
            self._discard(manifest)
            self._objects.remove(manifest)

    def _discard(self, name: Digest) -> None:
        holder = self._holders.get(name)
        if holder is not None:
            self._holders.forget(holder)
        if isinstance(holder, Staging):
            holder.abandon()
        self._table.delete(name)
        for path in (self._table.path_of(name, "staging"), self._table.path_of(name, "complete")):
            with disk_errors("removing", path):
                remove_tree(path)

    def held_versions(self) -> list[HeldVersion]:
        """Return the complete versions as retention sees them."""
        sizes = {row.manifest: row.bytes for row in self._table.rows("WHERE state = 'complete'")}
        ranks: dict[Digest, int] = {}
        for channel in self.channels():
            newest_first = dict.fromkeys(
                head.manifest for head in self.heads(channel.channel) if head.manifest in sizes
            )
            for rank, name in enumerate(newest_first):
                ranks[name] = min(rank, ranks.get(name, rank))
        return [HeldVersion(name, size, ranks.get(name, UNNAMED)) for name, size in sizes.items()]

    def retain(self, *, keep: int = KEEP_DEFAULT, quota_bytes: int | None = None) -> list[Digest]:
        """Delete the versions that retention gives up, and return them.

        Raises:
            StoreError: The disk fails.
        """
        with self._structure:
            doomed = plan_retention(
                self.held_versions(),
                keep=keep,
                quota_bytes=quota_bytes,
                leased=self.leased(),
                pinned=self.pinned(),
            )
            for name in doomed:
                self.delete(name)
            return doomed


def _refuse_open_to_others(path: Path) -> None:
    with disk_errors("reading the status of", path):
        mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        raise StoreError(
            f"data directory {path} can be written to by other users (mode {mode:04o})",
            hint=f"chmod 700 {path}",
            reason="mode",
            path=str(path),
        )

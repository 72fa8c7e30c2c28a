"""A held tree: the files of one complete version, as they may be handed out.

No byte leaves it on trust alone. Each time a file is opened its status is compared with what it was when the bytes were
last known to be right; only when it differs is the file hashed again, and when its bytes differ the whole version is
given up with an error that names the file. That is how a published file that somebody overwrote afterwards is never
served.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from shardcast_proto.errors import StoreError
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.manifest import Manifest

from .chunk_files import ChunkPlace, digest_chunks, places_in, wrong_chunks
from .disk import sync_directories
from .faults import disk_errors, disk_fault
from .identity import FileIdentity
from .location import ChunkLocation, file_of, locate
from .version_table import Link, VersionTable

_log = logging.getLogger(__name__)


class HeldTree:
    """A complete version.

    Invariant: a file that `open_file` returns had, when it was opened, the bytes that the manifest promises.
    """

    def __init__(
        self, manifest: Manifest, table: VersionTable, *, link: Link, on_failed: Callable[[HeldTree], None]
    ) -> None:
        #: What the files are.
        self.manifest = manifest
        #: Where they lie.
        self.root: Path = table.path_of(manifest.digest, "complete")
        #: How they came here.
        self.link = link
        self._table = table
        self._on_failed = on_failed
        self._identities: dict[int, FileIdentity | None] = {}
        self._lock = threading.Lock()

    def locate(self, first: int, count: int) -> list[ChunkLocation]:
        """Return where the chunks first … first + count - 1 can be read, as far as there are so many.

        Raises:
            StoreError: A file was changed or is gone; the version is now failed.
        """
        end = min(first + count, self.manifest.blob.chunk_count)
        return locate(self.manifest, range(first, end), self.open_file)

    def open_file(self, file_index: int) -> io.FileIO:
        """Open a file whose bytes are right. The caller closes it.

        Raises:
            StoreError: The file was changed or is gone; the version is now failed.
        """
        path = self.root / self.manifest.files[file_index].path
        # opened under the lock: what was opened before `take_over` is not what is hashed after it
        with self._lock:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise self._failure(path, "is gone") from error
            except OSError as error:
                raise disk_fault(error, "opening", path) from error
            try:
                self._check(file_index, path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        return file_of(descriptor)

    def take_over(self, staged: Path, *, link: Link, identities: Mapping[int, FileIdentity]) -> None:
        """Put other files with the same bytes in the place of these, each at once: whoever reads a path finds a whole file at any time.

        What a kill leaves half replaced are files whose status has changed: they are hashed when they are next opened.

        Args:
            staged: Where the other files lie, in a directory of the same file system.
            link: How they came there.
            identities: What they look like.

        Raises:
            StoreError: The disk fails.
        """
        with self._lock, disk_errors("moving into place", self.root):
            for file in self.manifest.files:
                (staged / file.path).rename(self.root / file.path)
            sync_directories(self.root)
            self._table.relink(self.manifest.digest, link=link, identities=identities)
            self.link, self._identities = link, dict(identities)

    def verify(self, progress: Callable[[int, int], None]) -> tuple[list[str], int]:
        """Hash every chunk again; return the files that are not right, and how many chunks are wrong.

        Where there are any, the version is now failed.

        Args:
            progress: Told (bytes done, bytes in total), from worker threads; what it raises ends the work.

        Raises:
            StoreError: A file cannot be read.
        """
        blob, done = self.manifest.blob, 0
        wrong: list[int] = []
        files = {index: None for index in range(len(self.manifest.files)) if not self._has_size(index)}

        def compare(place: ChunkPlace, digest: Digest) -> None:
            nonlocal done
            done += place.length
            if digest != blob.digest(place.chunk_index):
                wrong.append(place.chunk_index)
            progress(done, self.manifest.total_bytes)

        lost = [chunk for index in files for chunk in self.manifest.file_chunks(index)]
        there = sorted(set(range(blob.chunk_count)) - set(lost))
        digest_chunks(places_in(self.manifest, self.root, there), compare, chunk_size=blob.chunk_size)
        files |= {self.manifest.chunk_span(chunk).file_index: None for chunk in sorted(wrong)}
        paths = [self.manifest.files[index].path for index in sorted(files)]
        if paths:
            self._failure(self.root / paths[0], "has other bytes")
        return paths, len(lost) + len(wrong)

    def _has_size(self, file_index: int) -> bool:
        path = self.root / self.manifest.files[file_index].path
        with disk_errors("reading the status of", path):
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return False
        return stat.S_ISREG(status.st_mode) and status.st_size == self.manifest.files[file_index].size

    def _check(self, file_index: int, path: Path, descriptor: int) -> None:
        found = _identity_of(descriptor, path)
        if file_index not in self._identities:
            self._identities[file_index] = self._table.identity(self.manifest.digest, file_index)
        known = self._identities[file_index]
        if known is not None and known.is_same(found, with_ctime=self.link == "hardlink"):
            return
        size = self.manifest.files[file_index].size
        if found.size != size:
            raise self._failure(path, f"has {found.size} bytes and had {size}")
        _log.info("hashing %s again: its status has changed", path)
        if wrong_chunks(self.manifest, self.root, self.manifest.file_chunks(file_index)):
            raise self._failure(path, "has other bytes")
        if not _identity_of(descriptor, path).is_same(found, with_ctime=True):
            raise self._failure(path, "is being written to")
        self._table.save_identity(self.manifest.digest, file_index, found)
        self._identities[file_index] = found

    def _failure(self, path: Path, what: str) -> StoreError:
        name = format_digest(self.manifest.digest)
        message = f"file {path} of version {name} {what}: it was changed after the version was complete"
        self._table.fail(self.manifest.digest, message)
        self._on_failed(self)
        _log.error("%s", message)
        is_published = self.link != "landed"
        return StoreError(
            message,
            hint="publish again, into new files or with --link copy" if is_published else "fetch the version again",
            reason="changed",
            path=str(path),
            manifest=name,
        )


def _identity_of(descriptor: int, path: Path) -> FileIdentity:
    with disk_errors("reading the status of", path):
        status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path} is no file", reason="changed", path=str(path))
    return FileIdentity.of(status)

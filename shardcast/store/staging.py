"""The staging of one version: chunks land at their final offsets until all are there.

A chunk is hashed first and written only if it has its digest. From then on it is *held*: it may be served to others at
once, because its bytes are verified. Its bit becomes durable later, in this order, which is what makes a kill at any
point harmless:

    pwrite chunks → fdatasync their files → commit their bits → …
    … → fsync all files → fsync directories → rename → fsync parents → row: complete

A bit in the database therefore always stands for durable, verified bytes. Durability comes in batches: a flush begins
when half of `BATCH_BYTES_MAX` waits for one, other threads go on landing meanwhile, and nobody lands beyond a full
batch; what a kill costs is at most that batch. A failed fdatasync is never repeated (the kernel has already dropped the
pages and would report success): the staged bytes are given up, and the version is staged anew.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from shardcast.descriptors import at_most
from shardcast_proto.bitmap import Bitmap, Run, runs_of
from shardcast_proto.errors import Conflict, IntegrityError, NotReady, ShardcastError, StoreError
from shardcast_proto.hashing import ChunkHasher, digest_of
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.limits import MIB
from shardcast_proto.manifest import Manifest

from .disk import Buffer, rename_durably, replace_by_link, seal_file, sync_directories, write_at
from .durable_bits import DurableBits
from .faults import disk_errors, disk_fault
from .identity import FileIdentity
from .layout import drop_unfinished_links, file_mask, make_directories, reserve, sound_chunks
from .location import ChunkLocation, file_of, locate
from .version_table import VersionTable, content_of
from .writers import WriterPool

#: Verified bytes that a kill may cost. Measured on ext4, one thread that hashes and lands, 512 KiB chunks: 1.0 GB/s with 8 MiB
#: per fdatasync (4 ms each), 1.1 GB/s with 32 MiB, so the small batch is nearly free.
BATCH_BYTES_MAX: Final = 16 * MIB
FLUSH_BYTES: Final = BATCH_BYTES_MAX // 2
#: A slow swarm fills no batch; its chunks become durable after this time.
FLUSH_AGE_S: Final = 2.0
#: A batch of tiny files is flushed before it holds more files open than this, or than an eighth of what this process may open.
FLUSH_FILES: Final = 128

#: Errors of opening a file, not of syncing it: nothing was lost, a later attempt can do better.
_TRANSIENT: Final = frozenset({errno.EMFILE, errno.ENFILE})

_log = logging.getLogger(__name__)

#: Returns the path of a file of ours that has some content (see `content_of`), if there is one.
FindCopy = Callable[[Digest], Path | None]


class Staging:
    """A version on its way to being complete. All methods may be called from any thread.

    Invariant: a chunk in `have` has its right bytes in its file; a bit in the database stands for such a chunk, made
    durable.
    """

    def __init__(
        self,
        manifest: Manifest,
        table: VersionTable,
        *,
        find_copy: FindCopy,
        on_complete: Callable[[Staging], None],
    ) -> None:
        #: What the version is.
        self.manifest = manifest
        #: Where its files lie now; changes once, when it becomes complete.
        self.root: Path = table.path_of(manifest.digest, "staging")
        self._table = table
        self._find_copy = find_copy
        self._on_complete = on_complete
        self._writers = WriterPool(manifest, self.root)
        self._have = Bitmap(manifest.blob.chunk_count)
        self._bits = DurableBits(manifest, table)
        #: Chunks that are held and wait for a flush, with the bytes of these and of those being flushed.
        self._waiting: list[int] = []
        self._waiting_bytes = 0
        self._waiting_since_s: float | None = None
        #: Why the bits of what is durable could not be noted the last time; what is held is not touched by that.
        self.flush_error: StoreError | None = None
        #: Why what was staged is lost: it has to be begun anew, also when the database could not be told.
        self.failure: StoreError | None = None
        #: Why nothing lands any more.
        self._end: ShardcastError | None = None
        #: What the files look like in their final place; None before they are there.
        self._identities: dict[int, FileIdentity] | None = None
        #: Whether the row says complete.
        self._is_noted = False
        self._lock = threading.Lock()
        self._flush_files = at_most(FLUSH_FILES, share=0.125)
        #: Held by the one thread that flushes, or moves files. Taken before `_lock`.
        self._flush_lock = threading.Lock()

    # --- what is held ---

    @property
    def have(self) -> Bitmap:
        """A copy of the have-bitmap: every chunk that is verified."""
        with self._lock:
            return Bitmap(self._have.count, self._have.mask)

    @property
    def have_count(self) -> int:
        """Number of chunks held."""
        return self._have.held

    @property
    def is_full(self) -> bool:
        """Whether every chunk is held, so that `complete` may be called."""
        return self._have.is_complete

    def locate(self, first: int, count: int) -> list[ChunkLocation]:
        """Return where the longest run of held chunks that starts at `first`, at most `count` of them, can be read.

        Raises:
            StoreError: A file cannot be opened.
        """
        with self._lock:
            end = first
            while end < first + count and end in self._have:
                end += 1
            return locate(self.manifest, range(first, end), self._open_file)

    def _open_file(self, file_index: int) -> io.FileIO:
        path = self.root / self.manifest.files[file_index].path
        with disk_errors("opening", path):
            return file_of(os.open(path, os.O_RDONLY | os.O_NOFOLLOW))

    # --- beginning ---

    def prepare(self, *, is_suspect: bool) -> None:
        """Take over what an earlier run left, link in what is already here, then reserve the rest of the disk space.

        Raises:
            StoreError: The disk is full or fails.
        """
        with self._flush_lock, disk_errors("preparing", self.root):
            make_directories(self.manifest, self.root)
            kept = self._table.have(self.manifest.digest, self._have.count)
            mask = sound_chunks(self.manifest, self.root, kept, is_suspect=is_suspect)
            mask = drop_unfinished_links(self.manifest, self.root, mask)
            if mask != kept.mask:
                _log.warning("%s: %d staged chunks are fetched again", self, (kept.mask ^ mask).bit_count())
            self._have = Bitmap(kept.count, mask)
            self._bits.reset(self._have)
            self._bits.commit()
            self._table.clear_suspicion(self.manifest.digest)
        self.adopt_known_files()
        with disk_errors("reserving space in", self.root):
            reserve(self.manifest, self.root)

    def adopt_known_files(self) -> list[Run]:
        """Link in every file that another complete version has, whole, and return the runs of chunks that this added.

        Raises:
            StoreError: The disk fails.
        """
        with self._flush_lock:
            before = self._have.mask
            for file_index, row in enumerate(self.manifest.files):
                chunks = file_mask(self.manifest, file_index)
                if row.size and self._have.mask & chunks != chunks:
                    self._adopt(file_index, chunks)
            added = runs_of(self._have.mask & ~before)
            if added:
                with disk_errors("linking files into", self.root):
                    sync_directories(self.root)
                self._bits.add(added)
                self._bits.commit()
        return added

    def _adopt(self, file_index: int, chunks: int) -> None:
        source = self._find_copy(content_of(self.manifest, file_index))
        if source is None:
            return
        target = self.root / self.manifest.files[file_index].path
        with self._lock:
            if self._end is not None or not self._writers.discard(file_index):
                return
            try:
                replace_by_link(source, target)
            except OSError as error:
                # the file can still be fetched: a link less is no failure
                _log.warning("cannot link %s to %s: %s", target, source, error)
                return
            self._have = Bitmap(self._have.count, self._have.mask | chunks)

    # --- landing ---

    def land(self, index: int, segments: Sequence[Buffer]) -> bool:
        """Verify a chunk, write it, hold it; return whether it is new.

        Args:
            index: Which chunk of the version's blob.
            segments: Its bytes, in pieces.

        Raises:
            IntegrityError: The bytes are not that chunk; nothing was written.
            StoreError: The disk is full or fails, or failed earlier.
            Conflict: The version was deleted meanwhile.
        """
        span = self.manifest.chunk_span(index)
        self._verify(index, span.length, segments)
        with self._lock:
            if index in self._have:
                return False
            if self._end is not None:
                raise self._end
            with disk_errors("opening a file in", self.root):
                descriptor = self._writers.borrow(span.file_index)
        try:
            with disk_errors("writing to", self.root / self.manifest.files[span.file_index].path):
                write_at(descriptor, segments, span.offset)
        finally:
            self._writers.give_back(span.file_index)
        is_new = self._hold(index, span.length)
        self._flush_when_due()
        return is_new

    def _verify(self, index: int, length: int, segments: Sequence[Buffer]) -> None:
        expected = self.manifest.blob.digest(index)
        if len(segments) == 1:
            actual, actual_length = digest_of(segments[0]), len(segments[0])
        else:
            hasher, actual_length = ChunkHasher(), 0
            for segment in segments:
                hasher.update(segment)
                actual_length += len(segment)
            actual = hasher.digest()
        if actual_length != length or actual != expected:
            raise IntegrityError(
                f"chunk {index} has other bytes than promised ({actual_length} of {length} bytes came)",
                chunk_index=index,
                expected=format_digest(expected),
                actual=format_digest(actual),
                blob=format_digest(self.manifest.blob.id),
            )

    def _hold(self, index: int, length: int) -> bool:
        with self._lock:
            if self._end is not None or not self._have.add(index):
                return False
            self._waiting.append(index)
            self._waiting_bytes += length
            if self._waiting_since_s is None:
                self._waiting_since_s = time.monotonic()
            return True

    # --- durability ---

    def flush(self) -> None:
        """Make every held chunk durable.

        Raises:
            StoreError: The disk failed; the version is now failed and has to be begun again.
        """
        with self._flush_lock:
            self._flush()

    def flush_if_aged(self) -> None:
        """Flush when a chunk has waited for longer than `FLUSH_AGE_S`. Call it about once a second."""
        since = self._waiting_since_s
        if since is not None and time.monotonic() - since >= FLUSH_AGE_S:
            self.flush()

    def _flush_when_due(self) -> None:
        if self._waiting_bytes >= BATCH_BYTES_MAX or self._writers.open_count >= self._flush_files:
            self.flush()
        elif self._waiting_bytes >= FLUSH_BYTES and self._flush_lock.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._flush_lock.release()
        else:
            self.flush_if_aged()

    def _flush(self) -> None:
        with self._lock:
            if self._end is not None:
                raise self._end
            batch, self._waiting = self._waiting, []
            self._waiting_since_s = None
        if not batch and not self._bits.is_changed:
            return
        try:
            self._writers.sync()
        except OSError as error:
            raise self._fail(error) from error
        self._bits.add((index, 1) for index in batch)
        with self._lock:
            self._waiting_bytes -= sum(self.manifest.chunk_span(index).length for index in batch)
        try:
            self._bits.commit()
        except StoreError as error:
            self.flush_error = error
            with self._lock:  # bits wait as chunks do: the next flush that is due tries again
                self._waiting_since_s = time.monotonic()
            raise
        self.flush_error = None

    def _fail(self, error: OSError) -> StoreError:
        fault = disk_fault(error, "making durable what was written in", self.root)
        with self._lock:
            self._end = self.failure = fault
            self._have = Bitmap(self._have.count)
        _log.error("%s is given up: %s", self, fault.describe())
        try:
            self._table.fail(self.manifest.digest, fault.message)
        except StoreError as error:  # on the same disk: noted when the version is begun anew
            _log.warning("%s is not noted as given up: %s", self, error.describe())
        return fault

    # --- ending ---

    def complete(self) -> None:
        """Make the version complete: all of it durable, in its place, read-only. Doing it again does nothing.

        Raises:
            NotReady: Chunks are missing.
            StoreError: The disk is full or fails. After a failed fsync the version has to be begun again.
        """
        with self._flush_lock:
            if self._is_noted:
                return
            if self._identities is None:
                self._finish()
            self._table.complete(
                self.manifest, link="landed", completed_at_s=time.time(), identities=self._identities or {}
            )
            self._is_noted = True
            self._on_complete(self)

    def _finish(self) -> None:
        if not self.is_full:
            missing = self._have.count - self._have.held
            raise NotReady(f"{missing} chunks of {self} are missing", missing=missing)
        self._flush()
        self._writers.close()
        try:
            identities = {
                file_index: FileIdentity.of(seal_file(self.root / row.path))
                for file_index, row in enumerate(self.manifest.files)
            }
            sync_directories(self.root)
            final = self._table.path_of(self.manifest.digest, "complete")
            with self._lock:
                rename_durably(self.root, final)
                self.root = final
                self._identities = identities
        except OSError as error:
            if error.errno in _TRANSIENT:
                raise disk_fault(error, "sealing the files of", self.root) from error
            raise self._fail(error) from error

    def close(self) -> None:
        """Flush, then close the files; the version can be resumed later.

        Raises:
            StoreError: The disk failed.
        """
        try:
            if self._end is None:
                self.flush()
        finally:
            self._stop(Conflict(f"{self} is closed"))

    def abandon(self) -> None:
        """Stop landing, because the version is being deleted or was sealed from somewhere else."""
        with self._flush_lock:
            self._stop(Conflict(f"{self} was deleted, or sealed from other files"))
            self._have = Bitmap(self._have.count)

    def _stop(self, end: ShardcastError) -> None:
        with self._lock:
            self._end = self._end or end
        self._writers.close()

    def __str__(self) -> str:
        return f"version {format_digest(self.manifest.digest)}"

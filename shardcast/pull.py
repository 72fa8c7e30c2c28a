"""A pull: a version that a node holds complete becomes a directory of the user's.

The version is leased meanwhile. Where its directory can be read from here it is linked or copied (`shardcast.client`); else its files
come over HTTP into a directory beside the target, each chunk compared with the manifest before it is written, and are moved from
there. Either way the target appears whole or not at all, and a target with other content is not touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shardcast_proto.errors import DaemonUnreachable, IntegrityError, NotFound, TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import format_digest
from shardcast_proto.manifest import Manifest

from .api_client import ApiClient, Reply, View, not_ready
from .client import Materialised, materialise
from .store.disk import opened, remove_tree
from .store.faults import disk_errors

#: A lease outlives a pull that was killed by this long at most; a pull that takes longer renews it.
LEASE_TTL_S: Final = 900.0

#: Told (bytes here, bytes in total).
ProgressFn = Callable[[int, int], None]


@dataclass(frozen=True)
class Pulled:
    """What a pull has done.

    Attributes:
        view: The version, as the node showed it.
        manifest: What is in the directory.
        directory: The target.
        was_there: Whether it was there already with the same content, so that nothing was done.
        linked_bytes: Bytes of files that are hard links to the node's.
        copied_bytes: Bytes of files that were copied here.
        downloaded_bytes: Bytes of files that came over HTTP.
    """

    view: View
    manifest: Manifest
    directory: Path
    was_there: bool
    linked_bytes: int
    copied_bytes: int
    downloaded_bytes: int


def pull(api: ApiClient, view: View, target: Path, *, on_progress: ProgressFn | None = None) -> Pulled:
    """Make `target` the directory of a version.

    Args:
        api: The node.
        view: The version, as that node shows it.
        target: The directory to make; an empty one may be there.
        on_progress: Told how much has come, when it comes over HTTP.

    Raises:
        NotReady: The version is not complete on the node.
        NotFound: The node does not hold it any more.
        Conflict: Something else is at `target`.
        IntegrityError: The bytes are not the ones that the manifest names.
        StoreError: The disk is full or fails, here or on the node; or the node's files were changed behind its back.
    """
    if view.get("state") == "gone":
        raise NotFound(
            f"step {view.get('step')} is not held any more: it was superseded or deleted",
            hint="shardcast ls shows what is held",
            step=view.get("step"),
        )
    if view.get("state") != "complete":
        raise not_ready(view, hint="give --wait to wait for it")
    channel, name = str(view["channel_id"]), str(view["manifest"])
    manifest = api.manifest_of(view)
    with _held(api, channel, name) as lease:
        source = Path(str(lease.view["path"]))
        if api.is_local and os.access(source, os.R_OK | os.X_OK):
            made = materialise(source, manifest, target)
            return Pulled(view, manifest, target, made.was_there, made.linked_bytes, made.copied_bytes, 0)
        if _is_occupied(target):
            # compared before anything is downloaded; the source is not looked at
            materialise(source, manifest, target)
            return Pulled(view, manifest, target, True, 0, 0, 0)
        made = _download(lease, manifest, target, on_progress)
        return Pulled(view, manifest, target, made.was_there, 0, 0, 0 if made.was_there else manifest.total_bytes)


@dataclass
class _Lease:
    """A lease on one version, renewed by whoever calls `renew` often enough."""

    api: ApiClient
    channel: str
    name: str
    view: View = field(default_factory=dict)
    taken_s: float = 0.0

    def take(self) -> None:
        self.taken_s = time.monotonic()
        holder = f"shardcast pull {os.getpid()}"
        self.view = self.api.lease(self.channel, self.name, holder=holder, ttl_s=LEASE_TTL_S)

    def renew(self) -> None:
        """Take a new lease before the old one runs out."""
        if time.monotonic() - self.taken_s > LEASE_TTL_S / 2:
            old = int(self.view["lease"])
            self.take()
            self._release(old)

    def release(self) -> None:
        self._release(int(self.view["lease"]))

    def _release(self, lease: int) -> None:
        # it may have run out while a slow disk was written to, or the daemon has ended: then nothing is kept for us
        with contextlib.suppress(NotFound, DaemonUnreachable):
            self.api.release_lease(lease)


@contextlib.contextmanager
def _held(api: ApiClient, channel: str, name: str) -> Iterator[_Lease]:
    lease = _Lease(api, channel, name)
    lease.take()
    try:
        yield lease
    finally:
        lease.release()


# --- over HTTP ---


def _is_occupied(target: Path) -> bool:
    with disk_errors("looking at", target):
        return os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))


def _download(lease: _Lease, manifest: Manifest, target: Path, on_progress: ProgressFn | None) -> Materialised:
    with disk_errors("creating", target.parent):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with _directory_beside(target.absolute()) as folder:
        for index, row in enumerate(manifest.files):
            with lease.api.open_file(lease.channel, lease.name, row.path) as reply:
                for length in _receive(reply, manifest, index, folder / row.path):
                    done += length
                    lease.renew()
                    if on_progress is not None:
                        on_progress(done, manifest.total_bytes)
        # every file is linked, however small: the names here go away
        return materialise(folder, manifest, target, link_bytes_min=0)


def _receive(reply: Reply, manifest: Manifest, file_index: int, path: Path) -> Iterator[int]:
    """Write one file as it arrives; yield the length of each chunk when it is found right and written."""
    row = manifest.files[file_index]
    if reply.length != row.size:
        raise IntegrityError(
            f"the node sends {reply.length} bytes for {row.path}, which has {row.size}",
            expected=row.size,
            actual=reply.length,
        )
    with disk_errors("writing", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644) as descriptor:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                for chunk in manifest.file_chunks(file_index):
                    file.write(_verified(reply, manifest, chunk))
                    yield manifest.chunk_span(chunk).length
            os.fsync(descriptor)


def _verified(reply: Reply, manifest: Manifest, chunk: int) -> bytes:
    length = manifest.chunk_span(chunk).length
    data = reply.read(length)
    path = manifest.files[manifest.chunk_span(chunk).file_index].path
    if len(data) < length:
        raise TransferError(f"the node broke off while it sent {path}", path=path, chunk_index=chunk)
    if digest_of(data) != manifest.blob.digest(chunk):
        raise IntegrityError(
            f"chunk {chunk}, in {path}, is not the one that the manifest names",
            chunk_index=chunk,
            expected=format_digest(manifest.blob.digest(chunk)),
            actual=format_digest(digest_of(data)),
        )
    return data


@contextlib.contextmanager
def _directory_beside(target: Path) -> Iterator[Path]:
    """Make a directory beside `target` that is gone afterwards.

    It has the name and the lock of those that `materialise` makes, so that the next pull removes what a killed one leaves.
    """
    folder = target.with_name(f".tmp-{target.name}-{secrets.token_hex(8)}")
    with disk_errors("creating", target):
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        with disk_errors("removing", folder):
            remove_tree(folder)
            os.close(descriptor)

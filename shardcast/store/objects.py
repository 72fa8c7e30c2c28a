"""The object shelf: small content-addressed objects, each one file named by its digest.

Manifests, patches and roots lie here as their encoded bytes. What is read back is hashed again: an object that rotted
on the disk is thrown away, and is simply not there.
"""

from __future__ import annotations

import logging
from pathlib import Path

from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, format_digest

from .disk import write_durably
from .faults import disk_errors

_log = logging.getLogger(__name__)


class ObjectShelf:
    """A directory of objects."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, data: bytes) -> Digest:
        """Keep an object, durably, and return its digest.

        Raises:
            StoreError: The disk is full or fails.
        """
        digest = digest_of(data)
        path = self._path(digest)
        with disk_errors("writing", path):
            if self.get(digest) is None:
                write_durably(path, data)
        return digest

    def get(self, digest: Digest) -> bytes | None:
        """Return an object, or None when it is not here.

        Raises:
            StoreError: The disk fails.
        """
        path = self._path(digest)
        with disk_errors("reading", path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
            if digest_of(data) == digest:
                return data
            _log.error("object %s is damaged on the disk and was removed", format_digest(digest))
            path.unlink(missing_ok=True)
            return None

    def remove(self, digest: Digest) -> None:
        """Forget an object, if it is here."""
        path = self._path(digest)
        with disk_errors("removing", path):
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a killed writer left half-written."""
        with disk_errors("sweeping", self._directory):
            for path in self._directory.glob(".tmp-*"):
                path.unlink(missing_ok=True)

    def _path(self, digest: Digest) -> Path:
        return self._directory / digest.hex()

"""The identity of a file's content, as far as its status can tell.

Re-hashing 60 GB before each send is out of the question; comparing four numbers is not. A write through any hard link moves mtime
with ctime; making or removing a hard link moves ctime alone. Files that belong to somebody else (published through a hard link) are
held to all four numbers. Files of our own are read-only, so for them ctime is left out: every `pull` links them.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class FileIdentity(NamedTuple):
    """What a file looked like when its bytes were last known to be right."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Return the identity in a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def is_same(self, other: FileIdentity, *, with_ctime: bool) -> bool:
        """Return whether nothing suggests that the bytes differ."""
        if with_ctime:
            return self == other
        return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)

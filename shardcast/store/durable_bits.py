"""The durable half of a have-bitmap: the bits whose bytes are known to survive a power cut.

Only the pages that changed since the last commit are written, in one transaction. After a failed commit they stay
marked, so that the next one writes them: their bytes are durable, only the note of it was lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from shardcast_proto.bitmap import Bitmap, Run
from shardcast_proto.manifest import Manifest

from .version_table import PAGE_BYTES, VersionTable

_PAGE_BITS = PAGE_BYTES * 8


class DurableBits:
    """Bits on their way into the table of versions. One thread at a time may use it."""

    def __init__(self, manifest: Manifest, table: VersionTable) -> None:
        self._manifest = manifest.digest
        self._table = table
        self._bits = bytearray((manifest.blob.chunk_count + 7) // 8)
        self._changed: set[int] = set()

    @property
    def is_changed(self) -> bool:
        """Whether bits wait for a commit."""
        return bool(self._changed)

    def reset(self, have: Bitmap) -> None:
        """Start again from these bits, all of which the next commit writes."""
        self._bits[:] = have.to_bytes()
        self._changed = set(range(-(-len(self._bits) // PAGE_BYTES)))

    def add(self, runs: Iterable[Run]) -> None:
        """Set bits whose bytes are durable."""
        for first, count in runs:
            for index in range(first, first + count):
                self._bits[index >> 3] |= 1 << (index & 7)
            self._changed.update(range(first // _PAGE_BITS, (first + count - 1) // _PAGE_BITS + 1))

    def commit(self) -> None:
        """Write the changed pages, durably.

        Raises:
            StoreError: The database cannot be written; the pages stay marked.
        """
        if self._changed:
            pages = {page: bytes(self._bits[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]) for page in self._changed}
            self._table.save_pages(self._manifest, pages)
            self._changed.clear()

"""What this node holds of each version, with the counts of how it came.

The store knows what is durable; this knows what is going on: open stagings, bytes by peer, who waits for a change.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from shardcast.store import Staging, Store
from shardcast_proto.bitmap import full_mask
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.manifest import Manifest
from shardcast_relay.events import BlobOpened

#: What becomes of a version that is not whole when a newer one comes: it gets what the newer one leaves until that is whole (newest), it
#: goes first (finish), or it is given up at once (drop).
Supersede = Literal["newest", "finish", "drop"]
#: Where bytes came from: a peer that claims the role of an origin, or another.
Source = Literal["origin", "peers"]


@dataclass
class LocalVersion:
    """One version at this node."""

    manifest: Manifest
    #: None when the version is complete.
    staging: Staging | None
    #: Of several versions the one with the highest is fetched and passed on first.
    priority: int
    bytes_by_peer: Counter[PeerId] = field(default_factory=Counter)
    chunks_verified: int = 0
    duplicate_chunks: int = 0
    error: str | None = None
    #: Whether it was published here: others have their first copies from this node.
    is_published: bool = False
    #: When its first chunk was verified here, unix seconds.
    first_chunk_at_s: float | None = None
    #: Whether `Staging.complete` is under way or done.
    is_completing: bool = False

    def opened(self) -> BlobOpened:
        """Return the event that tells the machine of this version."""
        blob = self.manifest.blob
        mask = full_mask(blob.chunk_count) if self.staging is None else self.staging.have.mask
        return BlobOpened(
            blob.id,
            blob.chunk_count,
            blob.chunk_size,
            mask,
            priority=self.priority,
            manifest=self.manifest.digest,
            is_source=self.is_published,
        )


class Versions:
    """All versions that are open at this node."""

    def __init__(self, store: Store, *, supersede: Supersede = "newest") -> None:
        self.store = store
        self._by_manifest: dict[Digest, LocalVersion] = {}
        self._by_blob: dict[Digest, LocalVersion] = {}
        self._changed = asyncio.Event()
        self.supersede: Supersede = supersede
        self._next_priority = 1
        #: How often `changed` was called.
        self.change_count = 0
        #: Bytes of the chunks verified since the start.
        self.received_bytes = 0
        #: The same by what their senders claimed to be when they came, with the chunks that were new and those that were not.
        self.received_by_source: Counter[Source] = Counter()
        self.chunks_verified = 0
        self.duplicate_chunks = 0
        #: Says what a peer claims to be; the node knows.
        self.source_of: Callable[[PeerId], Source] = lambda peer: "peers"
        #: Why our own disk refused last; None when it did not.
        self.store_error: str | None = None
        #: Held while versions are deleted, and while one is sealed that no head names yet. Taken before `opening`.
        self.keeping = asyncio.Lock()
        #: Held while a version is opened, and while versions are deleted.
        self.opening = asyncio.Lock()

    def get(self, manifest: Digest) -> LocalVersion | None:
        """Return an open version by its manifest."""
        return self._by_manifest.get(manifest)

    def by_blob(self, blob: Digest) -> LocalVersion | None:
        """Return the version that was opened last with this blob (two that differ in file names share one)."""
        return self._by_blob.get(blob)

    def all(self) -> list[LocalVersion]:
        """Return the open versions, oldest first."""
        return list(self._by_manifest.values())

    def add(self, manifest: Manifest, staging: Staging | None) -> LocalVersion:
        """Enter a version that the store has begun, or holds complete; of one that is open, raise the priority."""
        version = self._by_manifest.get(manifest.digest)
        if version is None:
            version = self._by_manifest[manifest.digest] = LocalVersion(manifest, staging, self._priority())
        else:
            if version.staging is not staging:
                version.staging = staging
                version.is_completing = False
            if self.supersede != "finish":
                version.priority = self._priority()
        self._by_blob[manifest.blob.id] = version
        self.changed()
        return version

    def _priority(self) -> int:
        """Return the priority of a version that comes now."""
        number, self._next_priority = self._next_priority, self._next_priority + 1
        return -number if self.supersede == "finish" else number

    def remove(self, manifest: Digest) -> LocalVersion | None:
        """Forget a version that was deleted, and return it."""
        version = self._by_manifest.pop(manifest, None)
        if version is None:
            return None
        blob = version.manifest.blob.id
        if self._by_blob[blob] is version:
            del self._by_blob[blob]
            for other in self._by_manifest.values():
                if other.manifest.blob.id == blob:
                    self._by_blob[blob] = other
        self.changed()
        return version

    def count_chunk(self, version: LocalVersion, peer: PeerId, size_bytes: int, *, is_new: bool) -> None:
        """Count a chunk that a peer has sent and that was verified."""
        if version.first_chunk_at_s is None:
            version.first_chunk_at_s = time.time()
        version.bytes_by_peer[peer] += size_bytes
        self.received_bytes += size_bytes
        self.received_by_source[self.source_of(peer)] += size_bytes
        for counts in (version, self):
            if is_new:
                counts.chunks_verified += 1
            else:
                counts.duplicate_chunks += 1

    def changed(self) -> None:
        """Wake everybody who waits for a change."""
        self.change_count += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_changed(self, timeout_s: float) -> None:
        """Return at the next change, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

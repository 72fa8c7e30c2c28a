"""The leases that callers of the API hold: each ends by itself when its time is up.

The store keeps them on disk; after a restart nobody holds them any more, so they are given back at the start.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from shardcast.http.facade import LeaseView, OpenFile, VersionView
from shardcast.store import Store
from shardcast.store.version_table import content_of
from shardcast_proto.errors import NotFound, NotReady
from shardcast_proto.ids import Digest, parse_digest

_HOLDER_PREFIX = "api:"


class Leases:
    """Leases with an end.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        #: When each lease runs out, by `clock`.
        self._expires_s: dict[int, float] = {}
        #: Leases that were given back and are still in the store's book: the loop does not wait for a disk.
        self._released: set[int] = set()
        for holders in store.leased().values():
            for holder in holders:
                if holder.startswith(_HOLDER_PREFIX):
                    store.release_holder(holder)

    async def lease(self, view: VersionView, *, holder: str, ttl_s: float) -> LeaseView:
        """Lease a complete version whose files are as they were published: whoever leases reads them without the store.

        Raises:
            NotReady: It was deleted a moment ago.
            StoreError: The disk fails, or a file was changed behind our back.
        """
        lease_id = await self._take(view, holder[:64], ttl_s)
        try:
            await asyncio.to_thread(self._store.check_files, parse_digest(view["manifest"]))
        except BaseException:
            self._released.add(lease_id)
            raise
        return {**view, "lease": lease_id, "path": view["path"] or ""}

    def release(self, lease_id: int) -> None:
        """Give a lease back; what it held may go within a second.

        Raises:
            NotFound: There is none of that number.
        """
        if lease_id not in self._expires_s or lease_id in self._released:
            raise NotFound(f"there is no lease {lease_id}", lease=lease_id)
        self._released.add(lease_id)

    async def release_expired(self) -> bool:
        """Strike the leases that were given back, or whose time is up, out of the store's book; return whether there were any.

        Raises:
            StoreError: The disk fails; they are struck out the next time.
        """
        now_s = self._clock()
        ended = [
            lease_id for lease_id, end_s in self._expires_s.items() if end_s <= now_s or lease_id in self._released
        ]
        for lease_id in ended:
            await asyncio.to_thread(self._store.release, lease_id)
            self._expires_s.pop(lease_id, None)
            self._released.discard(lease_id)
        return bool(ended)

    async def _take(self, view: VersionView, holder: str, ttl_s: float) -> int:
        digest = parse_digest(view["manifest"])
        lease_id = await asyncio.to_thread(self._store.lease, digest, _HOLDER_PREFIX + holder)
        self._expires_s[lease_id] = self._clock() + ttl_s
        row = await asyncio.to_thread(self._store.version, digest)
        if row is None or row.state != "complete":  # retention was faster than the lease
            self._released.add(lease_id)
            raise NotReady(f"version {view['seq']} of {view['channel']} was deleted", channel=view["channel"])
        return lease_id

    async def open_file(self, view: VersionView, path: str, *, holder: str) -> OpenFile:
        """Open one file of a complete version, leased until it is closed.

        Raises:
            NotFound: There is no such file.
            StoreError: It was changed or is gone.
        """
        digest: Digest = parse_digest(view["manifest"])
        lease_id = await self._take(view, holder, math.inf)
        try:
            manifest = await asyncio.to_thread(self._store.manifest, digest)
            names = {row.path: index for index, row in enumerate(manifest.files)} if manifest else {}
            if path not in names or manifest is None:
                raise NotFound(
                    f"version {view['seq']} of {view['channel']} has no file {path[:200]!r}", path=path[:200]
                )
            index = names[path]
            file = await asyncio.to_thread(self._store.open_file, digest, index)
        except BaseException:
            self._released.add(lease_id)
            raise
        return OpenFile(
            file=file,
            size=manifest.files[index].size,
            etag=f'"blake3:{content_of(manifest, index).hex()}"',
            on_close=lambda: self._released.add(lease_id),
        )

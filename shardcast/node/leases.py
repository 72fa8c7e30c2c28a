"""The leases that callers of the API hold: each ends by itself when its time is up.

The store keeps them on disk; after a restart nobody holds them any more, so they are given back at the start. A caller may leave at any
moment, also while a thread writes its lease down: whatever is entered in the store's book is known here, or nobody would strike it out.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from shardcast.http.facade import LeaseView, OpenFile, VersionView
from shardcast.store import Store
from shardcast.store.version_table import content_of
from shardcast_proto.errors import NotFound, NotReady, TransferError
from shardcast_proto.ids import Digest, parse_digest

#: An engine holds two while it swaps, each of the API's 256 connections reads one file: the rest is for callers that do not give back.
LEASES_MAX: Final = 1024
_HOLDER_PREFIX: Final = "api:"


class Leases:
    """Leases with an end.

    Args:
        clock: Monotonic seconds.
        leases_max: How many there may be at a time.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], float] = time.monotonic, leases_max: int = LEASES_MAX
    ) -> None:
        self._store = store
        self._clock = clock
        self._leases_max = leases_max
        #: When each lease in the store's book runs out, by `clock`.
        self._expires_s: dict[int, float] = {}
        #: Leases that a thread is entering in the store's book.
        self._under_way: set[asyncio.Future[int]] = set()
        #: Leases that were given back and are still in the store's book: the loop does not wait for a disk.
        self._released: set[int] = set()
        for holder in dict.fromkeys(holder for holders in store.leased().values() for holder in holders):
            if holder.startswith(_HOLDER_PREFIX):
                store.release_holder(holder)

    async def lease(self, view: VersionView, *, holder: str, ttl_s: float) -> LeaseView:
        """Lease a complete version whose files are as they were published: whoever leases reads them without the store.

        Raises:
            NotReady: It was deleted a moment ago.
            TransferError: All leases are taken.
            StoreError: The disk fails, or a file was changed behind our back.
        """
        lease_id = await self.hold(view, holder[:64], ttl_s)
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
        ended = self._ended()
        if ended:
            await asyncio.to_thread(self._store.release_all, ended)
        for lease_id in ended:
            self._expires_s.pop(lease_id, None)
            self._released.discard(lease_id)
        return bool(ended)

    async def open_file(self, view: VersionView, path: str, *, holder: str) -> OpenFile:
        """Open one file of a complete version, leased until it is closed.

        Raises:
            NotFound: There is no such file.
            NotReady: The version was deleted a moment ago.
            TransferError: All leases are taken.
            StoreError: It was changed or is gone.
        """
        digest: Digest = parse_digest(view["manifest"])
        lease_id = await self.hold(view, holder, math.inf)
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

    async def hold(self, view: VersionView, holder: str, ttl_s: float) -> int:
        """Lease a version that is complete, also once it is leased, for a reader who goes through the store; return the lease.

        Raises:
            NotReady: It was deleted a moment ago.
            TransferError: All leases are taken.
            StoreError: The disk fails.
        """
        digest = parse_digest(view["manifest"])
        lease_id = await self._enter(digest, _HOLDER_PREFIX + holder, ttl_s)
        try:
            row = await asyncio.to_thread(self._store.version, digest)
            if row is None or row.state != "complete":  # retention was faster than the lease
                raise NotReady(f"version {view['seq']} of {view['channel']} was deleted", channel=view["channel"])
        except BaseException:
            self._released.add(lease_id)
            raise
        return lease_id

    async def _enter(self, digest: Digest, holder: str, ttl_s: float) -> int:
        """Enter a lease in the store's book.

        **Cancellation.** The thread goes on; what it has entered counts as given back.
        """
        self._refuse_one_too_many()

        def note(entered: asyncio.Future[int]) -> None:
            self._under_way.discard(entered)
            if not entered.cancelled() and entered.exception() is None:
                self._expires_s[entered.result()] = self._clock() + ttl_s

        entering = asyncio.get_running_loop().run_in_executor(None, self._store.lease, digest, holder)
        self._under_way.add(entering)
        entering.add_done_callback(note)
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            entering.add_done_callback(self._give_back)
            raise

    def _give_back(self, entered: asyncio.Future[int]) -> None:
        if not entered.cancelled() and entered.exception() is None:
            self._released.add(entered.result())

    def _refuse_one_too_many(self) -> None:
        count = len(self._expires_s) + len(self._under_way)
        if count < self._leases_max:
            return
        # those that have ended are struck out within a second, and stand in nobody's way until then
        count -= len(self._ended())
        if count >= self._leases_max:
            raise TransferError(
                f"{count} leases are held, which is all there are",
                hint="give some back, or wait until some run out",
                reason="busy",
                leases_max=self._leases_max,
            )

    def _ended(self) -> list[int]:
        """Return the leases in the store's book that were given back or have run out."""
        now_s = self._clock()
        return [lease_id for lease_id, end_s in self._expires_s.items() if end_s <= now_s or lease_id in self._released]

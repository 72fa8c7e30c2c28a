"""The lander: it brings chunks that have come into their version, verified, on worker threads.

Whoever brings chunks (a fetch, a push) does so in batches (`landing`) and reports each in its own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from shardcast.store import Staging
from shardcast_proto.errors import Conflict, ShardcastError, StoreError
from shardcast_proto.ids import PeerId

from .landing import Batch
from .versions import LocalVersion, Versions

#: Hashing and writing release the GIL; two threads keep two cores busy and leave the loop its share.
LANDING_THREADS: Final = 2

_log = structlog.get_logger("shardcast.fetch")


class Lander:
    """Lands batches, counts them, and says when a version is full.

    Args:
        on_full: Called when the last chunk of a version has landed.
        on_store_error: Called with a version whose bytes the disk refused.
    """

    def __init__(
        self,
        versions: Versions,
        *,
        on_full: Callable[[LocalVersion], None],
        on_store_error: Callable[[LocalVersion], None],
    ) -> None:
        self._versions = versions
        self._on_full = on_full
        self._on_store_error = on_store_error
        self._pool = ThreadPoolExecutor(LANDING_THREADS, thread_name_prefix="land")
        self._is_closed = False
        #: What the disk refused last, and where.
        self._store_failure: tuple[object, object] | None = None

    async def land(
        self, version: LocalVersion, peer: PeerId, batch: Batch, *, on_landed: Callable[[int, int, bool], None]
    ) -> None:
        """Land chunks of `peer` one behind the other, up to the first that fails.

        Args:
            on_landed: Told (index, size in bytes, whether it is new) of each that landed, in order; not after `close`.

        Raises:
            IntegrityError: A chunk has other bytes; none behind it was landed.
            StoreError: The disk refused one.
            Conflict: The version is no longer landed.
        """
        staging = version.staging
        if staging is None or self._is_closed:
            raise Conflict(f"version {version.manifest.digest.hex()} is complete, or the node stops")
        landed, error = await asyncio.get_running_loop().run_in_executor(self._pool, _land_all, staging, batch)
        if landed and staging.flush_error is None:
            version.error = None
            self._versions.store_error = None
        for index, is_new in landed:
            size = version.manifest.chunk_span(index).length
            self._versions.count_chunk(version, peer, size, is_new=is_new)
            if not self._is_closed:
                on_landed(index, size, is_new)
        if isinstance(error, StoreError):
            version.error = error.message
            self._on_store_error(version)
        if staging.is_full and error is None and not self._is_closed:
            self._on_full(version)
        if error is not None:
            raise error

    async def land_each(self, version: LocalVersion, batch: Batch) -> list[bool | ShardcastError]:
        """Land chunks of several peers, whatever becomes of each.

        Returns:
            For each whether it is new here, or why it was not landed. Who counts them is the caller.
        """
        staging = version.staging
        if staging is None or self._is_closed:
            refusal = Conflict(f"version {version.manifest.digest.hex()} is complete, or the node stops")
            return [refusal] * len(batch)
        ends = await asyncio.get_running_loop().run_in_executor(self._pool, _land_each, staging, batch)
        failure = next((end for end in ends if isinstance(end, StoreError)), None)
        if failure is not None:
            version.error = failure.message
            self._on_store_error(version)
        elif staging.flush_error is None and any(isinstance(end, bool) for end in ends):
            version.error = self._versions.store_error = None
        if staging.is_full and failure is None and not self._is_closed:
            self._on_full(version)
        return ends

    def note_store_failure(self, error: StoreError) -> None:
        """Show a failure of the disk, and log it once as long as it is the same one: its free bytes change all the time."""
        failure = (error.facts.get("reason"), error.facts.get("path"))
        if self._versions.store_error is None or failure != self._store_failure:
            _log.error("store_failed", error=error.describe())
        self._store_failure = failure
        self._versions.store_error = error.message

    def note_bad_bytes(self, peer: PeerId, error: ShardcastError) -> None:
        """Log bytes that were refused."""
        facts = {name: value for name, value in error.facts.items() if name not in ("peer", "error")}
        _log.warning("bad_bytes_refused", peer=peer, error=error.message, **facts)

    async def aclose(self) -> None:
        """Wait for what is being landed; nothing more is told."""
        self._is_closed = True
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def _land_each(staging: Staging, batch: Batch) -> list[bool | ShardcastError]:
    ends: list[bool | ShardcastError] = []
    for index, segments in batch:
        try:
            ends.append(staging.land(index, segments))
        except ShardcastError as error:
            ends.append(error)
    return ends


def _land_all(staging: Staging, batch: Batch) -> tuple[list[tuple[int, bool]], ShardcastError | None]:
    """Land chunks one behind the other; return which were new, and what ended it early."""
    landed: list[tuple[int, bool]] = []
    for index, segments in batch:
        try:
            landed.append((index, staging.land(index, segments)))
        except ShardcastError as error:
            return landed, error
    return landed, None

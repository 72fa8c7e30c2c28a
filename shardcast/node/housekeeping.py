"""The chores of a node: staged chunks made durable, leases ended, old versions deleted, beacons signed again."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from shardcast.http.facade import GcView
from shardcast.shell.shell import Shell
from shardcast.store import Store, VersionRow
from shardcast.store.retention import plan_retention
from shardcast_proto.errors import Conflict, ShardcastError, StoreError
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.limits import BEACON_INTERVAL_S

from .leases import Leases

INTERVAL_S: Final = 1.0
#: How far back versions that never became whole are looked for.
_HEADS_SEARCHED: Final = 64

_log = structlog.get_logger("shardcast.node")


class Housekeeping:
    """What runs in the background of a node."""

    def __init__(self, shell: Shell, store: Store, *, leases: Leases, keep: int, quota_bytes: int | None) -> None:
        self._shell = shell
        self._store = store
        self._versions = shell.versions
        #: Leases of the API's callers.
        self.leases = leases
        self._keep = keep
        self._quota_bytes = quota_bytes
        #: Why chunks that have landed could not be noted as durable; None when they could.
        self._flush_error: str | None = None
        #: Whether a lease has ended since retention last looked: what it held may go.
        self._is_due = False

    async def run(self) -> None:
        """Do the chores of every second, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.tick()

    async def tick(self) -> None:
        """Make aged chunks durable, and let go of what leases held."""
        try:
            await asyncio.to_thread(self._store.flush)
        except StoreError as error:
            self._versions.store_error = error.message
            _log.error("flush_failed", error=error.describe())
            for version in self._versions.all():
                if version.staging is not None:
                    self._shell.opener.revive_soon(version)
        self._show_flush_errors()
        try:
            self._is_due = await self.leases.release_expired() or self._is_due
        except StoreError as error:
            _log.error("leases_not_released", error=error.describe())
        # not while somebody publishes: that may take minutes, and the chores of the next second must not wait for it
        if self._is_due and not self._versions.keeping.locked():
            self._is_due = False
            await self.retain()

    def expect_release(self) -> None:
        """Have retention look again within a second: something may have let go of a version."""
        self._is_due = True

    def _show_flush_errors(self) -> None:
        """Show which versions wait for the disk, for as long as they do."""
        was, self._flush_error = self._flush_error, None
        for version in self._versions.all():
            error = version.staging.flush_error if version.staging is not None else None
            if error is not None:
                version.error = self._versions.store_error = self._flush_error = error.message
            elif was is not None and version.error == was:
                version.error = None
        if self._flush_error is None and was is not None and self._versions.store_error == was:
            self._versions.store_error = None
        if self._flush_error != was:
            self._versions.changed()

    async def renew_beacons(self) -> None:
        """Say once a minute, as an origin, that the newest head still is the newest; until cancelled."""
        while True:
            for channel in self._shell.channels.values():
                try:
                    is_renewed: bool = await asyncio.to_thread(channel.renew_beacon, now_s=time.time())
                    if is_renewed:
                        await self._shell.announce(channel)
                except ShardcastError as error:
                    _log.error("beacon_not_renewed", channel=channel.name, error=error.describe())
            await asyncio.sleep(BEACON_INTERVAL_S)

    async def retain(self) -> None:
        """Delete what retention gives up, and what was superseded before it was whole."""
        try:
            await self.collect()
        except ShardcastError as error:
            _log.error("retention_failed", error=error.describe())

    async def collect(self) -> GcView:
        """Do what `retain` does, and return what has gone.

        Raises:
            StoreError: The disk fails.
        """
        async with self._versions.keeping, self._versions.opening:
            before = await asyncio.to_thread(self._store.versions)
            await asyncio.to_thread(self._delete)
            held = {row.manifest for row in await asyncio.to_thread(self._store.versions)}
            for version in self._versions.all():
                if version.manifest.digest not in held:
                    _log.info("version_deleted", manifest=format_digest(version.manifest.digest))
                    self._shell.opener.close(version.manifest.digest)
        return _gc_view([row for row in before if row.manifest not in held], dry_run=False)

    async def doomed(self) -> GcView:
        """Return what `collect` would delete now.

        Raises:
            StoreError: The disk fails.
        """
        return _gc_view(await asyncio.to_thread(self._doomed), dry_run=True)

    def _doomed(self) -> list[VersionRow]:
        leased, pinned = self._store.leased(), self._store.pinned()
        versions = self._store.held_versions()
        names = plan_retention(versions, keep=self._keep, quota_bytes=self._quota_bytes, leased=leased, pinned=pinned)
        names += [name for name in self._superseded() if name not in leased and name not in pinned]
        return [row for row in self._store.versions() if row.manifest in set(names)]

    def _delete(self) -> None:
        self._store.retain(keep=self._keep, quota_bytes=self._quota_bytes)
        for manifest in self._superseded():
            try:
                self._store.delete(manifest)
            except Conflict as error:  # somebody reads what there is of it
                _log.info("version_kept", error=error.message)

    def _superseded(self) -> list[Digest]:
        """Return the versions that are not whole and that no head wants any more.

        Of each channel those heads want theirs that are newer than its newest complete version.
        """
        rows = self._store.versions()
        complete = {row.manifest for row in rows if row.state == "complete"}
        wanted: set[Digest] = set()
        for channel in self._store.channels():
            for head in self._store.heads(channel.channel, limit=_HEADS_SEARCHED):
                if head.manifest in complete:
                    break
                wanted.add(head.manifest)
        return [row.manifest for row in rows if row.manifest not in complete | wanted]


def _gc_view(rows: list[VersionRow], *, dry_run: bool) -> GcView:
    # what a version under way takes is not known to the byte: its files have their full size from the start
    return {
        "deleted": [format_digest(row.manifest) for row in rows],
        "bytes": sum(row.bytes for row in rows if row.state != "failed"),
        "dry_run": dry_run,
    }

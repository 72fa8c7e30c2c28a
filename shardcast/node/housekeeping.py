"""The chores of a node: staged chunks made durable, leases ended, old versions deleted, beacons signed again."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from shardcast.shell.shell import Shell
from shardcast.store import Store
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
        self._leases = leases
        self._keep = keep
        self._quota_bytes = quota_bytes

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
        try:
            await self._leases.release_expired()
        except StoreError as error:
            _log.error("leases_not_released", error=error.describe())

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
        async with self._versions.keeping, self._versions.opening:
            try:
                await asyncio.to_thread(self._delete)
                held = {row.manifest for row in await asyncio.to_thread(self._store.versions)}
            except ShardcastError as error:
                _log.error("retention_failed", error=error.describe())
                return
            for version in self._versions.all():
                if version.manifest.digest not in held:
                    _log.info("version_deleted", manifest=format_digest(version.manifest.digest))
                    self._shell.opener.close(version.manifest.digest)

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

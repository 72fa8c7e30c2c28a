"""The opener of versions: from an accepted head to a place in the store, from the last chunk to a complete version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from shardcast.store import Staging
from shardcast_proto.errors import Conflict, IntegrityError, ShardcastError, StoreError, TrustError
from shardcast_proto.ids import Digest, PeerId, format_digest
from shardcast_proto.manifest import Manifest
from shardcast_proto.trust import SignedHead
from shardcast_relay.events import BlobClosed, Event, HeadAccepted

from .channels import FollowedChannel
from .tasks import Tasks
from .versions import LocalVersion, Versions

_log = structlog.get_logger("shardcast.versions")

#: A failed fsync is not repeated at once: what made it fail rarely passes within a second.
REVIVE_AFTER_S: Final = 5.0
#: Heads whose manifests are being fetched, at most: of a channel only the newest few matter.
WANTED_MAX: Final = 64


class Opener:
    """Opens versions in the store and tells the machine of them.

    Args:
        tell: Hands the machine a fact.
        tasks: Where completions run.
        revive_after_s: The pause before a version that the disk failed under is tried again.
    """

    def __init__(
        self,
        channels: Mapping[Digest, FollowedChannel],
        versions: Versions,
        *,
        tell: Callable[[Event], None],
        tasks: Tasks,
        revive_after_s: float = REVIVE_AFTER_S,
    ) -> None:
        self._channels = channels
        self._versions = versions
        self._tell = tell
        self._tasks = tasks
        self._revive_after_s = revive_after_s
        #: Heads whose manifests are being fetched, by manifest and channel, the newest last.
        self._wanted: dict[tuple[Digest, Digest], SignedHead] = {}
        #: Versions that are to be begun anew after a pause, because the disk failed under them; one manifest may be here twice.
        self._reviving: list[LocalVersion] = []
        #: Called after a version was completed or published, on the loop.
        self.on_complete: Callable[[LocalVersion], None] = lambda version: None

    async def take_up(self, channel: FollowedChannel) -> None:
        """Open every version of a channel that the store holds, and go on with its newest head.

        Raises:
            StoreError: The disk fails.
        """
        store = self._versions.store
        current = channel.shown.current
        held = {row.manifest for row in await asyncio.to_thread(store.versions)}
        for row in reversed(await asyncio.to_thread(store.heads, channel.id)):
            if row.manifest in held and (current is None or row.manifest != current.head.manifest):
                await self.open(row.manifest)
        if current is not None:
            await self.follow(channel, current, None)

    async def follow(self, channel: FollowedChannel, signed: SignedHead, source: PeerId | None) -> None:
        """Fetch the version of an accepted head, or open it when its manifest is here."""
        head = signed.head
        _log.info(
            "head_accepted",
            channel=channel.name,
            seq=head.seq,
            step=head.step,
            manifest=format_digest(head.manifest),
            source=source,
        )
        self._want(channel, signed)
        try:
            data = await asyncio.to_thread(self._versions.store.object, head.manifest)
            if data is not None:
                await self.take_manifest(head.manifest, data)
                return
        except TrustError:
            return  # logged; other bytes of that digest there are none
        except ShardcastError as error:
            self._note_failure(head.manifest, error)
        # the machine asks again and again until the version is open, which is what a full disk needs
        self._tell(HeadAccepted(channel.id, head.seq, head.manifest, head.manifest_bytes, source))

    async def open(self, digest: Digest) -> LocalVersion | None:
        """Open a version whose manifest the store has: begin it, resume it, or serve it when it is complete.

        Returns None, with a line in the log, when the disk fails.
        """
        try:
            manifest = await asyncio.to_thread(self._versions.store.manifest, digest)
            return None if manifest is None else await self._open_manifest(manifest)
        except ShardcastError as error:
            self._note_failure(digest, error)
            return None

    async def take_manifest(self, digest: Digest, data: bytes) -> None:
        """Take a manifest, which has its digest: check it against the heads that name it, then open the version.

        Raises:
            TrustError: No head that names it may: the origin is at fault, whoever sent the manifest.
            StoreError: The disk fails.
        """
        refusal: TrustError | None = None
        for key, signed in [item for item in self._wanted.items() if item[0][0] == digest]:
            channel = self._channels[signed.head.channel]
            try:
                manifest = await asyncio.to_thread(_checked, channel, signed, data)
            except TrustError as error:
                _log.error("manifest_refused", channel=channel.name, seq=signed.head.seq, error=error.describe())
                self._wanted.pop(key, None)
                refusal = error
            else:
                await self._open_manifest(manifest)
                if self._versions.supersede == "drop":
                    await self._drop_older(channel)
                return
        if refusal is not None:
            raise refusal

    def close(self, manifest: Digest) -> None:
        """Stop fetching and serving a version that was deleted."""
        version = self._versions.remove(manifest)
        if version is not None:
            blob = version.manifest.blob.id
            self._tell(BlobClosed(blob))
            heir = self._versions.by_blob(blob)
            if heir is not None:
                self._tell(heir.opened())

    def give_up(self, manifest: Digest, *, is_published: bool) -> None:
        """Withdraw a complete version whose files were changed behind our back, and tell the neighbours.

        A landed one is fetched again after a pause. A published one stays failed: its trainer writes to it, and a host that trains
        may have no room for a second copy.
        """
        version = self._versions.get(manifest)
        if version is None or version.staging is not None:
            return
        _log.error("version_withdrawn", manifest=format_digest(manifest), is_published=is_published)
        self.close(manifest)
        if not is_published:
            self.revive_soon(version)

    def complete_soon(self, version: LocalVersion) -> None:
        """Complete a version whose last chunk has landed, once."""
        if not version.is_completing:
            version.is_completing = True
            self._tasks.spawn(self._complete(version))

    def revive_soon(self, version: LocalVersion) -> None:
        """After a pause, go on with a version that the disk failed under: complete it, or begin it anew if what was staged is lost."""
        if all(other is not version for other in self._reviving):
            self._reviving.append(version)
            self._tasks.spawn(self._revive(version))

    def is_reviving(self, manifest: Digest) -> bool:
        """Whether a version is to be begun anew after a pause."""
        return any(version.manifest.digest == manifest for version in self._reviving)

    def revival_error(self, manifest: Digest) -> str | None:
        """Return why a version that is to be begun anew could not be the last time."""
        return next((version.error for version in self._reviving if version.manifest.digest == manifest), None)

    def _want(self, channel: FollowedChannel, signed: SignedHead) -> None:
        self._wanted.pop((signed.head.manifest, channel.id), None)
        if len(self._wanted) >= WANTED_MAX:
            del self._wanted[next(iter(self._wanted))]
        self._wanted[signed.head.manifest, channel.id] = signed

    async def _open_manifest(self, manifest: Manifest) -> LocalVersion:
        async with self._versions.opening:
            staging, is_published = await asyncio.to_thread(self._begin, manifest)
            twin = self._versions.by_blob(manifest.blob.id)
            version = self._versions.add(manifest, staging)
            version.is_published = is_published
            if twin is not None and twin is not version and staging is not None:
                self._tell(BlobClosed(manifest.blob.id))  # what the machine knows of the blob is the twin's state
            for key in [key for key in self._wanted if key[0] == manifest.digest]:
                del self._wanted[key]
            self._tell(version.opened())
        self._versions.store_error = None
        held = manifest.blob.chunk_count if staging is None else staging.have_count
        _log.info(
            "version_opened", manifest=format_digest(manifest.digest), chunks=manifest.blob.chunk_count, held=held
        )
        if staging is not None and staging.is_full:
            self.complete_soon(version)
        return version

    async def _drop_older(self, channel: FollowedChannel) -> None:
        """Give up the versions of a channel that are not whole and not its newest."""
        rows = await asyncio.to_thread(self._versions.store.heads, channel.id)
        of_channel = {row.manifest for row in rows}
        for version in self._versions.all():
            name = version.manifest.digest
            if version.staging is not None and name in of_channel and not self._is_newest(name):
                _log.info("version_dropped", channel=channel.name, manifest=format_digest(name))
                self.close(name)

    def _note_failure(self, manifest: Digest, error: ShardcastError) -> None:
        if isinstance(error, StoreError):
            self._versions.store_error = error.message
        _log.error("version_not_opened", manifest=format_digest(manifest), error=error.describe())

    def _begin(self, manifest: Manifest) -> tuple[Staging | None, bool]:
        """Return where the version is landed, None when it is complete, and whether it was published here."""
        store = self._versions.store
        try:
            return store.begin(manifest), False
        except Conflict:
            row = store.version(manifest.digest)
            return None, row is not None and row.link != "landed"

    async def _complete(self, version: LocalVersion) -> None:
        staging = version.staging
        if staging is None:
            return
        name = format_digest(version.manifest.digest)
        try:
            await asyncio.to_thread(staging.complete)
        except ShardcastError as error:
            version.is_completing = False
            if isinstance(error, StoreError):
                version.error = self._versions.store_error = error.message
                self.revive_soon(version)
            _log.error("version_not_completed", manifest=name, error=error.describe())
            self._versions.changed()
            return
        if version.staging is staging:
            version.staging, version.error = None, None
        _log.info(
            "version_complete",
            manifest=name,
            bytes=version.manifest.total_bytes,
            chunks_verified=version.chunks_verified,
        )
        self._versions.changed()
        self.on_complete(version)

    async def _revive(self, version: LocalVersion) -> None:
        is_done = False
        while not is_done:
            await asyncio.sleep(self._revive_after_s)
            try:
                is_done = await self._is_revived(version)
            except ShardcastError as error:
                version.error = error.message
                self._note_failure(version.manifest.digest, error)
        self._reviving = [other for other in self._reviving if other is not version]

    async def _is_revived(self, version: LocalVersion) -> bool:
        """Do what the version's state asks for, and return whether nothing is left to do.

        Raises:
            StoreError: The disk still fails.
        """
        digest = version.manifest.digest
        row = await asyncio.to_thread(self._versions.store.version, digest)
        opened = self._versions.get(digest)
        if opened is version:
            is_lost = version.staging is not None and version.staging.failure is not None
            if not is_lost and (row is None or row.state != "failed"):
                if version.staging is not None and version.staging.is_full:
                    self.complete_soon(version)
                return True
            self.close(digest)
        elif opened is not None or (row is None and not self._is_newest(digest)):
            return True  # begun anew by somebody else, or deleted meanwhile
        await self._open_manifest(version.manifest)
        return True

    def _is_newest(self, manifest: Digest) -> bool:
        newest = [channel.shown.current for channel in self._channels.values()]
        return any(signed is not None and signed.head.manifest == manifest for signed in newest)


def _checked(channel: FollowedChannel, signed: SignedHead, data: bytes) -> Manifest:
    try:
        return channel.check_manifest(signed.head, data)
    except IntegrityError as error:  # it has its digest: what is wrong is what the head says of it
        raise TrustError(f"head with seq {signed.head.seq} contradicts its manifest: {error.message}") from error

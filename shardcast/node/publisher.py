"""The origin's part: a checkpoint on this host becomes a signed, announced version."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Final, cast, get_args

import structlog

from shardcast.checkpoint import scan
from shardcast.http.facade import ProgressFn, PublishRequest, PublishView
from shardcast.origin import LinkWish, Sealed, seal
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.shell import Shell
from shardcast.store import HeadRow, Store
from shardcast_proto.errors import ConfigError, Conflict, ShardcastError, TrustError
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.trust import FLAG_REWIND, Reason

_LINKS: Final = get_args(LinkWish)
_STEP_MAX: Final = 2**63 - 1

_log = structlog.get_logger("shardcast.publish")


class Publisher:
    """Publishes one checkpoint at a time."""

    def __init__(self, shell: Shell, store: Store) -> None:
        self._shell = shell
        self._store = store

    async def publish(self, channel: FollowedChannel, request: PublishRequest, progress: ProgressFn) -> PublishView:
        """Seal, sign, announce. Returns when the announcement has been given to the neighbours.

        Raises:
            ConfigError: An argument is wrong.
            NotFound: There is nothing at the path.
            TrustError: This node does not hold the channel's origin keys, or the root forbids so large a version.
            Conflict: The step exists with other content.
            StoreError: The disk fails.

        Cancellation: waits for the threads that are at work. Before the head is signed nothing stays behind; once signing has begun,
        the version is signed and announced all the same.
        """
        link = _checked(request)
        channel.require_origin()
        path = Path(request.path)
        await asyncio.to_thread(_refuse_over_limit, channel, path)
        # retention must not take the sealed version before a head names it
        async with self._shell.versions.keeping:
            sealed = await self._seal(path, link, progress)
            try:
                await self._shell.ask_heads(channel)
                existing = await asyncio.to_thread(self._existing, channel, request, sealed.digest)
                if existing is None:
                    signing = asyncio.ensure_future(self._sign_and_announce(channel, request, sealed))
                    view = await _finished(signing)
                else:
                    view = _view(
                        channel, existing.seq, existing.received_at_s, sealed, step=request.step, is_existing=True
                    )
                    await self._shell.opener.open(sealed.digest)
            except BaseException:
                await asyncio.to_thread(self._forget, sealed.digest)
                raise
        return view

    async def _seal(self, path: Path, link: LinkWish, progress: ProgressFn) -> Sealed:
        is_cancelled = threading.Event()

        def tell(done_bytes: int, total_bytes: int) -> None:
            if is_cancelled.is_set():
                raise Conflict("the publication was cancelled")
            progress(done_bytes, total_bytes)

        work = asyncio.ensure_future(asyncio.to_thread(seal, path, self._store, link=link, progress=tell))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            is_cancelled.set()
            await asyncio.wait([work])
            if work.exception() is None:
                await asyncio.to_thread(self._forget, work.result().digest)
            raise

    def _existing(self, channel: FollowedChannel, request: PublishRequest, manifest: Digest) -> HeadRow | None:
        """Return the head that already says what is to be published; refuse a step that says something else, or went back unsaid."""
        current = _since_rewind(self._store.heads(channel.id))
        if not current:
            return None
        newest, same = current[0], next((row for row in current if row.step == request.step), None)
        if same is not None and same.manifest == manifest and not (request.rewind and same is not newest):
            return same
        if request.rewind:
            return None
        if same is None:
            if request.step > newest.step:
                return None
            raise Conflict(
                f"step {request.step} is older than the newest of channel {channel.name}, {newest.step} (seq {newest.seq})",
                hint="use --rewind when the trainer went back on purpose",
                step=request.step,
                newest_step=newest.step,
                seq=newest.seq,
            )
        raise Conflict(
            f"step {request.step} of channel {channel.name} is published already with other content "
            f"(seq {same.seq}, {format_digest(same.manifest)})",
            hint="publish the next step, or use --rewind when the trainer went back on purpose",
            step=request.step,
            seq=same.seq,
            manifest=format_digest(same.manifest),
        )

    def _forget(self, manifest: Digest) -> None:
        """Delete a sealed version, unless a head names it."""
        try:
            if not self._store.heads_naming(manifest):
                self._store.delete(manifest)
        except ShardcastError as error:
            _log.warning("sealed_version_left", manifest=format_digest(manifest), error=error.describe())

    async def _sign_and_announce(
        self, channel: FollowedChannel, request: PublishRequest, sealed: Sealed
    ) -> PublishView:
        now_s = time.time()
        signed = await asyncio.to_thread(
            channel.publish, sealed.manifest, step=request.step, is_rewind=request.rewind, now_s=now_s
        )
        version = await self._shell.opener.open(sealed.digest)
        await self._shell.announce(channel)
        _log.info("published", channel=channel.name, seq=signed.head.seq, step=request.step, bytes=sealed.bytes)
        if version is not None:
            self._shell.opener.on_complete(version)
        return _view(channel, signed.head.seq, now_s, sealed, step=request.step, is_existing=False)


def _since_rewind(newest_first: list[HeadRow]) -> list[HeadRow]:
    """Return the heads from the last rewind on: what came before it is a past that the trainer has left."""
    for index, row in enumerate(newest_first):
        if row.flags & FLAG_REWIND:
            return newest_first[: index + 1]
    return newest_first


async def _finished(work: asyncio.Future[PublishView]) -> PublishView:
    """Wait for work that is not to be cancelled, not even with the caller."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.warning("not_published", error=str(error))
        raise


def _refuse_over_limit(channel: FollowedChannel, path: Path) -> None:
    """Refuse what can be refused without hashing a byte."""
    files = scan(path)
    total, limits = sum(file.size for file in files), channel.shown.root.limits
    if total > limits.max_version_bytes or len(files) > limits.max_files:
        raise TrustError(
            f"{path} has {total} bytes in {len(files)} files, the root of channel {channel.name} allows "
            f"{limits.max_version_bytes} in {limits.max_files}",
            reason=str(Reason.OVER_LIMIT),
            channel=channel.name,
        )


def _checked(request: PublishRequest) -> LinkWish:
    if request.link not in _LINKS:
        raise ConfigError(f"there is no link mode {request.link[:40]!r}", hint=f"use one of {', '.join(_LINKS)}")
    if not 0 <= request.step <= _STEP_MAX:
        raise ConfigError(f"step {request.step} is out of range", hint="a step is a whole number from 0 on")
    if not Path(request.path).is_absolute():
        raise ConfigError(f"the path {request.path[:200]!r} is not absolute")
    return cast(LinkWish, request.link)


def _view(
    channel: FollowedChannel, seq: int, signed_at_s: float, sealed: Sealed, *, step: int, is_existing: bool
) -> PublishView:
    return {
        "channel": channel.name,
        "seq": seq,
        "step": step,
        "manifest": format_digest(sealed.digest),
        "bytes": sealed.bytes,
        "signed_at": signed_at_s,
        "hash_seconds": sealed.hash_seconds,
        "existing": is_existing,
        "link": sealed.linked,
        "complete_neighbours": 0,
    }

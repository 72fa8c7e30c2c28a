"""The checkup of a complete version: every chunk is read from the disk and hashed again."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final

import structlog

from shardcast.http.facade import ProgressFn, VerifyView, VersionView
from shardcast.store import Store
from shardcast_proto.errors import Conflict, IntegrityError
from shardcast_proto.ids import parse_digest

#: Files that an error names; a disk that lost more of them has lost all.
_FILES_NAMED_MAX: Final = 20

_log = structlog.get_logger("shardcast.node")


async def verify(view: VersionView, progress: ProgressFn, store: Store) -> VerifyView:
    """Hash a complete version, which the caller has leased; see `NodeFacade.verify`."""
    digest = parse_digest(view["manifest"])
    is_cancelled = threading.Event()

    def tell(done_bytes: int, total_bytes: int) -> None:
        if is_cancelled.is_set():
            raise Conflict("the verification was cancelled")
        progress(done_bytes, total_bytes)

    began_s = time.monotonic()
    work = asyncio.ensure_future(asyncio.to_thread(store.verify, digest, tell))
    try:
        files, wrong_count = await asyncio.shield(work)
    except asyncio.CancelledError:
        is_cancelled.set()
        await asyncio.wait([work])
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.info("verification_ended", manifest=view["manifest"], cause=str(error))
        raise
    if files:
        # the store has told the shell: what was fetched is fetched again, what was published here is not
        hint = (
            "it is fetched again"
            if view["signed_at"] is None
            else "publish it again, into new files or with --link copy"
        )
        raise IntegrityError(
            f"{wrong_count} of {view['chunks']} chunks of step {view['step']} of channel {view['channel']} are wrong on "
            f"the disk, in {len(files)} files; the version is given up here",
            hint=f"{hint}; look at what may have written to these files, and at the disk",
            manifest=view["manifest"],
            files=files[:_FILES_NAMED_MAX],
            wrong_chunks=wrong_count,
        )
    return {
        "channel": view["channel"],
        "seq": view["seq"],
        "step": view["step"],
        "manifest": view["manifest"],
        "bytes": view["bytes"],
        "chunks": view["chunks"],
        "seconds": time.monotonic() - began_s,
    }

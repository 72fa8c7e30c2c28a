"""The adapter of a symbolic link that always leads to the active version.

Whoever opens it gets one version or the other: a new link is made beside it and renamed over it. Files that were opened by the old way stay
readable; the directory from before stays for as long as the node keeps it to go back to.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from shardcast.engine_specs import EngineSpec
from shardcast.store.disk import rename_durably
from shardcast.store.faults import disk_errors
from shardcast_proto.errors import Conflict, StoreError
from shardcast_proto.ids import DIGEST_PREFIX

from .port import Capabilities, Effect, Health, Outcome, StagedVersion


class SymlinkEngine:
    """One link."""

    def __init__(self, spec: EngineSpec) -> None:
        self._path = Path(spec.target)

    async def probe(self) -> Capabilities:
        """Make sure that nothing but a link is in its place."""
        await asyncio.to_thread(self._check)
        return Capabilities(way="symlink", tells_current=True)

    def _check(self) -> None:
        with disk_errors("looking at", self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.is_symlink() and self._path.exists():
                raise Conflict(
                    f"{self._path} is there and is no symbolic link", hint="move it away", path=str(self._path)
                )

    async def prepare(self, version: StagedVersion) -> None:
        """Make sure that nothing but a link is in its place."""
        await self.probe()

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        """Move the link."""
        try:
            await asyncio.to_thread(self._move, version.path)
        except StoreError as error:
            return Outcome(effect=Effect.UNCHANGED, reason=error.describe())
        return Outcome(effect=Effect.ACTIVE)

    def _move(self, target: Path) -> None:
        temporary = self._path.with_name(f".tmp-{self._path.name}-{secrets.token_hex(8)}")
        with disk_errors("linking", self._path):
            try:
                temporary.symlink_to(target)
                rename_durably(temporary, self._path)
            finally:
                temporary.unlink(missing_ok=True)

    async def resume(self) -> bool:
        """Do nothing: a link is not paused."""
        return True

    async def current(self) -> str | None:
        """Return the version that the link leads to."""
        try:
            target = await asyncio.to_thread(self._path.readlink)
        except OSError:
            return ""
        return f"{DIGEST_PREFIX}{target.name}"

    async def health(self) -> Health:
        """Return that it can be made."""
        return Health.HEALTHY

    async def aclose(self) -> None:
        """Let go of nothing."""

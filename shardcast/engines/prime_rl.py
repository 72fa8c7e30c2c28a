"""The adapter of prime-rl: `broadcasts/step_N`, as its orchestrator and its inference servers read it, without a shared file system.

A version becomes `DIR/step_N`: hard links to the store's files, made whole beside its place and renamed. `STABLE`, which readers wait for,
comes last, at commit. With `url=` each inference server is then told: `/pause`, `/update_weights {"weight_dir": DIR/step_N}`, `/resume`;
without, prime-rl's orchestrator does that when it sees `STABLE`.

Nothing but `step_N` directories has a name that begins with `step_`: readers take what follows for a number. The directory itself is
writable, because the orchestrator puts a file into it. A directory of ours carries our mark, and only such are replaced or deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog

from shardcast.client import materialise
from shardcast.engine_specs import EngineSpec
from shardcast.store.disk import remove_tree, rename_durably, sync_directory, write_durably
from shardcast.store.faults import disk_errors
from shardcast_proto.errors import Conflict, StoreError
from shardcast_proto.manifest import Manifest

from .calls import ASK_TIMEOUT_S, Answer, EngineHttp, get, post, routes_of
from .files import check_checkpoint
from .health import health_of
from .pausing import commit_paused, resumed
from .port import Capabilities, Effect, EngineFault, Health, Outcome, StagedVersion, manifest_of_label

#: What readers wait for.
STABLE: Final = "STABLE"
#: Ours: holds the digest of the manifest.
MARK: Final = ".shardcast"
#: Directories of ours that stay: the orchestrator may be some steps behind, and reads them by name.
STEPS_KEPT: Final = 4
_LABEL_ROUTES: Final = frozenset({"/update_weight_version", "/weight_info"})

_log = structlog.get_logger("shardcast.engines")

#: Returns the manifest with a digest `b3:HEX`.
ManifestOf = Callable[[str], Manifest]


class PrimeRlEngine:
    """The inference servers of one host, or only their directory.

    Args:
        servers: None of them leaves the calls to prime-rl's orchestrator.
        manifest_of: Returns the manifest of a version that is complete here.
    """

    def __init__(self, spec: EngineSpec, servers: Sequence[EngineHttp], manifest_of: ManifestOf) -> None:
        self._spec = spec
        self._servers = servers
        self._manifest_of = manifest_of
        self._directory = Path(spec.target)
        self._routes: list[frozenset[str]] = []
        self._has_labels = False

    async def probe(self) -> Capabilities:
        """Find out whether the servers can tell what they serve."""
        routes = self._routes = [await routes_of(server) for server in self._servers]
        for server, found in zip(self._servers, routes, strict=True):
            missing = [route for route in ("/pause", "/update_weights", "/resume") if found and route not in found]
            if missing:
                raise EngineFault(f"{server.url} has no {', '.join(missing)}", may_have_acted=False)
        self._has_labels = bool(routes) and all(found >= _LABEL_ROUTES for found in routes)
        way = "prime-rl servers" if self._servers else "prime-rl directory"
        return Capabilities(way=way, tells_current=self._has_labels or not self._servers)

    async def prepare(self, version: StagedVersion) -> None:
        """Lay the files out, all but `STABLE`."""
        await check_checkpoint(version.path)
        await self.probe()
        await asyncio.to_thread(self._lay_out, version)

    def _lay_out(self, version: StagedVersion) -> None:
        place = self.place_of(version)
        manifest = self._manifest_of(version.manifest)
        with disk_errors("looking at", place):
            self._directory.mkdir(parents=True, exist_ok=True)
            held = _mark_of(place)
            if held == version.manifest:
                return
            if held is not None:
                # the trainer went back, and has published this step anew
                self._discard(place)
            elif os.path.lexists(place):
                raise Conflict(
                    f"{place} is there, and not made by this node",
                    hint="move it away, or give each run a directory of its own",
                    path=str(place),
                )
            staged = self._directory / f".tmp-shardcast-{secrets.token_hex(8)}"
        try:
            materialise(version.path, manifest, staged)
            with disk_errors("moving into place", place):
                write_durably(staged / MARK, version.manifest.encode())
                rename_durably(staged, place)
        finally:
            with disk_errors("removing", staged):
                remove_tree(staged)

    def place_of(self, version: StagedVersion) -> Path:
        """Return the directory of a version."""
        return self._directory / f"step_{version.step}"

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        """Put `STABLE`, then tell the servers; then delete the oldest directories of ours."""
        try:
            if not owns_pause and await self._is_paused():
                reason = "a server is paused already, by somebody who will want to go on himself"
                return Outcome(effect=Effect.UNCHANGED, reason=reason)
        except EngineFault as fault:
            return Outcome(effect=Effect.UNCHANGED, reason=fault.describe())
        try:
            await asyncio.to_thread(self._make_stable, self.place_of(version))
        except StoreError as error:
            return Outcome(effect=Effect.UNCHANGED, reason=error.describe(), is_resumed=not owns_pause)
        if fallback is not None and self.place_of(fallback) == self.place_of(version):
            # the trainer published this step anew: its directory does not hold the old content any more
            fallback = None
        if not self._servers:
            outcome = Outcome(effect=Effect.ACTIVE)
        else:
            outcome = await commit_paused(
                version,
                fallback,
                pause=self._pause,
                apply=self._apply,
                resume=self._resume,
                resume_timeout_s=self._spec.resume_timeout_s,
                owns_pause=owns_pause,
            )
        if outcome.effect is Effect.ACTIVE:
            try:
                await asyncio.to_thread(self._sweep, self.place_of(version))
            except StoreError as error:
                # the version serves: what is left over is swept the next time
                _log.warning("steps_not_swept", directory=str(self._directory), error=error.describe())
        return outcome

    def _make_stable(self, place: Path) -> None:
        with disk_errors("writing", place / STABLE):
            descriptor = os.open(place / STABLE, os.O_WRONLY | os.O_CREAT, 0o644)
            os.utime(descriptor)
            os.close(descriptor)
            sync_directory(place)

    async def _is_paused(self) -> bool:
        asked = [server for server, found in zip(self._servers, self._routes, strict=True) if "/is_paused" in found]
        answers = [await get(server, "/is_paused") for server in asked]
        return any(answer.get("is_paused") is not False for answer in answers)

    async def _pause(self) -> None:
        timeout_s = self._spec.pause_timeout_s
        await _all(post(server, "/pause?mode=keep&clear_cache=false", timeout_s=timeout_s) for server in self._servers)

    async def _apply(self, version: StagedVersion) -> None:
        document = {"weight_dir": str(self.place_of(version))}
        timeout_s = self._spec.apply_timeout_s
        await _all(post(server, "/update_weights", document, timeout_s=timeout_s) for server in self._servers)
        if self._has_labels:
            label = {"new_version": version.label}
            places = "/update_weight_version"
            await _all(post(server, places, label, timeout_s=ASK_TIMEOUT_S) for server in self._servers)

    async def resume(self) -> bool:
        """Let the servers go on."""
        return await resumed(self._resume, timeout_s=self._spec.resume_timeout_s)

    async def _resume(self) -> None:
        timeout_s = self._spec.resume_timeout_s
        await _all(post(server, "/resume", timeout_s=timeout_s) for server in self._servers)

    async def current(self) -> str | None:
        """Return what all servers show, or what the newest directory of ours holds when there are none."""
        if not self._servers:
            return await asyncio.to_thread(self._newest_stable)
        if not self._has_labels:
            await self.probe()
        if not self._has_labels:
            return None
        labels = {str((await get(server, "/weight_info")).get("weight_version")) for server in self._servers}
        return manifest_of_label(labels.pop()) if len(labels) == 1 else ""

    async def health(self) -> Health:
        """Return the worst health of a server."""
        found = [await health_of(server) for server in self._servers]
        for worst in (Health.UNREACHABLE, Health.UNHEALTHY):
            if worst in found:
                return worst
        return Health.HEALTHY

    async def aclose(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.aclose()

    # --- directories ---

    def _steps(self) -> list[Path]:
        """Return the directories that carry our mark, the one that became stable last at the end."""
        with disk_errors("reading", self._directory):
            paths = sorted(self._directory.glob("step_*")) if self._directory.is_dir() else []
            ours = [path for path in paths if path.name[5:].isdecimal() and _mark_of(path) is not None]
            return sorted(ours, key=_stable_since)

    def _newest_stable(self) -> str:
        steps = self._steps()
        return (_mark_of(steps[-1]) or "") if steps and _stable_since(steps[-1]) else ""

    def _sweep(self, active: Path) -> None:
        others = [path for path in self._steps() if path != active]
        for path in others[: max(0, len(others) - STEPS_KEPT + 1)]:
            self._discard(path)

    def _discard(self, place: Path) -> None:
        """Delete a directory of ours; nobody sees half of it."""
        with disk_errors("removing", place), contextlib.suppress(FileNotFoundError):
            doomed = place.with_name(f".tmp-shardcast-{secrets.token_hex(8)}")
            place.rename(doomed)
            remove_tree(doomed)


async def _all(calls: Iterable[Awaitable[Answer]]) -> None:
    """Wait for all of them, and raise one fault for those that failed."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    faults = [result for result in results if isinstance(result, EngineFault)]
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, EngineFault):
            raise result
    if faults:
        raise EngineFault(
            "; ".join(fault.message for fault in faults),
            may_have_acted=len(faults) < len(results) or any(fault.may_have_acted for fault in faults),
            is_answer=all(fault.is_answer for fault in faults),
            hint=faults[0].hint,
        )


def _mark_of(place: Path) -> str | None:
    try:
        return (place / MARK).read_text(errors="replace").strip()[:80]
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stable_since(place: Path) -> int:
    """Return when a directory became stable, in nanoseconds; 0 while it is not."""
    try:
        return (place / STABLE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0

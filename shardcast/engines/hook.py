"""The adapter of anything that a command can drive.

The command is run without a shell: `PATH ARG…`, its standard input empty, in a process group of its own, with this environment and nothing
else but PATH, HOME, LANG and TZ of the node's:

    SHARDCAST_ACTION          activate, or restore: put back what served before, because activating has failed
    SHARDCAST_ENGINE          the engine's name
    SHARDCAST_CHANNEL         the channel's name
    SHARDCAST_STEP            the trainer's step
    SHARDCAST_SEQ             the number of the version in its channel
    SHARDCAST_MANIFEST        b3:HEX, the exact name of the content
    SHARDCAST_PATH            the directory with the files; do not write to it
    SHARDCAST_PREVIOUS_PATH   the directory of what serves now; absent when there is none
    SHARDCAST_ACTIVATION      equal in all runs for one activation

Exit code 0: the version serves. 75: nothing was touched, try again later. Any other, or a signal, or the deadline: unknown. What it prints
goes to the node's log, its last 4 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from shardcast.engine_specs import EngineSpec
from shardcast_proto.errors import ConfigError

from .calls import quoted
from .pausing import commit_paused
from .port import Capabilities, EngineFault, Health, Outcome, StagedVersion

#: EX_TEMPFAIL of sysexits.h.
EXIT_UNCHANGED: Final = 75
OUTPUT_BYTES_KEPT: Final = 4096
_READ_BYTES: Final = 4096
#: A command that does not end at SIGTERM is killed.
_END_S: Final = 2.0
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "TZ")

_log = structlog.get_logger("shardcast.engines")


class HookEngine:
    """One command."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec

    async def probe(self) -> Capabilities:
        """Make sure that the command can be run."""
        await asyncio.to_thread(_check, Path(self._spec.target))
        return Capabilities(way="hook", tells_current=False)

    async def prepare(self, version: StagedVersion) -> None:
        """Make sure that the command can be run."""
        await self.probe()

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        """Run the command; for a failure of unknown extent, again with what was before."""
        is_first = True

        async def apply(wanted: StagedVersion) -> None:
            nonlocal is_first
            action, is_first = "activate" if is_first else "restore", False
            await self._run(action, wanted, None if wanted is fallback else fallback)

        async def nothing() -> None:
            return None

        return await commit_paused(
            version, fallback, pause=None, apply=apply, resume=nothing, resume_timeout_s=self._spec.resume_timeout_s
        )

    async def _run(self, action: str, version: StagedVersion, before: StagedVersion | None) -> None:
        command = [self._spec.target, *self._spec.arguments]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(action, self._spec, version, before),
                start_new_session=True,
            )
        except OSError as error:
            raise EngineFault(f"{command[0]} cannot be run: {error.strerror}", may_have_acted=False) from error
        output: deque[int] = deque(maxlen=OUTPUT_BYTES_KEPT)
        try:
            async with asyncio.timeout(self._spec.apply_timeout_s):
                await _read(process, output)
                code = await process.wait()
        except TimeoutError:
            code = None
        finally:
            await _end(process)
        said = quoted(bytes(output)[-600:])
        _log.info(
            "hook_ended",
            engine=self._spec.name,
            action=action,
            code=code,
            output=bytes(output).decode(errors="replace"),
        )
        if code is None:
            raise EngineFault(
                f"{command[0]} did not end within {self._spec.apply_timeout_s:g} s and was killed",
                may_have_acted=True,
                hint="give it longer with timeout=TIME",
            )
        if code:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise EngineFault(f"{command[0]} {how}{f': {said}' if said else ''}", may_have_acted=code != EXIT_UNCHANGED)

    async def resume(self) -> bool:
        """Do nothing: a command is not paused."""
        return True

    async def current(self) -> str | None:
        """Return None: a command does not tell."""
        return None

    async def health(self) -> Health:
        """Return that it is there."""
        return Health.HEALTHY

    async def aclose(self) -> None:
        """Let go of nothing: each run ends its process."""


def _check(path: Path) -> None:
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ConfigError(f"{path} is no file that can be executed", hint="chmod +x it", path=str(path))


def _environment(action: str, spec: EngineSpec, version: StagedVersion, before: StagedVersion | None) -> dict[str, str]:
    values = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    values |= {
        "SHARDCAST_ACTION": action,
        "SHARDCAST_ENGINE": spec.name,
        "SHARDCAST_CHANNEL": version.channel,
        "SHARDCAST_STEP": str(version.step),
        "SHARDCAST_SEQ": str(version.seq),
        "SHARDCAST_MANIFEST": version.manifest,
        "SHARDCAST_PATH": str(version.path),
        "SHARDCAST_ACTIVATION": version.activation,
    }
    if before is not None:
        values["SHARDCAST_PREVIOUS_PATH"] = str(before.path)
    return values


async def _read(process: asyncio.subprocess.Process, output: deque[int]) -> None:
    """Read what it prints until it ends, or closes its output; a child that it leaves behind may hold that open."""
    if process.stdout is None:
        return
    ended = asyncio.ensure_future(process.wait())
    try:
        while True:
            reading = asyncio.ensure_future(process.stdout.read(_READ_BYTES))
            try:
                await asyncio.wait([reading, ended], return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    # a moment for what is still in the pipe
                    await asyncio.wait([reading], timeout=0.1)
                data = reading.result() if reading.done() else b""
            finally:
                reading.cancel()
            if not data:
                return
            output.extend(data)
    finally:
        ended.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process with all that it has started."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
                return
        except TimeoutError:
            continue

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from shardcast.engine_specs import EngineSpec
from shardcast_proto.errors import ConfigError

from .calls import quoted
from .pausing import commit_unpaused
from .port import Capabilities, EngineFault, Health, Outcome, StagedVersion

#: EX_TEMPFAIL of sysexits.h.
EXIT_UNCHANGED: Final = 75
OUTPUT_BYTES_KEPT: Final = 4096
_LAST_WORDS_S: Final = 0.2
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
        return await commit_unpaused(version, fallback, self._run)

    async def _run(self, action: str, version: StagedVersion, before: StagedVersion | None) -> None:
        command = [self._spec.target, *self._spec.arguments]
        reader, writer = os.pipe()
        tail = _Tail()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: tail, os.fdopen(reader, "rb", 0))
        code: int | None = None
        try:
            process = await _started(command, writer, _environment(action, self._spec, version, before))
            try:
                async with asyncio.timeout(self._spec.apply_timeout_s):
                    code = await process.wait()
                # a moment for what is still in the pipe; who was left behind may hold it open for ever
                await asyncio.wait([tail.ended], timeout=_LAST_WORDS_S)
            except TimeoutError:
                code = None
            finally:
                await _end(process)
        finally:
            transport.close()
        output = bytes(tail.output)
        said = quoted(output[-600:])
        _log.info(
            "hook_ended",
            engine=self._spec.name,
            action=action,
            code=code,
            output=output.decode(errors="replace"),
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
    if not path.exists():
        raise ConfigError(f"there is no command {path}", hint="correct hook=PATH in --activate", path=str(path))
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


class _Tail(asyncio.Protocol):
    """Keeps the end of what a command prints."""

    def __init__(self) -> None:
        self.output: deque[int] = deque(maxlen=OUTPUT_BYTES_KEPT)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Take what was printed."""
        self.output.extend(data[-OUTPUT_BYTES_KEPT:])

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nobody can print any more."""
        if not self.ended.done():
            self.ended.set_result(None)


async def _started(command: Sequence[str], output: int, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineFault(f"{command[0]} cannot be run: {error.strerror}", may_have_acted=False) from error
    finally:
        os.close(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process with all that it has started, also what stays when the process itself has heeded SIGTERM."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            continue

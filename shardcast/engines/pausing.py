"""The commit of an engine that is paused meanwhile: pause, apply, resume in any case.

When the engine *answers* that a version could not be applied, what it served before is applied again under the same pause, so that it does
not go on with half of each. When it does not answer, nothing is sent after the load, which may still be running; only `resume` is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from .port import Effect, EngineFault, Outcome, StagedVersion

#: Resuming twice does nothing, so one that was refused is asked for again.
RESUME_TRIES: Final = 3
RESUME_PAUSE_S: Final = 0.5

Apply = Callable[[StagedVersion], Awaitable[None]]
Act = Callable[[], Awaitable[None]]
ActOn = Callable[[str, StagedVersion, StagedVersion | None], Awaitable[None]]

_log = structlog.get_logger("shardcast.engines")


async def commit_paused(
    version: StagedVersion,
    fallback: StagedVersion | None,
    *,
    pause: Act | None,
    apply: Apply,
    resume: Act,
    resume_timeout_s: float,
    owns_pause: bool = False,
) -> Outcome:
    """Apply a version between a pause and a resume.

    Args:
        pause: None when the engine is not to be paused.
        resume_timeout_s: For all tries to resume together.
        owns_pause: Whether it may be paused by us already.
    """
    began_s = time.monotonic()
    effect, reason = Effect.UNCHANGED, ""
    is_resumed, may_be_paused = not owns_pause, pause is not None
    try:
        if pause is not None:
            await pause()
        effect, reason = await _apply(version, fallback, apply)
    except EngineFault as fault:
        reason = f"it was not paused: {fault.describe()}"
        may_be_paused = fault.may_have_acted
    finally:
        if may_be_paused:
            is_resumed = await resumed(resume, timeout_s=resume_timeout_s)
    pause_s = 0.0 if pause is None else time.monotonic() - began_s
    return Outcome(effect=effect, reason=reason, pause_s=pause_s, is_resumed=is_resumed)


async def commit_unpaused(version: StagedVersion, fallback: StagedVersion | None, act: ActOn) -> Outcome:
    """Apply a version to what is never paused; for a failure of unknown extent, what was before.

    Args:
        act: Told to `activate` the version, with what serves until now; or to `restore` that, with nothing.
    """

    async def apply(wanted: StagedVersion) -> None:
        if wanted is version:
            await act("activate", version, fallback)
        else:
            await act("restore", wanted, None)

    effect, reason = await _apply(version, fallback, apply)
    return Outcome(effect=effect, reason=reason)


async def resumed(resume: Act, *, timeout_s: float) -> bool:
    """Resume an engine, and say whether it has confirmed that."""
    try:
        async with asyncio.timeout(timeout_s):
            for left in reversed(range(RESUME_TRIES)):
                try:
                    await resume()
                except EngineFault as fault:
                    _log.warning("engine_not_resumed", error=fault.describe(), tries_left=left)
                else:
                    return True
                if left:
                    await asyncio.sleep(RESUME_PAUSE_S)
    except TimeoutError:
        _log.warning("engine_not_resumed", error=f"it did not answer within {timeout_s:g} s")
    return False


async def _apply(version: StagedVersion, fallback: StagedVersion | None, apply: Apply) -> tuple[Effect, str]:
    try:
        await apply(version)
    except EngineFault as fault:
        if not fault.may_have_acted:
            return Effect.UNCHANGED, fault.describe()
        if not fault.is_answer or fallback is None:
            return Effect.UNKNOWN, fault.describe()
        failed = fault
    else:
        return Effect.ACTIVE, ""
    try:
        await apply(fallback)
    except EngineFault as fault:
        return (
            Effect.UNKNOWN,
            f"{failed.describe()}; and step {fallback.step} could not be put back: {fault.describe()}",
        )
    return Effect.RESTORED, f"{failed.describe()}; step {fallback.step} was put back"

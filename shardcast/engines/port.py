"""The port of an engine: what the follower asks of whatever samples from the weights.

An activation is `prepare`, then `commit`. Everything that can fail without harm happens in `prepare`, while the engine still serves: is it
there, does it have the routes, are the files readable, is there room. `commit` is short: pause, apply, resume. What came of it is an
`Outcome`, never an exception:

    active      the engine has said that it serves the version
    unchanged   nothing was touched: the weights from before serve, for certain
    restored    it failed, and the version from before was applied again under the same pause
    unknown     nobody can say which weights the engine holds: it timed out, it died, or it failed half-way

`unknown` is not retried: whoever calls asks `health` with `current` first, because a load that seems lost may still be running. `resume`
is tried in each case, also after a cancellation; `is_resumed` tells whether the engine has confirmed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from shardcast_proto.errors import HotLoadError
from shardcast_proto.ids import DIGEST_PREFIX


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedVersion:
    """A version that is complete on this host, held for as long as it is being activated."""

    channel: str
    seq: int
    step: int
    #: The manifest's digest, `b3:HEX`: the exact name of the content.
    manifest: str
    #: Where its files lie; never written to.
    path: Path
    #: What names this activation in all calls that belong to it, so that a receiver can tell a repetition.
    activation: str = ""

    @property
    def label(self) -> str:
        """The text that engines show as their weights' version: the step for people, the digest for us."""
        return f"{self.step}@{self.manifest}"


class Effect(StrEnum):
    """What an activation did to the engine's weights."""

    ACTIVE = "active"
    UNCHANGED = "unchanged"
    RESTORED = "restored"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a commit."""

    effect: Effect
    #: Why it is not `active`, in one sentence.
    reason: str = ""
    #: How long the engine did not sample, in seconds.
    pause_s: float = 0.0
    #: False when the engine may still be paused, because it has not confirmed that it goes on.
    is_resumed: bool = True


class Health(StrEnum):
    """Whether the engine answers."""

    HEALTHY = "healthy"
    #: It answers, and says that it cannot work.
    UNHEALTHY = "unhealthy"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a probe has found."""

    #: The way in which weights will be applied, for people.
    way: str
    #: Whether `current` can tell.
    tells_current: bool
    facts: Mapping[str, object] = field(default_factory=dict)


class EngineFault(HotLoadError):
    """An engine did not do what it was asked for.

    Attributes:
        may_have_acted: Whether it may have done some or all of it.
        is_answer: Whether it has answered, and so is done with it.
        status: The HTTP status of the answer, if there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        may_have_acted: bool,
        is_answer: bool = True,
        status: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.may_have_acted = may_have_acted
        self.is_answer = is_answer
        self.status = status


class Engine(Protocol):
    """One engine. Calls come one after another, but `health` and `current` may come during a commit."""

    async def probe(self) -> Capabilities:
        """Find out how the engine takes weights.

        Raises:
            EngineFault: It does not answer, or has no way.
        """

    async def prepare(self, version: StagedVersion) -> None:
        """Do everything that can fail without harm.

        Raises:
            ShardcastError: The version cannot be activated now; the engine was not touched.
        Cancellation: nothing is left that a later call would stumble over.
        """

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        """Make the engine serve a prepared version.

        Args:
            fallback: What it serves until now, to be applied again when the engine says that it failed.
            owns_pause: Whether a pause that is found may be one that we have left behind.

        Cancellation: the engine is told to resume; what it holds is unknown.
        """

    async def resume(self) -> bool:
        """Let an engine go on that a commit may have left paused; say whether it has confirmed that."""

    async def current(self) -> str | None:
        """Return what the engine says that it serves: `b3:HEX` for a version of ours, another text for other weights; None if it cannot
        tell.

        Raises:
            EngineFault: It does not answer.
        """

    async def health(self) -> Health:
        """Say whether the engine answers."""

    async def aclose(self) -> None:
        """Let go of connections and processes."""


def manifest_of_label(label: str) -> str:
    """Return the digest in a label of ours, or the label as it is."""
    digest = label.rpartition("@")[2]
    return digest if digest.startswith(DIGEST_PREFIX) else label

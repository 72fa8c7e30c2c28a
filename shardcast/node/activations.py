"""The engines of a node: which there are, what they serve, what the operator wants of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shardcast.engines import Effect
from shardcast.engines.follower import Mark
from shardcast.http.facade import EngineState, EngineVersion, EngineView, EventKind
from shardcast.shell.channels import FollowedChannel
from shardcast.store import HeadRow
from shardcast_proto.errors import HotLoadError, NotFound, ShardcastError
from shardcast_proto.ids import format_digest

from .engine_runner import Ended, EngineRunner, mark_of


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineNews:
    """What happened to a version in an engine."""

    channel: FollowedChannel
    kind: EventKind
    mark: Mark
    engine: str
    #: More, in one sentence.
    detail: str


class Activations:
    """All engines.

    Args:
        on_ended: Told of each activation that has ended, for the metrics.
    """

    def __init__(self, *, on_ended: Callable[[Ended], None] = lambda ended: None) -> None:
        self.runners: Sequence[EngineRunner] = ()
        #: Told of what happens; the desk's journals.
        self.on_news: Callable[[EngineNews], None] = lambda news: None
        self.on_ended = on_ended

    async def aclose(self) -> None:
        """Let go of the engines."""
        for runner in self.runners:
            await runner.aclose()

    def ended(self, runner: EngineRunner, ended: Ended) -> None:
        """Take note of an activation that has ended."""
        is_active = ended.outcome.effect is Effect.ACTIVE
        took = f"in {ended.seconds:.3f} s, paused for {ended.outcome.pause_s:.3f} s"
        detail = ended.outcome.reason or took
        kind: EventKind = "activated" if is_active else "activation_failed"
        self._tell(runner, kind, ended.mark, detail)
        self.on_ended(ended)

    def behind(self, runner: EngineRunner, is_behind: bool) -> None:
        """Take note of an engine that is too far behind, or is not any more."""
        mark = runner.follower.newest or runner.follower.active
        if mark is not None:
            kind: EventKind = "lagging" if is_behind else "caught_up"
            self._tell(runner, kind, mark, _lag_text(runner))

    def _tell(self, runner: EngineRunner, kind: EventKind, mark: Mark, detail: str) -> None:
        self.on_news(EngineNews(channel=runner.channel, kind=kind, mark=mark, engine=runner.spec.name, detail=detail))

    def views(self) -> list[EngineView]:
        """Describe the engines, in the order in which they were named."""
        return [_view(runner) for runner in self.runners]

    def active_in(self, channel: str, manifest: str) -> list[str]:
        """Return the engines that serve a version of a channel (by its id)."""
        return [
            runner.spec.name
            for runner in self.runners
            if format_digest(runner.channel.id) == channel and runner.serves(manifest)
        ]

    def trouble(self) -> str | None:
        """Return why an engine does not do what it is for, or None."""
        for runner in self.runners:
            if runner.follower.is_behind(time.time()):
                return f"engine {runner.spec.name} is {_lag_text(runner)}"
            # not only of one that answers: who dies in the middle of a load may come back with half of it
            if runner.follower.knowledge in ("unsettled", "lost") and _state(runner) != "activating":
                return f"engine {runner.spec.name}: {runner.explain()}"
        return None

    async def activate(
        self, channel: FollowedChannel, head: HeadRow, *, engine: str | None, timeout_s: float
    ) -> list[EngineView]:
        """Have engines of a channel serve a version, and return them.

        Raises:
            NotFound: No engine of that name follows the channel.
            HotLoadError: One of them did not take it.
            Conflict: Something else was asked for meanwhile.
            TransferError: It has not ended in time, and goes on.
        """
        runners = self._chosen(channel, engine)
        return await _each(runners, [runner.demand(mark_of(head), timeout_s=timeout_s) for runner in runners])

    async def roll_back(self, channel: FollowedChannel, *, engine: str | None, timeout_s: float) -> list[EngineView]:
        """Have engines of a channel serve what they served before, and return them.

        Raises:
            NotFound: No engine of that name follows the channel, or one has nothing to go back to.
            Conflict: An activation is under way, or something else was asked for meanwhile.
            HotLoadError: One of them did not take it.
            TransferError: It has not ended in time, and goes on.
        """
        runners = self._chosen(channel, engine)
        return await _each(runners, [runner.roll_back(timeout_s=timeout_s) for runner in runners])

    async def follow(self, channel: FollowedChannel, *, engine: str | None) -> list[EngineView]:
        """Have engines of a channel take up the newest version again, and return them.

        Raises:
            NotFound: No engine of that name follows the channel.
            StoreError: The disk fails.
        """
        runners = self._chosen(channel, engine)
        return await _each(runners, [runner.follow() for runner in runners])

    def _chosen(self, channel: FollowedChannel, engine: str | None) -> list[EngineRunner]:
        ours = [runner for runner in self.runners if runner.channel is channel]
        chosen = [runner for runner in ours if engine in (None, runner.spec.name)]
        if chosen:
            return chosen
        if not ours:
            raise NotFound(
                f"no engine follows channel {channel.name} here",
                hint="start the node with --activate KIND=TARGET",
                channel=channel.name,
            )
        names = ", ".join(runner.spec.name for runner in ours)
        raise NotFound(
            f"no engine {engine!r:.80} follows channel {channel.name} here",
            hint=f"there is {names}",
            channel=channel.name,
        )


async def _each(runners: Sequence[EngineRunner], work: Sequence[Awaitable[None]]) -> list[EngineView]:
    results = await asyncio.gather(*work, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, ShardcastError):
            raise error
    if len(errors) == 1:
        raise errors[0]
    if errors:
        texts = [error.message for error in errors if isinstance(error, ShardcastError)]
        if all(isinstance(error, NotFound) for error in errors):
            raise NotFound("; ".join(texts), hint="shardcast activate NAME@STEP takes any version that is held")
        raise HotLoadError("; ".join(texts), hint="look with shardcast status", failures=texts)
    return [_view(runner) for runner in runners]


def _state(runner: EngineRunner) -> EngineState:
    follower = runner.follower
    if follower.order is not None and follower.attempting is not None and follower.knowledge != "unsettled":
        return "activating"
    if follower.health is not None and follower.health.value != "healthy":
        return "unreachable"
    if follower.knowledge in ("unsettled", "lost"):
        return "unknown"
    if follower.owns_pause:
        return "paused"
    if follower.active is None:
        return "waiting" if follower.error is None else "failed"
    return "active" if follower.error is None else "failed"


def _view(runner: EngineRunner) -> EngineView:
    follower, tally, now_s = runner.follower, runner.tally, time.time()
    return {
        "name": runner.spec.name,
        "kind": runner.spec.kind,
        "target": runner.spec.target,
        "channel": runner.channel.name,
        "channel_id": format_digest(runner.channel.id),
        "state": _state(runner),
        "explain": runner.explain(),
        "knowledge": follower.knowledge,
        "active": _version(follower.active),
        "previous": _version(follower.previous),
        "activating": _version(follower.attempting),
        "hold": _version(follower.hold),
        "lag_versions": follower.waiting.count,
        "lag_seconds": follower.waiting.seconds(now_s),
        "is_behind": follower.is_behind(now_s),
        "error": follower.error,
        "activated_at": tally.activated_at_s,
        "activation_seconds": tally.activation_s,
        "pause_seconds": tally.pause_s,
        "activations": tally.activations,
        "failures": tally.failures,
    }


def _version(mark: Mark | None) -> EngineVersion | None:
    if mark is None:
        return None
    return {"step": mark.step, "seq": mark.seq, "epoch": mark.epoch, "manifest": mark.manifest}


def _lag_text(runner: EngineRunner) -> str:
    waiting = runner.follower.waiting
    versions = "1 version" if waiting.count == 1 else f"{waiting.count} versions"
    return f"{versions} and {waiting.seconds(time.time()):.0f} s behind: {runner.explain()}"

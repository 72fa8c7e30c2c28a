"""The runner of one engine: carries out what its follower orders, and notes it before the engine is touched.

What is being activated is in the store's book, and so held, before `commit` begins; what came of it is there before anybody is told. A
daemon that is killed in between finds at its next start that the end is not known, and asks the engine.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from shardcast.engine_specs import EngineSpec
from shardcast.engines import Effect, Engine, Health, Outcome, StagedVersion
from shardcast.engines.follower import Activate, Ask, Follower, Limits, Mark, Resume, Waiting
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.versions import Versions
from shardcast.store import HeadRow, Store
from shardcast.store.activations import ActivationRow, Role
from shardcast_proto.errors import (
    Conflict,
    HotLoadError,
    InvariantViolated,
    NotFound,
    NotReady,
    ShardcastError,
    TransferError,
)
from shardcast_proto.ids import Digest, format_digest, parse_digest

#: Heads that are looked through for the newest complete version; an engine that is further behind shows this as its lag.
HEADS_SEARCHED: Final = 256
#: The facts are looked at so often even when nobody told of a change, and no more often than that while chunks come in.
LOOK_AGAIN_S: Final = 1.0
LOOK_PAUSE_S: Final = 0.1

_log = structlog.get_logger("shardcast.node")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """An activation that has ended."""

    engine: str
    mark: Mark
    outcome: Outcome
    #: With its preparation.
    seconds: float

    @property
    def result(self) -> str:
        """active, unchanged, restored or unknown."""
        return self.outcome.effect.value

    @property
    def pause_s(self) -> float:
        """How long the engine did not sample."""
        return self.outcome.pause_s


@dataclass
class Tally:
    """What an engine has gone through since the node started."""

    activations: int = 0
    failures: int = 0
    activated_at_s: float | None = None
    activation_s: float | None = None
    pause_s: float | None = None


class EngineRunner:
    """One engine of one channel.

    Args:
        on_ended: Told of each activation that has ended.
        on_behind: Told when the engine is too far behind, and when it is not any more.
    """

    def __init__(
        self,
        spec: EngineSpec,
        engine: Engine,
        channel: FollowedChannel,
        *,
        store: Store,
        versions: Versions,
        limits: Limits,
        on_ended: Callable[[EngineRunner, Ended], None],
        on_behind: Callable[[EngineRunner, bool], None],
    ) -> None:
        self.spec = spec
        self.channel = channel
        self.follower = Follower(limits)
        self.tally = Tally()
        #: Why our own disk does not let us go on, or None.
        self.trouble: str | None = None
        self._engine = engine
        self._store = store
        self._versions = versions
        self._on_ended = on_ended
        self._on_behind = on_behind
        self._is_behind = False
        #: Whether the last turn had something to do.
        self._was_busy = False
        #: Why the engine could not say what it serves, when it was last asked.
        self._ask_error: str | None = None
        #: The name of an activation, kept while it is tried again.
        self._activation: tuple[str, str] = ("", "")
        self._waiters: list[tuple[Mark, asyncio.Future[None]]] = []

    async def run(self) -> None:
        """Keep the engine at the newest version, until cancelled."""
        while True:
            if await self._tried(asyncio.to_thread(self._recall)):
                break
            await asyncio.sleep(LOOK_AGAIN_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            await self._work()

    async def _work(self) -> None:
        """Carry out orders."""
        while True:
            changes = self._versions.change_count
            if await self._tried(self._look()) and await self._tried(self._turn()) and self._was_busy:
                continue
            await asyncio.sleep(LOOK_PAUSE_S)
            if self._versions.change_count == changes:
                due_s = self.follower.due_in_s(_now_s()) if self.trouble is None else LOOK_AGAIN_S
                await self._versions.wait_changed(min(max(due_s, LOOK_PAUSE_S), LOOK_AGAIN_S))

    async def _watch(self) -> None:
        """See how far behind the engine is, also while a load takes its time."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self._tried(self._look())
            is_behind = self.follower.is_behind(time.time())
            if is_behind != self._is_behind:
                self._is_behind = is_behind
                self._on_behind(self, is_behind)

    async def _tried(self, work: Awaitable[None]) -> bool:
        """Do something that our disk may refuse; say whether it did not."""
        try:
            await work
        except ShardcastError as error:
            _log.error("engine_not_followed", engine=self.spec.name, error=error.describe())
            self.trouble = error.message
            return False
        self.trouble = None
        return True

    async def aclose(self) -> None:
        """Let go of the engine."""
        await self._engine.aclose()

    # --- what the operator wants ---

    async def demand(self, mark: Mark, *, timeout_s: float) -> None:
        """Have a version activated, and wait for that.

        Raises:
            HotLoadError: It failed.
            Conflict: Something else was asked for meanwhile.
            TransferError: It has not ended in time, and goes on.
        Cancellation: it goes on.
        """
        self.follower.demand(mark)
        await self._wait_for(mark, timeout_s)

    async def roll_back(self, *, timeout_s: float) -> None:
        """Have the version from before activated, and wait for that.

        Raises:
            NotFound: There is none.
            Conflict: An activation is under way, or something else was asked for meanwhile.
            HotLoadError: It failed.
            TransferError: It has not ended in time, and goes on.
        Cancellation: it goes on.
        """
        try:
            mark = self.follower.roll_back()
        except (NotFound, Conflict) as error:
            raise type(error)(f"engine {self.spec.name}: {error.message}", hint=error.hint) from error
        await self._wait_for(mark, timeout_s)

    async def follow(self) -> None:
        """Take up the newest version again.

        Raises:
            StoreError: The disk fails.
        """
        self.follower.follow()
        await asyncio.to_thread(self._note)
        self._versions.changed()

    async def _wait_for(self, mark: Mark, timeout_s: float) -> None:
        await asyncio.to_thread(self._note)
        waiter = (mark, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._versions.changed()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1]
        except TimeoutError as error:
            raise TransferError(
                f"engine {self.spec.name} does not serve step {mark.step} within {timeout_s:g} s: {self.explain()}",
                hint="it goes on: look with shardcast status",
                reason="deadline",
                engine=self.spec.name,
            ) from error
        finally:
            self._waiters.remove(waiter)

    def _answer_waiters(self, ended: Ended | None = None) -> None:
        follower = self.follower
        for mark, future in self._waiters:
            if future.done():
                continue
            if self.serves(mark.manifest) and follower.knowledge == "confirmed":
                future.set_result(None)
            elif ended is not None and ended.mark == mark:
                future.set_exception(_failure(self.spec.name, ended))
            elif mark not in (follower.demanded, follower.attempting):
                future.set_exception(
                    Conflict(f"something else was asked of engine {self.spec.name} meanwhile", engine=self.spec.name)
                )

    # --- turns ---

    async def _turn(self) -> None:
        """Carry out one order, if there is one."""
        self._answer_waiters()
        self._was_busy = False
        match self.follower.next_order(_now_s()):
            case Ask():
                await self._ask()
            case Resume():
                self.follower.resumed(await self._engine.resume(), _now_s())
                self._was_busy = True
                await asyncio.to_thread(self._note)
            case Activate() as order:
                await self._activate(order)
                self._was_busy = True

    async def _look(self) -> None:
        newest, waiting = await asyncio.to_thread(self._facts, self.follower.active)
        self.follower.offer(newest, waiting)

    def _facts(self, active: Mark | None) -> tuple[Mark | None, Waiting]:
        heads = self._store.heads(self.channel.id, limit=HEADS_SEARCHED)
        position = (-1, -1) if active is None else active.position
        newer = [head for head in heads if (head.epoch, head.seq) > position]
        since_s = min((head.received_at_s for head in newer), default=None)
        newest = next((head for head in heads if self._path(head.manifest) is not None), None)
        return newest and mark_of(newest), Waiting(len(newer), since_s)

    def _path(self, manifest: Digest) -> Path | None:
        row = self._store.version(manifest)
        return row.path if row is not None and row.state == "complete" else None

    async def _ask(self) -> None:
        before = self.follower.knowledge, self.follower.active
        current, error = None, None
        health = await self._engine.health()
        if health is Health.HEALTHY:
            try:
                current = await self._engine.current()
            except ShardcastError as fault:
                health, error = Health.UNHEALTHY, fault.describe()
        if error is not None and error != self._ask_error:
            _log.warning("engine_not_asked", engine=self.spec.name, error=error)
        self._ask_error = error
        self.follower.asked(health, current, _now_s())
        if (self.follower.knowledge, self.follower.active) != before:
            _log.info("engine_known", engine=self.spec.name, knowledge=self.follower.knowledge, serves=current)
            await asyncio.to_thread(self._note)
            self._versions.changed()
        active = self.follower.active
        if before[0] == "unsettled" and active is not None and active != before[1]:
            outcome = Outcome(effect=Effect.ACTIVE, reason="the engine says so, which had not answered")
            self._settle(Ended(engine=self.spec.name, mark=active, outcome=outcome, seconds=0.0))

    def _settle(self, ended: Ended) -> None:
        self._count(ended)
        self._answer_waiters(ended)
        self._on_ended(self, ended)
        self._versions.changed()

    async def _activate(self, order: Activate) -> None:
        began_s = _now_s()
        try:
            # what cannot be noted is not held, and may be deleted under the engine
            await asyncio.to_thread(self._note)
            self._versions.changed()
            version = await asyncio.to_thread(self._staged, order.target)
            fallback = None if order.fallback is None else await asyncio.to_thread(self._staged, order.fallback)
            await self._engine.prepare(version)
        except ShardcastError as error:
            outcome = Outcome(effect=Effect.UNCHANGED, reason=error.describe(), is_resumed=not order.owns_pause)
        else:
            outcome = await self._commit(version, fallback, order)
        self.follower.ended(outcome, _now_s())
        ended = Ended(engine=self.spec.name, mark=order.target, outcome=outcome, seconds=_now_s() - began_s)
        try:
            await asyncio.to_thread(self._note)
        finally:
            # the book says now that the end is not known, which the next start finds out; whoever waits is told all the same
            self._settle(ended)

    async def _commit(self, version: StagedVersion, fallback: StagedVersion | None, order: Activate) -> Outcome:
        _log.info("activating", engine=self.spec.name, step=version.step, seq=version.seq, manifest=version.manifest)
        try:
            return await self._engine.commit(version, fallback=fallback, owns_pause=order.owns_pause)
        except ShardcastError as error:
            # an adapter says what it knows; what it raises came where it knows nothing
            return Outcome(effect=Effect.UNKNOWN, reason=error.describe(), is_resumed=False)

    def _staged(self, mark: Mark) -> StagedVersion:
        path = self._path(parse_digest(mark.manifest))
        if path is None:
            raise NotReady(f"step {mark.step} is not complete here any more", channel=self.channel.name, seq=mark.seq)
        self._store.check_files(parse_digest(mark.manifest))
        if self._activation[0] != mark.manifest:
            self._activation = (mark.manifest, secrets.token_hex(16))
        return StagedVersion(
            channel=self.channel.name,
            seq=mark.seq,
            step=mark.step,
            manifest=mark.manifest,
            path=path,
            activation=self._activation[1],
        )

    def _count(self, ended: Ended) -> None:
        outcome, tally = ended.outcome, self.tally
        if outcome.effect is Effect.ACTIVE:
            tally.activations += 1
            tally.activated_at_s, tally.activation_s, tally.pause_s = time.time(), ended.seconds, outcome.pause_s
            self._activation = ("", "")
        else:
            tally.failures += 1
        is_active = outcome.effect is Effect.ACTIVE
        tell = _log.info if is_active else _log.warning
        tell(
            "activated" if is_active else "activation_failed",
            engine=self.spec.name,
            step=ended.mark.step,
            seq=ended.mark.seq,
            effect=outcome.effect.value,
            seconds=round(ended.seconds, 3),
            pause_seconds=round(outcome.pause_s, 3),
            reason=outcome.reason,
        )

    # --- the store's book ---

    def _recall(self) -> None:
        noted = self._store.activations(self.spec.name)
        marks = {role: Mark(row.epoch, row.seq, row.step, format_digest(row.manifest)) for role, row in noted.items()}
        if any(self._store.newest_head(self.channel.id, "manifest", row.manifest) is None for row in noted.values()):
            # the engine was of another channel
            marks = {}
        self.follower.remember(
            active=marks.get("active"),
            previous=marks.get("previous"),
            attempting=marks.get("attempting"),
            hold=marks.get("hold"),
        )

    def _note(self) -> None:
        follower = self.follower
        # an engine that may be paused by us is in the middle of something, also for the next run
        pausing = (follower.active or follower.target) if follower.owns_pause else None
        marks: dict[Role, Mark | None] = {
            "active": follower.active,
            "previous": follower.previous,
            "attempting": follower.attempting or pausing,
            "hold": follower.hold,
        }
        rows = {
            role: ActivationRow(parse_digest(mark.manifest), mark.epoch, mark.seq, mark.step)
            for role, mark in marks.items()
            if mark is not None
        }
        self._store.note_activations(self.spec.name, rows)

    # --- what is shown ---

    def serves(self, manifest: str) -> bool:
        """Say whether the engine serves a version, as far as is known."""
        follower = self.follower
        is_known = follower.knowledge in ("confirmed", "assumed") and follower.active is not None
        return is_known and follower.active is not None and follower.active.manifest == manifest

    def explain(self) -> str:
        """Return in one sentence what the engine does, or why it does nothing."""
        follower = self.follower
        attempting, active, error = follower.attempting, follower.active, follower.error
        if self.trouble is not None:
            return f"our own disk refuses: {self.trouble}"
        if isinstance(follower.order, Activate) and attempting is not None:
            return f"step {attempting.step} is being activated"
        if follower.health in (Health.UNREACHABLE, Health.UNHEALTHY):
            return self._ask_error or f"{self.spec.target} {_HEALTH_TEXTS[follower.health]}: start it, or see its log"
        if follower.knowledge == "unsettled":
            return f"it is not known what it holds, it is being asked: {error or 'the node was ended meanwhile'}"
        if follower.owns_pause:
            return f"it may still be paused, and is being told to go on: {error or 'it did not confirm it'}"
        if follower.knowledge == "lost" and follower.target is None:
            return f"what it holds is not known, and nothing is left to try: restart it, or publish a newer version ({error})"
        if error is not None:
            return f"the last activation failed: {error}"
        if active is None:
            return (
                "no version is complete here yet" if follower.newest is None else "it is about to be given the newest"
            )
        if follower.hold is not None:
            return (
                f"step {active.step} was chosen, and stays until something newer than step {follower.hold.step} comes"
            )
        return f"step {active.step} is active"


_HEALTH_TEXTS: Final = {
    Health.UNREACHABLE: "does not answer",
    Health.UNHEALTHY: "answers that it cannot work",
}


def mark_of(head: HeadRow) -> Mark:
    """Return the mark of an accepted head."""
    return Mark(head.epoch, head.seq, head.step, format_digest(head.manifest))


def _failure(engine: str, ended: Ended) -> ShardcastError:
    outcome = ended.outcome
    if outcome.effect is Effect.ACTIVE:
        return InvariantViolated(f"engine {engine} has taken step {ended.mark.step}, and does not serve it")
    what = {
        Effect.UNCHANGED: "what it served before serves on",
        Effect.RESTORED: "what it served before was put back",
        Effect.UNKNOWN: "what it holds now is not known, and is being found out",
    }[outcome.effect]
    return HotLoadError(
        f"engine {engine} did not take step {ended.mark.step}: {outcome.reason}; {what}",
        hint="look with shardcast status",
        engine=engine,
        effect=outcome.effect.value,
        step=ended.mark.step,
    )


def _now_s() -> float:
    return time.monotonic()

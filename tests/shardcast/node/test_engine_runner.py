"""The runner of an engine over a real store, with an engine of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast.demo_data import write_demo_checkpoint
from shardcast.engine_specs import parse_engine
from shardcast.engines import Capabilities, Effect, Health, Outcome, StagedVersion
from shardcast.engines.follower import Limits
from shardcast.node.engine_runner import Ended, EngineRunner, mark_of
from shardcast_proto.errors import HotLoadError, StoreError, TransferError
from tests.shardcast.shell.fake_swarm import FakeNode, fake_swarm


class OwnEngine:
    """An engine that ends each commit as it is told, and notes what was held then."""

    def __init__(self) -> None:
        self.serves: str | None = "default"
        self.outcomes: list[Outcome] = []
        self.commits: list[int] = []
        self.on_commit: Callable[[], None] = lambda: None
        self.can_resume = True
        self.resumed_count = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def probe(self) -> Capabilities:
        return Capabilities(way="test", tells_current=True)

    async def prepare(self, version: StagedVersion) -> None:
        assert version.path.is_dir()

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        self.commits.append(version.step)
        self.on_commit()
        await self.may_go_on.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome(effect=Effect.ACTIVE)
        if outcome.effect is Effect.ACTIVE:
            self.serves = version.manifest
        return outcome

    async def resume(self) -> bool:
        self.resumed_count += self.can_resume
        return self.can_resume

    async def current(self) -> str | None:
        return self.serves

    async def health(self) -> Health:
        return Health.HEALTHY

    async def aclose(self) -> None:
        pass


class Run:
    """A runner, with what it told."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.engine = OwnEngine()
        self.ended: list[Ended] = []
        self.runner = EngineRunner(
            parse_engine("vllm=http://127.0.0.1:1"),
            self.engine,
            node.channel,
            store=node.store,
            versions=node.versions,
            limits=Limits(),
            on_ended=lambda runner, ended: self.ended.append(ended),
            on_behind=lambda runner, is_behind: None,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30.0):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.02)

    async def until_active(self, step: int) -> None:
        follower = self.runner.follower
        await self.until(lambda: follower.active is not None and follower.active.step == step and not follower.order)


@asynccontextmanager
async def running(tmp_path: Path, *steps: int) -> AsyncIterator[Run]:
    async with fake_swarm(tmp_path) as swarm:
        node = await swarm.origin()
        for step in steps:
            await node.publish(swarm.checkpoint(step)[0], step)
        run = Run(node)
        task = asyncio.ensure_future(run.runner.run())
        try:
            yield run
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_what_is_being_activated_is_held_before_the_engine_is_touched(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as run:
        held: list[bool] = []
        (row,) = run.node.store.versions()
        run.engine.on_commit = lambda: held.append(row.manifest in run.node.store.leased())
        await run.until_active(1)
        assert held == [True] and run.engine.commits == [1]
        assert set(run.node.store.activations("vllm")) == {"active"}


async def test_a_disk_that_takes_no_note_keeps_the_engine_untouched_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as run:
        note, failures = run.node.store.note_activations, 2

        def fail(engine: str, rows: object) -> None:
            nonlocal failures
            if failures and run.runner.follower.attempting is not None:
                failures -= 1
                raise StoreError("the disk is full")
            note(engine, rows)  # type: ignore[arg-type]

        monkeypatch.setattr(run.node.store, "note_activations", fail)
        path = tmp_path / "more"
        write_demo_checkpoint(path, 300_000, seed=1, step=5)
        await run.node.publish(path, 5)
        await run.until_active(5)
        assert run.engine.commits == [5] and [ended.outcome.effect for ended in run.ended] == [
            Effect.UNCHANGED,
            Effect.UNCHANGED,
            Effect.ACTIVE,
        ]


async def test_who_asks_for_a_version_hears_what_became_of_it(tmp_path: Path) -> None:
    async with running(tmp_path, 1, 2) as run:
        await run.until_active(2)
        old = next(head for head in run.node.store.heads(run.node.channel.id) if head.step == 1)
        run.engine.outcomes = [Outcome(effect=Effect.RESTORED, reason="it broke")]
        with pytest.raises(HotLoadError, match="it broke; what it served before was put back"):
            await run.runner.demand(mark_of(old), timeout_s=20.0)
        await run.runner.demand(mark_of(old), timeout_s=20.0)
        assert run.engine.commits == [2, 1, 1] and run.runner.serves(mark_of(old).manifest)
        await run.runner.demand(mark_of(old), timeout_s=20.0)
        assert run.engine.commits == [2, 1, 1], "it is active already"
        run.engine.may_go_on.clear()
        with pytest.raises(TransferError, match="is being activated"):
            newest = run.node.store.heads(run.node.channel.id)[0]
            await run.runner.demand(mark_of(newest), timeout_s=0.5)
        run.engine.may_go_on.set()
        await run.until_active(2)


async def test_a_pause_that_was_left_behind_is_ended_by_the_next_run(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as run:
        run.engine.can_resume = False
        run.engine.outcomes = [Outcome(effect=Effect.ACTIVE, is_resumed=False)]
        await run.until_active(1)
        await run.until(lambda: "attempting" in run.node.store.activations("vllm"))
        again = Run(run.node)
        again.engine.serves = run.engine.serves
        task = asyncio.ensure_future(again.runner.run())
        await again.until(lambda: again.engine.resumed_count == 1)
        await again.until(lambda: set(run.node.store.activations("vllm")) == {"active"})
        assert again.engine.commits == [] and not again.runner.follower.owns_pause
        task.cancel()
        await asyncio.wait([task])


async def test_an_end_that_was_not_heard_is_told_when_the_engine_says_it(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as run:
        run.engine.outcomes = [Outcome(effect=Effect.UNKNOWN, reason="it did not answer")]
        manifest = f"b3:{run.node.store.versions()[0].manifest.hex()}"
        run.engine.on_commit = lambda: setattr(run.engine, "serves", manifest)
        await run.until_active(1)
        assert run.engine.commits == [1], "nothing was sent a second time"
        await run.until(lambda: len(run.ended) == 2)
        assert [ended.outcome.effect for ended in run.ended] == [Effect.UNKNOWN, Effect.ACTIVE]

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shardcast.http.facade import EventKind, VersionView
from shardcast.node.catalog import Catalog
from shardcast.node.journal import Journal, Journals
from shardcast_proto.ids import parse_digest
from tests.shardcast.shell.fake_swarm import FakeNode, fake_swarm

NOW_S = 2_000_000_000.0


def view(seq: int) -> VersionView:
    return {"seq": seq}  # type: ignore[typeddict-item]


def ids(journal: Journal, since: str | None) -> list[int] | None:
    events = journal.after(since)
    return None if events is None else [event["versions"][0]["seq"] for event in events]


async def test_events_are_read_on_from_any_that_is_remembered() -> None:
    journal = Journal(size=3)
    places = [journal.last_id]
    for seq in range(5):
        journal.note("announced", view(seq), NOW_S)
        places.append(journal.last_id)
    assert [ids(journal, place) for place in places] == [None, None, [2, 3, 4], [3, 4], [4], []]


@pytest.mark.parametrize(
    "since", [None, "", "x", "-", "0", "1", "RUN-", "RUN-x", "RUN--1", "RUN-9", "RUN-٣", "other-1"]
)
async def test_what_is_no_place_in_the_journal_is_not_remembered(since: str | None) -> None:
    journal = Journal()
    journal.note("announced", view(1), NOW_S)
    run = journal.last_id.partition("-")[0]
    assert journal.after(since and since.replace("RUN", run)) is None


async def test_two_runs_never_share_a_place() -> None:
    assert Journal().after(Journal().last_id) is None


async def test_who_waits_for_the_next_event_is_woken_by_it() -> None:
    journal = Journal()
    waiting = [asyncio.ensure_future(journal.wait_grown(60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    journal.note("announced", view(1), NOW_S)
    await asyncio.wait_for(asyncio.gather(*waiting), 5.0)


class Reporter:
    """The journals of a node, with what they told."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.told: list[tuple[EventKind, int]] = []
        catalog = Catalog(node.shell, node.store, roles_of=lambda peer: (), clock=lambda: NOW_S)
        self.journals = Journals([node.channel], catalog, node.versions, on_event=self._hear, clock=lambda: NOW_S)

    def _hear(self, kind: EventKind, view: VersionView) -> None:
        self.told.append((kind, view["step"]))


async def test_what_there_was_before_the_first_look_is_no_event(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        await origin.publish(swarm.checkpoint(1)[0], 1)
        reporter = Reporter(origin)
        await reporter.journals.look()
        assert reporter.told == []
        read = await reporter.journals.read(origin.channel, None, 0.0)
        (snapshot,) = read["events"]
        assert (snapshot["event"], [view["step"] for view in snapshot["versions"]]) == ("snapshot", [1])
        assert read["next"] == snapshot["id"]
        again = await reporter.journals.read(origin.channel, read["next"], 0.0)
        assert (again["events"], again["next"]) == ([], read["next"])


async def test_each_change_is_told_once_and_the_oldest_version_first(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        reporter = Reporter(origin)
        await reporter.journals.look()
        views = [await origin.publish(swarm.checkpoint(step)[0], step) for step in (1, 2, 3)]
        await origin.until(lambda: origin.versions.get(parse_digest(views[0]["manifest"])) is None)
        await reporter.journals.look()
        await reporter.journals.look()
        assert reporter.told == [
            *(("announced", 1), ("gone", 1)),
            *(("announced", 2), ("complete", 2)),
            *(("announced", 3), ("complete", 3)),
        ]


async def test_a_version_that_is_deleted_is_gone_and_not_failed_although_it_is_still_open(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        reporter = Reporter(origin)
        await reporter.journals.look()
        manifest = parse_digest((await origin.publish(swarm.checkpoint(1)[0], 1))["manifest"])
        await origin.publish(swarm.checkpoint(2)[0], 2)
        await reporter.journals.look()
        origin.store.delete(manifest)
        assert origin.versions.get(manifest) is not None
        for _ in range(2):
            await reporter.journals.look()
        origin.shell.opener.close(manifest)
        await reporter.journals.look()
        assert reporter.told[-1] == ("gone", 1)
        assert sorted(reporter.told[:-1]) == [
            *(("announced", step) for step in (1, 2)),
            *(("complete", step) for step in (1, 2)),
        ]


async def test_a_version_that_is_lost_is_told_and_so_is_its_return(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        reporter = Reporter(client)
        await reporter.journals.look()
        running = asyncio.ensure_future(reporter.journals.run())
        manifest = (await origin.publish(swarm.checkpoint(1)[0], 1))["manifest"]
        await client.complete(manifest)
        await client.until(lambda: reporter.told == [("announced", 1), ("complete", 1)])
        running.cancel()


async def test_journals_outlive_a_disk_that_fails(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        reporter = Reporter(origin)
        await reporter.journals.look()
        running = asyncio.ensure_future(reporter.journals.run())
        origin.store.faults["heads"] = 1
        origin.versions.changed()
        await origin.until(lambda: origin.store.faults["heads"] == 0)
        await origin.publish(swarm.checkpoint(1)[0], 1)
        await origin.until(lambda: reporter.told == [("announced", 1), ("complete", 1)])
        running.cancel()

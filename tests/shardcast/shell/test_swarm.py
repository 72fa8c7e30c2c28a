"""Publish to complete through several shells in one process, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from shardcast_proto import messages
from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, format_digest, parse_digest
from shardcast_proto.trust import Announce, sign_head
from shardcast_relay.commands import FetchChunks
from shardcast_relay.events import ChannelJoined
from tests.proto.trust.actors import ORIGIN_KEY, STRANGER_KEY, make_head, make_root, pin
from tests.shardcast.shell.fake_swarm import FakeNode, fake_swarm
from tests.shardcast.store.trees import manifest_of


async def test_a_version_goes_from_its_origin_through_a_relay_to_everybody(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        relay = await swarm.other("relay", origin)
        client = await swarm.other("client", relay)
        for step in (1, 2):
            path, contents = swarm.checkpoint(step)
            published = await origin.publish(path, step)
            for node in (relay, client):
                assert await node.complete(published["manifest"]) == contents
        assert relay.versions.received_bytes > 0


async def test_a_node_that_comes_late_catches_up(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        path, contents = swarm.checkpoint(1)
        published = await origin.publish(path, 1)
        late = await swarm.other("late", origin)
        assert await late.complete(published["manifest"]) == contents


async def test_a_node_stopped_in_mid_transfer_goes_on_with_what_it_has(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, contents = swarm.checkpoint(1)
        swarm.network.chunks_left = 5
        manifest = (await origin.publish(path, 1))["manifest"]
        await client.until(lambda: client.versions.received_bytes > 0 and swarm.network.chunks_left == 0)
        await swarm.stop(client)
        asked = len(swarm.network.asked_chunks)
        swarm.network.let_flow()
        client = await swarm.other("client", origin)
        assert await client.complete(manifest) == contents
        chunks = manifest_of(contents).blob.chunk_count
        assert asked == 5 and len(swarm.network.asked_chunks) - asked <= chunks - 4, (
            "one chunk may have been in the air"
        )


async def test_a_lying_source_is_never_believed_and_is_quarantined(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        liar = await swarm.other("liar", origin)
        path, contents = swarm.checkpoint(1)
        manifest = (await origin.publish(path, 1))["manifest"]
        await liar.complete(manifest)
        swarm.network.liars.add(liar.serve)
        client = await swarm.other("client", liar)
        assert await client.complete(manifest) == contents
        assert any(base == liar.serve for base, _ in swarm.network.asked_chunks), "nobody asked the liar"
        version = client.versions.get(parse_digest(manifest))
        assert liar.key.peer not in version.bytes_by_peer
        now_s = asyncio.get_running_loop().time()
        assert client.shell.machine.downloads.reputations[liar.key.peer].is_quarantined(now_s)


def bad_announces(good_seq: int) -> dict[str, bytes]:
    trusted, other = pin(), pin(make_root(name="other"))

    def said(head_of: object, seq: int, content: str, key: object = ORIGIN_KEY) -> bytes:
        return Announce(sign_head(make_head(head_of, seq, content), [key])).encoded  # type: ignore[arg-type, list-item]

    return {
        "unlisted_key": said(trusted, good_seq + 1, "unheard", STRANGER_KEY),
        "wrong_channel": said(other, good_seq + 1, "unheard"),
        "rollback": said(trusted, good_seq - 1, "unheard"),
        "equivocation": said(trusted, good_seq, "unheard"),
    }


@pytest.mark.parametrize("way", ["control", "gossip"])
async def test_bad_heads_are_refused_and_nothing_is_fetched_for_them(tmp_path: Path, way: str) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        manifest = (await origin.publish(swarm.checkpoint(1)[0], 1))["manifest"]
        await client.complete(manifest)
        known = client.channel.shown.current.head
        ahead = make_head(
            pin(), 10, manifest=known.manifest, manifest_bytes=known.manifest_bytes, total_bytes=known.total_bytes
        )
        say(client, origin, Announce(sign_head(ahead, [ORIGIN_KEY])).encoded, way)
        await client.until(lambda: client.channel.shown.current.head.seq == 10)
        asked = list(swarm.network.asked_objects)
        for reason, announce in bad_announces(10).items():
            say(client, origin, announce, way)
            await client.until(partial(has_refused, client, reason))
        assert swarm.network.asked_objects == asked
        assert [row.manifest for row in client.store.versions()] == [known.manifest]
        assert client.channel.shown.current.head.seq == 1, "only the equivocated place is refused"
        await origin.until(lambda: bool(origin.channel.shown.answer[1:]))  # the proof has spread
        assert (await origin.publish(swarm.checkpoint(2)[0], 2))["seq"] == 11


def say(client: FakeNode, origin: FakeNode, announce: bytes, way: str) -> None:
    """Let a head come to the client in the name of the origin."""
    if way == "control":
        heard = messages.HeadIs(client.channel.id, announce)
        client.shell.frame_received(origin.key.peer, messages.encode(heard))
    elif client.shell.validate(client.channel.topic, announce):
        client.shell.gossip_received(client.channel.topic, origin.key.peer, announce)


def has_refused(client: FakeNode, reason: str) -> bool:
    return client.shell.heads.refused[reason] > 0


@pytest.mark.parametrize("lie", [{"total_bytes": 7}, {"manifest_bytes": 1_000_000}])
async def test_a_manifest_that_contradicts_its_head_is_fetched_once_and_refused_for_good(
    tmp_path: Path, lie: dict[str, int]
) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        manifest = manifest_of(swarm.checkpoint(1)[1])
        origin.store.put_object(manifest.encoded)
        sizes: dict[str, Any] = {"manifest_bytes": len(manifest.encoded), "total_bytes": manifest.total_bytes, **lie}
        head = make_head(pin(), 1, manifest=manifest.digest, **sizes)
        announce = Announce(sign_head(head, [ORIGIN_KEY])).encoded
        client.shell.gossip_received(client.channel.topic, origin.key.peer, announce)
        await client.until(lambda: swarm.network.asked_objects == [manifest.digest])
        await client.until(lambda: not client.shell.machine.downloads.fetches.total_bytes)
        for _ in range(3):
            client.shell.tell(ChannelJoined(client.channel.id))  # asks for heads again
            client.shell.gossip_received(client.channel.topic, origin.key.peer, announce)
        published = await origin.publish(swarm.checkpoint(2)[0], 20)
        await client.complete(published["manifest"])
        assert swarm.network.asked_objects.count(manifest.digest) == 1
        assert client.store.version(manifest.digest) is None
        assert client.shell.machine.downloads.reputations[origin.key.peer].success_rate >= 0.5, "the sender is no liar"


async def test_a_disk_that_is_full_at_the_beginning_is_told_and_tried_again(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        client.store.faults["begin"] = 3
        path, contents = swarm.checkpoint(1)
        manifest = (await origin.publish(path, 1))["manifest"]
        await client.until(lambda: client.store.faults["begin"] < 3)
        await client.until(lambda: "disk full" in (client.versions.store_error or "") or client.is_complete(manifest))
        assert await client.complete(manifest) == contents
        assert client.versions.store_error is None


async def test_a_head_that_the_disk_refused_comes_again_by_itself(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        client.store.faults["save_head"] = 2
        path, contents = swarm.checkpoint(1)
        manifest = (await origin.publish(path, 1))["manifest"]
        assert await client.complete(manifest) == contents
        assert not client.shell.heads.refused, "a full disk is nobody's bad head"


@pytest.mark.parametrize(("begins_failing", "is_noted"), [(0, True), (2, True), (2, False)])
async def test_a_version_that_the_disk_lost_is_begun_anew(tmp_path: Path, begins_failing: int, is_noted: bool) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, contents = swarm.checkpoint(1)
        swarm.network.chunks_left = 4
        manifest = parse_digest((await origin.publish(path, 1))["manifest"])
        await client.until(lambda: client.versions.received_bytes > 0 and swarm.network.chunks_left == 0)
        client.store.faults["begin"] = begins_failing
        version = client.versions.get(manifest)
        assert version is not None
        # what a failed fdatasync does
        version.staging._fail(OSError(errno.EIO, "the disk failed"))
        assert client.store.version(manifest).state == "failed"
        if not is_noted:  # the disk had refused that too
            client.store._database.write("UPDATE versions SET state = 'staging'")
            client.shell.opener.revive_soon(version)
            await client.until(lambda: client.shell.opener.revival_error(manifest) == "disk full while begin")
        swarm.network.let_flow()
        assert await client.complete(format_digest(manifest)) == contents


async def test_a_flush_that_fails_after_the_last_chunk_does_not_leave_the_version_for_ever(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, contents = swarm.checkpoint(1)
        swarm.network.chunks_left = 3
        manifest = parse_digest((await origin.publish(path, 1))["manifest"])
        await client.until(lambda: client.versions.get(manifest) is not None)
        staging = client.versions.get(manifest).staging
        flush, failures = staging._flush, [OSError(errno.EIO, "the disk failed")]

        def fail_once_full() -> None:
            if failures and staging.is_full:
                raise staging._fail(failures.pop())
            flush()

        staging._flush = fail_once_full  # type: ignore[method-assign]
        swarm.network.let_flow()
        assert await client.complete(format_digest(manifest)) == contents
        assert not failures, "the fault never came"


async def test_two_versions_that_differ_in_names_alone_are_both_whole_and_part_one_by_one(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, contents = swarm.checkpoint(1)
        first = (await origin.publish(path, 1))["manifest"]
        await client.complete(first)
        (path / "b.weights").rename(path / "c.weights")
        second = (await origin.publish(path, 2))["manifest"]
        assert (await client.complete(second))["c.weights"] == contents["b.weights"]
        one, two = (client.versions.get(parse_digest(name)) for name in (first, second))
        assert one.manifest.blob.id == two.manifest.blob.id
        client.shell.opener.close(one.manifest.digest)
        assert client.versions.by_blob(two.manifest.blob.id) is two
        assert client.shell.machine.explain(two.manifest.blob.id) == "complete"
        client.shell.opener.close(two.manifest.digest)
        assert client.shell.machine.explain(two.manifest.blob.id) == "not known here"


async def test_a_version_renamed_while_it_is_fetched_is_whole_under_its_new_names(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, contents = swarm.checkpoint(1)
        swarm.network.chunks_left = 5
        await origin.publish(path, 1)
        await client.until(lambda: client.versions.received_bytes > 0 and swarm.network.chunks_left == 0)
        (path / "b.weights").rename(path / "c.weights")
        renamed = (await origin.publish(path, 2))["manifest"]
        await client.until(lambda: client.versions.get(parse_digest(renamed)) is not None)
        swarm.network.let_flow()
        assert (await client.complete(renamed))["c.weights"] == contents["b.weights"]


async def test_closing_a_version_in_mid_transfer_ends_its_fetches(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, _ = swarm.checkpoint(1)
        swarm.network.chunks_left = 2
        manifest = parse_digest((await origin.publish(path, 1))["manifest"])
        await client.until(lambda: swarm.network.chunks_left == 0)
        client.store.delete(manifest)
        client.shell.opener.close(manifest)
        await client.until(lambda: not client.shell.machine.downloads.fetches.total_bytes)
        client.shell.machine.check()


async def test_a_fetch_cancelled_before_its_first_step_still_ends(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        told: list[object] = []
        origin.shell.fetcher._tell = told.append
        command = FetchChunks(1, 7, origin.key.peer, (origin.serve,), Digest(bytes(32)), 0, 1, 1e9, 5.0)
        origin.shell.fetcher.start(command)
        origin.shell.fetcher.cancel(7)
        await origin.until(lambda: bool(told))
        assert [str(event.outcome.value) for event in told] == ["cancelled"]  # type: ignore[attr-defined]


async def test_nonsense_from_a_peer_costs_it_one_hangup_however_much_of_it_comes(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        hangups: list[str] = []
        hang_up = client.p2p.hangup

        async def count(peer: str) -> None:
            hangups.append(peer)
            await hang_up(origin.key.peer)

        client.p2p.hangup = count  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as lines:
            for _ in range(100):
                client.shell.frame_received(origin.key.peer, b"\xff nonsense")
        assert [line["event"] for line in lines] == ["message_refused"]
        await client.until(lambda: origin.key.peer not in client.p2p.peers)
        assert hangups == [origin.key.peer]


async def test_the_record_of_another_peer_is_no_introduction(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        foreign = client.shell.machine.membership.record
        hello = messages.Hello(record=foreign, channels=(client.channel.id,), is_urgent=False)
        client.shell.frame_received(origin.key.peer, messages.encode(hello))
        await client.until(lambda: origin.key.peer not in client.p2p.peers)


async def test_a_bug_in_the_machine_breaks_the_node_and_says_so(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()

        def forget_how(event: object, *, now_s: float) -> list[object]:
            raise KeyError("lost")

        origin.shell.machine.handle = forget_how  # type: ignore[method-assign, assignment]
        origin.shell.tell(ChannelJoined(origin.channel.id))
        with pytest.raises(InvariantViolated, match="KeyError"):
            origin.raise_if_broken()
        swarm.nodes.remove(origin)
        with pytest.raises(InvariantViolated):
            await origin.stop()
        origin.store.close()


async def test_the_death_of_the_announcement_road_breaks_the_node(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)

        def lose(data: bytes, *, now_s: float) -> None:
            raise RuntimeError("lost")

        client.channel.take_announce = lose  # type: ignore[method-assign]
        await origin.publish(swarm.checkpoint(1)[0], 1)
        async with asyncio.timeout(5):
            with pytest.raises(InvariantViolated, match="RuntimeError"):
                await client.shell.broken
        swarm.nodes.remove(client)
        with pytest.raises(InvariantViolated):
            await client.stop()
        client.store.close()


async def test_a_node_stops_in_mid_transfer_without_leaving_a_task(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        swarm.network.chunks_left = 2
        await origin.publish(swarm.checkpoint(1)[0], 1)
        await client.until(lambda: swarm.network.chunks_left == 0)
    assert asyncio.all_tasks() == before

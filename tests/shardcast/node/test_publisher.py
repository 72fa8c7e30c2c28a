from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from shardcast.http.facade import PublishRequest
from shardcast_proto.errors import ConfigError, Conflict, NotFound, ShardcastError, StoreError, TrustError
from shardcast_proto.ids import parse_digest
from shardcast_proto.trust import Limits
from tests.proto.trust.actors import ORIGIN_KEY, make_root
from tests.shardcast.shell.fake_swarm import FakeNode, fake_swarm
from tests.shardcast.store.trees import manifest_of, write_tree


def nothing_is_visible(node: FakeNode) -> bool:
    staged = list((node.store.data_dir / "staging").iterdir()) + list((node.store.data_dir / "versions").iterdir())
    return node.channel.shown.announce is None and not node.store.versions() and not staged


async def test_a_published_version_is_served_listed_and_signed(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        path, contents = swarm.checkpoint(1)
        view = await origin.publish(path, 7)
        assert (view["seq"], view["step"], view["existing"]) == (1, 7, False)
        assert view["bytes"] == sum(map(len, contents.values()))
        assert await origin.complete(view["manifest"]) == contents
        assert origin.shell.machine.explain(manifest_of(contents).blob.id) == "complete"


async def test_a_step_is_told_apart_by_its_content(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        one, other = swarm.checkpoint(1)[0], swarm.checkpoint(2)
        first = await origin.publish(one, 1)
        again = await origin.publish(one, 1)
        assert again == {**first, "existing": True, "hash_seconds": again["hash_seconds"]}
        with pytest.raises(Conflict, match="other content"):
            await origin.publish(other[0], 1)
        assert origin.store.version(manifest_of(other[1]).digest) is None, "what is not published does not stay"
        assert (await origin.publish(other[0], 1, rewind=True))["seq"] == 2


async def test_a_step_that_went_back_has_to_be_said(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        first, second, third = (swarm.checkpoint(seed)[0] for seed in (1, 2, 3))
        await origin.publish(first, 10)
        with pytest.raises(Conflict, match="step 9 is older than the newest of channel demo, 10") as caught:
            await origin.publish(second, 9)
        assert "--rewind" in caught.value.hint
        rewound = await origin.publish(second, 9, rewind=True)
        again = await origin.publish(second, 9, rewind=True)
        assert (rewound["seq"], again["seq"], again["existing"]) == (2, 2, True), "saying it again goes on waiting"
        assert (await origin.publish(third, 10))["seq"] == 3, "what came before the rewind is another past"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"link": "teleport"}, ConfigError),
        ({"step": -1}, ConfigError),
        ({"path": "relative"}, ConfigError),
        ({"path": "/no/such/checkpoint"}, NotFound),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_before_a_byte_is_hashed(
    tmp_path: Path, change: dict[str, object], error: type[ShardcastError]
) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        wanted: dict[str, Any] = {"path": str(swarm.checkpoint(1)[0]), "channel": "demo", "step": 1, **change}
        calls: list[int] = []
        with pytest.raises(error):
            await origin.publisher.publish(
                origin.channel,
                PublishRequest(**wanted),
                lambda done, total: calls.append(done),
            )
        assert calls == [] and nothing_is_visible(origin)


async def test_a_version_beyond_the_roots_limits_is_refused_before_a_byte_is_hashed(tmp_path: Path) -> None:
    root = make_root(limits=Limits(max_version_bytes=1000, max_files=4, beacon_ttl_s=600))
    async with fake_swarm(tmp_path, root) as swarm:
        origin = await swarm.origin()
        calls: list[int] = []
        request = PublishRequest(path=str(swarm.checkpoint(1)[0]), channel="demo", step=1)
        with pytest.raises(TrustError, match="allows 1000"):
            await origin.publisher.publish(origin.channel, request, lambda done, total: calls.append(done))
        assert calls == [] and nothing_is_visible(origin)


async def test_a_node_without_the_key_publishes_nothing(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        node = await swarm.node("relay").start()
        with pytest.raises(TrustError, match="0 of the 1"):
            await node.publish(swarm.checkpoint(1)[0], 1)
        assert nothing_is_visible(node)


async def test_a_publication_cancelled_while_it_hashes_ends_soon_and_leaves_nothing(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        path, contents = swarm.checkpoint(1, chunks=20)
        hashing, go_on, calls = threading.Event(), threading.Event(), []

        def stand_still(done: int, total: int) -> None:
            calls.append(done)
            hashing.set()
            go_on.wait(10)

        request = PublishRequest(path=str(path), channel="demo", step=1)
        publishing = asyncio.ensure_future(origin.publisher.publish(origin.channel, request, stand_still))
        await asyncio.to_thread(hashing.wait, 10)
        publishing.cancel()
        await asyncio.sleep(0)
        assert not publishing.done(), "the threads still run"
        go_on.set()
        await asyncio.wait([publishing])
        assert publishing.cancelled() and nothing_is_visible(origin)
        assert len(calls) < manifest_of(contents).blob.chunk_count, "hashing went on to the end"
        assert (await origin.publish(path, 1))["seq"] == 1


async def test_a_publication_cancelled_before_it_is_signed_leaves_nothing(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        asking = asyncio.Event()

        async def never_answered(channel: object) -> None:
            asking.set()
            await asyncio.Event().wait()

        origin.shell.ask_heads = never_answered  # type: ignore[method-assign]
        publishing = asyncio.ensure_future(origin.publish(swarm.checkpoint(1)[0], 1))
        await asking.wait()
        publishing.cancel()
        await asyncio.wait([publishing])
        assert publishing.cancelled() and nothing_is_visible(origin)


async def test_a_publication_cancelled_while_it_is_signed_is_announced_all_the_same(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, contents = swarm.checkpoint(1)
        publishing = asyncio.ensure_future(origin.publish(path, 1))
        loop = asyncio.get_running_loop()
        origin.store.before["save_head"] = lambda: loop.call_soon_threadsafe(publishing.cancel)
        await asyncio.wait([publishing])
        assert publishing.cancelled() and origin.channel.shown.current.head.seq == 1
        manifest = manifest_of(contents).digest
        await client.until(lambda: client.store.version(manifest) is not None)


async def test_a_disk_that_refuses_the_head_leaves_nothing(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        origin.store.faults["save_head"] = 1
        with pytest.raises(StoreError):
            await origin.publish(swarm.checkpoint(1)[0], 1)
        assert nothing_is_visible(origin)


async def test_retention_waits_until_a_sealed_version_has_its_head(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        ask, chores = origin.shell.ask_heads, []

        async def retain_and_ask(channel: object) -> None:
            chores.append(asyncio.ensure_future(origin.housekeeping.retain()))
            await asyncio.sleep(0)
            await ask(channel)  # type: ignore[arg-type]

        origin.shell.ask_heads = retain_and_ask  # type: ignore[method-assign]
        for step in (1, 2, 3):
            view = await origin.publish(swarm.checkpoint(step)[0], step)
            assert origin.is_complete(view["manifest"])
        await asyncio.gather(*chores)
        assert origin.is_complete(view["manifest"])


async def test_the_origin_too_keeps_no_more_versions_than_it_is_told(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        manifests = [(await origin.publish(swarm.checkpoint(step)[0], step))["manifest"] for step in (1, 2, 3, 4)]
        await origin.until(lambda: len(origin.store.versions()) == 2)
        assert [origin.is_complete(manifest) for manifest in manifests] == [False, False, True, True]
        await origin.until(lambda: len(origin.versions.all()) == 2)


async def test_an_origin_with_an_old_data_directory_learns_the_newest_head_before_it_signs(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        relay = await swarm.other("relay", origin)
        path, _ = swarm.checkpoint(1)
        for step in (1, 2):
            view = await origin.publish(path, step)
        await relay.until(lambda: relay.channel.shown.current.head.seq == 2)
        await swarm.stop(origin)
        fresh = await (await swarm.node("reborn", ORIGIN_KEY).start(relay)).joined()
        again = await fresh.publish(path, 2)
        assert (again["seq"], again["existing"]) == (2, True), "the swarm knows that step already"
        assert fresh.is_complete(view["manifest"])
        await fresh.until(lambda: fresh.versions.get(parse_digest(view["manifest"])).staging is None)
        assert (await fresh.publish(swarm.checkpoint(3)[0], 3))["seq"] == 3


async def test_a_checkpoint_that_must_not_be_published_is_refused(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        path = write_tree(tmp_path / "pickled", {"model.pt": b"\x80\x04K\x01."})
        with pytest.raises(ConfigError):
            await origin.publish(path, 1)
        assert nothing_is_visible(origin)

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from shardcast_proto.ids import parse_digest
from tests.proto.trust.actors import ORIGIN_KEY
from tests.shardcast.shell.fake_swarm import fake_swarm
from tests.shardcast.store.trees import chunk_of, manifest_of, model


async def test_a_version_superseded_before_it_was_whole_is_deleted(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        swarm.network.chunks_left = 3
        old = parse_digest((await origin.publish(swarm.checkpoint(1)[0], 1))["manifest"])
        await client.until(lambda: swarm.network.chunks_left == 0)
        new = (await origin.publish(swarm.checkpoint(2)[0], 2))["manifest"]
        swarm.network.let_flow()
        await client.complete(new)
        await client.until(
            lambda: (client.is_complete(new) and client.versions.get(old) is None) or _whole(client, old)
        )
        assert _whole(client, old) or client.store.version(old) is None


def _whole(node: object, manifest: object) -> bool:
    row = node.store.version(manifest)  # type: ignore[attr-defined]
    return row is not None and row.state == "complete"


async def test_only_what_no_head_wants_any_more_is_superseded(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        node = await swarm.node("origin", ORIGIN_KEY).start()
        manifests = [manifest_of(model(seed)) for seed in (1, 2, 3)]
        for step, manifest in enumerate(manifests):
            node.channel.publish(manifest, step=step, is_rewind=False, now_s=step)
        for manifest in manifests:
            node.store.begin(manifest)
        unnamed = manifest_of(model(9))
        node.store.begin(unnamed)
        assert node.housekeeping._superseded() == [unnamed.digest]
        middle = node.store.begin(manifests[1])
        for index in range(manifests[1].blob.chunk_count):
            middle.land(index, [chunk_of(model(2), manifests[1], index)])
        middle.complete()
        assert set(node.housekeeping._superseded()) == {unnamed.digest, manifests[0].digest}
        await node.housekeeping.retain()
        assert {row.manifest for row in node.store.versions()} == {manifests[1].digest, manifests[2].digest}


async def test_a_failed_version_that_was_superseded_does_not_keep_its_disk_space(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        lost = manifest_of(model(1))
        origin.channel.publish(lost, step=1, is_rewind=False, now_s=1)
        origin.store.begin(lost)._fail(OSError(errno.EIO, "the disk failed"))
        await origin.publish(swarm.checkpoint(2)[0], 2)
        await origin.until(lambda: origin.store.version(lost.digest) is None)


async def test_what_a_reader_leases_stays(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        first = parse_digest((await origin.publish(swarm.checkpoint(1)[0], 1))["manifest"])
        lease = origin.store.lease(first, "engine")
        for step in (2, 3, 4):
            await origin.publish(swarm.checkpoint(step)[0], step)
        await origin.housekeeping.retain()
        assert _whole(origin, first) and origin.versions.get(first) is not None
        origin.store.release(lease)
        await origin.housekeeping.retain()
        assert origin.store.version(first) is None and origin.versions.get(first) is None


async def test_a_flush_that_fails_is_told_and_the_version_begun_anew(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        path, contents = swarm.checkpoint(1)
        swarm.network.chunks_left = 3
        manifest = (await origin.publish(path, 1))["manifest"]
        await client.until(lambda: client.versions.received_bytes > 0 and swarm.network.chunks_left == 0)
        staging = client.versions.get(parse_digest(manifest)).staging

        def fail() -> None:
            raise staging._fail(OSError(errno.EIO, "the disk failed"))

        staging.flush_if_aged = fail  # type: ignore[method-assign]
        await client.housekeeping.tick()
        assert "disk failed" in client.versions.store_error or "EIO" in client.versions.store_error
        await client.until(
            lambda: getattr(client.versions.get(parse_digest(manifest)), "staging", staging) is not staging
        )
        swarm.network.let_flow()
        assert await client.complete(manifest) == contents


async def test_the_chores_of_a_second_survive_a_failing_disk(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        lease = origin.store.lease(parse_digest("b3:" + "00" * 32), "api:x")
        origin.leases._expires_s[lease] = 0.0
        origin.store.faults["release_all"] = 1
        await origin.housekeeping.tick()
        assert origin.store.leased()
        await origin.housekeeping.tick()
        assert not origin.store.leased()


async def test_a_retention_that_fails_is_told_and_harms_nothing(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        view = await origin.publish(swarm.checkpoint(1)[0], 1)
        origin.store.faults["heads"] = 1
        await origin.housekeeping.retain()
        assert origin.is_complete(view["manifest"]) and len(origin.versions.all()) == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_retention_after_every_completion_keeps_the_newest(tmp_path: Path, count: int) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        for step in range(1, count + 1):
            manifest = (await origin.publish(swarm.checkpoint(step)[0], step))["manifest"]
            await client.complete(manifest)
        await client.until(lambda: len(client.versions.all()) == min(count, 2))
        assert client.is_complete(manifest)

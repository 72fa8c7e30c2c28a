from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.node.catalog import Catalog, selector_key
from shardcast_proto.errors import ConfigError, NotFound, ShardcastError
from shardcast_proto.ids import format_digest, parse_digest
from tests.shardcast.shell.fake_swarm import FakeNode, fake_swarm

NOW_S = 2_000_000_000.0


def catalog(node: FakeNode) -> Catalog:
    roles = {node.key.peer: ("origin",)}
    return Catalog(node.shell, node.store, roles_of=lambda peer: roles.get(peer, ()), clock=lambda: NOW_S)


async def test_selectors_pick_the_newest_version_that_they_fit(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        old, new = swarm.checkpoint(1)[0], swarm.checkpoint(2)[0]
        first = await origin.publish(old, 10)
        await origin.publish(new, 20)
        await origin.publish(new, 10, rewind=True)
        seen = catalog(origin)
        picked = {
            selector: seen.head(origin.channel, selector).seq
            for selector in ("latest", "10", "20", "seq:1", "seq:2", first["manifest"], first["manifest"][:43])
        }
        both = {first["manifest"]: 1, first["manifest"][:43]: 1}
        assert picked == {"latest": 3, "10": 3, "20": 2, "seq:1": 1, "seq:2": 2, **both}
        for unknown in ("11", "seq:4", "b3:" + "00" * 32, "b3:" + "00" * 20):
            with pytest.raises(NotFound):
                seen.head(origin.channel, unknown)
        assert [view["seq"] for view in seen.versions(origin.channel)] == [3, 2, 1]


async def test_the_largest_step_can_be_named(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        await origin.publish(swarm.checkpoint(1)[0], 2**63 - 1)
        assert catalog(origin).head(origin.channel, str(2**63 - 1)).seq == 1


@pytest.mark.parametrize(
    "selector", ["", "Latest", "-1", "1.0", "seq:", "seq:x", "b3:", "b3:zz", "b3:" + "0" * 39, "9" * 19, "1" * 20, "٣"]
)
def test_what_is_no_selector_is_said(selector: str) -> None:
    with pytest.raises((ConfigError, ShardcastError)) as caught:
        selector_key(selector)
    assert caught.value.exit_code == 2


async def test_a_channel_is_found_by_name_and_by_id(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        seen = catalog(origin)
        assert seen.channel("demo") is seen.channel(format_digest(origin.channel.id)) is origin.channel
        with pytest.raises(NotFound, match="not followed"):
            seen.channel("x" * 1000)


async def test_a_view_follows_a_version_from_announced_to_complete(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        client.store.faults["begin"] = 10**6
        swarm.network.chunks_left = 3
        path, _ = swarm.checkpoint(1)
        manifest = (await origin.publish(path, 1))["manifest"]
        await client.until(lambda: client.channel.shown.current is not None)
        seen = catalog(client)

        def view() -> dict[str, object]:
            return dict(seen.view(client.channel, seen.head(client.channel, "1")))

        assert (view()["state"], view()["path"], view()["chunks"]) == ("announced", None, 0)
        client.store.faults["begin"] = 0
        await client.until(lambda: client.versions.received_bytes > 0 and swarm.network.chunks_left == 0)
        assert view()["state"] == "staging" and 0 < view()["have_chunks"] < view()["chunks"]
        swarm.network.let_flow()
        await client.complete(manifest)
        await client.until(lambda: client.versions.get(parse_digest(manifest)).staging is None)
        done = view()
        assert (done["state"], done["error"], done["signed_at"]) == ("complete", None, None)
        assert done["have_chunks"] == done["chunks"] == done["chunks_verified"]
        assert done["bytes_from_peers"] == done["bytes"] and done["bytes_from_origin"] == 0, "nobody told its roles"
        status = seen.channel_status(client.channel)
        assert status["head"] == done and status["fetching"] == [] and status["freshness"] == "stale"

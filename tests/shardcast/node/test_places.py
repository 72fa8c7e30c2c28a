"""The trees of a node's versions as its API shows them, where there is little to show, and what the shell counts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from shardcast.node.catalog import Catalog
from shardcast.node.places import bulk_links, tree_view
from shardcast_proto.ids import Digest
from shardcast_relay.commands import PushChunk
from tests.shardcast.shell.fake_swarm import FakeNode, fake_swarm


def tree(node: FakeNode, selector: str = "latest") -> dict[str, Any]:
    roles = {node.key.peer: ("relay",)}
    catalog = Catalog(node.shell, node.store, roles_of=lambda peer: (), clock=time.time)
    view = catalog.view(node.channel, catalog.head(node.channel, selector))
    return dict(tree_view(node.shell, view, roles_of=lambda peer: roles.get(peer, ())))


async def test_a_node_without_bulk_links_shows_its_neighbours_without_rates(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        manifest = (await origin.publish(swarm.checkpoint(1)[0], 7))["manifest"]
        await client.complete(manifest)
        assert bulk_links(origin.shell) is None
        view = tree(origin)
        assert (view["step"], view["manifest"], view["is_source"]) == (7, manifest, True)
        assert [stripe["depth"] for stripe in view["stripes"]] == [0] * 8
        (link,) = view["links"]
        assert link["peer"] == client.key.peer and not link["is_sending"] and link["sent_bytes_per_s"] == 0.0
        assert (view["links_receiving"], view["links_sending"]) == (0, 0)
        assert not tree(client)["is_source"] and tree(client)["handing_out"] is None


async def test_a_version_without_its_manifest_has_no_places(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        client.store.faults["begin"] = 10**6
        await origin.publish(swarm.checkpoint(1)[0], 1)
        await client.until(lambda: client.channel.shown.current is not None)
        view = tree(client)
        assert (view["state"], view["stripes"], view["children"], view["handing_out"]) == ("announced", [], [], None)
        assert view["explain"] == "its manifest is on its way"
        await swarm.stop(origin)
        await client.until(lambda: not client.shell.machine.membership.active)
        assert tree(client)["explain"] == "its manifest is missing, no neighbour"


async def test_a_disk_that_refuses_is_what_a_version_waits_for(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        swarm.network.chunks_left = 3
        await origin.publish(swarm.checkpoint(1)[0], 1)
        await client.until(lambda: client.versions.received_bytes > 0 and swarm.network.chunks_left == 0)
        client.versions.store_error = "no space left on device"
        assert tree(client)["explain"] == "our disk refused: no space left on device"
        assert "refused" not in str(tree(origin)["explain"])


async def test_control_frames_and_pushes_are_counted(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        shells = (origin.shell, client.shell)
        await origin.until(lambda: all(shell.control_received_bytes > 100 for shell in shells))
        assert sum(shell.control_sent_bytes for shell in shells) >= sum(
            shell.control_received_bytes for shell in shells
        )
        origin.shell.linked.carry_out(PushChunk(0, 99, client.key.peer, Digest(bytes(32)), 0, 0, 0.0))
        await origin.until(lambda: bool(origin.shell.push_outcomes))
        assert {outcome.value for outcome in origin.shell.push_outcomes} == {"unreachable"}

"""Nodes that announce nothing, and origins whose chunks do not verify, from store to store on a fake wire."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shardcast_proto import messages
from shardcast_proto.ids import parse_digest
from shardcast_proto.trust import Binding, sign_binding
from tests.proto.trust.actors import ORIGIN_KEY, STRANGER_KEY
from tests.shardcast.shell.fake_swarm import FakeNode, FakeSwarm, fake_swarm


def reputation(node: FakeNode, other: FakeNode) -> object:
    return node.shell.machine.downloads.reputations[other.key.peer]


async def hidden(swarm: FakeSwarm, name: str, *doors: FakeNode) -> FakeNode:
    node = swarm.node(name)
    node.is_hidden = True
    return await (await node.start(*doors)).joined()


async def test_what_a_hidden_node_has_is_carried_to_one_that_has_no_other_source(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        source = await hidden(swarm, "hidden", origin)
        path, contents = swarm.checkpoint(1)
        manifest = (await origin.publish(path, 1))["manifest"]
        assert await source.complete(manifest) == contents
        assert swarm.network.carried == []
        await swarm.stop(origin)
        late = swarm.node("late")
        await late.start()
        swarm.nodes.remove(source)
        await source.stop()
        again = await hidden(swarm, "hidden", late)
        assert await late.complete(manifest) == contents
        assert {peer for peer, _ in swarm.network.carried} == {again.key.peer}
        version = late.versions.get(parse_digest(manifest))
        assert version is not None and set(version.bytes_by_peer) == {again.key.peer}


async def test_a_carried_lie_is_never_believed_and_its_sender_is_quarantined(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        liar = await hidden(swarm, "hidden", origin)
        path, _ = swarm.checkpoint(1)
        manifest = (await origin.publish(path, 1))["manifest"]
        await liar.complete(manifest)
        await swarm.stop(origin)
        await swarm.stop(liar)
        swarm.network.lying_peers.add(liar.key.peer)
        late = swarm.node("late")
        await late.start()
        again = await hidden(swarm, "hidden", late)
        now_s = asyncio.get_running_loop().time
        await late.until(
            lambda: (
                again.key.peer in late.shell.machine.downloads.reputations
                and late.shell.machine.downloads.reputations[again.key.peer].is_quarantined(now_s())
            )
        )
        assert swarm.network.carried and not late.is_complete(manifest)


async def test_an_origin_whose_chunks_do_not_verify_is_paused_and_its_next_head_still_heard(tmp_path: Path) -> None:
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        swarm.network.liars.add(origin.serve)
        path, _ = swarm.checkpoint(1)
        await origin.publish(path, 1)
        await client.until(lambda: client.shell.machine.downloads.reputation(origin.key.peer).failures > 0)
        record = client.shell.machine.downloads.reputation(origin.key.peer)
        now_s = asyncio.get_running_loop().time()
        assert record.is_origin and not record.is_quarantined(now_s) and not record.is_usable(now_s)
        assert origin.key.peer in client.shell.machine.membership.active
        swarm.network.liars.clear()
        second, contents = swarm.checkpoint(2)
        manifest = (await origin.publish(second, 2))["manifest"]
        assert await client.complete(manifest) == contents


async def test_calling_oneself_an_origin_protects_nobody(tmp_path: Path) -> None:
    """A record with the role, a stranger's binding, and one that the origin has given to somebody else."""
    async with fake_swarm(tmp_path) as swarm:
        origin = await swarm.origin()
        client = await swarm.other("client", origin)
        relay = await swarm.other("relay", client)
        await client.until(lambda: relay.key.peer in client.shell.machine.membership.active)
        channel = client.channel.id
        of_another = origin.channel.bind(origin.key.peer)
        by_a_stranger = sign_binding(Binding(channel, relay.key.peer), [STRANGER_KEY])
        good = sign_binding(Binding(channel, relay.key.peer), [ORIGIN_KEY])
        record = relay.shell.machine.membership.record
        for bindings, is_origin in (
            ((of_another, by_a_stranger, b"", b"junk"), False),
            ((b"junk", good), True),
            ((), False),
        ):
            hello = messages.Hello(record, (channel,), False, bindings)
            client.shell.frame_received(relay.key.peer, messages.encode(hello))
            assert client.shell.machine.downloads.reputation(relay.key.peer).is_origin is is_origin

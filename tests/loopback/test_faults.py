"""Bad days between real daemons: killed relays and clients, a lying relay, refused heads, malformed pubsub frames."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from shardcast.channel_files import create_channel
from shardcast.keyfiles import load_key
from shardcast_proto import messages
from shardcast_proto.ids import Digest, PeerId, parse_digest
from shardcast_proto.manifest import Manifest
from shardcast_proto.trust import Announce, Head, SigningKey, gossip_topic, sign_head
from tests.loopback.daemons import MIB, Daemon, Swarm, swarm, tree_of, until
from tests.loopback.malformed import malformed_frame
from tests.loopback.p2p_hosts import raw_host
from tests.loopback.rogue import FalseBytes, Rogue, rogue

pytestmark = pytest.mark.timeout(240)

#: 16 MiB at 40 Mbit/s take over three seconds: time to kill somebody in the middle.
SLOW = ("--up-mbps", "40")


def test_a_relay_killed_in_mid_transfer_stops_nobody_else(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin(*SLOW)
        victim, *others = made.others(origin, "victim", "relay-2", "client-1", "client-2", flags=SLOW)
        path = made.checkpoint(1)
        origin.publish(path, 1)
        until(lambda: victim.version(1)["have_chunks"] > 5, 30.0)
        victim.kill()
        assert any(node.version(1)["state"] != "complete" for node in others), "the kill came too late to test anything"
        for node in others:
            node.wait_complete(1)
            assert node.pulled_tree(1) == tree_of(path)


def test_a_client_killed_in_mid_transfer_fetches_no_verified_chunk_again_beyond_one_batch(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "120")
        (client,) = made.others(origin, "client")
        path = made.checkpoint(1, 64 * MIB)
        origin.publish(path, 1)
        until(lambda: client.version(1)["have_chunks"] > 120, 30.0)
        held = client.version(1)["have_chunks"]
        client.kill()
        client.start().wait_ready()
        view = client.wait_complete(1)
        assert held < view["chunks"], "the kill came too late to test anything"
        fetched_again = view["chunks_verified"] + held - view["chunks"]
        batch_chunks = 16 * MIB // view["chunk_size"]
        assert fetched_again <= batch_chunks, f"{fetched_again} verified chunks were fetched again"
        assert client.pulled_tree(1) == tree_of(path)


async def test_a_flipped_bit_from_a_lying_relay_is_never_held_and_the_liar_is_quarantined(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        # without data planes there are no links and no trees: the client pulls, and the liar's data plane comes first
        origin = await asyncio.to_thread(made.origin, *SLOW, "--serve", "none")
        (client,) = await asyncio.to_thread(made.others, origin, "client", flags=("--serve", "none"))
        path = made.checkpoint(1)
        source = FalseBytes()
        async with rogue(made.channel.channel, source) as liar:
            await liar.join(client.peer, client.multiaddr)
            published = await asyncio.to_thread(origin.publish, path, 1)
            manifest = Manifest.decode(await asyncio.to_thread(origin.get_bytes, "channels/demo/versions/1/manifest"))
            source.copy(manifest, path)
            liar.send(PeerId(client.peer), messages.Done(manifest.blob.id))
            view = await asyncio.to_thread(client.wait_complete, 1)
            assert view["manifest"] == published["manifest"]
            assert source.asked_chunks > 0, "nobody asked the liar: nothing was tested"
            assert view["bytes_from_peers"] == 0, "bytes of the liar were counted as held"
            assert await asyncio.to_thread(client.pulled_tree, 1) == tree_of(path)
            peers = {peer["peer"]: peer for peer in (await asyncio.to_thread(client.get, "peers"))["peers"]}
            assert peers[liar.key.peer]["quarantined_for_s"] > 0
            assert peers[origin.peer]["quarantined_for_s"] == 0
            assert "bad_bytes_refused" in client.log()


REFUSALS = ("unlisted_key", "wrong_channel", "rollback", "equivocation")


@pytest.mark.parametrize("way", ["control", "gossip"])
async def test_a_bad_head_is_refused_with_a_clear_line_and_nothing_is_fetched(tmp_path: Path, way: str) -> None:
    with swarm(tmp_path) as made:
        origin = await asyncio.to_thread(made.origin)
        (client,) = await asyncio.to_thread(made.others, origin, "client")
        for step in (1, 2):
            await asyncio.to_thread(origin.publish, made.checkpoint(step), step)
            await asyncio.to_thread(client.wait_complete, step)
        async with rogue(made.channel.channel) as liar:
            await liar.join(client.peer, client.multiaddr)
            topic = gossip_topic(made.channel.channel)
            await liar.p2p.subscribe(topic)
            await _until_known(liar, client)
            good, bad = await asyncio.to_thread(_heads, made, client)
            await _say(liar, client, topic, good, way)
            await asyncio.to_thread(
                until, lambda: client.get("channels/demo/versions/latest")["seq"] == 10, 15.0, client.log
            )
            for reason, head in bad.items():
                await _say(liar, client, topic, head, way)
                logged = partial(_has_logged, client, f"reason={reason}")
                await asyncio.to_thread(until, logged, 15.0, client.log)
            assert liar.source.asked_objects == [] and liar.source.asked_chunks == 0
        views = (await asyncio.to_thread(client.get, "channels/demo/versions"))["versions"]
        assert {view["seq"] for view in views} <= {1, 2, 10}
        assert (await asyncio.to_thread(client.get, "status"))["refused_heads"] >= len(REFUSALS)
        # the proof refuses seq 10 alone, and the origin learns of it before it signs: the next seq continues
        published = await asyncio.to_thread(origin.publish, made.checkpoint(3), 3)
        assert published["seq"] == 11
        await asyncio.to_thread(client.wait_complete, 3)


async def test_a_daemon_lives_through_ten_thousand_malformed_pubsub_frames(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = await asyncio.to_thread(made.origin)
        (client,) = await asyncio.to_thread(made.others, origin, "client")
        async with raw_host() as attacker:
            await attacker.call(_flood, attacker.host, client.multiaddr, gossip_topic(made.channel.channel), 10_000)
        assert client.is_running
        path = made.checkpoint(1)
        await asyncio.to_thread(origin.publish, path, 1)
        await asyncio.to_thread(client.wait_complete, 1)
        assert await asyncio.to_thread(client.pulled_tree, 1) == tree_of(path)


def _heads(made: Swarm, client: Daemon) -> tuple[bytes, dict[str, bytes]]:
    """Return a good head far ahead, signed with the real key, and then for each reason one to refuse."""
    origin_key = load_key(made.channel.origin_key)
    channel = made.channel.channel
    other = create_channel("other", made.home)
    view: dict[str, Any] = client.version(2)
    manifest, oldest = parse_digest(view["manifest"]), parse_digest(client.version(1)["manifest"])
    manifest_bytes = len(client.get_bytes("channels/demo/versions/2/manifest"))

    def head(seq: int, names: Digest, *, of: Digest = channel, key: SigningKey = origin_key) -> bytes:
        said = Head(of, 0, b"", 1, seq, 2, names, manifest_bytes=manifest_bytes, total_bytes=view["bytes"])
        return Announce(sign_head(said, [key])).encoded

    unheard = Digest(b"\x01" * 32)
    return head(10, manifest), {
        "unlisted_key": head(11, unheard, key=SigningKey(bytes(range(32)))),
        "wrong_channel": head(11, unheard, of=other.channel),
        "rollback": head(9, unheard),
        "equivocation": head(10, oldest),
    }


def _has_logged(node: Daemon, text: str) -> bool:
    return text in node.log()


async def _say(liar: Rogue, client: Daemon, topic: str, announce: bytes, way: str) -> None:
    if way == "gossip":
        await liar.p2p.publish(topic, announce)
    else:
        liar.send(PeerId(client.peer), messages.HeadIs(liar.channel, announce))


async def _until_known(liar: Rogue, client: Daemon) -> None:
    """Wait until gossip between the two has begun: the rogue's subscription takes one heartbeat to be heard."""
    await asyncio.sleep(2.5)


async def _flood(host: Any, multiaddr: str, topic: str, count: int) -> None:
    """Send so many malformed pubsub frames, connecting again whenever the node hangs up."""
    address, chooser = Multiaddr(multiaddr), random.Random(5)
    peer, network, stream = ID.from_base58(multiaddr.rpartition("/")[2]), host.get_network(), None
    sent = 0
    while sent < count:
        try:
            if stream is None:
                if not network.get_connections(peer):
                    await network.dial_addr(address, peer)
                stream = await host.new_stream(peer, ["/meshsub/1.1.0"])
            await stream.write(b"".join(malformed_frame(chooser, topic) for _ in range(50)))
            sent += 50
        except Exception:  # noqa: BLE001 - whatever libp2p raises when it was hung up
            stream = None
            await trio.sleep(0.05)

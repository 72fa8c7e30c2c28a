"""The trees as users see them: real daemons on loopback, asked over their API and by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.loopback.daemons import MIB, ROOT, Daemon, swarm, until

CONTROL = "shardcast_control_bytes_total"
PACED = ("--up-mbps", "20")


def command(daemon: Daemon, *words: str) -> tuple[int, str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))
    environment = {**os.environ, "PYTHONPATH": path, "SHARDCAST_API": daemon.ready["api"]}
    run = [sys.executable, "-m", "shardcast.cli", *words]
    ended = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


def samples(daemon: Daemon) -> dict[str, float]:
    with urllib.request.urlopen(f"{daemon.ready['api']}/metrics", timeout=30) as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.mark.timeout(120)
def test_a_swarm_shows_who_feeds_whom_while_it_is_fed_and_where_its_chunks_were_when_it_is_not(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin(*PACED)
        relays = made.others(origin, "one", "two", flags=PACED)
        until(lambda: all(len(relay.get("peers")["peers"]) == 2 for relay in relays), 20.0)
        published_at = time.time()
        assert origin.publish(made.checkpoint(1, 48 * MIB), 1)["event"] == "published"
        path = "channels/demo/versions/1/tree"
        until(lambda: len(origin.get(path)["children"]) == 2 and relays[0].version(1)["have_chunks"] > 10, 20.0)
        until(lambda: all(link["sent_bytes_per_s"] for link in origin.get(path)["links"]), 10.0)

        source = origin.get(path)
        assert source["is_source"] and source["handing_out"]["chunks_left"] > 0
        rooted = {stripe["children"][0]: stripe for stripe in source["stripes"] if stripe["children"]}
        assert set(rooted) == {relay.peer for relay in relays}
        assert all(stripe["credit"] >= 1 and stripe["parent"] is None for stripe in rooted.values())
        assert (source["links_receiving"], source["links_sending"]) == (2, 2)
        fed = relays[0].get(path)
        depths = {stripe["parent"]: stripe["depth"] for stripe in fed["stripes"] if stripe["parent"]}
        assert depths == {origin.peer: 1, relays[1].peer: 2}
        assert [child["peer"] for child in fed["children"]] == [relays[1].peer] and not fed["is_source"]

        code, text = command(relays[0], "tree", "demo@1")
        assert code == 0 and f"…{origin.peer[-10:]}" in text and "FED BY US" in text
        code, text = command(origin, "tree", "demo#1", "--json")
        assert code == 0 and json.loads(text)["peer_id"] == origin.peer
        assert [command(origin, "tree", name)[0] for name in ("demo@9", "other", "a b")] == [4, 4, 2]
        assert "fed by 2 parents" in command(relays[0], "status")[1]
        assert "the source hands out: " in command(origin, "status")[1]

        first = relays[0].version(1)["first_chunk_at"]
        assert published_at < first < time.time() and origin.version(1)["first_chunk_at"] is None
        seen = samples(relays[0])
        for direction in ("sent", "received"):
            for way in ("link", "libp2p"):
                assert seen[f'{CONTROL}{{direction="{direction}",way="{way}"}}'] > 0
        assert seen['shardcast_pushed_chunks_total{outcome="done"}'] > 0
        assert seen['shardcast_links{direction="sending"}'] == 2
        assert seen["shardcast_uplink_bytes_per_second"] == pytest.approx(20e6 / 8 * 0.95)

        before = samples(relays[0])[f'{CONTROL}{{direction="sent",way="link"}}']
        origin.kill()
        lost = f"last seen at {origin.peer}, "
        until(lambda: lost in command(relays[0], "status")[1], 30.0, lambda: command(relays[0], "status")[1])
        assert samples(relays[0])[f'{CONTROL}{{direction="sent",way="link"}}'] >= before, "also without the link"

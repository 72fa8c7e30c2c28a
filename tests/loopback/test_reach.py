"""Real daemons behind walls: nodes that nobody can dial, data planes that are out of reach, a known downlink."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.loopback.daemons import MIB, Daemon, Swarm, swarm, tree_of, until

pytestmark = pytest.mark.timeout(120)

#: A node behind a NAT that forwards nothing.
HIDDEN = ("--serve", "none", "--announce-p2p", "none")


def test_a_node_that_nobody_can_dial_downloads_from_those_that_it_dials(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (hidden,) = made.others(origin, "hidden", flags=HIDDEN)
        assert hidden.ready["serve"] is None
        path = made.checkpoint(1)
        origin.publish(path, 1)
        hidden.wait_complete(1)
        assert hidden.pulled_tree(1) == tree_of(path)


def test_the_chunks_of_a_node_that_nobody_can_dial_reach_one_that_can_get_them_nowhere_else(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        path = seed(made, "hidden", flags=HIDDEN)
        late = made.daemon("late").wait_ready()
        hidden = made.daemon("hidden", *HIDDEN, bootstrap=late).wait_ready()
        view = late.wait_complete(1)
        assert late.pulled_tree(1) == tree_of(path)
        (peer,) = late.get("peers")["peers"]
        assert peer["peer"] == hidden.peer and peer["serve"] is None
        assert peer["received_bytes"] == view["bytes"]
        assert hidden.get("status")["sent_bytes"] >= view["bytes"]


def test_an_origin_that_nobody_can_dial_feeds_a_swarm_through_the_nodes_that_it_dials(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        door = made.daemon("door").wait_ready()
        origin = made.daemon("origin", "--origin-key", str(made.channel.origin_key), *HIDDEN, bootstrap=door)
        origin.wait_ready()
        until(origin.has_neighbour, 20.0, origin.log)
        (client,) = made.others(door, "client")
        path = made.checkpoint(1)
        assert origin.publish(path, 1)["event"] == "published"
        for node in (door, client):
            node.wait_complete(1)
            assert node.pulled_tree(1) == tree_of(path)


@contextmanager
def refusing_port() -> Iterator[str]:
    """A port on which nobody listens, as behind a firewall that rejects."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def mute_port() -> Iterator[str]:
    """A port that takes connections and says nothing, as some firewalls do."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as held:
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("port", [refusing_port, mute_port])
def test_a_data_plane_that_is_announced_and_out_of_reach_is_gone_round(port: object, tmp_path: Path) -> None:
    with port() as address, swarm(tmp_path) as made:
        path = seed(made, "walled", flags=())
        late = made.daemon("late").wait_ready()
        walled = made.daemon("walled", "--announce-serve", address, bootstrap=late).wait_ready()
        late.wait_complete(1)
        assert late.pulled_tree(1) == tree_of(path)
        (peer,) = late.get("peers")["peers"]
        assert peer["peer"] == walled.peer and peer["serve"] == address and peer["quarantined_for_s"] == 0


def test_a_hidden_holder_that_is_stopped_in_mid_transfer_is_replaced_by_another_and_may_come_back(
    tmp_path: Path,
) -> None:
    with swarm(tmp_path) as made:
        path = seed(made, "one", "two", flags=HIDDEN)
        late = made.daemon("late").wait_ready()
        slow = (*HIDDEN, "--up-mbps", "16")
        one, two = (made.daemon(name, *slow, bootstrap=late) for name in ("one", "two"))
        for node in (one, two):
            node.wait_ready()
        until(lambda: received(late, one) > MIB, 30.0, late.log)
        send(one, signal.SIGSTOP)
        try:
            assert late.version(1)["state"] != "complete", "the transfer was over too soon to test anything"
            late.wait_complete(1, timeout_s=60.0)
            assert late.pulled_tree(1) == tree_of(path)
        finally:
            send(one, signal.SIGCONT)
        until(lambda: one.peer in neighbours(late), 60.0, late.log)
        assert all(peer["quarantined_for_s"] == 0 for peer in late.get("peers")["peers"])


def test_a_known_downlink_is_not_exceeded_and_nobody_is_blamed_for_it(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client", flags=("--down-mbps", "40"))
        published = origin.publish(made.checkpoint(1, 24 * MIB), 1)
        view = client.wait_complete(1)
        seconds = view["completed_at"] - published["signed_at"]
        rate = view["bytes"] / seconds
        assert rate < 40e6 / 8, f"{rate / 1e6:.1f} MB/s"
        assert rate > 0.5 * 40e6 / 8, f"{rate / 1e6:.1f} MB/s"
        (peer,) = client.get("peers")["peers"]
        assert peer["success_rate"] > 0.8


def test_a_port_that_is_forwarded_is_announced_in_the_place_of_the_bound_one(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        flags = ("--announce-serve", "198.51.100.7:7482", "--announce-p2p", "198.51.100.7:7481")
        node = made.daemon("node", *flags).wait_ready()
        assert node.ready["serve"] == "198.51.100.7:7482"
        assert node.ready["p2p"].startswith("/ip4/198.51.100.7/tcp/7481/p2p/")


def seed(made: Swarm, *names: str, flags: tuple[str, ...]) -> Path:
    """Let some nodes get step 1 from an origin, then stop them all: the data directories of `names` stay."""
    origin = made.origin()
    nodes = made.others(origin, *names, flags=flags)
    path = made.checkpoint(1)
    origin.publish(path, 1)
    for node in nodes:
        node.wait_complete(1)
    for node in (*nodes, origin):
        assert node.stop() == 0
    return path


def neighbours(node: Daemon) -> list[str]:
    return [peer["peer"] for peer in node.get("peers")["peers"]]


def received(node: Daemon, source: Daemon) -> int:
    return sum(peer["received_bytes"] for peer in node.get("peers")["peers"] if peer["peer"] == source.peer)


def send(node: Daemon, number: int) -> None:
    """Send a signal to a daemon."""
    assert node._process is not None
    node._process.send_signal(number)

"""Swarms in which some nodes cannot be reached: everybody completes, and little goes over the control connection.

A hidden node gives over the bulk links that it opens, so what is to be carried needs a swarm in which no link comes up: `has_links=False`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardcast_relay.events import Outcome, PeersReceived
from tests.sim.test_swarm import finish, settle, swarm
from tests.sim.world import Host, Link, Version, World

both_ways = pytest.mark.parametrize("has_links", [True, False])


def line(*, announces: bool = False, has_links: bool = False) -> tuple[World, Host, Host, Host]:
    """Start an origin that only a hidden node has joined, and a node that knows the origin's door no more."""
    world = World(1, has_links=has_links)
    origin, hidden, other = world.add_host(), world.add_host(), world.add_host()
    world.hide(hidden, announces=announces)
    world.start(origin)
    world.start(hidden, origin)
    world.run(2.0)
    return world, origin, hidden, other


def meet(world: World, dialler: Host, other: Host) -> None:
    """Let a host hear of another one, and dial it."""
    dialler.tell(PeersReceived(dialler.peer, (other.contact,)))
    world.run(world.now_s + 3.0)
    assert other.peer in dialler.machine.membership.active


def leave(world: World, host: Host) -> None:
    """Take a host away, with its connections."""
    world.kill(host, is_black_hole=False)
    world.run(world.now_s + 1.0)


@both_ways
def test_a_node_that_announces_nothing_downloads_over_the_data_plane_of_others(has_links: bool) -> None:
    world, origin, hidden, _ = line(has_links=has_links)
    version = world.publish(origin, chunk_count=40)
    finish(world, version, [hidden], within_s=20.0)
    assert origin.carried_bytes == hidden.carried_bytes == 0


@pytest.mark.parametrize("announces", [False, True])
def test_chunks_of_a_node_that_nobody_can_dial_reach_others_by_the_connection_that_it_opened(announces: bool) -> None:
    world, origin, hidden, other = line(announces=announces)
    version = world.publish(origin, chunk_count=40)
    finish(world, version, [hidden])
    leave(world, origin)
    world.start(other)
    meet(world, hidden, other)
    finish(world, version, [other], within_s=60.0)
    assert other.chunks_from == {hidden.peer: 40}
    assert hidden.carried_bytes == 40 * version.chunk_bytes
    settle(world)


def test_a_data_plane_that_was_out_of_reach_is_used_again_when_it_is_back() -> None:
    world, origin, hidden, other = line(announces=True)
    version = world.publish(origin, chunk_count=40)
    finish(world, version, [hidden])
    leave(world, origin)
    world.start(other)
    meet(world, hidden, other)
    finish(world, version, [other])
    hidden.is_unreachable = False
    world.run(world.now_s + world.config.direct_retry_s)
    carried = hidden.carried_bytes
    second = world.publish(hidden, chunk_count=40)
    finish(world, second, [other])
    assert hidden.carried_bytes == carried


@both_ways
def test_a_chunk_that_a_data_plane_gives_is_not_carried(has_links: bool) -> None:
    """Six nodes, two of them hidden: the hidden ones get everything, and carry nothing while others have it."""
    world, origin, others = swarm(9, hosts=0, has_links=has_links)
    for number in range(6):
        host = world.add_host(Link(12e6, 48e6))
        if number % 3 == 0:
            world.hide(host)
        world.start(host, origin)
        others.append(host)
    world.run(4.0)
    version = world.publish(origin, chunk_count=200)
    finish(world, version, others)
    assert sum(host.carried_bytes for host in world.hosts.values()) == 0


@both_ways
def test_a_hidden_origin_reaches_a_whole_swarm_through_the_nodes_that_it_dials(has_links: bool) -> None:
    world = World(2, check_every=5, has_links=has_links)
    door = world.add_host(Link(25e6, 100e6))
    world.start(door)
    origin = world.add_host(Link(25e6, 100e6))
    world.hide(origin)
    world.start(origin, door)
    others = [door]
    for number in range(10):
        host = world.add_host(Link(12e6, 48e6))
        world.at(0.02 * number, world.start, host, door)
        others.append(host)
    world.run(6.0)
    version = world.publish(origin, chunk_count=120)
    finish(world, version, others, within_s=60.0)
    copies = origin.sent_bytes / (version.chunk_count * version.chunk_bytes)
    assert 1 <= copies < 4, f"the origin sent {copies:.1f} copies"
    assert origin.carried_bytes == (0 if has_links else origin.sent_bytes)
    settle(world)


def unlucky_day(seed: int, *, has_links: bool) -> tuple[World, Version]:
    """Thirty nodes with 2 % loss: a third can be dialled by nobody, one of them becomes a black hole, another one lies."""
    world, origin, others = swarm(seed, hosts=0, loss=0.02, check_every=7, has_links=has_links)
    for number in range(29):
        host = world.add_host(Link((5e6, 12e6, 25e6)[number % 3], 50e6, (0.005, 0.02, 0.06)[number * 7 % 3]))
        if number % 3 == 1:
            world.hide(host, announces=bool(number % 2))
        world.at(0.02 * number, world.start, host, origin, *others[:1])
        others.append(host)
    world.run(4.0)
    liar, victim = others[4], others[13]
    liar.is_lying = True
    version = world.publish(origin, chunk_count=48)
    world.later(0.4, lambda: world.kill(victim, is_black_hole=True))
    # the origin's data plane is cut off while it still has chunks that nobody else has
    world.later(0.6, lambda: setattr(origin, "is_unreachable", True))
    honest = [host for host in others if host not in (liar, victim)]
    finish(world, version, honest)
    settle(world)
    for host in honest:
        blamed = {peer for peer, record in host.machine.downloads.reputations.items() if record.bad_chunks}
        assert blamed <= {liar.peer}, "an honest peer was quarantined"
    return world, version


@both_ways
@pytest.mark.timeout(300)
def test_thirty_nodes_complete_when_a_third_of_them_and_then_the_origin_are_out_of_reach(has_links: bool) -> None:
    carried = 0
    for seed in range(10):
        world, _ = unlucky_day(seed, has_links=has_links)
        carried += sum(host.carried_bytes for host in world.hosts.values())
    assert carried or has_links, "nothing was ever carried: the case tests nothing"


def test_a_black_holed_hidden_neighbour_costs_one_idle_timeout_and_then_the_chunks_come_from_another() -> None:
    world = World(3, has_links=False)
    origin, hidden, second, client = (world.add_host() for _ in range(4))
    for host in (hidden, second):
        world.hide(host)
    world.start(origin)
    world.start(hidden, origin)
    world.start(second, origin)
    world.run(3.0)
    version = world.publish(origin, chunk_count=500)
    finish(world, version, [hidden, second])
    leave(world, origin)
    world.start(client)
    meet(world, hidden, client)
    meet(world, second, client)
    assert version.blob not in client.completed_at_s
    world.kill(hidden, is_black_hole=True)
    finish(world, version, [client], within_s=60.0)
    settle(world)


def test_an_origin_whose_chunks_do_not_verify_is_paused_and_still_brings_the_next_version() -> None:
    world, origin, others = swarm(12, hosts=5)
    origin.is_proven = True
    for peer in list(origin.connections):  # everybody hears of it by a new hello
        world.wire.disconnect(origin, world.hosts[peer])
    world.run(world.now_s + 30.0)
    origin.is_lying = True
    world.publish(origin, chunk_count=20)
    world.run(world.now_s + 20.0)
    assert all(origin.peer in host.connections for host in others if host.machine.membership.active)
    records = [host.machine.downloads.reputations[origin.peer] for host in others if origin.peer in host.connections]
    assert any(record.failures for record in records), "nobody ever got a bad chunk: the case tests nothing"
    assert not any(record.bad_chunks for record in records)
    origin.is_lying = False
    good = world.publish(origin, chunk_count=20)
    finish(world, good, others, within_s=90.0)


def test_no_two_things_are_carried_from_one_peer_at_once_and_a_busy_one_is_asked_again() -> None:
    """Ten nodes have only a hidden one: four are carried for at a time, the others are told that it is busy, and all complete."""
    world = World(5, has_links=False)
    hidden = world.add_host(Link(25e6, 100e6))
    hidden.contact = replace(hidden.contact, dial=("dial/0",), serve=())
    others = [world.add_host(Link(1e6, 50e6)) for _ in range(8)]
    for host in others:
        world.hide(host)
    world.start(hidden)
    for host in others:
        world.start(host, hidden)
    world.run(4.0)
    version = world.publish(hidden, chunk_count=24)
    finish(world, version, others, within_s=120.0)
    assert Outcome.BUSY in world.outcomes

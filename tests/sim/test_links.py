"""Bulk links of the simulator: fair uplinks, slow receivers, deaths, partitions."""

from __future__ import annotations

import pytest

from tests.sim.test_swarm import finish, settle, swarm
from tests.sim.uplink import Chunk, Flow
from tests.sim.world import Link, World

MIB = 1024 * 1024


class Timed(Chunk):
    """A chunk that notes when it has arrived."""

    __slots__ = ("arrived_s",)

    def has_left(self, arrives_s: float) -> None:
        self.arrived_s = arrives_s


def send(world: World, down_rates: list[float], count: int) -> list[list[Timed]]:
    """Send chunks to receivers with these downlinks, all at once, from an uplink of 8 MiB/s."""
    sender = world.add_host(Link(8 * MIB, 50e6, 0.01))
    sent = []
    for rate in down_rates:
        flow = Flow(sender, world.add_host(Link(1e6, rate, 0.01)))
        sent.append([Timed(MIB) for _ in range(count)])
        for chunk in sent[-1]:
            sender.uplink.offer(flow, chunk)
    world.run(100.0)
    return sent


def test_seven_links_share_an_uplink_and_end_together() -> None:
    ends_s = [chunks[-1].arrived_s for chunks in send(World(1), [50e6] * 7, count=8)]
    assert max(ends_s) == pytest.approx(7.0, abs=0.1)
    assert max(ends_s) - min(ends_s) < 0.45


def test_a_slow_receiver_does_not_hold_the_uplink() -> None:
    slow, *fast = send(World(1), [MIB / 4, 50e6, 50e6], count=8)
    assert all(chunks[-1].arrived_s < 2.5 for chunks in fast)
    assert slow[-1].arrived_s == pytest.approx(32.0, abs=2.0)


@pytest.mark.parametrize("is_black_hole", [False, True])
def test_everybody_completes_when_three_relays_die_in_the_middle(is_black_hole: bool) -> None:
    world, origin, others = swarm(21, hosts=16)
    world.run(4.0)
    version = world.publish(origin, chunk_count=100)
    for host in others[3:6]:
        world.later(0.5, lambda host=host: world.kill(host, is_black_hole=is_black_hole))
    finish(world, version, [host for host in others if host not in others[3:6]])
    settle(world)


@pytest.mark.parametrize("span_s", [2.0, 45.0])
def test_everybody_completes_after_a_partition_heals(span_s: float) -> None:
    world, origin, others = swarm(22, hosts=16, check_every=3)
    world.run(4.0)
    version = world.publish(origin, chunk_count=100)
    world.later(0.3, world.part, others[8:])
    world.later(0.3 + span_s, world.heal)
    world.run(4.3 + span_s)
    finish(world, version, others)
    settle(world)


def test_nodes_that_join_in_the_middle_complete() -> None:
    world, origin, others = swarm(23, hosts=12)
    world.run(4.0)
    version = world.publish(origin, chunk_count=200)
    joiners = [world.add_host() for _ in range(4)]
    for number, host in enumerate(joiners):
        world.later(0.2 * number, world.start, host, others[number])
    finish(world, version, others + joiners)
    settle(world)


def test_a_hidden_node_gives_over_the_links_that_it_opened() -> None:
    world = World(24)
    origin, hidden, other = world.add_host(), world.add_host(), world.add_host()
    world.hide(hidden)
    world.start(origin)
    world.start(hidden, origin)
    world.start(other, origin)
    world.run(8.0)
    assert other.peer in hidden.out_links
    version = world.publish(origin, chunk_count=100)
    finish(world, version, [hidden, other])
    assert hidden.sent_bytes and not hidden.carried_bytes

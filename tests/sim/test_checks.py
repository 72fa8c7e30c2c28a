"""The checkers of the simulator, each seen to fail when what it guards is broken by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shardcast_proto.ids import PeerId
from shardcast_relay.events import Event, FetchEnded, LinkFailed, LinkOpened, PushEnded
from tests.sim.checks import GRACE_S, Orders, check_trees
from tests.sim.test_swarm import swarm
from tests.sim.world import Broken, Host, Version, World


def half_way(seed: int) -> tuple[World, list[Host], Version]:
    """Run a small swarm into the middle of a transfer."""
    world, origin, others = swarm(seed, hosts=6)
    world.run(4.0)
    version = world.publish(origin, chunk_count=200)
    world.run(4.5)
    assert not any(version.blob in host.completed_at_s for host in others)
    return world, others, version


def test_a_chunk_on_the_disk_that_nobody_verified_is_seen() -> None:
    world, others, version = half_way(1)
    missing = version.full & ~others[2].disk[version.blob]
    others[2].disk[version.blob] |= missing & -missing
    with pytest.raises(Broken, match="disagree"):
        world.run(10.0)


@pytest.mark.parametrize("kinds", [(PushEnded,), (FetchEnded,), (LinkOpened, LinkFailed)])
def test_a_lost_ending_is_seen(kinds: tuple[type[Event], ...]) -> None:
    """The first ending of a kind at each host is dropped: the machine never hears it."""
    world, origin, others = swarm(2, hosts=6)
    dropped: list[Event] = []
    for host in others:
        host.finish = dropping(host, kinds, dropped)  # type: ignore[method-assign,assignment]
    world.run(4.0)
    world.publish(origin, chunk_count=200)
    with pytest.raises(Broken, match="never ended"):
        world.run(4.0 + 60.0 + GRACE_S)
        for host in others:
            host.orders.check_all(world.now_s)
    assert dropped


def dropping(host: Host, kinds: tuple[type[Event], ...], dropped: list[Event]) -> Callable[[int, Event], None]:
    """Return a `finish` that drops the first ending of these kinds."""
    is_first = [True]

    def finish(order: int, event: Event) -> None:
        if is_first[0] and isinstance(event, kinds):
            is_first[0] = False
            dropped.append(event)
        else:
            Host.finish(host, order, event)

    return finish


def test_an_order_that_ends_twice_is_seen() -> None:
    orders = Orders("a host")
    number = orders.start("something", 1.0)
    orders.end(number)
    with pytest.raises(Broken, match="twice"):
        orders.end(number)


class FakeForest:
    """Edges made by hand."""

    def __init__(self, parent: Host, child: Host) -> None:
        self._parent, self._child = parent.peer, child.peer

    def edges(self, blob: bytes) -> list[tuple[int, PeerId]]:
        return [(3, self._parent)]

    def children(self, blob: bytes) -> list[tuple[int, PeerId]]:
        return [(3, self._child)]


@pytest.mark.parametrize("length", [2, 3])
def test_a_tree_with_a_cycle_is_seen(length: int) -> None:
    _, others, _ = half_way(3)
    ring = others[:length]
    for number, host in enumerate(ring):
        host.machine.trees = FakeForest(ring[number - 1], ring[(number + 1) % length])  # type: ignore[assignment]
    with pytest.raises(Broken, match="cycle"):
        check_trees(ring[0])


def test_an_edge_that_only_one_end_names_is_no_part_of_a_cycle() -> None:
    _, others, _ = half_way(3)
    one, two, three = others[:3]
    one.machine.trees = FakeForest(two, three)  # type: ignore[assignment]
    two.machine.trees = FakeForest(one, one)  # type: ignore[assignment]
    check_trees(one)


def test_a_push_beyond_the_window_is_seen() -> None:
    world, origin, _ = swarm(4, hosts=6)
    world.run(4.0)
    object.__setattr__(world.config, "push_window", 4)  # the machines order so many at once …
    real = world.bulk.push

    def strict(host: Host, command: object) -> None:  # … and the world has agreed to fewer
        object.__setattr__(world.config, "push_window", 1)
        real(host, command)  # type: ignore[arg-type]
        object.__setattr__(world.config, "push_window", 4)

    world.bulk.push = strict  # type: ignore[method-assign]
    with pytest.raises(Broken, match="under way on one link"):
        world.publish(origin, chunk_count=200)
        world.run(10.0)

"""The places of one node in the trees of a blob: rules, against naive counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.messages import Trees
from shardcast_relay.stripes import Parent, Stripes

from .parts import BLOB, peer

STRIPES = 4


def place(depth: int | None = 2, *, is_source: bool = False) -> Stripes:
    """A node with peer 9 as its parent in every stripe, so deep; without one when there is no depth."""
    stripes = Stripes(BLOB, is_source)
    if depth is not None:
        stripes.parents = {stripe: Parent(peer(9), depth) for stripe in range(STRIPES)}
    return stripes


def heard(*depths_of: tuple[int, ...], free: int = 1) -> Stripes:
    """A node that was told these depths by the peers 1, 2, …"""
    stripes = Stripes(BLOB, False)
    for number, depths in enumerate(depths_of, 1):
        stripes.heard[peer(number)] = Trees(BLOB, depths, free)
    return stripes


# --- who is fed ---


#: parent's depth, room, interior stripes at most, is small, welcome in stripe 0
WELCOME = {
    "without a parent nobody": (None, 9, 9, True, False),
    "in a small swarm by a child of the source, whatever its room": (1, 0, 0, True, True),
    "in a small swarm by nobody deeper": (2, 9, 9, True, False),
    "in a large swarm with room": (3, 1, 1, False, True),
    "in a large swarm without room nobody": (1, 0, 1, False, False),
    "in a large swarm without an interior stripe nobody": (1, 1, 0, False, False),
}


@pytest.mark.parametrize(("depth", "room", "interior_max", "is_small", "expected"), WELCOME.values(), ids=WELCOME)
def test_a_child_is_welcome(depth, room, interior_max, is_small, expected):
    stripes = place(depth)
    assert stripes.would_feed(0, room=room, interior_max=interior_max, is_small=is_small) is expected


@pytest.mark.parametrize("is_small", [True, False])
def test_nobody_is_fed_in_a_stripe_in_which_a_parent_was_asked_for(is_small):
    stripes = place(1)
    stripes.asked[0] = (peer(1), 5.0)
    assert not stripes.would_feed(0, room=9, interior_max=9, is_small=is_small)
    assert stripes.would_feed(1, room=9, interior_max=9, is_small=is_small)


def test_room_is_taken_once_for_each_child_and_stripe():
    stripes = place()
    stripes.adopt(peer(1), 0)
    stripes.adopt(peer(1), 1)
    assert not stripes.would_feed(0, room=2, interior_max=9, is_small=False)
    assert stripes.would_feed(0, room=3, interior_max=9, is_small=False)


def test_room_goes_to_the_stripes_that_have_children_already():
    stripes = place()
    stripes.adopt(peer(1), 2)
    welcome = [
        stripe for stripe in range(STRIPES) if stripes.would_feed(stripe, room=9, interior_max=1, is_small=False)
    ]
    assert welcome == [2]


@pytest.mark.parametrize("is_small", [True, False])
def test_a_parent_does_not_become_a_child_in_its_stripe(is_small):
    stripes = place(1)
    assert not stripes.may_adopt(peer(9), 0, room=9, interior_max=9, is_small=is_small)
    assert stripes.may_adopt(peer(1), 0, room=9, interior_max=9, is_small=is_small)


# --- children ---


edges = st.tuples(st.booleans(), st.integers(1, 5), st.integers(0, STRIPES - 1))


@given(st.lists(edges, max_size=40))
def test_children_are_counted_as_a_set_of_edges_would_count_them(changes):
    stripes, model = place(), set()
    for is_adoption, number, stripe in changes:
        if is_adoption:
            stripes.adopt(peer(number), stripe)
            model.add((number, stripe))
        else:
            stripes.let_go(peer(number), stripe)
            model.discard((number, stripe))
        stripes.check()
    assert stripes.edge_count == len(model)
    assert set(stripes.children) == {peer(number) for number, _ in model}
    for stripe in range(STRIPES):
        fed = {number for number, other in model if other == stripe}
        assert set(stripes.fed_in(stripe)) == set(map(peer, fed))
        assert stripes.interior().get(stripe, 0) == len(fed)


def test_an_orphan_lets_its_children_go_in_that_stripe_alone():
    stripes = place()
    for number, stripe in [(1, 0), (2, 0), (1, 1)]:
        stripes.adopt(peer(number), stripe)
    assert stripes.orphaned(0) == [peer(1), peer(2)]
    assert 0 not in stripes.parents
    assert stripes.children == {peer(1): {1: None}}
    stripes.check()


def test_the_check_sees_a_child_without_a_parent_above():
    stripes = place(None)
    stripes.adopt(peer(1), 0)
    with pytest.raises(InvariantViolated):
        stripes.check()


def test_the_check_sees_a_parent_that_is_a_child_in_the_same_stripe():
    stripes = place()
    stripes.adopt(peer(9), 0)
    with pytest.raises(InvariantViolated):
        stripes.check()


def test_a_source_feeds_without_a_parent():
    stripes = place(None, is_source=True)
    stripes.adopt(peer(1), 0)
    stripes.check()


def test_a_source_roots_the_first_of_its_stripes_that_has_no_root():
    stripes = place(None, is_source=True)
    own = range(1, STRIPES, 2)
    assert stripes.unassigned(own) == 1
    stripes.adopt(peer(1), 1)
    assert stripes.unassigned(own) == 3
    stripes.adopt(peer(2), 3)
    assert stripes.unassigned(own) is None


# --- parents ---


def test_a_neighbour_is_a_source_when_it_says_that_it_is_no_edge_below_one():
    assert heard((0,), (0, 1), (1,), ()).sources() == [peer(1)]


def test_the_least_deep_neighbours_are_candidates():
    assert heard((3,), (2,), (4,), (2,)).candidates(0, 0.0) == [peer(2), peer(4)]


def test_a_neighbour_is_a_candidate_in_the_stripes_that_it_feeds_in_alone():
    stripes = heard((2, 0, 1), (0,))
    assert [stripes.candidates(stripe, 0.0) for stripe in range(4)] == [[peer(1)], [], [peer(1)], []]


def test_a_neighbour_without_room_is_no_candidate():
    assert heard((1,), free=0).candidates(0, 0.0) == []


def test_a_neighbour_that_declined_is_no_candidate_in_that_stripe_for_a_while():
    stripes = heard((1, 1), (2, 2))
    stripes.declined[peer(1), 0] = 5.0
    assert stripes.candidates(0, 4.9) == [peer(2)]
    assert stripes.candidates(1, 4.9) == [peer(1)]
    assert stripes.candidates(0, 5.0) == [peer(1)]


@given(st.lists(st.lists(st.integers(0, 3), max_size=STRIPES).map(tuple), max_size=4))
def test_the_stripes_that_are_known_are_those_that_a_neighbour_is_in(depths_of):
    known = [stripe for stripe in range(STRIPES) if any(any(depths[stripe : stripe + 1]) for depths in depths_of)]
    assert heard(*depths_of).known_stripes() == known

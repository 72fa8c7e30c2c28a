"""Availability against a naive count of holders."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.errors import InvariantViolated
from shardcast_relay.availability import Availability

COUNT = 24
masks = st.integers(0, (1 << COUNT) - 1)


def bits(mask: int) -> set[int]:
    return {index for index in range(COUNT) if mask >> index & 1}


@given(st.lists(st.tuples(st.integers(0, 5), masks), max_size=30), masks)
def test_the_levels_are_what_a_naive_count_says(updates, candidates):
    availability, holders = Availability(), dict.fromkeys(range(6), 0)
    for holder, mask in updates:
        before = holders[holder]
        availability.remove(before & ~mask)
        availability.add(mask & ~before)
        holders[holder] = mask
        availability.check(holders.values())
    count = Counter(index for mask in holders.values() for index in bits(mask))
    assert bits(availability.held_by_anyone) == set(count)
    rarest = [bits(level) for level in availability.rarest(candidates)]
    found = [{i for i in bits(candidates) if count[i] == n} for n in sorted(set(count.values()))]
    assert rarest == [level for level in found if level]


@given(st.lists(masks, max_size=8))
def test_holders_that_all_leave_leave_nothing(holders):
    availability = Availability()
    for mask in holders:
        availability.add(mask)
    for mask in holders:
        availability.remove(mask)
    assert availability.levels == [0]


def test_taking_a_chunk_from_somebody_who_lacks_it_is_our_bug():
    availability = Availability()
    availability.add(0b01)
    with pytest.raises(InvariantViolated):
        availability.remove(0b10)


def test_the_check_sees_a_wrong_count():
    availability = Availability()
    availability.add(0b11)
    with pytest.raises(InvariantViolated):
        availability.check([0b01])

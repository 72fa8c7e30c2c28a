"""One blob's bookkeeping: what is left to the trees, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_relay.transfer import Transfer

from .parts import BLOB, CHUNK, peer

COUNT = 8


def transfer(mask: int = 0) -> Transfer:
    return Transfer(BLOB, chunk_count=COUNT, chunk_bytes=CHUNK, mask=mask, priority=0)


def hold(blob: Transfer, mask: int, number: int = 1) -> None:
    """Let a neighbour say that it holds these chunks too."""
    blob.holder_has(peer(number), mask, is_snapshot=False)


def test_chunks_ripen_when_neighbours_have_held_them_for_the_grace():
    blob = transfer()
    hold(blob, 0b01)
    assert blob.ripen(10.0, 2.0) == 12.0
    assert blob.ripe == 0
    hold(blob, 0b10)
    assert blob.ripen(11.0, 2.0) == 12.0
    assert blob.ripen(12.0, 2.0) == 13.0
    assert blob.ripe == 0b01
    assert blob.ripen(13.0, 2.0) is None
    assert blob.ripe == 0b11


def test_without_a_grace_chunks_are_ripe_at_once():
    blob = transfer()
    hold(blob, 0b101)
    assert blob.ripen(10.0, 0.0) is None
    assert blob.ripe == 0b101


def test_a_chunk_ripens_from_the_first_neighbour_that_held_it():
    blob = transfer()
    hold(blob, 0b1)
    blob.ripen(10.0, 2.0)
    hold(blob, 0b1, number=2)
    blob.ripen(11.9, 2.0)
    assert blob.ripen(12.0, 2.0) is None
    assert blob.ripe == 0b1


def test_a_transfer_ends_when_nothing_is_missing_that_no_neighbour_holds():
    blob = transfer(0b0000_0011)
    hold(blob, 0b0111_1100)
    assert not blob.is_ending
    hold(blob, 0b1000_0000, number=2)
    assert blob.is_ending


def test_what_the_trees_bring_last_ripens_first_at_the_end():
    blob = transfer(0b1000_0001)
    hold(blob, 0b1111_1111)
    blob.ripen_last(2)
    assert blob.ripe == 0b0110_0000
    blob.ripen_last(0)
    blob.ripen_last(-1)
    assert blob.ripe == 0b0110_0000
    blob.ripen_last(COUNT)
    assert blob.ripe == 0b0111_1110


def test_what_a_source_alone_holds_does_not_ripen_at_the_end():
    blob = transfer()
    blob.followers[peer(1)] = None
    hold(blob, 0b1111_1111, number=1)
    hold(blob, 0b0000_1111, number=2)
    blob.ripen_last(COUNT)
    assert blob.ripe == 0b0000_1111


def test_what_a_parent_leaves_out_is_held_by_it_and_ripe():
    blob = transfer()
    blob.holder_omits(peer(1), 0b100)
    assert (blob.ripe, blob.holders[peer(1)]) == (0b100, 0b100)
    blob.check(0)


def test_what_nobody_holds_never_ripens():
    blob = transfer()
    assert blob.ripen(10.0, 0.0) is None
    assert blob.ripe == 0


def test_trees_that_feed_us_no_more_make_everything_ripe():
    blob = transfer()
    hold(blob, 0b1)
    blob.ripen(10.0, 8.0)
    blob.ripen(10.1, 0.0)
    assert blob.ripe == 0b1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, (1 << COUNT) - 1)), max_size=20), st.integers(0, 6))
def test_chunks_are_ripe_exactly_when_the_grace_since_they_were_first_seen_is_over(words, grace_s):
    blob, now_s = transfer(), 0
    seen_s: dict[int, int] = {}
    for pause_s, mask in words:
        now_s += pause_s
        hold(blob, mask)
        for index in range(COUNT):
            if mask >> index & 1:
                seen_s.setdefault(index, now_s)
        next_s = blob.ripen(now_s, grace_s)
        unripe = [at_s + grace_s for at_s in seen_s.values() if at_s + grace_s > now_s]
        assert next_s == min(unripe, default=None)
        ripe = {index for index, at_s in seen_s.items() if at_s + grace_s <= now_s}
        assert {index for index in range(COUNT) if blob.ripe >> index & 1} == ripe


# --- how long the trees take ---


def test_the_lag_of_the_trees_is_the_time_that_a_neighbour_held_the_chunk_before():
    blob = transfer()
    hold(blob, 0b1)
    blob.ripen(10.0, 8.0)
    blob.push_came(0, 13.0)
    assert blob.push_lag_s == 3.0


def test_a_chunk_that_no_neighbour_held_before_the_push_has_no_lag():
    blob = transfer()
    blob.push_came(0, 13.0)
    assert blob.push_lag_s == 0.0


def test_a_great_lag_is_forgotten_slowly():
    blob = transfer()
    hold(blob, 0b1)
    blob.ripen(10.0, 8.0)
    blob.push_came(0, 14.0)
    lags_s = []
    for _ in range(70):
        blob.push_came(1, 15.0)
        lags_s.append(blob.push_lag_s)
    assert lags_s == sorted(lags_s, reverse=True)
    assert lags_s[0] > 3.9 and lags_s[-1] == pytest.approx(2.0, rel=0.02)


def test_a_greater_lag_counts_at_once():
    blob = transfer()
    blob.push_lag_s = 1.0
    hold(blob, 0b1)
    blob.ripen(10.0, 8.0)
    blob.push_came(0, 15.0)
    assert blob.push_lag_s == 5.0


# --- what others may know ---


def test_nothing_is_shown_of_what_is_withheld():
    blob = transfer(0b11111111)
    blob.is_withheld = True
    assert blob.shown == 0
    blob.is_withheld = False
    assert blob.shown == blob.full()


def test_a_holder_that_leaves_is_told_nothing_more():
    blob = transfer()
    for peers in (blob.listeners, blob.followers, blob.answered, blob.unanswered):
        peers[peer(1)] = None
    hold(blob, 0b1)
    blob.holder_left(peer(1))
    assert not (blob.listeners or blob.followers or blob.answered or blob.unanswered or blob.holders)
    assert blob.availability.held_by_anyone == 0

"""The choice of a source by estimated time of arrival."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_relay import RelayConfig
from shardcast_relay.bandwidth import RateEstimate
from shardcast_relay.reputation import Reputation
from shardcast_relay.selection import Source, choose_source

from .parts import CHUNK, peer

CONFIG = RelayConfig()
CERTAIN = RelayConfig(exploration=0.0)
MB = 1_000_000


def source(
    number: int = 1, *, rate: float = 8 * MB, rtt_s: float = 0.05, owed_bytes: int = 0, fetch_count: int = 0
) -> Source:
    estimate = RateEstimate(CONFIG)
    estimate.mean, estimate.rtt_s = rate, rtt_s
    return Source(peer(number), (f"serve/{number}",), estimate, Reputation(CONFIG), owed_bytes, fetch_count)


def winner(*sources: Source, config: RelayConfig = CERTAIN) -> Source:
    return choose_source(sources, CHUNK, config, random.Random(1))


BETTER = {
    "a faster peer": (source(1, rate=9 * MB), source(2, rate=8 * MB)),
    "a nearer peer": (source(1, rtt_s=0.01), source(2, rtt_s=0.2)),
    "a peer that owes less": (source(1, owed_bytes=0), source(2, owed_bytes=MB)),
    "an idle slow peer before a loaded fast one": (source(1, rate=4 * MB), source(2, rate=8 * MB, owed_bytes=10 * MB)),
}


@pytest.mark.parametrize(("better", "worse"), BETTER.values(), ids=BETTER.keys())
def test_the_earliest_arrival_wins(better, worse):
    assert winner(better, worse) is better
    assert winner(worse, better) is better


def test_a_peer_that_often_fails_loses_against_a_slower_one_that_does_not():
    unreliable, steady = source(1, rate=10 * MB), source(2, rate=8 * MB)
    for _ in range(5):
        unreliable.reputation.failed(0.0)
    assert winner(unreliable, steady) is steady


@given(st.integers(0, 50 * MB), st.integers(1, 8 * MB))
def test_more_bytes_never_arrive_earlier(owed, size):
    assert source(owed_bytes=owed).eta_s(size) >= source(owed_bytes=owed // 2).eta_s(size // 2) > 0


def test_now_and_then_a_peer_is_taken_blindly():
    rng = random.Random(1)
    fast, slow = source(1, rate=50 * MB), source(2, rate=MB)
    taken = Counter(choose_source([fast, slow], CHUNK, CONFIG, rng).peer for _ in range(4000))
    share = taken[slow.peer] / 4000
    assert CONFIG.exploration / 4 < share < CONFIG.exploration


def test_not_everybody_crowds_to_the_one_that_looks_best():
    rng = random.Random(1)
    sources = [source(number, rate=(number + 1) * MB) for number in range(8)]
    taken = Counter(choose_source(sources, CHUNK, CERTAIN, rng).peer for _ in range(1000))
    assert 300 < taken[peer(7)] < 450  # the best is among 3 sampled of 8 in 3/8 of the draws
    assert taken[peer(0)] == 0


def test_the_only_holder_is_taken():
    one = source()
    assert winner(one) is one


@pytest.mark.parametrize("chunk_bytes", [CHUNK, 8 * 1024 * 1024])
@given(rate=st.floats(0, 1e10), rtt_s=st.floats(0, 2))
def test_a_window_holds_two_runs_or_a_long_one_and_is_bounded(chunk_bytes, rate, rtt_s):
    one = source(rate=rate, rtt_s=rtt_s)
    run_bytes = one.run_chunks(CONFIG, chunk_bytes) * chunk_bytes
    assert chunk_bytes <= run_bytes <= max(CONFIG.run_bytes_max, chunk_bytes)
    least = run_bytes if run_bytes >= one.rate.bytes_per_s * CONFIG.window_run_s else 2 * run_bytes
    assert least <= one.window_bytes(CONFIG, chunk_bytes) <= max(CONFIG.window_bytes_max, least)


@given(st.integers(0, 30), st.floats(1e4, 1e9))
def test_a_run_never_bursts_the_window(owed_chunks, rate):
    one = source(rate=rate, owed_bytes=owed_chunks * CHUNK)
    if one.has_room(CONFIG, CHUNK):
        run_bytes = one.run_max(CONFIG, CHUNK) * CHUNK
        assert 0 < run_bytes <= one.window_bytes(CONFIG, CHUNK) - one.owed_bytes


def test_less_room_than_a_run_is_no_room():
    one = source(rate=8 * MB)
    window, run_bytes = one.window_bytes(CONFIG, CHUNK), one.run_chunks(CONFIG, CHUNK) * CHUNK
    one.owed_bytes = window - run_bytes
    assert one.has_room(CONFIG, CHUNK)
    one.owed_bytes += CHUNK
    assert not one.has_room(CONFIG, CHUNK)


def test_a_peer_has_no_room_for_more_fetches_than_the_limit():
    assert source(fetch_count=CONFIG.fetches_per_peer_max - 1).has_room(CONFIG, CHUNK)
    assert not source(fetch_count=CONFIG.fetches_per_peer_max).has_room(CONFIG, CHUNK)


def test_a_peer_whose_last_fetch_failed_is_tried_with_one():
    one = source(fetch_count=1)
    one.reputation.failed(0.0)
    assert not one.has_room(CONFIG, CHUNK)
    one.reputation.succeeded()
    assert one.has_room(CONFIG, CHUNK)


def test_each_failure_in_a_row_doubles_the_deadline_a_few_times():
    one, spans = source(), []
    for _ in range(5):
        spans.append(one.deadline_s(CONFIG, 0.1))
        one.reputation.failed(0.0)
    assert spans == [15.0, 30.0, 60.0, 120.0, 120.0]
    assert source().deadline_s(CONFIG, 10.0) == 80.0

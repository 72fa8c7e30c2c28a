"""The token bucket on a clock that only moves when a test moves it."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.http.bucket import TokenBucket
from shardcast_proto.errors import ConfigError

KIB = 1024


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_long_upload_runs_at_the_rate_within_a_thousandth():
    clock = Clock()
    bucket = TokenBucket(10e6, clock=clock)
    total = 0
    started = clock.now_s
    while total < 1e9:
        clock.now_s += bucket.reserve(bucket.slice_bytes)
        total += bucket.slice_bytes
    assert total / (clock.now_s - started) == pytest.approx(10e6, rel=1e-3)


def test_a_wake_up_that_comes_late_is_made_up_for():
    clock = Clock()
    bucket = TokenBucket(10e6, clock=clock)
    total = 0
    started = clock.now_s
    while total < 100e6:
        delay_s = bucket.reserve(100_000)
        clock.now_s += delay_s + (0.005 if delay_s else 0.0)
        total += 100_000
    assert total / (clock.now_s - started) == pytest.approx(10e6, rel=0.01)


@given(
    steps=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 256 * KIB)), min_size=1, max_size=60),
    rate=st.floats(1e4, 1e9),
)
def test_no_span_of_time_lets_more_go_than_the_rate_and_one_burst(steps, rate):
    clock = Clock()
    bucket = TokenBucket(rate, clock=clock)
    burst = max(256 * KIB, rate * 0.02)
    departures = []
    for pause_s, size in steps:
        clock.now_s += pause_s
        departures.append((clock.now_s + bucket.reserve(size), size))
    for first in range(len(departures)):
        sent = 0
        for at_s, size in departures[first:]:
            sent += size
            allowed = rate * (at_s - departures[first][0]) + burst + 256 * KIB
            assert sent <= allowed * (1 + 1e-6)


def test_callers_are_served_in_the_order_they_came():
    clock = Clock()
    bucket = TokenBucket(1e6, clock=clock)
    delays = [bucket.reserve(100_000) for _ in range(20)]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx((20 * 100_000 - 256 * KIB) / 1e6)


def test_a_pause_saves_up_one_burst_and_no_more():
    clock = Clock()
    bucket = TokenBucket(1e6, clock=clock)
    clock.now_s += 3600
    assert bucket.reserve(256 * KIB) == 0.0
    assert bucket.reserve(100_000) == pytest.approx(0.1)


def test_bytes_that_do_not_leave_are_given_back():
    clock = Clock()
    bucket = TokenBucket(1e6, clock=clock)
    bucket.reserve(256 * KIB)
    bucket.reserve(500_000)
    bucket.refund(500_000)
    assert bucket.reserve(100_000) == pytest.approx(0.1)


async def test_a_cancelled_upload_gives_its_bytes_back():
    clock = Clock()
    bucket = TokenBucket(1e6, clock=clock)
    bucket.reserve(256 * KIB)
    waiting = asyncio.create_task(bucket.take(3_600_000_000))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert bucket.reserve(100_000) == pytest.approx(0.1)


async def test_without_a_rate_nothing_waits():
    bucket = TokenBucket(None)
    started = time.monotonic()
    for _ in range(1000):
        await bucket.take(1 << 30)
    assert time.monotonic() - started < 5


def test_a_new_rate_holds_from_the_next_reservation():
    clock = Clock()
    bucket = TokenBucket(1e6, clock=clock)
    bucket.reserve(256 * KIB)
    bucket.set_rate(2e6)
    assert bucket.reserve(200_000) == pytest.approx(0.1)
    bucket.set_rate(None)
    assert bucket.reserve(1 << 30) == 0.0


def test_an_uplink_gives_payload_nineteen_twentieths_of_its_bits():
    assert TokenBucket.for_uplink(100).rate_bytes_per_s == pytest.approx(11_875_000)
    assert TokenBucket.for_uplink(None).rate_bytes_per_s is None


@pytest.mark.parametrize(
    ("mbps", "slice_bytes"), [(1, 16 * KIB), (100, 118_750), (10_000, 256 * KIB), (None, 1024 * KIB)]
)
def test_a_slice_is_about_ten_milliseconds_of_the_rate_within_bounds(mbps, slice_bytes):
    assert TokenBucket.for_uplink(mbps).slice_bytes == slice_bytes


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError):
        TokenBucket(rate)

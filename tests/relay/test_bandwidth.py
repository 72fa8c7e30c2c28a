"""The estimate of how fast one peer delivers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_relay import RelayConfig
from shardcast_relay.bandwidth import RateEstimate

CONFIG = RelayConfig()
MB = 1_000_000


def measured(*rates: float) -> RateEstimate:
    """Return an estimate that has seen one second at each of these rates."""
    estimate = RateEstimate(CONFIG)
    for rate in rates:
        estimate.fetch_started(0.0)
        estimate.bytes_arrived(int(rate), 1.0)
        estimate.fetch_ended(1.0, failed=False, others=0)
    return estimate


def test_a_peer_that_nobody_has_measured_gets_the_prior():
    assert RateEstimate(CONFIG).bytes_per_s == CONFIG.rate_prior_bytes_per_s


def test_the_first_sample_is_the_mean():
    assert measured(3 * MB).mean == 3 * MB


def test_bytes_of_several_fetches_are_summed_over_the_time_that_any_was_under_way():
    estimate = RateEstimate(CONFIG)
    estimate.fetch_started(0.0)
    for now_s in (0.05, 0.10, 0.15, 0.20):
        estimate.bytes_arrived(MB, now_s)
    assert estimate.mean == pytest.approx(20 * MB)


def test_a_short_fetch_is_a_sample_when_it_ends():
    estimate = RateEstimate(CONFIG)
    estimate.fetch_started(0.0)
    estimate.bytes_arrived(MB, 0.1)
    assert estimate.mean is None
    estimate.fetch_ended(0.1, failed=False, others=0)
    assert estimate.mean == pytest.approx(10 * MB)


@given(st.floats(0.001, 60), st.integers(0, 10 * MB), st.integers(0, 3))
def test_a_failure_is_never_a_sample(elapsed_s, size, others):
    estimate = measured(MB)
    estimate.fetch_started(10.0)
    if elapsed_s < CONFIG.rate_sample_s:
        estimate.bytes_arrived(size, 10.0 + elapsed_s)
    estimate.fetch_ended(10.0 + elapsed_s, failed=True, others=others)
    assert (estimate.mean, estimate.variance) == (MB, 0.0)


def test_the_time_before_a_failure_is_not_counted_against_what_comes_after_it():
    estimate = RateEstimate(CONFIG)
    estimate.fetch_started(0.0)
    estimate.fetch_ended(30.0, failed=True, others=1)
    estimate.bytes_arrived(MB, 31.0)
    assert estimate.mean == pytest.approx(MB)


def test_idle_time_is_not_counted():
    estimate = measured(MB)
    estimate.fetch_started(100.0)
    estimate.bytes_arrived(MB, 101.0)
    assert estimate.mean == pytest.approx(MB)


def test_a_peer_that_varies_is_reckoned_slower_than_one_that_does_not():
    assert measured(MB, 3 * MB, MB, 3 * MB).bytes_per_s < measured(2 * MB, 2 * MB, 2 * MB, 2 * MB).bytes_per_s


@pytest.mark.parametrize(
    ("advertised", "rate"),
    [(0, MB), (MB // 2, MB), (MB, MB), (int(1.1 * MB), 1.1 * MB), (2**63 - 1, CONFIG.advertised_trust * MB)],
)
def test_what_a_peer_says_of_itself_counts_a_little_above_what_was_measured(advertised, rate):
    estimate = measured(MB)
    estimate.advertised = advertised
    assert estimate.bytes_per_s == pytest.approx(rate)


@pytest.mark.parametrize(("advertised", "rate"), [(MB, MB), (2**63 - 1, CONFIG.rate_prior_bytes_per_s)])
def test_an_unmeasured_peer_can_make_itself_slower_than_the_prior_but_not_faster(advertised, rate):
    estimate = RateEstimate(CONFIG)
    estimate.advertised = advertised
    assert estimate.bytes_per_s == rate


@given(st.lists(st.floats(0, 1e9), max_size=20), st.integers(0, 2**63 - 1))
def test_a_rate_never_falls_below_the_floor(rates, advertised):
    estimate = measured(*rates)
    estimate.advertised = advertised
    assert estimate.bytes_per_s >= CONFIG.rate_floor_bytes_per_s
    assert estimate.variance >= 0


def test_the_time_to_the_first_byte_is_smoothed():
    estimate = RateEstimate(CONFIG)
    for _ in range(30):
        estimate.first_byte_arrived(0.2)
    assert estimate.rtt_s == pytest.approx(0.2, rel=0.01)

"""What is remembered of peers: reputation, quarantine, and what is forgotten first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_relay import RelayConfig
from shardcast_relay.ledger import Ledger
from shardcast_relay.reputation import Reputation

from .parts import peer

CONFIG = RelayConfig()


def test_a_quarantine_doubles_with_each_further_incident_up_to_its_maximum():
    reputation, now_s, spans = Reputation(CONFIG), 0.0, []
    for _ in range(8):
        reputation.sent_bad_chunk(now_s)
        spans.append(reputation.quarantined_until_s - now_s)
        now_s = reputation.quarantined_until_s
    assert spans == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]


def test_bad_chunks_that_were_under_way_together_are_one_incident():
    reputation = Reputation(CONFIG)
    for now_s in (0.0, 0.1, 5.0):
        reputation.sent_bad_chunk(now_s)
    assert (reputation.quarantined_until_s, reputation.bad_chunks) == (60.0, 1)


def test_a_quarantined_peer_is_refused_until_its_time_is_over():
    reputation = Reputation(CONFIG)
    reputation.sent_bad_chunk(10.0)
    assert reputation.is_quarantined(69.9) and not reputation.is_usable(69.9)
    assert not reputation.is_quarantined(70.0) and reputation.is_usable(70.0)


def test_a_pause_doubles_with_failures_in_a_row_and_a_success_ends_the_row():
    reputation, pauses = Reputation(CONFIG), []
    for now_s in range(0, 700, 100):
        reputation.failed(now_s)
        pauses.append(reputation.paused_until_s - now_s)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    reputation.succeeded()
    reputation.failed(1000.0)
    assert reputation.paused_until_s == 1000.5


def test_a_failure_never_shortens_a_pause():
    reputation = Reputation(CONFIG)
    reputation.pause(0.0, 10.0)
    reputation.failed(0.0)
    assert reputation.paused_until_s == 10.0


@given(st.lists(st.booleans(), max_size=300))
def test_the_success_rate_stays_between_0_and_1_and_its_memory_is_bounded(outcomes):
    reputation = Reputation(CONFIG)
    for outcome in outcomes:
        reputation.succeeded() if outcome else reputation.failed(0.0)
        assert 0 < reputation.success_rate < 1
        assert reputation.successes + reputation.failures <= 65


def test_old_conduct_fades():
    reputation = Reputation(CONFIG)
    for _ in range(500):
        reputation.failed(0.0)
    for _ in range(100):
        reputation.succeeded()
    assert reputation.success_rate > 0.75


def test_the_ledger_forgets_the_oldest_unblemished_stranger_first():
    ledger = Ledger(RelayConfig(peer_records_max=3), {peer(0)})
    for number in range(4):
        ledger.reputation(peer(number))
    ledger.reputation(peer(1)).sent_bad_chunk(0.0)
    ledger.reputation(peer(4))
    assert list(ledger.reputations) == [peer(number) for number in (0, 1, 3, 4)]


def test_a_flood_of_new_peers_does_not_wash_away_a_quarantine_or_a_neighbour():
    ledger = Ledger(RelayConfig(peer_records_max=10), {peer(0)})
    ledger.reputation(peer(0)).succeeded()
    ledger.rate(peer(0)).advertised = 7
    ledger.reputation(peer(1)).sent_bad_chunk(0.0)
    for number in range(2, 200):
        ledger.reputation(peer(number))
        ledger.rate(peer(number))
    assert len(ledger.reputations) <= 11 and len(ledger.rates) <= 11
    assert ledger.quarantined_until_s(peer(1)) == 60.0
    assert ledger.reputation(peer(0)).successes == 1
    assert ledger.rate(peer(0)).advertised == 7


def test_asking_for_a_quarantine_opens_no_record():
    ledger = Ledger(CONFIG, set())
    assert ledger.quarantined_until_s(peer(1)) == 0.0
    assert not ledger.reputations


@pytest.mark.parametrize("number", [1, 2])
def test_a_record_is_kept_between_two_looks(number):
    ledger = Ledger(CONFIG, set())
    assert ledger.reputation(peer(number)) is ledger.reputation(peer(number))
    assert ledger.rate(peer(number)) is ledger.rate(peer(number))

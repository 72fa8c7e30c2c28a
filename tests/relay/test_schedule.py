"""The order of requests: rarest first, in runs, hedged at the end."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_relay import RelayConfig
from shardcast_relay.bandwidth import RateEstimate
from shardcast_relay.fetches import Fetch, FetchTable
from shardcast_relay.randomness import random_bit
from shardcast_relay.reputation import Reputation
from shardcast_relay.schedule import next_hedge, next_request
from shardcast_relay.selection import Source
from shardcast_relay.transfer import Transfer

from .parts import BLOB, CHUNK, peer

CONFIG = RelayConfig()
COUNT = 40


def source(number: int, *, fetch_count: int = 0, rate: float = 50e6) -> Source:
    estimate = RateEstimate(CONFIG)
    estimate.mean = rate
    return Source(peer(number), (f"serve/{number}",), estimate, Reputation(CONFIG), 0, fetch_count)


def transfer(holders: dict[int, int], *, have: int = 0, count: int = COUNT) -> Transfer:
    """A blob with these holders."""
    value = Transfer(BLOB, chunk_count=count, chunk_bytes=CHUNK, mask=have, priority=0)
    for number, mask in holders.items():
        value.holder_has(peer(number), mask, is_snapshot=True)
    return value


def bits(first: int, count: int) -> int:
    return ((1 << count) - 1) << first


def test_the_rarest_chunk_is_asked_for_first():
    blob = transfer({1: bits(0, 40), 2: bits(0, 40) ^ bits(17, 1), 3: bits(0, 40) ^ bits(17, 1)})
    request = next_request(blob, [source(n) for n in (1, 2, 3)], CONFIG, random.Random(1))
    assert request is not None
    assert request.source.peer == peer(1)
    assert request.mask & bits(17, 1)


@given(
    st.dictionaries(st.integers(1, 5), st.integers(0, bits(0, COUNT))), st.integers(0, bits(0, COUNT)), st.integers()
)
def test_a_request_asks_its_source_for_wanted_chunks_in_one_block_around_one_of_the_rarest(holders, have, seed):
    blob = transfer(holders, have=have)
    request = next_request(blob, [source(number) for number in holders], CONFIG, random.Random(seed))
    wanted = [index for index in range(COUNT) if blob.wanted >> index & 1]
    counts = {index: sum(mask >> index & 1 for mask in holders.values()) for index in wanted}
    reachable = {index: count for index, count in counts.items() if count}
    assert (request is None) is (not reachable)
    if request is not None:
        asked = range(request.first, request.first + request.count)
        assert min(reachable.values()) in {reachable[index] for index in asked}
        assert all(blob.holders[request.source.peer] >> index & 1 for index in asked)
        assert request.mask == bits(request.first, request.count)
        block = 1 << request.source.run_max(CONFIG, CHUNK).bit_length() - 1
        assert request.first // block == (request.first + request.count - 1) // block


def test_a_run_takes_in_the_chunks_before_the_one_that_was_drawn():
    class Last(random.Random):
        def randrange(self, *args: Any, **_: Any) -> int:
            return int(args[-1]) - 1

    request = next_request(transfer({1: bits(4, 4)}), [source(1)], CONFIG, Last())
    assert request is not None
    assert (request.first, request.count) == (4, 4)


def test_neighbouring_chunks_are_asked_for_in_one_run():
    class First(random.Random):
        def randrange(self, *_: object, **__: object) -> int:
            return 0

    request = next_request(transfer({1: bits(3, 5)}), [source(1)], CONFIG, First())
    assert request is not None
    assert (request.first, request.count) == (3, 5)


def test_a_peer_without_room_is_not_asked():
    full = source(1, fetch_count=CONFIG.fetches_per_peer_max)
    assert next_request(transfer({1: bits(0, 40)}), [full], CONFIG, random.Random(1)) is None


def test_a_chunk_whose_holders_are_busy_does_not_keep_others_waiting():
    blob = transfer({1: bits(0, 40), 2: bits(0, 39), 3: bits(0, 39)})
    ready = [source(2), source(3), source(1, fetch_count=CONFIG.fetches_per_peer_max)]
    request = next_request(blob, ready, CONFIG, random.Random(1))
    assert request is not None
    assert request.first < 39


@given(st.integers(1, 2**80), st.integers())
def test_a_random_bit_is_a_set_bit(mask, seed):
    assert mask >> random_bit(mask, random.Random(seed)) & 1


def test_every_set_bit_is_drawn_sometimes():
    mask, rng = 0b1010_0000_0001, random.Random(1)
    assert {random_bit(mask, rng) for _ in range(300)} == {0, 9, 11}


# --- hedges ---


def tail(count: int = COUNT, *, remaining: int = bits(0, 3), holders: int = 2) -> tuple[Transfer, FetchTable, Fetch]:
    """A blob of which everything but one slow fetch of peer 1 is here; others hold all of it."""
    blob = transfer(dict.fromkeys(range(1, holders + 1), bits(0, count)), have=bits(0, count) & ~remaining, count=count)
    blob.wanted = 0
    table = FetchTable()
    fetch = Fetch(table.next_id(), peer(1), BLOB, remaining, CHUNK, 0.0, 15.0, 0.1)
    table.add(fetch)
    return blob, table, fetch


def sources(*numbers: int) -> list[Source]:
    return [source(number) for number in numbers]


def test_a_slow_fetch_at_the_end_is_asked_for_again_elsewhere():
    blob, table, fetch = tail(100)
    found = next_hedge(blob, sources(1, 2), table, CONFIG, now_s=1.0)
    assert found is not None
    assert found[0] is fetch
    assert (found[1].source.peer, found[1].first, found[1].is_hedge) == (peer(2), 0, True)


def test_a_hedge_stays_within_its_share_of_the_blob():
    blob, table, _ = tail(100, remaining=bits(0, 50))
    found = next_hedge(blob, sources(1, 2), table, CONFIG, now_s=1.0)
    assert found is not None and found[1].count == 4  # 3 % of 100, and one
    blob.hedged_count = 4
    assert next_hedge(blob, sources(1, 2), table, CONFIG, now_s=1.0) is None


def test_a_small_blob_may_hedge_one_chunk():
    blob, table, _ = tail(8)
    found = next_hedge(blob, sources(1, 2), table, CONFIG, now_s=1.0)
    assert found is not None and found[1].count == 1


@pytest.mark.parametrize("flag", ["is_hedge", "is_hedged", "is_cancelled", "is_object"])
def test_a_fetch_that_is_or_has_a_hedge_is_not_hedged(flag):
    blob, table, fetch = tail()
    setattr(fetch, flag, True)
    assert next_hedge(blob, sources(1, 2), table, CONFIG, now_s=1.0) is None


def test_a_fetch_whose_chunks_came_from_elsewhere_is_not_hedged():
    blob, table, _ = tail()
    blob.chunks_found(bits(0, 3))
    assert next_hedge(blob, sources(1, 2), table, CONFIG, now_s=1.0) is None


def test_nothing_is_hedged_while_something_is_wanted():
    blob, table, _ = tail()
    blob.wanted = bits(20, 1)
    assert next_hedge(blob, sources(1, 2), table, CONFIG, now_s=1.0) is None


def test_a_fetch_within_its_time_is_not_hedged():
    blob, table, _ = tail()
    assert next_hedge(blob, sources(1, 2), table, CONFIG, now_s=CONFIG.hedge_after_min_s) is None


def test_a_peer_is_not_hedged_with_itself():
    blob, table, _ = tail()
    assert next_hedge(blob, sources(1), table, CONFIG, now_s=1.0) is None


def test_the_most_overdue_fetch_is_hedged_first():
    blob, table, first = tail(remaining=bits(0, 6), holders=3)
    first.remaining = bits(0, 3)
    second = Fetch(table.next_id(), peer(2), BLOB, bits(3, 3), CHUNK, -1.0, 15.0, 0.1)
    table.add(second)
    found = next_hedge(blob, sources(1, 2, 3), table, CONFIG, now_s=2.0)
    assert found is not None and found[0] is second


def test_an_overdue_fetch_is_hedged_before_one_that_another_would_end_sooner():
    blob, table, overdue = tail(remaining=bits(0, 6), holders=3)
    overdue.remaining = bits(0, 3)
    slow = Fetch(table.next_id(), peer(2), BLOB, bits(3, 3), CHUNK, 0.0, 500.0, 100.0)
    table.add(slow)
    found = next_hedge(blob, [source(3)], table, CONFIG, now_s=2.0)
    assert found is not None and found[0] is overdue


def test_an_overdue_fetch_that_nobody_else_can_end_does_not_keep_others_from_their_hedge():
    blob, table, overdue = tail(remaining=bits(0, 6), holders=3)
    overdue.remaining = bits(0, 3)
    blob.holder_lacks(peer(3), bits(0, 3))
    slow = Fetch(table.next_id(), peer(2), BLOB, bits(3, 3), CHUNK, 0.0, 500.0, 100.0)
    table.add(slow)
    found = next_hedge(blob, [source(3)], table, CONFIG, now_s=2.0)
    assert found is not None and found[0] is slow

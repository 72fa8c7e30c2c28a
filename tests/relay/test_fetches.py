"""The table of fetches under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.errors import InvariantViolated
from shardcast_relay.fetches import Fetch, FetchTable

from .parts import BLOB, CHUNK, peer


def fetch(table: FetchTable, number: int = 1, mask: int = 0b111, *, is_object: bool = False) -> Fetch:
    entry = Fetch(table.next_id(), peer(number), BLOB, mask, CHUNK, 0.0, 15.0, 1.0, is_object=is_object)
    table.add(entry)
    return entry


def test_a_peer_owes_the_chunks_that_have_not_arrived():
    table = FetchTable()
    entry = fetch(table)
    assert (table.in_flight(peer(1)), table.count(peer(1)), table.total_bytes) == (3 * CHUNK, 1, 3 * CHUNK)
    assert table.chunk_arrived(entry, 1)
    assert table.in_flight(peer(1)) == 2 * CHUNK
    assert table.covering(BLOB) == 0b101


@pytest.mark.parametrize("index", [-1, 3, 10**6])
def test_a_chunk_that_was_not_asked_for_changes_nothing(index):
    table = FetchTable()
    assert not table.chunk_arrived(fetch(table), index)
    table.check()


def test_a_chunk_counts_once():
    table = FetchTable()
    entry = fetch(table)
    assert [table.chunk_arrived(entry, 0), table.chunk_arrived(entry, 0)] == [True, False]
    assert table.total_bytes == 2 * CHUNK


def test_a_fetch_ends_once():
    table = FetchTable()
    entry = fetch(table)
    assert table.end(entry.fetch_id) is entry
    assert table.end(entry.fetch_id) is None
    assert (table.total_bytes, len(table), table.count(peer(1))) == (0, 0, 0)


def test_an_object_is_owed_whole_and_covers_no_chunk():
    table = FetchTable()
    fetch(table, is_object=True, mask=0)
    assert (table.total_bytes, table.covering(BLOB)) == (CHUNK, 0)


def test_an_abandoned_fetch_is_owed_but_covers_no_chunk():
    table = FetchTable()
    fetch(table).is_abandoned = True
    assert (table.total_bytes, table.covering(BLOB)) == (3 * CHUNK, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 7)), max_size=40))
def test_the_sums_are_always_what_a_recount_says(steps):
    table = FetchTable()
    entries: list[Fetch] = []
    for action, number, index in steps:
        if action == 0 or not entries:
            entries.append(fetch(table, number, 0b1111 << number))
        elif action == 1:
            table.end(entries[index % len(entries)].fetch_id)
        else:
            entry = entries[index % len(entries)]
            if table.get(entry.fetch_id):
                table.chunk_arrived(entry, index)
        table.check()
    assert len({entry.fetch_id for entry in entries}) == len(entries)


def test_the_check_sees_a_wrong_sum():
    table = FetchTable()
    fetch(table).remaining = 0
    with pytest.raises(InvariantViolated):
        table.check()

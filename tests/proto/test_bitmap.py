"""Bitmaps, masks and runs against sets of chunk indices."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast_proto.bitmap import Bitmap, flatten, full_mask, mask_of_runs, runs_of, unflatten
from shardcast_proto.errors import LocalProtocolError, RemoteProtocolError
from shardcast_proto.limits import CHUNKS_MAX

COUNT_MAX = 300
masks = st.integers(0, full_mask(COUNT_MAX))
indices = st.sets(st.integers(0, COUNT_MAX - 1))


def mask_of(chunks: set[int]) -> int:
    return sum(1 << index for index in chunks)


@given(indices)
@example(set(range(8)))
@example({7, 8})
@example({COUNT_MAX - 1})
def test_runs_name_each_held_chunk_once_in_ascending_order(chunks):
    runs = runs_of(mask_of(chunks))
    assert [index for first, count in runs for index in range(first, first + count)] == sorted(chunks)


@given(masks)
def test_runs_are_maximal(mask):
    runs = runs_of(mask)
    assert all(first + count < following for (first, count), (following, _) in pairwise(runs))


@given(masks)
@example(full_mask(COUNT_MAX))
@example(0)
def test_a_mask_survives_its_runs(mask):
    assert mask_of_runs(runs_of(mask), COUNT_MAX) == mask


@given(masks)
def test_runs_survive_their_flat_wire_form(mask):
    runs = runs_of(mask)
    assert unflatten(flatten(runs)) == tuple(runs)


def test_touching_runs_are_one_run():
    assert runs_of(mask_of_runs([(0, 3), (3, 2)], 5)) == [(0, 5)]


@pytest.mark.parametrize(
    "runs",
    [
        [(0, 0)],
        [(0, -1)],
        [(-1, 2)],
        [(10, 1)],
        [(9, 2)],
        [(0, 11)],
        [(5, 1), (4, 1)],
        [(0, 3), (2, 2)],
        [(3, 1), (3, 1)],
        [(0, 2**63)],
        [(2**63, 1)],
    ],
)
def test_a_run_that_is_empty_out_of_order_or_out_of_range_is_refused(runs):
    with pytest.raises(RemoteProtocolError):
        mask_of_runs(runs, 10)


@given(st.lists(st.tuples(st.integers(-3, 40), st.integers(-3, 40)), max_size=6), st.integers(0, 40))
def test_runs_give_a_mask_within_the_count_or_are_refused(runs, count):
    try:
        mask = mask_of_runs(runs, count)
    except RemoteProtocolError:
        return
    assert 0 <= mask <= full_mask(count)
    assert mask.bit_count() == sum(length for _, length in runs)


@pytest.mark.parametrize("numbers", [[1], [1, 2, 3], [1, True], [1, -1], [1, "2"], [1, None], [1, [2]], [b"", 1]])
def test_a_flat_list_that_is_no_list_of_runs_is_refused(numbers):
    with pytest.raises(RemoteProtocolError):
        unflatten(numbers)


def test_the_worst_bitmap_of_the_largest_blob_survives_its_runs():
    mask = int.from_bytes(b"\x55" * (CHUNKS_MAX // 8), "little")
    runs = runs_of(mask)
    assert len(runs) == CHUNKS_MAX // 2
    assert mask_of_runs(runs, CHUNKS_MAX) == mask


@given(st.lists(st.integers(0, COUNT_MAX - 1)), masks)
def test_a_bitmap_is_a_set_of_indices(added, mask):
    bitmap, model = Bitmap(COUNT_MAX, mask), {i for i in range(COUNT_MAX) if mask >> i & 1}
    for index in added:
        assert bitmap.add(index) is (index not in model)
        model.add(index)
        assert bitmap.held == len(model)
    assert list(bitmap) == sorted(model)
    assert bitmap.missing == full_mask(COUNT_MAX) ^ mask_of(model)
    assert bitmap.is_complete is (len(model) == COUNT_MAX)
    assert all((index in bitmap) is (index in model) for index in range(-2, COUNT_MAX + 2))


@given(st.integers(0, COUNT_MAX), st.data())
def test_a_bitmap_survives_its_bytes(count, data):
    mask = data.draw(st.integers(0, full_mask(count)))
    assert Bitmap.from_bytes(count, Bitmap(count, mask).to_bytes()).mask == mask


@pytest.mark.parametrize(("count", "data"), [(8, b""), (8, b"\0\0"), (0, b"\0"), (7, b"\x80"), (9, b"\xff\x02")])
def test_bitmap_bytes_of_the_wrong_length_or_with_a_bit_too_many_are_refused(count, data):
    with pytest.raises(RemoteProtocolError):
        Bitmap.from_bytes(count, data)


def test_the_bitmap_of_nothing_is_complete():
    assert Bitmap(0).is_complete
    assert Bitmap(0).to_bytes() == b""


@pytest.mark.parametrize("index", [-1, 10, 2**40])
def test_adding_a_chunk_that_does_not_exist_is_our_bug(index):
    with pytest.raises(LocalProtocolError):
        Bitmap(10).add(index)


@pytest.mark.parametrize("mask", [-1, 1 << 10])
def test_a_mask_beyond_the_chunks_is_our_bug(mask):
    with pytest.raises(LocalProtocolError):
        Bitmap(10, mask)

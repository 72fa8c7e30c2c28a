"""The rule by which bytes are cut into chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.chunking import check_chunk_size, chunk_count, default_chunk_size
from shardcast_proto.errors import RemoteProtocolError
from shardcast_proto.limits import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKS_MAX, KIB, MIB

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("total", "size"),
    [
        (0, 256 * KIB),
        (1, 256 * KIB),
        (256 * MIB, 256 * KIB),
        (256 * MIB + 1, 512 * KIB),
        (512 * MIB, 512 * KIB),
        (1 * GIB, 1 * MIB),
        (3 * GIB, 4 * MIB),
        (8 * GIB, 8 * MIB),
        (8 * GIB + 1, 8 * MIB),
        (62 * GIB, 8 * MIB),
        (2 * 1024 * GIB, 8 * MIB),
    ],
)
def test_the_default_chunk_size_of_a_total(total, size):
    assert default_chunk_size(total) == size


@given(st.integers(0, 2**42))
def test_every_default_is_a_size_that_a_reader_accepts(total):
    assert check_chunk_size(default_chunk_size(total)) == default_chunk_size(total)


@given(st.integers(0, CHUNKS_MAX * CHUNK_BYTES_MAX))
def test_the_default_never_needs_more_chunks_than_a_blob_may_have(total):
    assert chunk_count(total, default_chunk_size(total)) <= CHUNKS_MAX


@given(st.integers(0, 2**42), st.integers(18, 23).map(lambda bits: 1 << bits))
def test_the_chunks_cover_the_bytes_with_no_chunk_to_spare(total, size):
    count = chunk_count(total, size)
    assert count * size >= total > (count - 1) * size or total == count == 0


@pytest.mark.parametrize("size", [-1, 0, 1, 128 * KIB, 384 * KIB, CHUNK_BYTES_MIN + 1, CHUNK_BYTES_MAX * 2, 2**64])
def test_a_chunk_size_that_is_no_power_of_two_in_range_is_refused(size):
    with pytest.raises(RemoteProtocolError):
        check_chunk_size(size)

"""The cutting of a stream into chunks."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.http.chunk_stream import ChunkSplitter, ChunkTaker, Segments


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 60), max_size=40),
    surplus=st.integers(0, 30),
)
def test_chunks_come_out_the_same_however_the_stream_was_cut(lengths, cuts, surplus):
    body = bytes(index % 256 for index in range(sum(lengths) + surplus))
    splitter = ChunkSplitter(lengths)
    chunks, rest = [], body
    for size in (*cuts, len(body)):
        piece, rest = rest[:size], rest[size:]
        chunks += [b"".join(segments) for segments in splitter.feed(piece)]
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    assert chunks == [body[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    assert splitter.surplus_bytes == surplus


def test_a_chunk_that_arrives_in_one_piece_is_not_copied():
    body = bytes(100)
    (segments,) = ChunkSplitter([60, 60]).feed(body)
    assert [segment.obj for segment in segments if isinstance(segment, memoryview)] == [body]


async def test_chunks_are_taken_in_order_one_at_a_time():
    running, seen = 0, []

    async def on_chunk(index: int, segments: Segments) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        seen.append(index)
        running -= 1

    taker = ChunkTaker(7, on_chunk)
    for _ in range(5):
        await taker.take([b"x"])
    await taker.finish()
    assert (seen, taker.taken_count) == ([7, 8, 9, 10, 11], 5)


async def test_the_next_chunk_may_come_in_while_one_is_being_taken():
    gate = asyncio.Event()

    async def on_chunk(index: int, segments: Segments) -> None:
        await gate.wait()

    taker = ChunkTaker(0, on_chunk)
    async with asyncio.timeout(5):
        await taker.take([b"x"])
    assert taker.taken_count == 0
    gate.set()
    await taker.finish()
    assert taker.taken_count == 1


async def test_a_chunk_that_is_refused_fails_the_next_call_and_does_not_count():
    async def on_chunk(index: int, segments: Segments) -> None:
        raise ValueError("not what was promised")

    taker = ChunkTaker(0, on_chunk)
    await taker.take([b"x"])
    with pytest.raises(ValueError, match="promised"):
        await taker.finish()
    assert taker.taken_count == 0


async def test_what_is_abandoned_is_cancelled_and_over():
    ended = []

    async def on_chunk(index: int, segments: Segments) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(index)

    taker = ChunkTaker(3, on_chunk)
    await taker.take([b"x"])
    await asyncio.sleep(0)
    await taker.abandon()
    assert (ended, taker.taken_count) == ([3], 0)

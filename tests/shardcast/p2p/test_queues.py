"""The queues between the two threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardcast.p2p.queues import Backlog, FrameQueue


def test_a_frame_counts_until_it_is_written() -> None:
    queue = FrameQueue(bytes_max=100, frames_max=10)
    assert queue.put(bytes(100))
    assert not queue.put(b"x")
    taken = queue.take(1000)
    assert not queue.put(b"x")
    queue.done(taken)
    assert queue.put(b"x")


def test_the_number_of_frames_is_bounded_too() -> None:
    queue = FrameQueue(bytes_max=100, frames_max=2)
    assert queue.put(b"a") and queue.put(b"b")
    assert not queue.put(b"c")


def test_a_closed_queue_takes_nothing() -> None:
    queue = FrameQueue(bytes_max=100, frames_max=2)
    queue.close()
    assert not queue.put(b"a")


def test_a_frame_over_the_aim_is_taken_alone() -> None:
    queue = FrameQueue(bytes_max=100, frames_max=9)
    for frame in (bytes(50), b"a", b"b", bytes(9), b"c"):
        assert queue.put(frame)
    assert [queue.take(10), queue.take(10), queue.take(10)] == [[bytes(50)], [b"a", b"b"], [bytes(9), b"c"]]
    assert queue.take(10) == []


@given(frames=st.lists(st.binary(min_size=1, max_size=20)), aim=st.integers(1, 50))
def test_frames_leave_in_the_order_in_which_they_came(frames: list[bytes], aim: int) -> None:
    queue = FrameQueue(bytes_max=10_000, frames_max=10_000)
    assert all(queue.put(frame) for frame in frames)
    left: list[bytes] = []
    while taken := queue.take(aim):
        assert len(taken) == 1 or sum(map(len, taken)) <= aim
        left += taken
    assert left == frames


def test_a_backlog_is_full_until_enough_was_seen() -> None:
    backlog = Backlog(10)
    seen = [backlog.is_full]
    backlog.put(10)
    seen.append(backlog.is_full)
    backlog.done(1)
    seen.append(backlog.is_full)
    assert seen == [False, True, False]

"""What waits for one child, against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from shardcast_relay.backlog import Backlog

from .parts import BLOB

SIZE = 100
OTHER = digest_of(b"other blob")
SIZES = {BLOB: SIZE, OTHER: 7}


def offer(backlog: Backlog, *indices: int, blob: Digest = BLOB, bytes_max: int = 10 * SIZE, count_min: int = 0) -> int:
    """Offer chunks of a blob; return how many of them wait now."""
    return sum(
        backlog.offer(blob, 0, index, size_bytes=SIZES[blob], bytes_max=bytes_max, count_min=count_min)
        for index in indices
    )


def drain(backlog: Backlog, blob: Digest = BLOB) -> list[int]:
    """Take all that waits of a blob."""
    taken = []
    while blob in backlog.waiting:
        taken.append(backlog.next(blob)[1])
    return taken


def test_what_waited_longest_goes_first():
    backlog = Backlog()
    offer(backlog, 5, 3, 4)
    assert drain(backlog) == [5, 3, 4]


def test_a_chunk_goes_by_the_stripe_it_came_by():
    backlog = Backlog()
    backlog.offer(BLOB, 6, 1, size_bytes=SIZE, bytes_max=SIZE, count_min=0)
    assert backlog.next(BLOB) == (6, 1)


def test_a_chunk_waits_once():
    backlog = Backlog()
    assert offer(backlog, 1, 1) == 1
    backlog.next(BLOB)
    assert offer(backlog, 1) == 0, "it was pushed"


def test_what_does_not_fit_is_counted_and_left_to_the_mesh():
    backlog = Backlog()
    assert offer(backlog, 0, 1, 2, 3, bytes_max=2 * SIZE) == 2
    assert drain(backlog) == [0, 1]
    assert backlog.overflow_count == 2


def test_what_did_not_fit_may_be_offered_again():
    backlog = Backlog()
    offer(backlog, 0, 1, bytes_max=SIZE)
    backlog.next(BLOB)
    assert offer(backlog, 1, bytes_max=SIZE) == 1


def test_a_few_chunks_wait_however_large_they_are():
    backlog = Backlog()
    assert offer(backlog, 0, 1, 2, bytes_max=0, count_min=2) == 2


def test_the_bound_is_for_all_blobs_together():
    backlog = Backlog()
    offer(backlog, 0, 1)
    assert offer(backlog, 0, blob=OTHER, bytes_max=2 * SIZE) == 0


def test_skip_drops_what_waits_and_keeps_it_from_being_offered_again():
    backlog = Backlog()
    offer(backlog, 0, 1, 2)
    backlog.skip(BLOB, 0b1010)
    assert drain(backlog) == [0, 2]
    assert offer(backlog, 1, 3) == 0


def test_a_blob_of_which_everything_is_skipped_waits_no_more():
    backlog = Backlog()
    offer(backlog, 0, 1)
    backlog.skip(BLOB, 0b11)
    assert (backlog.waiting, backlog.waiting_bytes, backlog.waiting_count) == ({}, 0, 0)


def test_a_blob_that_is_dropped_leaves_the_others():
    backlog = Backlog()
    offer(backlog, 0)
    offer(backlog, 0, blob=OTHER)
    backlog.drop(BLOB)
    assert list(backlog.waiting) == [OTHER]
    assert offer(backlog, 0) == 1


def test_a_lost_link_forgets_what_was_given():
    backlog = Backlog()
    offer(backlog, 0, 1)
    backlog.next(BLOB)
    backlog.link_lost()
    assert not backlog.waiting
    assert offer(backlog, 0, 1) == 2


def test_the_check_sees_a_wrong_sum():
    backlog = Backlog()
    offer(backlog, 0)
    backlog.waiting_bytes += 1
    with pytest.raises(InvariantViolated):
        backlog.check()


class AnyBacklog(RuleBasedStateMachine):
    """Offers, pushes, skips and losses in any order; what waits is a list of (blob, index)."""

    blobs = st.sampled_from([BLOB, OTHER])
    indices = st.integers(0, 6)

    @initialize(bytes_max=st.integers(0, 5 * SIZE), count_min=st.integers(0, 3))
    def begin(self, bytes_max: int, count_min: int) -> None:
        self.backlog = Backlog()
        self.bytes_max, self.count_min = bytes_max, count_min
        self.waiting: list[tuple[Digest, int]] = []
        self.given: set[tuple[Digest, int]] = set()
        self.refused = 0

    @rule(blob=blobs, index=indices)
    def offer(self, blob: Digest, index: int) -> None:
        waits = offer(self.backlog, index, blob=blob, bytes_max=self.bytes_max, count_min=self.count_min)
        fits = self.waiting_bytes + SIZES[blob] <= self.bytes_max or len(self.waiting) < self.count_min
        is_new = (blob, index) not in self.given
        assert bool(waits) is (is_new and fits)
        self.refused += is_new and not fits
        if waits:
            self.waiting.append((blob, index))
            self.given.add((blob, index))

    @rule(blob=blobs)
    def push(self, blob: Digest) -> None:
        if blob in self.backlog.waiting:
            first = next(item for item in self.waiting if item[0] == blob)
            assert self.backlog.next(blob) == (0, first[1])
            self.waiting.remove(first)

    @rule(blob=blobs, mask=st.integers(0, 127))
    def skip(self, blob: Digest, mask: int) -> None:
        self.backlog.skip(blob, mask)
        self.waiting = [(other, index) for other, index in self.waiting if other != blob or not mask >> index & 1]
        self.given |= {(blob, index) for index in range(7) if mask >> index & 1}

    @rule(blob=blobs)
    def drop(self, blob: Digest) -> None:
        self.backlog.drop(blob)
        self.waiting = [item for item in self.waiting if item[0] != blob]
        self.given = {item for item in self.given if item[0] != blob}

    @rule()
    def link_lost(self) -> None:
        self.backlog.link_lost()
        self.waiting, self.given = [], set()

    @property
    def waiting_bytes(self) -> int:
        return sum(SIZES[blob] for blob, _ in self.waiting)

    @invariant()
    def counts_are_those_of_the_list(self) -> None:
        if not hasattr(self, "backlog"):
            return
        self.backlog.check()
        assert self.backlog.waiting_bytes == self.waiting_bytes
        assert self.backlog.waiting_count == len(self.waiting)
        assert self.backlog.overflow_count == self.refused
        assert set(self.backlog.waiting) == {blob for blob, _ in self.waiting}


TestAnyBacklog = AnyBacklog.TestCase

"""The pushed chunks that are coming in."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from shardcast_proto.messages import Adopt, Done, Omit, Skip, Trees
from shardcast_relay import RelayConfig
from shardcast_relay.arrivals import Arrivals
from shardcast_relay.commands import Command
from shardcast_relay.events import BlobClosed, Outcome, PeerDisconnected, PushArrived, PushBegan, Ticked

from .parts import BLOB, CHUNK, Node, cancels, chunks, fetches, hangups, peer, sent

CONFIG = RelayConfig()
OTHER = digest_of(b"other blob")


def test_a_chunk_is_covered_from_its_header_to_its_end():
    arrivals = Arrivals()
    arrivals.began(peer(1), BLOB, 3, 0.0)
    assert (arrivals.covering(BLOB), arrivals.covering(OTHER)) == (0b1000, 0)
    assert arrivals.ended(peer(1), BLOB, 3)
    assert arrivals.covering(BLOB) == 0


def test_an_end_that_had_no_beginning_is_none():
    arrivals = Arrivals()
    arrivals.began(peer(1), BLOB, 3, 0.0)
    assert not arrivals.ended(peer(2), BLOB, 3)
    assert not arrivals.ended(peer(1), OTHER, 3)
    assert not arrivals.ended(peer(1), BLOB, 2)
    assert len(arrivals) == 1


def test_a_chunk_that_two_peers_bring_is_covered_until_both_have_ended():
    arrivals = Arrivals()
    arrivals.began(peer(1), BLOB, 0, 0.0)
    arrivals.began(peer(2), BLOB, 0, 1.0)
    arrivals.ended(peer(1), BLOB, 0)
    assert arrivals.covering(BLOB) == 0b1


def test_what_takes_too_long_is_given_up_once():
    arrivals = Arrivals()
    arrivals.began(peer(1), BLOB, 0, 0.0)
    assert arrivals.give_up_late(0.0) == []
    assert arrivals.give_up_late(0.1) == [(BLOB, 0)]
    assert arrivals.covering(BLOB) == 0
    assert arrivals.give_up_late(9.0) == []


def test_what_was_given_up_may_still_arrive():
    arrivals = Arrivals()
    arrivals.began(peer(1), BLOB, 0, 0.0)
    arrivals.give_up_late(1.0)
    assert arrivals.ended(peer(1), BLOB, 0)
    assert len(arrivals) == 0


def test_a_late_chunk_that_another_brings_is_not_given_up():
    arrivals = Arrivals()
    arrivals.began(peer(1), BLOB, 0, 0.0)
    arrivals.began(peer(2), BLOB, 0, 5.0)
    assert arrivals.give_up_late(1.0) == []
    assert arrivals.covering(BLOB) == 0b1
    assert arrivals.give_up_late(6.0) == [(BLOB, 0)]


def test_the_oldest_arrival_is_the_oldest_that_is_relied_on():
    arrivals = Arrivals()
    assert arrivals.oldest_s() is None
    arrivals.began(peer(1), BLOB, 0, 3.0)
    arrivals.began(peer(1), BLOB, 1, 2.0)
    assert arrivals.oldest_s() == 2.0
    arrivals.give_up_late(2.5)
    assert arrivals.oldest_s() == 3.0


def test_the_check_sees_a_mask_that_is_off():
    arrivals = Arrivals()
    arrivals.began(peer(1), BLOB, 0, 0.0)
    arrivals._masks[BLOB] = 0b11
    with pytest.raises(InvariantViolated):
        arrivals.check()


class AnyArrivals(RuleBasedStateMachine):
    """Beginnings, ends and patience in any order; what arrives is a list of (peer, blob, index, began, is late)."""

    keys = st.tuples(st.integers(1, 2), st.sampled_from([BLOB, OTHER]), st.integers(0, 2))

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = Arrivals()
        self.now_s = 0.0
        self.model: list[tuple[tuple[int, Digest, int], float, bool]] = []

    def covering(self, blob: Digest) -> int:
        """The mask of what is not late, by the list."""
        mask = 0
        for (_, other, index), _, is_late in self.model:
            if other == blob and not is_late:
                mask |= 1 << index
        return mask

    @rule(key=keys, seconds=st.integers(0, 2))
    def begin(self, key: tuple[int, Digest, int], seconds: int) -> None:
        self.now_s += seconds
        self.arrivals.began(peer(key[0]), key[1], key[2], self.now_s)
        self.model.append((key, self.now_s, False))

    @rule(key=keys)
    def end(self, key: tuple[int, Digest, int]) -> None:
        first = next((entry for entry in self.model if entry[0] == key), None)
        assert self.arrivals.ended(peer(key[0]), key[1], key[2]) is (first is not None)
        if first is not None:
            self.model.remove(first)

    @precondition(lambda self: self.model)
    @rule(patience_s=st.integers(0, 3))
    def give_up(self, patience_s: int) -> None:
        before = {blob: self.covering(blob) for blob in (BLOB, OTHER)}
        self.model = [
            (key, began_s, is_late or began_s < self.now_s - patience_s) for key, began_s, is_late in self.model
        ]
        given_up = self.arrivals.give_up_late(self.now_s - patience_s)
        for blob in (BLOB, OTHER):
            lost = before[blob] & ~self.covering(blob)
            assert {index for other, index in given_up if other == blob} == {i for i in range(3) if lost >> i & 1}

    @invariant()
    def the_books_agree_with_the_list(self) -> None:
        self.arrivals.check()
        assert len(self.arrivals) == len(self.model)
        assert [self.arrivals.covering(blob) for blob in (BLOB, OTHER)] == [self.covering(BLOB), self.covering(OTHER)]
        assert self.arrivals.oldest_s() == min((began_s for _, began_s, late in self.model if not late), default=None)


TestAnyArrivals = AnyArrivals.TestCase


# --- through the machine ---


def begin(node: Node, index: int, number: int = 1) -> list[Command]:
    """Let a push begin to arrive."""
    return node.tell(PushBegan(peer(number), BLOB, 0, index))


def arrive(node: Node, index: int, number: int = 1, *, outcome: Outcome = Outcome.DONE) -> list[Command]:
    """Let a push be over."""
    return node.tell(PushArrived(peer(number), BLOB, 0, index, outcome, CHUNK))


def below(source: int, *others: int, count: int = 8, config: RelayConfig | None = None) -> Node:
    """A node with a source for a parent, and more neighbours."""
    node = Node(config=config)
    node.meet(source, *others)
    node.open(count)
    node.hear(source, Trees(BLOB, (0,), CONFIG.stripes))
    node.hear(source, Adopt(BLOB, 0, 1))
    return node


def test_a_chunk_that_is_coming_in_is_not_asked_for():
    node = Node()
    node.meet(1, 2)
    node.open(4)
    begin(node, 2)
    assert sorted(chunks(node.holds(2))) == [0, 1, 3]


def test_a_chunk_that_began_to_arrive_before_its_blob_was_open_is_not_asked_for():
    node = Node()
    node.meet(1, 2)
    begin(node, 2)
    node.open(4)
    assert sorted(chunks(node.holds(2))) == [0, 1, 3]


def test_a_pushed_chunk_that_is_here_counts():
    node = Node()
    node.meet(1)
    node.open(1)
    begin(node, 0)
    arrive(node, 0)
    assert node.machine.explain(BLOB) == "complete"


def test_a_pushed_chunk_that_had_not_begun_is_none():
    node = Node()
    node.meet(1)
    node.open(1)
    arrive(node, 0)
    assert node.machine.downloads.transfers[BLOB].have.held == 0


@pytest.mark.parametrize(
    "outcome", [one for one in Outcome if one not in (Outcome.DONE, Outcome.STORE)], ids=lambda outcome: outcome.value
)
def test_a_pushed_chunk_that_did_not_make_it_is_asked_for_elsewhere(outcome):
    node = Node()
    node.meet(1, 2)
    node.open(1)
    begin(node, 0)
    node.holds(2)
    commands = arrive(node, 0, outcome=outcome) + node.wait(1.0)
    assert chunks(commands, of=2) == [0]


def test_a_pushed_chunk_that_another_still_brings_is_not_asked_for():
    node = Node()
    node.meet(1, 2, 3)
    node.open(1)
    begin(node, 0, 1)
    begin(node, 0, 2)
    node.holds(3)
    assert chunks(arrive(node, 0, 1, outcome=Outcome.SHORT) + node.wait(1.0)) == []


def test_a_chunk_that_was_pushed_and_fetched_is_counted_once():
    node = Node()
    node.meet(1)
    node.open(4)
    fetch = fetches(node.holds(1))[0]
    begin(node, fetch.first)
    node.deliver(fetch, fetch.first)
    arrive(node, fetch.first)
    transfer = node.machine.downloads.transfers[BLOB]
    assert (transfer.have.held, transfer.duplicate_count) == (1, 1)


def test_a_corrupt_push_quarantines_its_sender_and_hangs_up():
    node = Node()
    node.meet(1, 2)
    node.open(2)
    begin(node, 0)
    assert hangups(arrive(node, 0, outcome=Outcome.CORRUPT)) == [peer(1)]
    assert node.machine.downloads.reputation(peer(1)).is_quarantined(node.now_s + 1)


def test_a_push_that_our_disk_refused_pauses_fetching_and_blames_nobody():
    node = Node()
    node.meet(1, 2)
    node.open(2)
    begin(node, 0)
    arrive(node, 0, outcome=Outcome.STORE)
    assert chunks(node.holds(2)) == []
    assert node.machine.downloads.reputation(peer(1)).failures == 0
    assert sorted(chunks(node.keep_alive(CONFIG.store_pause_s + 1, 1, 2))) == [0, 1]


def test_a_chunk_that_stalls_while_it_arrives_is_asked_for_elsewhere():
    node = Node()
    node.meet(1, 2)
    node.open(1)
    begin(node, 0)
    node.holds(2)
    assert chunks(node.wait(CONFIG.arrival_patience_s * 0.9)) == []
    assert chunks(node.wait(CONFIG.arrival_patience_s * 0.2)) == [0]


def test_a_stalled_chunk_that_comes_after_all_counts_and_its_fetch_is_cancelled():
    node = Node()
    node.meet(1, 2)
    node.open(1)
    begin(node, 0)
    node.holds(2)
    (fetch,) = fetches(node.wait(CONFIG.arrival_patience_s * 1.1))
    assert cancels(arrive(node, 0)) == [fetch.fetch_id]
    assert node.machine.explain(BLOB) == "complete"


def test_a_stalled_chunk_that_fails_after_all_is_not_asked_for_twice():
    node = Node()
    node.meet(1, 2)
    node.open(1)
    begin(node, 0)
    node.holds(2)
    node.wait(CONFIG.arrival_patience_s * 1.1)
    assert chunks(arrive(node, 0, outcome=Outcome.STALLED) + node.tell(Ticked())) == []


def test_a_push_for_a_closed_blob_changes_nothing():
    node = Node()
    node.meet(1)
    node.open(1)
    begin(node, 0)
    node.tell(BlobClosed(BLOB))
    assert arrive(node, 0) == []


def test_what_neighbours_hold_is_left_to_the_trees_for_a_while():
    node = below(1, 2)
    node.holds(2, (0, 3))
    assert chunks(node.wait(CONFIG.pull_grace_s * 0.9)) == []
    assert sorted(chunks(node.wait(CONFIG.pull_grace_s * 0.1 + CONFIG.have_interval_s))) == [0, 1, 2]


def test_what_the_trees_took_long_with_of_late_is_left_to_them_longer():
    node = below(1, 2, count=40)
    node.holds(2, (0, 1))
    node.tell(Ticked())
    lag_s = CONFIG.pull_grace_s * 0.8
    node.wait(lag_s)
    begin(node, 0)
    arrive(node, 0)
    node.holds(2, (0, 2))
    node.tell(Ticked())
    grace_s = CONFIG.pull_grace_s + CONFIG.pull_grace_factor * lag_s
    assert chunks(node.wait(grace_s * 0.9)) == []
    assert chunks(node.wait(grace_s * 0.1 + CONFIG.have_interval_s + 0.1)) == [1]


def test_without_a_parent_nothing_is_left_to_the_trees():
    node = below(1, 2)
    node.tell(PeerDisconnected(peer(1)))
    assert sorted(chunks(node.holds(2, (0, 3)))) == [0, 1, 2]


def test_parents_are_told_what_is_pulled_from_others():
    node = below(1, 2)
    node.holds(2, (0, 1))
    commands = node.wait(CONFIG.pull_grace_s + CONFIG.have_interval_s + 0.1)
    assert chunks(commands) == [0]
    assert Skip(BLOB, ((0, 1),)) in sent(commands, 1)
    assert not any(isinstance(message, Skip) for message in sent(commands, 2))


# --- the rest of the trees ---


def test_what_a_parent_leaves_out_is_pulled_at_once():
    node = below(1, 2, count=40)
    node.holds(2, (7, 1))
    assert chunks(node.hear(1, Omit(BLOB, ((7, 1),)))) == [7]


def test_what_somebody_else_leaves_out_is_left_to_the_trees():
    node = below(1, 2, count=40)
    node.holds(2, (7, 1))
    assert chunks(node.hear(2, Omit(BLOB, ((7, 1),)))) == []
    assert chunks(node.hear(2, Omit(OTHER, ((7, 1),)))) == []


def test_at_the_end_the_last_chunks_of_the_trees_are_pulled_a_few_at_a_time():
    config = RelayConfig(endgame_chunks=3)
    node = below(1, 2, 3, count=20, config=config)
    node.holds(2, (0, 10))
    assert chunks(node.tell(Ticked())) == []
    orders = fetches(node.holds(3, (10, 10)))
    assert sorted(chunks(orders)) == [17, 18, 19]
    more = [order for fetch in orders for order in fetches(node.finish(fetch))]
    assert max(chunks(more)) == 16


def test_at_the_end_nothing_is_pulled_that_only_the_source_holds():
    node = below(1, 2, count=20)
    node.holds(2, (0, 10))
    commands = node.hear(1, Done(BLOB))
    assert commands and max(chunks(commands)) == 9


def test_a_source_is_asked_only_for_what_no_relay_with_room_gives():
    node = Node()
    node.meet(1, 2)
    node.open(2)
    node.hear(1, Trees(BLOB, (0,), CONFIG.stripes))
    node.tell(BlobClosed(BLOB))
    node.open(2)
    node.hear(1, Trees(BLOB, (0,), CONFIG.stripes))
    orders = [*fetches(node.holds(2, (0, 1))), *fetches(node.hear(1, Done(BLOB)))]
    assert [(order.peer, order.first) for order in orders] == [(peer(2), 0), (peer(1), 1)]

"""The handing out of first copies: each chunk once, to the stripe that has credit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardcast_proto.bitmap import full_mask
from shardcast_proto.errors import InvariantViolated
from shardcast_relay import RelayConfig
from shardcast_relay.source import Source

from .parts import BLOB, CHUNK, peer

CONFIG = RelayConfig()
#: As many chunks as any stripe may have out at first, and more.
COUNT = 4 * CONFIG.credit_first
#: A node that is the root of nothing.
THIRD = peer(99)


def source(*roots: int, count: int = COUNT, config: RelayConfig = CONFIG) -> Source:
    """A source with these peers as the roots of its stripes 0, 1, …"""
    value = Source(config, BLOB, chunk_count=count, chunk_bytes=CHUNK)
    for stripe, root in enumerate(roots):
        value.root_up(stripe, peer(root))
    return value


def hand_out(
    value: Source, now_s: float = 0.0, *, held: dict[int, int] | None = None, spare: int = 0
) -> list[tuple[int, int]]:
    """Hand out until no stripe has credit; return (stripe, chunk) in order. `held`: what the roots hold, by stripe."""
    ready = {stripe: (held or {}).get(stripe, 0) for stripe in value.shares}
    given = []
    while (choice := value.choose(ready, now_s, spare=spare)) is not None:
        given.append(choice)
        value.check()
    return given


def see(value: Source, number: int, *indices: int, now_s: float = 0.0, is_alone: bool = False) -> None:
    """Let a peer say that it holds these chunks."""
    mask = sum(1 << index for index in indices)
    value.seen(peer(number), mask, now_s, is_alone=is_alone)
    value.check()


def after_patience(value: Source) -> float:
    """Return a time at which the oldest chunk that is out is late."""
    late_s = value.next_late_s()
    assert late_s is not None
    return late_s + 0.001


# --- credit ---


def test_a_new_stripe_gets_its_first_credit_and_no_more():
    value = source(1)
    assert hand_out(value) == [(0, index) for index in range(CONFIG.credit_first)]


def test_stripes_get_chunks_in_turn():
    given = hand_out(source(1, 2), 0.0)
    assert [stripe for stripe, _ in given[:4]] == [0, 1, 0, 1]


def test_of_the_stripes_with_credit_the_one_in_which_a_chunk_waits_least_gets_the_next():
    """Both have one chunk out: 0.2 s for each is a queue where one takes 0.05 s to pass on, and none where it takes 0.25 s by nature."""
    value = source(1, 2, count=20 * COUNT)
    for latency_s, stripe in ((0.05, 0), (0.25, 1)):
        value.shares[stripe].confirmed.extend((at_s, latency_s) for at_s in (0.25, 0.5, 0.75, 1.0))
        value.choose({stripe: 0}, 1.0, spare=0)
    assert [round(value.shares[stripe].queue_s(CONFIG, 1.0), 3) for stripe in (0, 1)] == [0.1, 0.0]
    choices = [value.choose({0: 0, 1: 0}, 1.0, spare=0) for _ in range(2)]
    assert [choice and choice[0] for choice in choices] == [1, 0]


def test_a_chunk_that_a_third_node_holds_gives_credit_for_another():
    value = source(1)
    hand_out(value)
    see(value, 99, 0)
    assert hand_out(value) == [(0, CONFIG.credit_first)]


def test_a_root_gains_no_credit_by_its_own_word():
    value = source(1)
    given = [index for _, index in hand_out(value)]
    see(value, 1, *given)
    assert hand_out(value) == []
    assert value.out.bit_count() == len(given)


def test_a_root_gains_credit_by_its_own_word_when_nobody_else_could_speak():
    value = source(1)
    given = [index for _, index in hand_out(value)]
    see(value, 1, *given, is_alone=True)
    assert value.out == 0
    assert hand_out(value) != []


def test_the_root_of_another_stripe_may_confirm():
    value = source(1, 2)
    stripe, index = hand_out(value)[0]
    see(value, 2 if stripe == 0 else 1, index)
    assert not value.out >> index & 1


def test_a_stripe_that_passes_on_sooner_gets_more():
    value = source(1, 2, count=200)
    counts = {0: 0, 1: 0}
    due: list[tuple[float, int]] = []
    for step in range(60):
        now_s = step * 0.01
        for at_s, index in [entry for entry in due if entry[0] <= now_s]:
            see(value, 99, index, now_s=now_s)
            due.remove((at_s, index))
        for stripe, index in hand_out(value, now_s):
            counts[stripe] += 1
            due.append((now_s + (0.02 if stripe == 0 else 0.2), index))
    assert counts[0] > 2 * counts[1]


def test_credit_stays_between_its_bounds():
    config = RelayConfig(credit_first=2, credit_min=2, credit_max=5)
    value = source(1, count=400, config=config)
    most = 0
    for step in range(50):
        hand_out(value, step * 0.001)
        most = max(most, value.out.bit_count())
        see(value, 99, *[index for index in range(400) if value.out >> index & 1], now_s=step * 0.001)
    assert config.credit_min <= most <= config.credit_max


def test_our_uplink_does_not_idle_while_little_is_out():
    value = source(1)
    assert len(hand_out(value, spare=CONFIG.credit_first + 2)) == CONFIG.credit_first + 2


def test_a_stripe_that_is_not_ready_gets_nothing():
    value = source(1, 2)
    assert value.choose({1: 0}, 0.0, spare=0) == (1, 0)
    assert value.choose({}, 0.0, spare=9) is None


def test_a_root_is_not_given_what_it_holds():
    value = source(1)
    given = [index for _, index in hand_out(value, held={0: 0b0101})]
    assert given[:2] == [1, 3]


def test_what_all_roots_hold_is_not_handed_out():
    value = source(1, count=4)
    value.all_roots_hold(0b0110)
    assert [index for _, index in hand_out(value)] == [0, 3]


@pytest.mark.parametrize(("left", "expected"), [(400, (1, 0)), (1, None)])
def test_a_slow_stripe_gets_no_chunk_at_the_end_that_it_would_pass_on_when_all_the_rest_is_done(left, expected):
    value = source(1, 2, count=left, config=RelayConfig(credit_tail_s=0.1))
    value.shares[0].confirmed.extend((10.0 + step / 100, 0.01) for step in range(10))  # some 100 a second
    value.shares[1].confirmed.extend((8.0 + step, 1.0) for step in range(3))  # one a second
    assert value.choose({1: 0}, 10.1, spare=0) == expected
    assert value.choose({0: 0}, 10.1, spare=0) is not None


# --- what is late ---


def test_what_no_third_node_has_in_time_is_handed_out_again():
    value = source(1, count=1)
    hand_out(value)
    assert value.take_back_late(CONFIG.credit_deadline_s) == []
    assert value.is_handed_out
    value.take_back_late(after_patience(value))
    assert (value.todo, value.repeated_count) == (0b1, 1)
    value.check()


def test_what_is_late_at_a_root_that_holds_it_goes_to_another_stripe():
    value = source(1, 2, count=1)
    assert value.choose({0: 0}, 0.0, spare=0) == (0, 0)
    now_s = after_patience(value)
    value.take_back_late(now_s)
    assert hand_out(value, now_s, held={0: 0b1}) == [(1, 0)]


def test_what_is_late_halves_the_share_of_its_stripe_once_for_all_that_is_late_together():
    value = source(1, 2)
    hand_out(value)
    see(value, 99, 0, *[index for index in range(COUNT) if value.out >> index & 1 and index % 2])
    value.take_back_late(after_patience(value))
    assert [value.shares[stripe].trust for stripe in (0, 1)] == [0.5, 1.0]
    assert value.shares[0].credit(CONFIG, 0.0) == CONFIG.credit_first // 2


def test_a_share_recovers_with_what_is_passed_on():
    value = source(1)
    hand_out(value)
    now_s = after_patience(value)
    value.take_back_late(now_s)
    for _ in range(4):
        see(value, 99, *[index for _, index in hand_out(value, now_s)], now_s=now_s)
    assert value.shares[0].trust == 1.0


def test_a_root_that_passes_nothing_on_is_dismissed_in_the_end():
    value = source(1)
    lost: list[int] = []
    rounds = 0
    while not lost:
        now_s = 100.0 * rounds
        assert hand_out(value, now_s), "it is given chances until then"
        lost = value.take_back_late(now_s + after_patience(value))
        rounds += 1
    assert lost == [0]
    assert 0.5**rounds < CONFIG.credit_trust_min <= 0.5 ** (rounds - 1)


def test_a_root_that_comes_when_others_have_passed_chunks_on_shows_with_one_what_it_is():
    value = source(1, 2, count=20 * COUNT)
    see(value, 99, *[index for stripe, index in hand_out(value) if stripe == 0])
    value.root_up(1, peer(3))
    assert [stripe for stripe, _ in hand_out(value, spare=COUNT)].count(1) == 1
    assert len(value.shares[0].unconfirmed) > CONFIG.credit_first, "our uplink does not idle meanwhile"
    see(value, 99, *value.shares[1].unconfirmed)
    assert [stripe for stripe, _ in hand_out(value)].count(1) > 1


def test_a_root_that_has_passed_nothing_on_is_dismissed_at_once_while_others_have():
    value = source(1, 2)
    see(value, 99, *[index for stripe, index in hand_out(value) if stripe == 0])
    assert value.take_back_late(after_patience(value)) == [1]
    assert value.todo.bit_count() == COUNT - CONFIG.credit_first


def test_a_distrusted_stripe_is_given_nothing_beyond_its_credit_even_when_our_uplink_idles():
    value = source(1)
    hand_out(value)
    now_s = after_patience(value)
    value.take_back_late(now_s)
    assert len(hand_out(value, now_s, spare=COUNT)) == value.shares[0].credit(CONFIG, now_s) < CONFIG.credit_first


def test_a_stripe_with_long_ways_is_waited_for_longer():
    value = source(1, count=2)
    assert value.choose({0: 0}, 0.0, spare=0) == (0, 0)
    see(value, 99, 0, now_s=2.0)
    assert value.choose({0: 0}, 10.0, spare=0) == (0, 1)
    assert value.next_late_s() == 10.0 + 2.0 * CONFIG.credit_deadline_factor


def test_nothing_is_late_while_nothing_is_out():
    assert source(1).next_late_s() is None


# --- roots that come and go ---


def test_what_a_lost_root_has_not_passed_on_is_handed_out_again():
    value = source(1)
    given = hand_out(value)
    see(value, 99, given[0][1])
    value.root_down(0)
    value.check()
    value.root_up(1, peer(2))
    again = {index for _, index in hand_out(value)}
    assert again >= {index for _, index in given[1:]}
    assert given[0][1] not in again


def test_a_root_that_replaces_another_begins_with_a_clean_record():
    value = source(1)
    hand_out(value)
    value.take_back_late(after_patience(value))
    value.root_up(0, peer(2))
    assert (value.shares[0].root, value.shares[0].trust) == (peer(2), 1.0)


def test_a_chunk_that_did_not_leave_is_handed_out_again_without_blame():
    value = source(1, count=1)
    hand_out(value)
    value.not_sent(0, 0, value.shares[0].root)
    assert value.shares[0].trust == 1.0
    assert hand_out(value) == [(0, 0)]


def test_a_chunk_that_did_not_leave_for_a_stripe_that_is_gone_changes_nothing():
    value = source(1, count=1)
    hand_out(value)
    value.not_sent(5, 0, peer(1))
    assert value.is_handed_out


def test_a_chunk_that_did_not_leave_for_a_former_root_stays_with_the_new_one():
    value = source(1, count=1)
    hand_out(value)
    value.root_up(0, peer(2))
    hand_out(value)
    value.not_sent(0, 0, peer(1))
    assert value.is_handed_out


def test_a_chunk_that_was_passed_on_all_the_same_is_not_handed_out_again():
    value = source(1, count=1)
    hand_out(value)
    see(value, 99, 0)
    value.not_sent(0, 0, value.shares[0].root)
    assert value.is_done


def test_of_several_sources_each_hands_out_its_own_chunks_and_together_they_hand_out_all():
    sources = [peer(number) for number in range(3)]
    todo = []
    for own in sources:
        value = source(count=200)
        value.leave_to_others(own, [other for other in sources if other != own])
        todo.append(value.todo)
    assert sum(todo) == todo[0] | todo[1] | todo[2] == full_mask(200)
    assert all(30 < mask.bit_count() < 110 for mask in todo)


# --- properties ---


@given(st.integers(1, 4), st.integers(0, 60), st.integers(0, 100), st.data())
def test_each_chunk_is_handed_out_exactly_once_when_all_are_passed_on(root_count, count, spare, data):
    value = source(*range(1, root_count + 1), count=count)
    given: list[int] = []
    now_s = 0.0
    while not value.is_done:
        given += [index for _, index in hand_out(value, now_s, spare=spare)]
        out = [index for index in range(count) if value.out >> index & 1]
        assert out, "no stripe has credit although nothing is out"
        now_s += data.draw(st.sampled_from([0.0, 0.001, 0.1, 3.0]))
        see(value, 99, *data.draw(st.lists(st.sampled_from(out), min_size=1)), now_s=now_s)
    assert sorted(given) == list(range(count))
    assert value.repeated_count == 0


@given(st.lists(st.sampled_from([0.0, 0.01, 0.5, 4.0]), max_size=12), st.integers(1, 30))
def test_a_word_of_the_root_alone_changes_nothing_whenever_it_comes(pauses_s, count):
    honest, boasting = source(1, count=count), source(1, count=count)
    now_s = 0.0
    for pause_s in pauses_s:
        assert hand_out(honest, now_s) == hand_out(boasting, now_s)
        now_s += pause_s
        see(boasting, 1, *range(count), now_s=now_s)
        assert honest.take_back_late(now_s) == boasting.take_back_late(now_s)


class AnySwarm(RuleBasedStateMachine):
    """Roots that come, go, are silent or boast, pushes that fail, in any order: no chunk is lost."""

    STRIPES = 3
    COUNT = 20
    stripes = st.integers(0, STRIPES - 1)

    def __init__(self) -> None:
        super().__init__()
        self.source = source(count=self.COUNT)
        self.now_s = 0.0
        self.given: list[tuple[int, int]] = []
        self.passed_on = 0

    @rule(seconds=st.sampled_from([0.01, 0.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(stripe=stripes, number=st.integers(1, 5))
    def root_up(self, stripe: int, number: int) -> None:
        self.source.root_up(stripe, peer(number))

    @rule(stripe=stripes)
    def root_down(self, stripe: int) -> None:
        self.source.root_down(stripe)

    @rule(held=st.dictionaries(stripes, st.integers(0, (1 << COUNT) - 1)), spare=st.integers(0, 10))
    def choose(self, held: dict[int, int], spare: int) -> None:
        before = self.source.todo
        ready = {stripe: mask for stripe, mask in held.items() if stripe in self.source.shares}
        choice = self.source.choose(ready, self.now_s, spare=spare)
        if choice is not None:
            stripe, index = choice
            assert before >> index & 1 and not ready[stripe] >> index & 1
            assert not self.passed_on >> index & 1, "a third node has it"
            self.given.append(choice)

    @rule(number=st.integers(1, 7), mask=st.integers(0, (1 << COUNT) - 1), is_alone=st.booleans())
    def seen(self, number: int, mask: int, is_alone: bool) -> None:
        before = self.source.out
        self.source.seen(peer(number), mask, self.now_s, is_alone=is_alone)
        self.passed_on |= before & ~self.source.out
        assert not before & ~self.source.out & ~mask, "passed on without a word"

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def not_sent(self, data: st.DataObject) -> None:
        stripe, index = data.draw(st.sampled_from(self.given))
        share = self.source.shares.get(stripe)
        self.source.not_sent(stripe, index, share.root if share else peer(1))

    @rule()
    def take_back_late(self) -> None:
        for stripe in self.source.take_back_late(self.now_s):
            self.source.root_down(stripe)

    @invariant()
    def every_chunk_is_to_be_handed_out_or_out_or_passed_on(self) -> None:
        self.source.check()
        assert self.source.todo | self.source.out | self.passed_on == full_mask(self.COUNT)
        assert not (self.source.todo | self.source.out) & self.passed_on

    def teardown(self) -> None:
        for stripe in range(self.STRIPES):
            self.source.root_down(stripe)
        self.source.root_up(0, peer(1))
        while not self.source.is_done:
            given = hand_out(self.source, self.now_s)
            assert given, "a new root gets nothing"
            self.given += given
            self.source.seen(THIRD, full_mask(self.COUNT), self.now_s, is_alone=False)
        assert {index for _, index in self.given} == set(range(self.COUNT))


TestAnySwarm = AnySwarm.TestCase


def test_the_check_sees_a_chunk_that_is_out_and_to_be_handed_out():
    value = source(1)
    hand_out(value)
    value.todo |= 1
    with pytest.raises(InvariantViolated):
        value.check()

"""The follower: what it orders in each situation, and what holds in all of them."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.engines.follower import (
    ASK_INTERVAL_S,
    RETRY_MAX_S,
    TRIES_MAX,
    Activate,
    Ask,
    Follower,
    Limits,
    Mark,
    Resume,
    Waiting,
)
from shardcast.engines.port import Effect, Health, Outcome
from shardcast_proto.errors import Conflict, NotFound

NOW_S = 1000.0


def mark(seq: int) -> Mark:
    return Mark(0, seq, seq * 10, f"b3:{seq:064x}")


def ended(effect: Effect, *, is_resumed: bool = True) -> Outcome:
    return Outcome(effect=effect, reason="" if effect is Effect.ACTIVE else "it broke", is_resumed=is_resumed)


class Driver:
    """A follower with a clock and an engine that can be told what to do."""

    def __init__(self, *, tells: bool = True, limits: Limits | None = None) -> None:
        self.follower = Follower(limits or Limits())
        self.now_s = NOW_S
        self.tells = tells
        #: What the engine really holds.
        self.holds = "default"
        self.health = Health.HEALTHY
        self.orders: list[object] = []

    def offer(self, newest: Mark | None, count: int = 0, since_s: float | None = None) -> None:
        self.follower.offer(newest, Waiting(count, since_s))

    def step(self, outcome: Outcome | None = None) -> object:
        """Take one order and end it; an activation ends with `outcome`, or well."""
        order = self.follower.next_order(self.now_s)
        self.orders.append(order)
        match order:
            case Ask():
                is_up = self.health is Health.HEALTHY
                self.follower.asked(self.health, self.holds if self.tells and is_up else None, self.now_s)
            case Resume():
                self.follower.resumed(True, self.now_s)
            case Activate(target=target):
                outcome = outcome or ended(Effect.ACTIVE)
                if outcome.effect is Effect.ACTIVE:
                    self.holds = target.manifest
                self.follower.ended(outcome, self.now_s)
        return order

    def until_quiet(self, *outcomes: Outcome) -> list[Mark]:
        """Let time pass until nothing is left to do but asking; return what was activated."""
        left, activated = list(outcomes), []
        for _ in range(200):
            order = self.step(left.pop(0) if left and self._is_due() else None)
            if isinstance(order, Activate):
                activated.append(order.target)
            self.now_s += 0.5
        return activated

    def _is_due(self) -> bool:
        return isinstance(self.follower._choose(self.now_s), Activate)


def served(*seqs: int) -> Driver:
    """A driver whose engine has been given some versions."""
    driver = Driver()
    for seq in seqs:
        driver.offer(mark(seq))
        driver.until_quiet()
    assert driver.follower.active == mark(seqs[-1]) and driver.follower.knowledge == "confirmed"
    return driver


def test_an_engine_is_asked_before_anything_is_given_to_it() -> None:
    driver = Driver()
    driver.offer(mark(1))
    assert isinstance(driver.step(), Ask)
    assert driver.step() == Activate(mark(1), None, False)
    assert driver.follower.active == mark(1)


def test_the_newest_wins_and_versions_between_are_skipped() -> None:
    driver = served(1)
    driver.offer(mark(2))
    assert driver.follower.next_order(driver.now_s) == Activate(mark(2), mark(1), False)
    for seq in (3, 4, 5):
        driver.offer(mark(seq))
        assert driver.follower.next_order(driver.now_s) is None, "one at a time"
    driver.follower.ended(ended(Effect.ACTIVE), driver.now_s)
    driver.holds = mark(2).manifest
    assert driver.until_quiet() == [mark(5)]
    assert driver.follower.previous == mark(2)


def test_nothing_goes_back_by_itself() -> None:
    driver = served(1, 2)
    driver.offer(mark(1))  # the newest that is complete was lost, say
    assert driver.until_quiet() == [] and driver.follower.active == mark(2)


def test_what_was_not_touched_is_tried_again_less_and_less_often() -> None:
    driver = served(1)
    driver.offer(mark(2))
    times: list[float] = []
    while len(times) < 9:
        if isinstance(driver.step(ended(Effect.UNCHANGED)), Activate):
            times.append(driver.now_s)
        driver.now_s += 0.25
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps) and gaps[0] <= 1.5 and RETRY_MAX_S <= gaps[-1] <= RETRY_MAX_S + 1
    assert driver.follower.active == mark(1) and driver.follower.error == "it broke"


def test_what_an_engine_gave_back_is_not_tried_again_until_something_newer_comes() -> None:
    driver = served(1)
    driver.offer(mark(2))
    assert driver.until_quiet(ended(Effect.RESTORED)) == [mark(2)]
    assert (driver.follower.active, driver.follower.knowledge) == (mark(1), "confirmed")
    driver.offer(mark(3))
    assert driver.until_quiet() == [mark(3)]


def test_after_an_unknown_end_the_engine_is_asked_first() -> None:
    driver = served(1)
    driver.offer(mark(2))
    driver.step(ended(Effect.UNKNOWN))
    assert driver.follower.knowledge == "unsettled" and driver.follower.next_order(driver.now_s) is None
    driver.now_s += 1.0
    driver.holds = mark(2).manifest  # it had taken it after all
    assert isinstance(driver.step(), Ask)
    assert (driver.follower.active, driver.follower.knowledge) == (mark(2), "confirmed")
    assert driver.until_quiet() == []


def test_an_old_name_after_an_unknown_end_is_no_proof_of_whole_weights() -> None:
    driver = served(1)
    driver.offer(mark(2))
    driver.step(ended(Effect.UNKNOWN))
    driver.now_s += 1.0
    driver.step()
    assert driver.follower.knowledge == "lost"
    assert driver.until_quiet() == [mark(2)]


def test_a_version_that_breaks_an_engine_again_and_again_is_left_and_the_one_before_put_back() -> None:
    driver = served(1)
    driver.offer(mark(2))
    activated = driver.until_quiet(*[ended(Effect.UNKNOWN)] * TRIES_MAX)
    assert activated == [mark(2)] * TRIES_MAX + [mark(1)]
    assert (driver.follower.active, driver.follower.knowledge) == (mark(1), "confirmed")
    driver.offer(mark(3))
    assert driver.until_quiet() == [mark(3)]


def test_when_nothing_can_be_put_back_the_state_stays_unknown() -> None:
    driver = Driver()
    driver.offer(mark(1))
    activated = driver.until_quiet(*[ended(Effect.UNKNOWN)] * 10)
    assert activated == [mark(1)] * TRIES_MAX
    assert driver.follower.knowledge == "none" and driver.follower.active is None and driver.follower.target is None


def test_an_engine_that_comes_back_with_other_weights_is_given_them_anew() -> None:
    driver = served(1)
    driver.health = Health.UNREACHABLE
    assert driver.until_quiet() == []
    driver.health, driver.holds = Health.HEALTHY, "default"
    assert driver.until_quiet() == [mark(1)]
    driver.holds = "somebody else's"  # without a silence
    assert driver.until_quiet() == [mark(1)]


def test_an_engine_that_cannot_tell_is_given_them_anew_after_a_silence() -> None:
    driver = Driver(tells=False)
    driver.offer(mark(1))
    assert driver.until_quiet() == [mark(1)]
    driver.health = Health.UNREACHABLE
    driver.until_quiet()
    driver.health = Health.HEALTHY
    assert driver.until_quiet() == [mark(1)]


@pytest.mark.parametrize("tells", [True, False])
def test_what_was_noted_by_an_earlier_run_is_believed_if_the_engine_agrees_or_cannot_tell(tells: bool) -> None:
    driver = Driver(tells=tells)
    driver.follower.remember(active=mark(3), previous=mark(2), attempting=None, hold=None)
    driver.holds = mark(3).manifest
    driver.offer(mark(3))
    assert driver.until_quiet() == []
    assert driver.follower.knowledge == ("confirmed" if tells else "assumed")


@pytest.mark.parametrize("tells", [True, False])
def test_an_activation_that_an_earlier_run_did_not_see_the_end_of_is_settled_first(tells: bool) -> None:
    driver = Driver(tells=tells)
    driver.follower.remember(active=mark(1), previous=None, attempting=mark(2), hold=None)
    driver.holds = mark(1).manifest
    driver.offer(mark(3))
    assert isinstance(driver.step(), Ask)
    # the pause that is found there is ours, and the weights may be anything
    assert driver.step() == Activate(mark(3), None, True)


def test_an_engine_that_did_not_confirm_that_it_goes_on_is_told_again() -> None:
    driver = served(1)
    driver.offer(mark(2))
    driver.step(ended(Effect.ACTIVE, is_resumed=False))
    assert driver.follower.active == mark(2) and driver.follower.owns_pause
    driver.now_s += 1.0
    assert isinstance(driver.step(), Resume) and not driver.follower.owns_pause


def test_a_rollback_holds_until_something_newer_than_what_was_rolled_back_comes() -> None:
    driver = served(1, 2)
    assert driver.follower.roll_back() == mark(1)
    assert driver.until_quiet() == [mark(1)]
    assert driver.follower.hold == mark(2) and driver.follower.previous is None
    with pytest.raises(NotFound):
        driver.follower.roll_back()
    driver.offer(mark(3))
    assert driver.until_quiet() == [mark(3)] and driver.follower.hold is None


def test_following_again_ends_a_hold() -> None:
    driver = served(1, 2)
    driver.follower.roll_back()
    driver.until_quiet()
    driver.follower.follow()
    assert driver.until_quiet() == [mark(2)]


def test_a_rollback_while_something_is_under_way_is_a_conflict() -> None:
    driver = served(1, 2)
    driver.offer(mark(3))
    driver.follower.next_order(driver.now_s)
    with pytest.raises(Conflict):
        driver.follower.roll_back()


def test_what_the_operator_asks_for_is_tried_although_it_was_refused_and_holds() -> None:
    driver = served(1)
    driver.offer(mark(2))
    driver.until_quiet(ended(Effect.RESTORED))
    driver.follower.demand(mark(2))
    assert driver.until_quiet() == [mark(2)]
    driver.follower.demand(mark(1))
    assert driver.until_quiet() == [mark(1)] and driver.follower.hold == mark(2)


def test_what_is_active_already_is_not_loaded_again() -> None:
    driver = served(1)
    driver.follower.demand(mark(1))
    again = Mark(0, 2, 20, mark(1).manifest)  # the same bytes, published anew
    driver.offer(again)
    assert driver.until_quiet() == [] and driver.follower.active == again


def test_what_is_only_assumed_is_loaded_when_the_operator_asks_for_it_and_then_left() -> None:
    driver = Driver(tells=False)
    driver.follower.remember(active=mark(1), previous=None, attempting=None, hold=None)
    driver.offer(mark(1))
    assert driver.until_quiet() == []
    driver.follower.demand(mark(1))
    assert driver.until_quiet() == [mark(1)] and driver.follower.knowledge == "confirmed"
    driver.offer(mark(2), 1, NOW_S)
    assert driver.until_quiet() == [mark(2)] and driver.follower.waiting == Waiting()


def test_what_serves_and_is_asked_for_while_something_newer_is_loaded_is_put_back_after_it() -> None:
    driver = served(1)
    driver.offer(mark(2))
    assert driver.follower.next_order(driver.now_s) == Activate(mark(2), mark(1), False)
    driver.follower.demand(mark(1))
    driver.holds = mark(2).manifest
    driver.follower.ended(ended(Effect.ACTIVE), driver.now_s)
    assert driver.until_quiet() == [mark(1)] and driver.follower.active == mark(1)


@pytest.mark.parametrize("is_loading", [False, True])
def test_what_was_asked_for_and_serves_without_being_loaded_does_not_shut_out_what_is_newer(is_loading: bool) -> None:
    driver = served(1)
    driver.offer(mark(2))
    if is_loading:
        assert driver.follower.next_order(driver.now_s) == Activate(mark(2), mark(1), False)
        driver.follower.demand(mark(1))
        driver.follower.ended(ended(Effect.RESTORED), driver.now_s)
    else:
        # a node that was started anew, and an engine that does not answer yet
        driver.follower = Follower()
        driver.follower.remember(active=mark(1), previous=None, attempting=None, hold=None)
        driver.offer(mark(2))
        driver.follower.demand(mark(1))
    assert driver.until_quiet() == [] and driver.follower.active == mark(1)
    driver.offer(mark(3))
    assert driver.until_quiet() == [mark(3)]


def test_an_engine_is_behind_by_versions_or_by_time() -> None:
    follower = Follower(Limits(4, 600.0))
    follower.offer(None, Waiting(4, NOW_S))
    assert not follower.is_behind(NOW_S + 600.0)
    assert follower.is_behind(NOW_S + 601.0)
    follower.offer(None, Waiting(5, NOW_S))
    assert follower.is_behind(NOW_S)
    follower.offer(None, Waiting())
    assert not follower.is_behind(NOW_S + 1e6)
    assert not Follower().is_behind(NOW_S)


EFFECTS = st.sampled_from(list(Effect))
ACTIONS = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 3)),
    st.tuples(st.just("turn"), EFFECTS, st.booleans(), st.booleans()),
    st.tuples(st.just("health"), st.sampled_from(list(Health))),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("pass"), st.floats(0.1, 100.0)),
    st.tuples(st.just("rollback"), st.just(0)),
    st.tuples(st.just("follow"), st.just(0)),
    st.tuples(st.just("demand"), st.integers(1, 30)),
)


@given(st.lists(ACTIONS, max_size=60), st.booleans())
@settings(max_examples=300)
def test_whatever_happens_nothing_is_called_active_that_was_not_given_and_the_newest_wins_in_the_end(
    actions: list[tuple], tells: bool
) -> None:
    driver = Driver(tells=tells)
    follower, newest = driver.follower, 0
    given_to: set[str] = set()
    for action in actions:
        match action:
            case ("publish", count):
                newest += count
                driver.offer(mark(newest), count, driver.now_s)
            case ("turn", effect, is_resumed, has_taken):
                order = follower.next_order(driver.now_s)
                assert follower.next_order(driver.now_s) is None, "one order at a time"
                follower._order = None  # given out again by `step`
                if isinstance(order, Activate):
                    assert follower.health is Health.HEALTHY and follower.knowledge != "unsettled"
                    assert order.fallback is None or order.fallback == follower.active
                    given_to.add(order.target.manifest)
                    if effect is Effect.UNKNOWN:
                        driver.holds = order.target.manifest if has_taken else "half of each"
                before = follower.active
                driver.step(ended(effect, is_resumed=is_resumed))
                if isinstance(order, Activate) and effect is not Effect.ACTIVE:
                    assert follower.active == before, "a failure is never active"
            case ("health", health):
                driver.health = health
            case ("restart", _):
                driver.holds = "default"
                # nobody restarts in no time: it is silent meanwhile
                follower.asked(Health.UNREACHABLE, None, driver.now_s) if follower.order is None else None
            case ("pass", seconds):
                driver.now_s += seconds
            case ("rollback", _):
                with contextlib.suppress(NotFound, Conflict):
                    follower.roll_back()
            case ("follow", _):
                follower.follow()
            case ("demand", seq) if seq <= newest:
                follower.demand(mark(seq))
        assert follower.active is None or follower.active.manifest in given_to
        if tells and follower.knowledge == "confirmed" and driver.health is Health.HEALTHY and follower.active:
            assert follower.active.manifest in given_to
    # in the end, with an engine that works, the newest version serves
    driver.health = Health.HEALTHY
    newest += 1
    driver.offer(mark(newest), 1, driver.now_s)
    follower.follow()
    driver.now_s += RETRY_MAX_S + ASK_INTERVAL_S
    driver.until_quiet()
    assert follower.active == mark(newest) and driver.holds == mark(newest).manifest
    assert not follower.owns_pause and follower.demanded is None

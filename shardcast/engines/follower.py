"""The decisions of what an engine should serve: facts in, one order at a time out.

Pure: no clock, no disk, no network. `next_order` says what is to be done now; the caller does it, and tells what came of it. An order has
exactly one ending: `asked` after `Ask`, `ended` after `Activate`, `resumed` after `Resume`; until then there is no other.

What the follower knows of the engine's weights is its `knowledge`:

    none        nothing of ours: at the start, or the engine shows other weights than those we gave it
    confirmed   the engine says that it serves `active`, or has said so when it took it
    assumed     `active` was given to it before this daemon started, and it cannot tell
    unsettled   an activation ended without an answer, or this daemon was killed in one: the engine is asked before anything is sent
    lost        it serves something else than `active`, or may do so

The newest complete version wins, and versions between are skipped, because only the newest is looked at when the engine is free. What was
not touched is tried again, less and less often. What failed in the engine is tried `TRIES_MAX` times, then refused until a newer version
comes or the operator asks; if that left the weights in doubt, the version that served before is put back. An operator's choice holds until
something newer comes than there was then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from shardcast_proto.errors import Conflict, NotFound

from .port import Effect, Health, Outcome

#: A version that breaks an engine once may have met another trouble; one that does so three times is the trouble.
TRIES_MAX: Final = 3
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
#: How often a quiet engine is asked what it serves, and one whose state is in doubt.
ASK_INTERVAL_S: Final = 5.0
ASK_SOON_S: Final = 1.0

Knowledge = Literal["none", "confirmed", "assumed", "unsettled", "lost"]


class Mark(NamedTuple):
    """A version among those of its channel; a later one is larger."""

    epoch: int
    seq: int
    step: int
    #: `b3:HEX`.
    manifest: str

    @property
    def position(self) -> tuple[int, int]:
        """Its place in the channel's order, also when the trainer's step went back."""
        return self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the engine for its health and for what it serves."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the engine go on, which an earlier commit may have left paused."""


@dataclass(frozen=True, slots=True)
class Activate:
    """Make the engine serve a version."""

    target: Mark
    #: What it serves for certain, to be put back when it says that it failed.
    fallback: Mark | None
    #: Whether a pause that is found may be ours.
    owns_pause: bool


Order: TypeAlias = Ask | Resume | Activate


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an engine may be behind before that is trouble; None is no limit."""

    lag_max: int | None = None
    stale_max_s: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is newer than what an engine serves."""

    #: How many newer versions the channel has, complete here or not.
    count: int = 0
    #: When the first of them became known, unix seconds.
    since_s: float | None = None

    def seconds(self, now_s: float) -> float:
        """Return for how long the engine has been behind; 0 when it is not."""
        return 0.0 if self.since_s is None else max(0.0, now_s - self.since_s)


@dataclass
class Follower:
    """What is known and wanted of one engine.

    Invariant: at most one order is out.
    """

    limits: Limits = Limits()
    #: What the engine was last given with success, and what it was given before that.
    active: Mark | None = None
    previous: Mark | None = None
    #: What is being given to it, or was when nobody heard the end of it.
    attempting: Mark | None = None
    #: Nothing that is not newer than this is taken up unasked.
    hold: Mark | None = None
    knowledge: Knowledge = "none"
    #: Whether we have paused the engine and not heard that it goes on.
    owns_pause: bool = False
    health: Health | None = None
    #: Why the last attempt failed; None after one that did not.
    error: str | None = None
    newest: Mark | None = None
    waiting: Waiting = Waiting()
    #: What the operator has asked for.
    demanded: Mark | None = None
    #: Versions that are not tried again unasked.
    refused: dict[str, str] = field(default_factory=dict)
    _tries: Counter[str] = field(default_factory=Counter)
    _failures: int = 0
    _retry_at_s: float = 0.0
    _ask_at_s: float = 0.0
    _order: Order | None = None

    # --- facts ---

    def remember(
        self, *, active: Mark | None, previous: Mark | None, attempting: Mark | None, hold: Mark | None
    ) -> None:
        """Take up what an earlier run of the daemon has noted."""
        self.active, self.previous, self.attempting, self.hold = active, previous, attempting, hold
        if attempting is not None:
            self.knowledge, self.owns_pause = "unsettled", True
        elif active is not None:
            self.knowledge = "assumed"

    def offer(self, newest: Mark | None, waiting: Waiting) -> None:
        """Say which version is the newest that is complete here, and what is newer than `active`."""
        self.newest, self.waiting = newest, waiting
        active = self.active
        if newest is not None and active is not None and self._is_wanted(newest) and newest.manifest == active.manifest:
            # the same bytes under a new number: there is nothing to load
            self.active = newest

    @property
    def order(self) -> Order | None:
        """The order that is out."""
        return self._order

    @property
    def target(self) -> Mark | None:
        """What the engine should serve by now."""
        if self.demanded is not None:
            return self.demanded
        if self._is_wanted(self.newest):
            return self.newest
        if self.knowledge in ("confirmed", "assumed"):
            return self.active
        return next((mark for mark in (self.active, self.previous) if mark and mark.manifest not in self.refused), None)

    def _is_wanted(self, mark: Mark | None) -> bool:
        """Say whether the newest version is to be taken up although nobody asked for it."""
        if mark is None or mark.manifest in self.refused:
            return False
        floor = max((known.position for known in (self.active, self.hold) if known is not None), default=(-1, -1))
        return mark.position > floor

    def is_behind(self, now_s: float) -> bool:
        """Say whether the engine is further behind than it may be; `now_s` is unix time."""
        lag_max, stale_max_s = self.limits.lag_max, self.limits.stale_max_s
        is_late = stale_max_s is not None and self.waiting.seconds(now_s) > stale_max_s
        return is_late or (lag_max is not None and self.waiting.count > lag_max)

    # --- orders ---

    def next_order(self, now_s: float) -> Order | None:
        """Return what is to be done now, or None; `now_s` is monotonic."""
        if self._order is not None:
            return None
        order = self._order = self._choose(now_s)
        if isinstance(order, Activate):
            self.attempting = order.target
        return order

    def _choose(self, now_s: float) -> Order | None:
        can_ask = now_s >= self._ask_at_s
        if self.health is not Health.HEALTHY or self.knowledge == "unsettled":
            return Ask() if can_ask else None
        target = self.target
        is_known = self.knowledge == "confirmed" or (self.knowledge == "assumed" and self.demanded is None)
        is_served = target == self.active and is_known
        if is_served:
            # also what was asked for while nobody knew that it served; kept, it would shut out all that is newer
            self.demanded = None
        if target is not None and not is_served:
            if now_s >= self._retry_at_s:
                fallback = self.active if self.knowledge == "confirmed" and self.active != target else None
                return Activate(target, fallback, self.owns_pause)
        elif self.owns_pause and now_s >= self._retry_at_s:
            return Resume()
        return Ask() if can_ask else None

    def due_in_s(self, now_s: float) -> float:
        """Return after how many seconds `next_order` is worth calling although nothing has happened."""
        times = [self._ask_at_s]
        if self.target != self.active or self.owns_pause or self.knowledge in ("none", "lost"):
            times += [self._retry_at_s] if self._retry_at_s > now_s else []
        return max(0.0, min(times) - now_s)

    # --- endings ---

    def asked(self, health: Health, current: str | None, now_s: float) -> None:
        """Take the engine's answer; `current` is None when it cannot tell, or was not asked."""
        self._order = None
        was_away = self.health is not None and self.health is not Health.HEALTHY
        self.health = health
        if health is not Health.HEALTHY:
            self._ask_at_s = now_s + ASK_SOON_S
            return
        self._ask_at_s = now_s + ASK_INTERVAL_S
        if current is None:
            # it cannot tell: after a silence it may have been started anew, after a failure it may hold anything
            if self.knowledge == "unsettled" or (was_away and self.active is not None):
                self._lose()
            return
        attempted = self.attempting
        if self.knowledge == "unsettled" and attempted is not None and current == attempted.manifest:
            self._has_taken(attempted)
        elif self.active is not None and current == self.active.manifest:
            # after a failure this is only what it was called before
            if self.knowledge == "unsettled":
                self._lose()
            else:
                self.knowledge = "confirmed"
        else:
            self._lose()

    def _lose(self) -> None:
        self.attempting = None
        self.knowledge = "none" if self.active is None else "lost"

    def _has_taken(self, mark: Mark) -> None:
        if self.active is not None and mark.manifest != self.active.manifest:
            # gone back once, there is nothing older to go back to
            self.previous = None if mark == self.previous else self.active
        self.active, self.attempting, self.knowledge, self.error = mark, None, "confirmed", None
        if self.newest is not None and self.newest.position <= mark.position:
            self.waiting = Waiting()
        self.refused.pop(mark.manifest, None)
        del self._tries[mark.manifest]
        self._failures = 0
        if self.demanded is not None and self.demanded.manifest == mark.manifest:
            self.demanded = None
        if self.hold is not None and mark.position > self.hold.position:
            self.hold = None

    def ended(self, outcome: Outcome, now_s: float) -> None:
        """Take what came of an activation."""
        order, self._order = self._order, None
        if not isinstance(order, Activate):
            return
        target = order.target
        self.owns_pause = not outcome.is_resumed
        self._ask_at_s = now_s + ASK_INTERVAL_S
        if outcome.effect is Effect.ACTIVE:
            self._has_taken(target)
            self._retry_at_s = now_s if outcome.is_resumed else now_s + RETRY_FIRST_S
            return
        self.error = outcome.reason
        self.demanded = None if self.demanded == target else self.demanded
        self._failures += 1
        self._retry_at_s = now_s + min(RETRY_FIRST_S * 2 ** (self._failures - 1), RETRY_MAX_S)
        if outcome.effect is Effect.UNCHANGED:
            self.attempting = None
            # it may not be there at all
            self._ask_at_s = now_s
            return
        self._tries[target.manifest] += 1
        if outcome.effect is Effect.RESTORED:
            self.attempting = None
            self.refused[target.manifest] = outcome.reason
        else:
            self.knowledge, self._ask_at_s = "unsettled", now_s + ASK_SOON_S
            if self._tries[target.manifest] >= TRIES_MAX:
                self.refused[target.manifest] = outcome.reason

    def resumed(self, is_resumed: bool, now_s: float) -> None:
        """Take what came of a resume."""
        self._order = None
        self.owns_pause = not is_resumed
        self._failures = 0 if is_resumed else self._failures + 1
        self._retry_at_s = now_s + min(RETRY_FIRST_S * 2 ** max(0, self._failures - 1), RETRY_MAX_S)

    # --- the operator ---

    def demand(self, mark: Mark) -> None:
        """Have a version activated; it stays until something newer comes than there is now."""
        is_served = self.active is not None and mark.manifest == self.active.manifest and self.knowledge == "confirmed"
        # what is being given to the engine now is about to take its place
        self.demanded = None if is_served and self.attempting is None else mark
        self.refused.pop(mark.manifest, None)
        del self._tries[mark.manifest]
        self._retry_at_s = 0.0
        newest = self.newest
        self.hold = newest if newest is not None and newest.position > mark.position else None

    def roll_back(self) -> Mark:
        """Have the version from before activated, and return it; it stays until something newer comes than what was rolled back from.

        Raises:
            NotFound: There is none.
            Conflict: An activation is under way, or its end is not known yet.
        """
        if self.attempting is not None:
            raise Conflict(
                f"step {self.attempting.step} is being activated", hint="wait for its end: shardcast wait --activated"
            )
        if self.previous is None or self.active is None:
            raise NotFound(
                "there is no version to go back to", hint="shardcast activate NAME@STEP takes any that is held"
            )
        previous, given_up = self.previous, self.active
        self.demand(previous)
        self.hold = max((mark for mark in (given_up, self.hold) if mark is not None), key=lambda mark: mark.position)
        return previous

    def follow(self) -> None:
        """Take up the newest version again, whatever was chosen or refused."""
        self.hold = self.demanded = None
        self.refused.clear()
        self._tries.clear()
        self._retry_at_s = 0.0

"""The uplink's rate, found while sending: what the token bucket runs at when nobody has said `--up-mbps`.

*What is seen.* A first hop that is sent more than it carries keeps a queue, and two things hold while it does: what the
other hosts acknowledge, summed over all links, is the hop's rate whatever we offer; and every link's round trip is longer
than its smallest by the same wait. A receiver with a slow downlink lengthens its own link's round trip alone. So the
queue is read as a low quantile of the links' excess, weighted by what they delivered: a link that carries much and
waits little proves that the first hop is clear.

*What is done.* Four phases:

    OPEN    no limit known     three looks of queue and no growth: the sum is the rate       -> DRAIN
    DRAIN   quarter rate       as long as the link needs for what is queued (it stays busy)   -> CRUISE
    CRUISE  just under the rate  queue stands, less is acknowledged than paced: a new rate    -> DRAIN
                               no queue, and what is paced is used: perhaps there is more     -> PROBE
    PROBE   a little more      queue grew: back, with what was learned                        -> DRAIN
                               no queue: the rate is higher; the next probe is twice as bold  -> PROBE

Silence teaches nothing: a node that has little to send keeps its rate.

*Whose queue?* The wait for an acknowledgement may be somewhere else: in our own saturated downlink, in the uplinks of all
receivers. A queue that two drains did not shorten, while all that was paced arrived, is not ours; it becomes the level
above which queues are counted until the level falls by itself.

Nor is a low sum the line's when the links had nothing more to send.

*One link.* With one link sending, a slow receiver looks like a slow uplink. The rate found then holds only until a
second link delivers through a clear first hop; then the rate before it is back.

Source: the phases and the estimate are BBR's (draft-ietf-ccwg-bbr: Startup, Drain, ProbeBW; RTprop and BtlBw), of all
links together; queueing delay over the smallest round trip as the sign is LEDBAT's (RFC 6817).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from shardcast.bulk.tcp_info import LinkSample, Look, Looker

#: Of the payload rate that a full link was seen to deliver, so headers are counted already: 0.93 of an Ethernet's bits.
CRUISE_SHARE: Final = 0.97
#: Low enough that a queue is gone in little more time than it took to see it; above 0, which no bucket takes.
DRAIN_SHARE: Final = 0.25
#: A drain ends by then, however long the queue: beyond it lie buffers nobody should have.
DRAIN_S_MAX: Final = 1.5
#: The looks that a rate is taken from, about 0.2 s: one alone is wrong by a slice per link.
RECENT_LOOKS: Final = 2
#: Slow start doubles in a round trip; growth by less than this between two looks is its end.
PLATEAU_GROWTH: Final = 1.25
#: Less than this share of the pace acknowledged: the link holds back, or (without a queue) there is little to send.
HELD_SHARE: Final = 0.97
USED_SHARE: Final = 0.90
#: Links with this share of the bytes must have had more to send before a low rate is the line's: a node that passes everything on as fast
#: as it comes, to receivers whose downlinks are full, waits for acknowledgements too.
DEMAND_SHARE_MIN: Final = 0.8
#: A queue that came back although all paced bytes arrived: the rate is a trifle too high.
TRIM: Final = 0.98
#: Drains in vain after which a queue is taken for somebody else's.
DRAINS_IN_VAIN_MAX: Final = 2
#: The first probe's gain, seen as 20 ms of queue after 0.3 s on a full link, and the boldest.
PROBE_GAIN: Final = 0.10
PROBE_GAIN_MAX: Final = 1.0
PROBE_S: Final = 0.3
#: Between probes: a rate that was taken too low at the start is mended in a second or two, and a full link has a queue 10 % of the time.
PROBE_WAIT_S: Final = 0.3
#: From here on queues are the hosts', not the line's (2 Gbit/s), and an event loop's pacing would cost more than it saves.
OPEN_RATE_MAX: Final = 250e6
#: A dead line must not become a rate that no bucket can leave again.
RATE_MIN: Final = 16 * 1024.0


class Phase(Enum):
    """What the finder is doing; the module's table says what ends it."""

    OPEN = "open"
    DRAIN = "drain"
    CRUISE = "cruise"
    PROBE = "probe"


class UplinkFinder:
    """Looks at all sending links together, about ten times a second, and says at what rate to send.

    Invariant: there is a rate in every phase but OPEN.

    Args:
        remembered_bytes_per_s: A rate found earlier (`rate_bytes_per_s`) to begin with; None begins without a limit.
    """

    def __init__(self, remembered_bytes_per_s: float | None = None) -> None:
        self._rate = remembered_bytes_per_s
        self._phase = Phase.OPEN if remembered_bytes_per_s is None else Phase.CRUISE
        #: When DRAIN or PROBE ends; in CRUISE, when the next probe may begin.
        self._until_s = -math.inf
        self._gain = PROBE_GAIN
        self._looker = Looker()
        #: The looks of this phase, newest last; none older is comparable.
        self._looks: deque[Look] = deque(maxlen=RECENT_LOOKS + 1)
        #: The part of the common wait that is not ours.
        self._foreign_s = 0.0
        #: Drains since the queue was last seen gone, and the rate before them.
        self._drains_in_vain = 0
        self._rate_before_drains: float | None = None
        self._drain_share = DRAIN_SHARE
        self._wait_before_probe_s = 0.0
        #: Whether one link alone gave the rate; what it was before that.
        self._is_provisional = False
        self._rate_before: float | None = None

    @property
    def phase(self) -> Phase:
        """What the finder is doing."""
        return self._phase

    @property
    def rate_bytes_per_s(self) -> float | None:
        """The payload bytes per second that the uplink carries when full; None until it was seen full."""
        return self._rate

    @property
    def pace_bytes_per_s(self) -> float | None:
        """The rate for the bucket; None for no limit."""
        if self._rate is None:
            return None
        share = self._drain_share if self._phase is Phase.DRAIN else CRUISE_SHARE
        gain = self._gain if self._phase is Phase.PROBE else 0.0
        return max(self._rate * share * (1 + gain), RATE_MIN)

    def observe(self, samples: Iterable[LinkSample | None], now_s: float) -> float | None:
        """Take one sample of every link that may be sending, and return the rate for the bucket.

        Call it every 0.1 s, idle or not; None among the samples is passed over. Cost: about 150 µs for 8 links, the asking included.
        """
        look = self._looker.look([sample for sample in samples if sample is not None], now_s, self.pace_bytes_per_s)
        if look is None:
            return self.pace_bytes_per_s
        if look.acked_bytes > 0:
            self._looks.append(look)
            self._foreign_s = min(self._foreign_s, look.wait_s)
            self._step(look)
        elif self._phase in (Phase.DRAIN, Phase.PROBE):
            self._enter(Phase.CRUISE, look.at_s)
        else:
            self._looks.clear()  # a pause: what stood before it does not stand any more
        return self.pace_bytes_per_s

    def _step(self, look: Look) -> None:
        if self._is_provisional and look.link_count > 1 and not self._is_queued(look):
            self._restore(look)
        elif self._phase is Phase.OPEN:
            self._find_plateau(look)
        elif self._phase is Phase.CRUISE:
            self._keep_clear(look)
        elif self._phase is Phase.PROBE:
            self._judge_probe(look)
        elif look.at_s >= self._until_s:
            self._enter(Phase.CRUISE, look.at_s + PROBE_WAIT_S)

    def _find_plateau(self, look: Look) -> None:
        if not self._stands(is_loss_a_sign=True):
            return
        recent = self._recent()
        is_growing = recent[-1].rate_bytes_per_s > PLATEAU_GROWTH * recent[0].rate_bytes_per_s
        if not is_growing and _rate(recent) < OPEN_RATE_MAX and self._is_held_back():
            self._set_rate(_rate(recent), look)
            self._drain(look)

    def _keep_clear(self, look: Look) -> None:
        """Hold the rate while there is no queue; learn from one that stands, and drain it."""
        is_queued = self._is_queued(look)
        if not is_queued:
            self._drains_in_vain = 0
        recent = self._recent()
        used = _rate(recent) / _pace(recent)
        if self._stands(is_loss_a_sign=used < HELD_SHARE):
            self._learn(_rate(recent), used, look)
        elif not is_queued and used >= USED_SHARE and look.at_s >= self._until_s and len(recent) == RECENT_LOOKS:
            self._probe(look)

    def _learn(self, rate: float, used: float, look: Look) -> None:
        """Judge a standing queue: the rate is another, or a trifle lower, or the queue is somebody else's."""
        assert self._rate is not None
        if used < HELD_SHARE and not self._is_held_back():
            return
        if used < HELD_SHARE or rate > self._rate / HELD_SHARE:
            self._set_rate(rate, look)
            self._drains_in_vain = 0
        elif self._drains_in_vain >= DRAINS_IN_VAIN_MAX:
            self._foreign_s = min(seen.wait_s for seen in self._looks)
            self._rate, self._drains_in_vain = self._rate_before_drains, 0
            return
        else:
            if self._drains_in_vain == 0:
                self._rate_before_drains = self._rate
            self._rate *= TRIM
            self._drains_in_vain += 1
        self._drain(look)

    def _probe(self, look: Look) -> None:
        self._wait_before_probe_s = min(seen.wait_s for seen in self._recent())
        self._enter(Phase.PROBE, look.at_s + PROBE_S + 2 * look.min_rtt_s)

    def _judge_probe(self, look: Look) -> None:
        """End a probe early when a queue grows; at its end, take as proven what was delivered without one."""
        assert self._rate is not None
        is_over = look.at_s >= self._until_s - look.span_s / 2
        rise_s = look.wait_s - self._wait_before_probe_s
        delivered = _rate(self._recent())
        if rise_s >= (look.queue_s / 2 if is_over else look.queue_s):
            if delivered > self._rate / HELD_SHARE:
                self._set_rate(min(delivered, self._rate * (1 + self._gain)), look)
            self._gain = PROBE_GAIN
            self._drain(look)
        elif is_over and delivered < CRUISE_SHARE * self._rate * (1 + self._gain / 2):
            # too bold a step to be filled says little: a gentle one follows at once
            wait_s = PROBE_WAIT_S if self._gain == PROBE_GAIN else 0.0
            self._rate, self._gain = max(self._rate, delivered), PROBE_GAIN
            self._enter(Phase.CRUISE, look.at_s + wait_s)
        elif is_over:
            self._rate = min(delivered / CRUISE_SHARE, self._rate * (1 + self._gain))
            self._gain = min(2 * self._gain, PROBE_GAIN_MAX)
            self._probe(look)

    def _drain(self, look: Look) -> None:
        """Send less for as many looks as it takes the link to send what is queued, and so much less that it just ends."""
        assert self._rate is not None
        backlog_s = max(look.backlog_s - self._foreign_s, 0.0)
        look_count = max(1, math.ceil(min(backlog_s / (1 - DRAIN_SHARE), DRAIN_S_MAX) / look.span_s))
        self._drain_share = max(CRUISE_SHARE - backlog_s / (look_count * look.span_s), DRAIN_SHARE)
        self._enter(Phase.DRAIN, look.at_s + (look_count - 0.5) * look.span_s)

    def _enter(self, phase: Phase, until_s: float) -> None:
        self._phase, self._until_s = phase, until_s
        self._looks.clear()

    def _set_rate(self, rate: float, look: Look) -> None:
        if look.link_count > 1:
            self._is_provisional = False
        elif not self._is_provisional:
            self._is_provisional, self._rate_before = True, self._rate
        self._rate = max(rate, RATE_MIN)

    def _restore(self, look: Look) -> None:
        self._is_provisional, self._rate = False, self._rate_before
        self._enter(Phase.OPEN if self._rate is None else Phase.CRUISE, look.at_s)

    def _recent(self) -> list[Look]:
        return list(self._looks)[-RECENT_LOOKS:]

    def _stands(self, *, is_loss_a_sign: bool) -> bool:
        """Return whether a queue has stood for two whole intervals: at both ends of each."""
        seen = list(self._looks)[-RECENT_LOOKS - 1 :]
        return len(seen) > RECENT_LOOKS and all(
            self._is_queued(look) or (is_loss_a_sign and look.is_lossy) for look in seen
        )

    def _is_held_back(self) -> bool:
        """Whether the links would have sent more: if not, what they delivered says nothing about the line."""
        recent = self._recent()
        return sum(look.held_share for look in recent) >= DEMAND_SHARE_MIN * len(recent)

    def _is_queued(self, look: Look) -> bool:
        return look.wait_s - self._foreign_s >= look.queue_s


def _rate(looks: Sequence[Look]) -> float:
    return sum(look.acked_bytes for look in looks) / sum(look.span_s for look in looks)


def _pace(looks: Sequence[Look]) -> float:
    return sum(look.pace_bytes_per_s * look.span_s for look in looks) / sum(look.span_s for look in looks)

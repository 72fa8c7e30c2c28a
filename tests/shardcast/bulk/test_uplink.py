"""The finder against a line in virtual time: a fluid queue with a finite buffer, links over it, receivers behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from shardcast.bulk.tcp_info import LinkSample, TcpInfo
from shardcast.bulk.uplink import Phase, UplinkFinder

STEP_S = 0.002
LOOK_S = 0.1
#: What headers leave of a line's bits (1,448 of 1,514 bytes).
PAYLOAD = 1448 / 1514
UNSENT_MAX = 128 * 1024
BURST = 256 * 1024
MSS = 1448


@dataclass
class Link:
    """One sender: a window that doubles each round trip until bytes are lost, and a receiver with a rate of its own."""

    min_rtt_s: float
    receiver_rate: float = float("inf")
    wants: bool = True
    window: float = 10.0 * MSS
    unsent: float = 0.0
    queued: float = 0.0
    #: Waiting in front of a slow receiver.
    behind: float = 0.0
    in_flight: float = 0.0
    acked: float = 0.0
    lost: float = 0.0
    rtt_s: float = 0.0
    acks: deque[tuple[float, float]] = field(default_factory=deque)
    halved_at_s: float = -1.0
    #: Whether the window was what kept bytes back.
    is_held: bool = False

    def __post_init__(self) -> None:
        self.rtt_s = self.min_rtt_s


class Line:
    """The uplink, its links and the bucket that the finder steers."""

    def __init__(
        self, mbps: float, links: list[Link], finder: UplinkFinder | None = None, buffer_s: float = 0.2
    ) -> None:
        self.links = links
        self.finder = finder or UplinkFinder()
        self.now_s = 0.0
        self.set_mbps(mbps)
        self.buffer = self.rate * buffer_s
        #: A wait for acknowledgements that is not the uplink's.
        self.foreign_s: Callable[[float], float] = lambda now_s: 0.0
        self.pace: float | None = self.finder.pace_bytes_per_s
        self._tokens = float(BURST)
        self._first = 0
        self._look_at_s = 0.0

    def set_mbps(self, mbps: float) -> None:
        self.rate = mbps * 1e6 / 8 * PAYLOAD

    @property
    def queue_s(self) -> float:
        return sum(link.queued for link in self.links) / self.rate

    @property
    def acked(self) -> float:
        return sum(link.acked for link in self.links)

    def run(self, seconds: float) -> float:
        """Let time pass; return the share of the line's payload rate that was acknowledged."""
        acked, end_s = self.acked, self.now_s + seconds
        while self.now_s < end_s:
            self._step()
        return (self.acked - acked) / seconds / self.rate

    def _step(self) -> None:
        self.now_s += STEP_S
        self._release()
        for link in self.links:
            sent = max(min(link.unsent, link.window - link.in_flight), 0.0)
            link.is_held = link.unsent > sent
            link.unsent -= sent
            link.in_flight += sent
            link.queued += sent
        self._drop()
        self._carry()
        for link in self.links:
            self._acknowledge(link)
        if self.now_s >= self._look_at_s:
            self._look_at_s += LOOK_S
            self.pace = self.finder.observe([_sample(name, link) for name, link in enumerate(self.links)], self.now_s)

    def _release(self) -> None:
        if self.pace is not None:
            self._tokens = min(self._tokens + self.pace * STEP_S, max(BURST, self.pace * 0.02))
        self._first = (self._first + 1) % len(self.links)
        for link in self.links[self._first :] + self.links[: self._first]:
            room = UNSENT_MAX - link.unsent if link.wants else 0.0
            taken = room if self.pace is None else min(room, self._tokens / 2)
            link.unsent += taken
            if self.pace is not None:
                self._tokens -= taken

    def _drop(self) -> None:
        excess = sum(link.queued for link in self.links) - self.buffer
        total = sum(link.queued for link in self.links)
        for link in self.links:
            if excess > 0 and link.queued > 0:
                lost = excess * link.queued / total
                link.queued -= lost
                link.in_flight -= lost
                link.unsent += lost
                link.lost += lost
                if self.now_s - link.halved_at_s > link.rtt_s:
                    link.window, link.halved_at_s = max(link.window * 0.7, 4 * MSS), self.now_s

    def _carry(self) -> None:
        total = sum(link.queued for link in self.links)
        part = min(1.0, self.rate * STEP_S / total) if total else 0.0
        wait_s = total / self.rate + self.foreign_s(self.now_s)
        for link in self.links:
            link.behind += link.queued * part
            link.queued -= link.queued * part
            arrived = min(link.behind, link.receiver_rate * STEP_S)
            link.behind -= arrived
            own_wait_s = link.behind / link.receiver_rate
            link.acks.append((self.now_s + link.min_rtt_s + self.foreign_s(self.now_s), arrived))
            if arrived:
                link.rtt_s += (link.min_rtt_s + wait_s + own_wait_s - link.rtt_s) * STEP_S / 0.05

    def _acknowledge(self, link: Link) -> None:
        while link.acks and link.acks[0][0] <= self.now_s:
            _, size = link.acks.popleft()
            link.acked += size
            link.in_flight -= size
            if link.halved_at_s < 0 and link.is_held:
                link.window = min(link.window + size, 4e6)


def _sample(name: int, link: Link) -> LinkSample:
    return LinkSample(
        link=name,
        acked_bytes=int(link.acked),
        rtt_s=link.rtt_s,
        min_rtt_s=link.min_rtt_s,
        in_flight_bytes=int(link.in_flight),
        notsent_bytes=int(link.unsent),
        retrans_bytes=int(link.lost),
    )


def _links(count: int, min_rtt_s: float = 0.0001) -> list[Link]:
    return [Link(min_rtt_s) for _ in range(count)]


def _share(line: Line) -> float:
    """What the finder takes for just under the line, of the line's bits."""
    assert line.finder.rate_bytes_per_s is not None
    return 0.97 * line.finder.rate_bytes_per_s / line.rate * PAYLOAD


@pytest.mark.parametrize("min_rtt_s", [0.0001, 0.01, 0.04])
@pytest.mark.parametrize("mbps", [25, 50, 100, 200, 400])
def test_a_full_uplink_is_known_within_a_second_and_its_queue_is_gone_soon_after(mbps, min_rtt_s):
    line = Line(mbps, _links(8, min_rtt_s))
    line.run(1.0)
    assert 0.88 <= _share(line) <= 0.98
    line.run(1.0)
    queues = []
    for _ in range(60):
        queues.append((line.run(0.1), line.queue_s))
    assert 0.88 <= sum(share for share, _ in queues) / len(queues) * PAYLOAD <= 0.98
    assert sorted(queue_s for _, queue_s in queues)[45] < 0.015


@pytest.mark.parametrize("count", [1, 2, 16])
def test_it_is_the_same_for_one_link_and_for_many(count):
    line = Line(100, _links(count, 0.01))
    line.run(1.0)
    assert 0.88 <= _share(line) <= 0.98


@pytest.mark.parametrize("count", [2, 4, 8])
def test_one_slow_receiver_does_not_throttle_the_others(count):
    line = Line(400, [Link(0.001, receiver_rate=1e6), *_links(count - 1, 0.001)])
    line.run(1.0)
    assert line.run(4.0) * PAYLOAD >= 0.85


def test_a_slow_receiver_alone_is_forgotten_when_a_second_link_sends():
    line = Line(400, [Link(0.001, receiver_rate=1e6), Link(0.001, wants=False)])
    line.run(2.0)
    line.links[1].wants = True
    line.run(1.0)
    assert line.run(2.0) * PAYLOAD >= 0.85


def test_links_that_fill_no_line_are_never_limited():
    line = Line(400, [Link(0.001, receiver_rate=2e6, window=8 * MSS) for _ in range(8)])
    for link in line.links:
        link.window, link.halved_at_s = 2e6 * 0.001 * 0.9, 0.0
    line.run(5.0)
    assert line.pace is None


@pytest.mark.parametrize(("before", "after"), [(200, 50), (400, 25), (50, 200), (25, 400), (100, 80), (80, 100)])
def test_a_line_that_changes_is_followed_within_seconds(before, after):
    line = Line(before, _links(8, 0.005))
    line.run(3.0)
    line.set_mbps(after)
    line.run(5.0 if after > before else 1.0)
    assert 0.85 <= line.run(4.0) * PAYLOAD <= 0.98
    assert 0.85 <= _share(line) <= 1.0


def test_silence_and_a_trickle_keep_the_rate():
    line = Line(100, _links(8, 0.01))
    line.run(3.0)
    known = line.finder.rate_bytes_per_s
    for link in line.links:
        link.wants = False
    line.run(20.0)
    for link in line.links:
        link.wants, link.window, link.halved_at_s = True, 1000, line.now_s
    line.run(5.0)
    assert line.finder.rate_bytes_per_s == pytest.approx(known, rel=0.03)
    for link in line.links:
        link.window, link.halved_at_s = 1e6, -1.0
    line.run(0.2)
    assert line.run(2.0) * PAYLOAD >= 0.85


def test_a_wait_that_is_not_the_uplinks_costs_little():
    line = Line(100, _links(8, 0.005))
    line.run(3.0)
    line.foreign_s = lambda now_s: 0.1
    line.run(3.0)
    assert line.run(6.0) * PAYLOAD >= 0.80


def _lossy(turn: int, *, unsent: int) -> list[LinkSample]:
    """Eight links that deliver 8 MB/s together and repeat a part of it, `unsent` of them with more to send."""
    return [
        LinkSample(
            link=name,
            acked_bytes=100_000 * turn,
            rtt_s=0.02,
            min_rtt_s=0.02,
            in_flight_bytes=20_000,
            notsent_bytes=50_000 if name < unsent else 0,
            retrans_bytes=4_000 * turn,
        )
        for name in range(8)
    ]


def test_a_buffer_too_short_to_show_as_a_wait_is_seen_by_its_losses():
    finder = UplinkFinder()
    for turn in range(5):
        finder.observe(_lossy(turn, unsent=8), 0.1 * turn)
    assert finder.rate_bytes_per_s == pytest.approx(8e6)


def test_what_links_deliver_that_have_no_more_to_send_is_not_the_lines_rate():
    finder = UplinkFinder()
    for turn in range(20):
        finder.observe(_lossy(turn, unsent=6), 0.1 * turn)
    assert finder.rate_bytes_per_s is None


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_a_remembered_rate_is_used_at_once_and_corrected(factor):
    finder = UplinkFinder(100e6 / 8 * PAYLOAD * factor)
    line = Line(100, _links(8, 0.01), finder)
    assert finder.phase is Phase.CRUISE
    line.run(3.0)
    assert 0.88 <= _share(line) <= 0.98


def test_looks_without_news_change_nothing():
    finder = UplinkFinder()
    assert finder.observe([], 0.0) is None
    assert finder.observe([None], 0.01) is None
    assert finder.observe([], 5.0) is None


def test_a_connection_without_a_round_trip_is_no_sample():
    assert LinkSample.of(1, None) is None
    info = TcpInfo(
        state=1,
        is_app_limited=False,
        snd_mss_bytes=1448,
        unacked_segments=2,
        rtt_s=0.02,
        snd_cwnd_segments=10,
        acked_bytes=5,
        notsent_bytes=None,
        min_rtt_s=0.01,
        delivery_rate_bytes_per_s=None,
        busy_s=None,
        rwnd_limited_s=None,
        sndbuf_limited_s=None,
        sent_bytes=None,
        retrans_bytes=None,
    )
    assert LinkSample.of(1, info) == LinkSample(
        link=1, acked_bytes=5, rtt_s=0.02, min_rtt_s=0.01, in_flight_bytes=2896, notsent_bytes=0, retrans_bytes=0
    )

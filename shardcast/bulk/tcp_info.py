"""What Linux knows about one TCP connection: `struct tcp_info`, read by one `getsockopt`.

The kernel only ever appends to the struct and copies as much as was asked for, so an older one answers with fewer
bytes; what lies beyond them is None here. Where there is no TCP_INFO there is no answer at all.

Source: Linux, `include/uapi/linux/tcp.h`; what the counters mean is RFC 4898 (TCP extended statistics).
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from asyncio.trsock import TransportSocket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: Linux on a 64-bit machine lays the struct out without padding; `x` steps over what nobody here asks for.
_LAYOUT: Final = struct.Struct(
    "=B6xB"  # 0: state; 7: bit fields, the first of them delivery_rate_app_limited
    "8xI4xI"  # 16: snd_mss; 24: unacked
    "40xI"  # 68: rtt
    "8xI"  # 80: snd_cwnd
    "36xQ"  # 120: bytes_acked
    "16xII"  # 144: notsent_bytes, min_rtt
    "8xQQQQ"  # 160: delivery_rate, busy_time, rwnd_limited, sndbuf_limited
    "8xQQ"  # 200: bytes_sent, bytes_retrans
)
#: Where the optional fields end, in the order above; those before them are as old as the option itself.
_ENDS: Final = (128, 148, 152, 168, 176, 184, 192, 208, 216)
#: How many bytes the oldest fields need (to the end of snd_cwnd); Linux 2.6 has them.
_SIZE_MIN: Final = 84
#: The compiler puts the first bit field of a byte at its low end on a little-endian machine, else at its high end.
_APP_LIMITED_BIT: Final = 0x01 if sys.byteorder == "little" else 0x80
#: The kernel's word for "no minimum yet".
_NO_MIN_RTT_US: Final = 0xFFFF_FFFF
_S_PER_US: Final = 1e-6
#: A wait that counts as a queue: paced links show 0.5 ms on a wire, saturated ones 12 (BBR) to 175 ms (Cubic, measured);
#: a long path jitters more, hence the part of its round trip.
QUEUE_S: Final = 0.010
QUEUE_PER_RTT: Final = 1 / 8
#: This share of the delivered bytes may have waited less than the queue is said to be: links whose smallest round trip
#: was taken in a full queue show none.
CLEAR_SHARE: Final = 0.25
#: Smoothed round trips over one queue that just filled differ by this factor; a receiver's own queue stands out further.
COMMON_SPREAD: Final = 4
#: Repeated bytes, of the acknowledged, that mean a full buffer too short to show as a wait.
LOSS_SHARE: Final = 0.02
#: Looks closer together than this measure the bursts of the bucket.
LOOK_S_MIN: Final = 0.05
#: A link with less of the sum than this does not count as a second one.
LINK_SHARE_MIN: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class TcpInfo:
    """One connection at one moment. Counters run from its beginning; None is what this kernel does not tell."""

    #: The kernel's number of the state; 1 is established.
    state: int
    #: Whether the last `delivery_rate` was bounded by what the application wrote; False on a kernel without it.
    is_app_limited: bool
    snd_mss_bytes: int
    #: Segments sent and not acknowledged.
    unacked_segments: int
    #: Smoothed round trip (RFC 6298); None before the first sample.
    rtt_s: float | None
    #: How many segments may be in flight.
    snd_cwnd_segments: int
    #: Bytes that the other host has acknowledged.
    acked_bytes: int | None
    #: Bytes in the send buffer that have never left.
    notsent_bytes: int | None
    #: The smallest round trip of the last minutes (`net.ipv4.tcp_min_rtt_wlen`); None before the first sample.
    min_rtt_s: float | None
    delivery_rate_bytes_per_s: int | None
    #: How long there was something to send; of that, waiting for the receiver's window, and for our own buffer.
    busy_s: float | None
    rwnd_limited_s: float | None
    sndbuf_limited_s: float | None
    #: Bytes sent, repeated ones included, and the repeated ones alone.
    sent_bytes: int | None
    retrans_bytes: int | None


def read_tcp_info(sock: socket.socket | TransportSocket) -> TcpInfo | None:
    """Ask the kernel about a connection; None where the system does not tell, or the socket is closed.

    Cost: one system call and one unpacking, about 3 µs.
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None or sys.platform != "linux":
        return None
    try:
        return parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, option, _LAYOUT.size))
    except OSError:
        return None


def parse_tcp_info(raw: bytes) -> TcpInfo | None:
    """Read the bytes of a `struct tcp_info`, however many there are; None for too few to say anything."""
    known = len(raw)
    if known < _SIZE_MIN:
        return None
    state, flags, snd_mss, unacked, rtt_us, cwnd, *rest = _LAYOUT.unpack_from(raw.ljust(_LAYOUT.size, b"\0"))
    told: list[int | None] = [value if end <= known else None for value, end in zip(rest, _ENDS, strict=True)]
    acked, notsent, min_rtt_us, delivery_rate, busy_us, rwnd_us, sndbuf_us, sent, retrans = told
    return TcpInfo(
        state=state,
        is_app_limited=bool(flags & _APP_LIMITED_BIT) and delivery_rate is not None,
        snd_mss_bytes=snd_mss,
        unacked_segments=unacked,
        rtt_s=_seconds(rtt_us or None),
        snd_cwnd_segments=cwnd,
        acked_bytes=acked,
        notsent_bytes=notsent,
        min_rtt_s=_seconds(None if min_rtt_us == _NO_MIN_RTT_US else min_rtt_us),
        delivery_rate_bytes_per_s=delivery_rate,
        busy_s=_seconds(busy_us),
        rwnd_limited_s=_seconds(rwnd_us),
        sndbuf_limited_s=_seconds(sndbuf_us),
        sent_bytes=sent,
        retrans_bytes=retrans,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSample:
    """One link at one moment; the counters run from the link's beginning."""

    #: Names the link among all that the node ever had.
    link: int
    acked_bytes: int
    rtt_s: float
    min_rtt_s: float
    #: Sent and not acknowledged.
    in_flight_bytes: int
    #: In the send buffer, never sent.
    notsent_bytes: int = 0
    retrans_bytes: int = 0

    @classmethod
    def of(cls, link: int, info: TcpInfo | None) -> LinkSample | None:
        """Return what the finder needs of a connection; None where the kernel does not tell, or has no round trip yet."""
        if info is None or info.acked_bytes is None or info.rtt_s is None or info.min_rtt_s is None:
            return None
        return cls(
            link=link,
            acked_bytes=info.acked_bytes,
            rtt_s=info.rtt_s,
            min_rtt_s=info.min_rtt_s,
            in_flight_bytes=info.unacked_segments * info.snd_mss_bytes,
            notsent_bytes=info.notsent_bytes or 0,
            retrans_bytes=info.retrans_bytes or 0,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """All links together, over the time since the look before."""

    at_s: float
    span_s: float
    acked_bytes: int
    #: The common wait: what acknowledgements take over the smallest round trip, without links that stand out.
    wait_s: float
    #: How long the line needs, at the rate of this look, for what is in flight beyond a round trip or unsent.
    backlog_s: float
    min_rtt_s: float
    #: Whether links with most of the bytes had to repeat some.
    is_lossy: bool
    #: The part of the acknowledged bytes whose links had more to send than the kernel let go.
    held_share: float
    #: Links that delivered more than a trace.
    link_count: int
    #: What the bucket ran at; infinite without a limit.
    pace_bytes_per_s: float

    @property
    def rate_bytes_per_s(self) -> float:
        """What was acknowledged in a second."""
        return self.acked_bytes / self.span_s

    @property
    def queue_s(self) -> float:
        """The wait from which on there is a queue."""
        return QUEUE_S + QUEUE_PER_RTT * self.min_rtt_s


class Looker:
    """Makes looks of samples: what the counters have grown by, what is common to the links.

    The common wait is the smaller of two. The kernel's round trips are exact and late: they average over eight
    acknowledgements, which at a few megabytes per second take a second. What is in flight, divided by the rate (Little's
    law), is instant and coarse: it has the bucket's last slice in it.
    """

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._seen: dict[int, LinkSample] = {}

    def look(self, samples: Sequence[LinkSample], now_s: float, pace_bytes_per_s: float | None) -> Look | None:
        """Compare with the samples before; None when there are none, or from a moment ago."""
        if self._at_s is not None and now_s - self._at_s < LOOK_S_MIN:
            return None
        span_s = None if self._at_s is None else now_s - self._at_s
        grown = [
            _Grown(sample, sample.acked_bytes - before.acked_bytes, sample.retrans_bytes - before.retrans_bytes)
            for sample in samples
            if (before := self._seen.get(sample.link)) is not None and sample.acked_bytes > before.acked_bytes
        ]
        self._at_s, self._seen = now_s, {sample.link: sample for sample in samples}
        if span_s is None:
            return None
        grown.sort(key=lambda link: link.excess_s)
        acked = sum(link.acked_bytes for link in grown)
        typical = _quantile(grown, CLEAR_SHARE * acked)
        excess_s, min_rtt_s = (0.0, 0.0) if typical is None else (typical.excess_s, typical.sample.min_rtt_s)
        common = [link for link in grown if link.excess_s <= COMMON_SPREAD * excess_s + QUEUE_S]
        rate = max(sum(link.acked_bytes for link in common) / span_s, 1.0)
        flight_s = max(sum(link.sample.in_flight_bytes for link in common) / rate - min_rtt_s, 0.0)
        return Look(
            at_s=now_s,
            span_s=span_s,
            acked_bytes=acked,
            wait_s=min(excess_s, flight_s),
            backlog_s=flight_s + sum(link.sample.notsent_bytes for link in common) / rate,
            min_rtt_s=min_rtt_s,
            is_lossy=2 * sum(link.acked_bytes for link in grown if link.is_lossy) > acked,
            held_share=sum(link.acked_bytes for link in grown if link.sample.notsent_bytes) / max(acked, 1),
            link_count=sum(link.acked_bytes > LINK_SHARE_MIN * acked for link in grown),
            pace_bytes_per_s=math.inf if pace_bytes_per_s is None else pace_bytes_per_s,
        )


@dataclass(frozen=True, slots=True)
class _Grown:
    """A link, and by how much its counters have grown."""

    sample: LinkSample
    acked_bytes: int
    retrans_bytes: int

    @property
    def excess_s(self) -> float:
        return self.sample.rtt_s - self.sample.min_rtt_s

    @property
    def is_lossy(self) -> bool:
        return self.retrans_bytes > LOSS_SHARE * self.acked_bytes


def _quantile(grown: Sequence[_Grown], share_bytes: float) -> _Grown | None:
    """Return the first link by which, in the order given, `share_bytes` were acknowledged."""
    passed = 0
    for link in grown:
        passed += link.acked_bytes
        if passed >= share_bytes:
            return link
    return None


def _seconds(time_us: int | None) -> float | None:
    return None if time_us is None else time_us * _S_PER_US

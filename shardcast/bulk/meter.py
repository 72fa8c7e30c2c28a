"""The meter of one link: bytes each way, and the rate of the last second or so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shardcast_proto.ids import PeerId

_SPAN_S: Final = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkStats:
    """One link at one moment."""

    peer: PeerId
    is_sending: bool
    #: Chunk bytes since it came up, and their rate over the last second or so.
    sent_bytes: int
    received_bytes: int
    rate_bytes_per_s: float
    #: Control messages with their heads, both ways.
    control_sent_bytes: int
    control_received_bytes: int


class Meter:
    """Counts bytes, and remembers how many the last whole span had.

    Invariant: `_span_bytes` of `total_bytes` came since `_since_s`.
    """

    def __init__(self, now_s: float) -> None:
        self.total_bytes = 0
        self._since_s = now_s
        self._span_bytes = 0
        self._rate = 0.0

    def add(self, size_bytes: int, now_s: float) -> None:
        """Count bytes that moved."""
        self._turn(now_s)
        self.total_bytes += size_bytes
        self._span_bytes += size_bytes

    def rate_bytes_per_s(self, now_s: float) -> float:
        """Return the rate over the last whole span; 0 after a span of silence."""
        self._turn(now_s)
        return self._rate

    def _turn(self, now_s: float) -> None:
        elapsed_s = now_s - self._since_s
        if elapsed_s >= _SPAN_S:
            self._rate = self._span_bytes / elapsed_s if elapsed_s < 2 * _SPAN_S else 0.0
            self._since_s, self._span_bytes = now_s, 0

"""The token bucket that decides when uploaded bytes leave.

A saturated slow uplink queues the acknowledgements of everything that comes in, and a node in that state drags its
whole swarm (measured: mixed uplinks finish at 1.6-2.8 times the floor unpaced, 1.10 paced). So payload bytes are paced
a little under the link's rate.

The bucket keeps one number: the time at which everything promised so far has left at the exact rate. A caller reserves
its bytes, which moves that time on, then waits for what it was promised. Callers are therefore served in the order they
came, and a wake-up that comes late is made up for by the next one, within the burst.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from shardcast_proto.errors import ConfigError

#: The part of an uplink that payload may use; headers of TCP and IP (2.7 % at 1,500 bytes) and acknowledgements take
#: the rest.
PAYLOAD_SHARE: Final = 0.95
#: What may leave at once after a pause: enough that a loop which wakes 20 ms late loses nothing, too little to fill a
#: queue on the way.
BURST_S: Final = 0.02
BURST_BYTES_MIN: Final = 256 * 1024
#: One slice is about 10 ms of the rate, so that several uploads share a slow link smoothly.
SLICE_S: Final = 0.01
SLICE_BYTES_MIN: Final = 16 * 1024
SLICE_BYTES_MAX: Final = 256 * 1024
#: Without a rate slices only bound how long one `sendfile` may take; larger ones cost fewer wake-ups.
SLICE_BYTES_UNPACED: Final = 1024 * 1024


class TokenBucket:
    """A rate that several uploads share, first come first served.

    Invariant: over any span of t seconds at most `rate * t + burst + one reservation` bytes are let go.

    Args:
        rate_bytes_per_s: Payload bytes per second; None for no limit.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, rate_bytes_per_s: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = _checked(rate_bytes_per_s)
        #: When everything reserved so far will have left, on the clock; in the past by the unused burst.
        self._clear_at_s = clock() - self._burst_s

    @classmethod
    def for_uplink(cls, up_mbps: float | None, *, clock: Callable[[], float] = time.monotonic) -> TokenBucket:
        """Return the bucket for a link of `up_mbps` megabits per second (`--up-mbps`); None for no limit."""
        return cls(None if up_mbps is None else up_mbps * 1e6 / 8 * PAYLOAD_SHARE, clock=clock)

    @property
    def rate_bytes_per_s(self) -> float | None:
        """The payload rate, or None without a limit."""
        return self._rate

    @property
    def slice_bytes(self) -> int:
        """How many bytes an upload should reserve at a time."""
        if self._rate is None:
            return SLICE_BYTES_UNPACED
        return int(min(max(self._rate * SLICE_S, SLICE_BYTES_MIN), SLICE_BYTES_MAX))

    def set_rate(self, rate_bytes_per_s: float | None) -> None:
        """Change the rate. What is already promised keeps its times; bytes reserved from now on go at the new rate."""
        self._rate = _checked(rate_bytes_per_s)
        self._clear_at_s = max(self._clear_at_s, self._clock() - self._burst_s)

    def reserve(self, size_bytes: int) -> float:
        """Promise `size_bytes` to the caller.

        Returns:
            Seconds to wait before they may leave, 0.0 when they may leave now.
        """
        if self._rate is None:
            return 0.0
        now_s = self._clock()
        start_s = max(self._clear_at_s, now_s - self._burst_s)
        self._clear_at_s = start_s + size_bytes / self._rate
        return max(0.0, self._clear_at_s - now_s)

    def refund(self, size_bytes: int) -> None:
        """Take back a promise whose bytes will not leave."""
        if self._rate is not None:
            self._clear_at_s -= size_bytes / self._rate

    async def take(self, size_bytes: int) -> None:
        """Wait until `size_bytes` may leave.

        Cancellation: the bytes are given back.
        """
        delay_s = self.reserve(size_bytes)
        if delay_s <= 0:
            return
        try:
            await asyncio.sleep(delay_s)
        except asyncio.CancelledError:
            self.refund(size_bytes)
            raise

    @property
    def _burst_s(self) -> float:
        return 0.0 if self._rate is None else max(BURST_S, BURST_BYTES_MIN / self._rate)


def _checked(rate_bytes_per_s: float | None) -> float | None:
    if rate_bytes_per_s is not None and not rate_bytes_per_s > 0:
        raise ConfigError(
            f"an upload rate of {rate_bytes_per_s} bytes/s is no rate", hint="name a rate above 0, or none for no limit"
        )
    return rate_bytes_per_s

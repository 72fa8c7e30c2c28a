"""The ways to one peer's chunks: its data plane, or carried over the control connection.

The data plane is always preferred: carrying costs twenty times the CPU. A peer that announces no data plane is carried; so is one
whose data plane cannot be reached from here, until it is tried again, later with each time that this fails.
"""

from __future__ import annotations

from .bandwidth import RateEstimate
from .config import RelayConfig


class Reach:
    """What is known of the ways to one peer."""

    def __init__(self, config: RelayConfig) -> None:
        self._config = config
        #: What the peer delivers over the control connection; says nothing of its data plane, nor the other way round.
        self.carried = RateEstimate(config, prior_bytes_per_s=config.carried_rate_prior_bytes_per_s)
        #: Nothing is asked of the data plane before this time.
        self.direct_at_s = 0.0
        #: Times in a row that the data plane could not be reached.
        self.failures = 0
        self._noticed_s = float("-inf")

    def unreachable(self, started_s: float, now_s: float) -> bool:
        """A fetch that began at `started_s` did not reach the data plane; return whether that is news.

        Fetches that were under way when the first one failed say nothing new.
        """
        if started_s <= self._noticed_s:
            return False
        span_s = self._config.direct_retry_s * 2 ** min(self.failures, 16)
        self.failures += 1
        self._noticed_s = now_s
        self.direct_at_s = now_s + min(span_s, self._config.direct_retry_max_s)
        return True

    def reached(self) -> None:
        """The data plane answered."""
        self.failures = 0
        self.direct_at_s = 0.0

"""The estimate of how fast one peer delivers.

Several fetches share a peer, so a single fetch says nothing about its rate. Bytes are summed over the time in which at least one fetch
was under way, and each stretch of `sample_s` gives one sample of an exponentially weighted mean with its variance. A failure is never
a sample: the window it falls into is thrown away.
"""

from __future__ import annotations

from .config import RelayConfig


class RateEstimate:
    """Bytes per second from one peer, with a deviation, and the time to its first byte."""

    def __init__(self, config: RelayConfig, *, prior_bytes_per_s: float | None = None) -> None:
        self._config = config
        self._prior_bytes_per_s = prior_bytes_per_s or config.rate_prior_bytes_per_s
        #: Mean of the samples, bytes/s; None before the first.
        self.mean: float | None = None
        #: Weighted variance of the samples, (bytes/s)².
        self.variance = 0.0
        #: What the peer says of its uplink, bytes/s; 0 when it says nothing.
        self.advertised = 0
        #: Smoothed time to the first byte, seconds.
        self.rtt_s = config.rtt_prior_s
        self._window_from_s: float | None = None
        self._window_bytes = 0

    def fetch_started(self, now_s: float) -> None:
        """A fetch began while no other was under way."""
        self._window_from_s, self._window_bytes = now_s, 0

    def bytes_arrived(self, size_bytes: int, now_s: float) -> None:
        """Count verified bytes; close the window when it is long enough."""
        if self._window_from_s is None:
            return
        self._window_bytes += size_bytes
        if now_s - self._window_from_s >= self._config.rate_sample_s:
            self._sample(now_s - self._window_from_s)
            self._window_from_s, self._window_bytes = now_s, 0

    def fetch_ended(self, now_s: float, *, failed: bool, others: int) -> None:
        """A fetch ended while `others` go on. The last one closes the window; a failed one throws it away."""
        if not failed and others:
            return
        if not failed and self._window_bytes and self._window_from_s is not None:
            self._sample(now_s - self._window_from_s)
        self._window_from_s, self._window_bytes = (now_s if others else None), 0

    def first_byte_arrived(self, rtt_s: float) -> None:
        """Learn the time to the first byte."""
        self.rtt_s += self._config.rate_smoothing * (rtt_s - self.rtt_s)

    @property
    def bytes_per_s(self) -> float:
        """The rate to reckon with: a pessimistic measured one, raised a little by what is advertised, else the prior."""
        config = self._config
        if self.mean is None:
            rate = min(float(self.advertised), self._prior_bytes_per_s) or self._prior_bytes_per_s
        else:
            rate = self.mean - self.variance**0.5 / 2
            if self.advertised > self.mean:
                rate = max(rate, min(float(self.advertised), rate * config.advertised_trust))
        return max(rate, config.rate_floor_bytes_per_s)

    def _sample(self, elapsed_s: float) -> None:
        rate = self._window_bytes / max(elapsed_s, 1e-3)
        if self.mean is None:
            self.mean = rate
            return
        weight = self._config.rate_smoothing
        difference = rate - self.mean
        self.mean += weight * difference
        self.variance = (1 - weight) * (self.variance + weight * difference * difference)

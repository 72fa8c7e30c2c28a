"""The memory of how a peer behaved: its success rate, its pauses after failures, its quarantine after bad chunks.

A score never decides what is valid, only whom to ask. A bad chunk quarantines; a failure (which may be the path's fault) only pauses.
"""

from __future__ import annotations

from .config import RelayConfig

#: Counts above this are halved, so that old conduct fades.
_MEMORY_MAX = 64.0


class Reputation:
    """One peer's record with us. It outlives the connection."""

    def __init__(self, config: RelayConfig) -> None:
        self._config = config
        #: Successes and failures as of late.
        self.successes = 0.0
        self.failures = 0.0
        #: Failures since the last success.
        self.failures_in_a_row = 0
        #: Incidents of bad chunks, ever.
        self.bad_chunks = 0
        #: Whether it has proved to act for an origin key.
        self.is_origin = False
        #: Bad chunks of an origin since its last success.
        self._bad_chunks_in_a_row = 0
        #: Nothing is asked of the peer before this time.
        self.paused_until_s = 0.0
        #: Nothing at all is done with the peer before this time.
        self.quarantined_until_s = 0.0

    @property
    def success_rate(self) -> float:
        """Mean of the Beta distribution over successes and failures, both counted from one."""
        return (self.successes + 1) / (self.successes + self.failures + 2)

    def is_quarantined(self, now_s: float) -> bool:
        """Whether the peer is refused."""
        return now_s < self.quarantined_until_s

    def is_usable(self, now_s: float) -> bool:
        """Whether the peer may be asked for something."""
        return now_s >= self.paused_until_s and now_s >= self.quarantined_until_s

    def succeeded(self) -> None:
        """A fetch was completed."""
        self.failures_in_a_row = self._bad_chunks_in_a_row = 0
        self.successes += 1
        self._fade()

    def failed(self, now_s: float) -> None:
        """A fetch failed: pause, twice as long with each failure in a row."""
        self.failures += 1
        self.failures_in_a_row += 1
        self._fade()
        pause_s = self._config.retry_backoff_s * 2 ** min(self.failures_in_a_row - 1, 16)
        self.pause(now_s, min(pause_s, self._config.retry_backoff_max_s))

    def pause(self, now_s: float, pause_s: float) -> None:
        """Ask nothing of the peer for a while, without blame."""
        self.paused_until_s = max(self.paused_until_s, now_s + pause_s)

    def sent_bad_chunk(self, now_s: float) -> None:
        """Quarantine: 60 s for the first bad chunk, doubling with each further one.

        Chunks that were under way when the quarantine began belong to the same incident: they do not lengthen it. A proven origin is only
        paused: what it sends is decided by its own key, and cutting it off would keep its next head from us.
        """
        self.failures += 1
        self._fade()
        if self.is_origin:
            if now_s >= self.paused_until_s:
                pause_s = self._config.origin_pause_s * 2 ** min(self._bad_chunks_in_a_row, 16)
                self._bad_chunks_in_a_row += 1
                self.pause(now_s, min(pause_s, self._config.origin_pause_max_s))
            return
        if self.is_quarantined(now_s):
            return
        self.bad_chunks += 1
        span_s = self._config.quarantine_s * 2 ** min(self.bad_chunks - 1, 16)
        self.quarantined_until_s = now_s + min(span_s, self._config.quarantine_max_s)

    def _fade(self) -> None:
        if self.successes + self.failures > _MEMORY_MAX:
            self.successes /= 2
            self.failures /= 2

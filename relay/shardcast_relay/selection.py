"""The choice of a source: which of the peers that hold a chunk should be asked for it.

Each candidate's estimated time of arrival is `rtt + (owed + size) / rate`, divided by its success rate; the smallest of a few sampled
candidates wins ("power of a few choices": comparing all would send every request to the one that looked best a moment ago). Now and
then one is taken blindly, so that a peer whose estimate has gone bad is measured again.

Source: Dragonfly's two-stage parent selection and Mitzenmacher's power of two choices, with the estimate of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardcast_proto.ids import PeerId

from .bandwidth import RateEstimate
from .config import RelayConfig
from .randomness import Rng
from .reputation import Reputation


@dataclass(slots=True)
class Source:
    """A peer that may be asked for chunks now."""

    peer: PeerId
    addresses: tuple[str, ...]
    rate: RateEstimate
    reputation: Reputation
    #: Bytes that the peer owes us already.
    owed_bytes: int
    #: Fetches under way at the peer.
    fetch_count: int
    #: Asked over the control connection: one fetch at a time, and only for what no data plane gives.
    is_carried: bool = False
    #: A fetch by the other way is under way: the two are not mixed, so that each way's rate is its own.
    is_switching: bool = False

    def eta_s(self, size_bytes: int) -> float:
        """Return the seconds until `size_bytes` more have arrived from this peer, weighed by its success rate."""
        transfer_s = (self.owed_bytes + size_bytes) / self.rate.bytes_per_s
        return (self.rate.rtt_s + transfer_s) / self.reputation.success_rate

    def window_bytes(self, config: RelayConfig, chunk_bytes: int) -> int:
        """Return how much may be under way at this peer: bandwidth × delay, and never less than two runs, or one that takes long."""
        bytes_per_s = self.rate.bytes_per_s
        return self._window_bytes(config, bytes_per_s, self._run_chunks(config, chunk_bytes, bytes_per_s) * chunk_bytes)

    def run_chunks(self, config: RelayConfig, chunk_bytes: int) -> int:
        """Return how many chunks one request to this peer should ask for."""
        return self._run_chunks(config, chunk_bytes, self.rate.bytes_per_s)

    def run_max(self, config: RelayConfig, chunk_bytes: int) -> int:
        """Return how many chunks the next request may ask for: a run, within the window."""
        bytes_per_s = self.rate.bytes_per_s
        run_chunks = self._run_chunks(config, chunk_bytes, bytes_per_s)
        room_bytes = self._window_bytes(config, bytes_per_s, run_chunks * chunk_bytes) - self.owed_bytes
        return min(run_chunks, room_bytes // chunk_bytes)

    def deadline_s(self, config: RelayConfig, estimate_s: float) -> float:
        """Return how long a fetch that should take `estimate_s` may take."""
        span_s = max(config.fetch_deadline_factor * estimate_s, config.fetch_deadline_min_s)
        return span_s * float(1 << min(self.reputation.failures_in_a_row, config.fetch_deadline_doublings_max))

    def has_room(self, config: RelayConfig, chunk_bytes: int) -> bool:
        """Whether another run fits the window.

        Less room than a run is no room: asked for chunk by chunk as the window opens, every run would be one chunk long (the silly
        window of TCP), and a request costs both ends more than a small chunk does.
        """
        # a peer whose last fetch failed is tried with one before it is trusted with more
        fetches_max = 1 if self.is_carried or self.reputation.failures_in_a_row else config.fetches_per_peer_max
        if self.fetch_count >= fetches_max or self.is_switching:
            return False
        bytes_per_s = self.rate.bytes_per_s
        run_bytes = self._run_chunks(config, chunk_bytes, bytes_per_s) * chunk_bytes
        return self.owed_bytes + run_bytes <= self._window_bytes(config, bytes_per_s, run_bytes)

    def _run_chunks(self, config: RelayConfig, chunk_bytes: int, bytes_per_s: float) -> int:
        if self.is_carried:
            size = min(bytes_per_s * config.carried_run_time_s, config.carried_run_bytes_max)
        else:
            size = min(bytes_per_s * config.run_time_s, config.run_bytes_max)
        return max(int(size) // chunk_bytes, 1)

    def _window_bytes(self, config: RelayConfig, bytes_per_s: float, run_bytes: int) -> int:
        product = bytes_per_s * (self.rate.rtt_s + config.window_slack_s)
        runs = 2 if run_bytes < bytes_per_s * config.window_run_s else 1
        return max(min(int(product), config.window_bytes_max), runs * run_bytes)


def choose_source(holders: Sequence[Source], size_bytes: int, config: RelayConfig, rng: Rng) -> Source:
    """Return the holder to ask for `size_bytes`, from a non-empty list."""
    if len(holders) == 1:
        return holders[0]
    if rng.random() < config.exploration:
        return rng.choice(holders)
    sampled = holders if len(holders) <= config.source_sample else rng.sample(holders, config.source_sample)
    return min(sampled, key=lambda source: source.eta_s(size_bytes))

"""The ledger of peers: how each behaved and how fast it delivered, kept beyond its connection.

Anybody can make a new peer id, so the ledger is bounded. What is forgotten first is the oldest record that says nothing bad; a running
quarantine goes last, and a neighbour's record never.
"""

from __future__ import annotations

from collections.abc import Container

from shardcast_proto.ids import PeerId

from .bandwidth import RateEstimate
from .config import RelayConfig
from .reach import Reach
from .reputation import Reputation


class Ledger:
    """A reputation, a rate estimate and the ways to each peer that we had to do with.

    Invariant: at most `config.peer_records_max` of each, not counting those of neighbours.
    """

    def __init__(self, config: RelayConfig, neighbours: Container[PeerId]) -> None:
        self._config = config
        self._neighbours = neighbours
        self.reputations: dict[PeerId, Reputation] = {}
        self.rates: dict[PeerId, RateEstimate] = {}
        self.reaches: dict[PeerId, Reach] = {}

    def reputation(self, peer: PeerId) -> Reputation:
        """Return the record of a peer, new when it has none."""
        if peer not in self.reputations:
            self._make_room()
            self.reputations[peer] = Reputation(self._config)
        return self.reputations[peer]

    def rate(self, peer: PeerId) -> RateEstimate:
        """Return the rate estimate of a peer, new when it has none."""
        if peer not in self.rates:
            self._make_room()
            self.rates[peer] = RateEstimate(self._config)
        return self.rates[peer]

    def reach(self, peer: PeerId) -> Reach:
        """Return the ways to a peer, new when it has none."""
        if peer not in self.reaches:
            self._make_room()
            self.reaches[peer] = Reach(self._config)
        return self.reaches[peer]

    def quarantined_until_s(self, peer: PeerId) -> float:
        """Return when the quarantine of a peer ends (or ended; 0.0 without one), without opening a record for it."""
        known = self.reputations.get(peer)
        return known.quarantined_until_s if known is not None else 0.0

    def _make_room(self) -> None:
        for records in (self.reputations, self.rates, self.reaches):
            strangers = [peer for peer in records if peer not in self._neighbours]
            if len(strangers) >= self._config.peer_records_max:
                del records[min(strangers, key=self.quarantined_until_s)]

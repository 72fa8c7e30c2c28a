"""The count of bytes that were uploaded, by the peer that asked for them."""

from __future__ import annotations

from collections import Counter
from typing import Final

#: Peers counted by name; a hint in a request header names them, so a stranger could invent any number.
PEERS_COUNTED_MAX: Final = 1024


class Traffic:
    """Bytes sent since the start."""

    def __init__(self) -> None:
        #: Payload bytes to everybody.
        self.sent_bytes = 0
        self._by_peer: Counter[str] = Counter()

    def sent(self, peer_hint: str, size_bytes: int) -> None:
        """Count bytes to the peer that a request named."""
        self.sent_bytes += size_bytes
        if peer_hint in self._by_peer or len(self._by_peer) < PEERS_COUNTED_MAX:
            self._by_peer[peer_hint] += size_bytes

    def sent_to(self, peer: str) -> int:
        """Return the bytes that requests in the name of a peer have got."""
        return self._by_peer.get(peer, 0)

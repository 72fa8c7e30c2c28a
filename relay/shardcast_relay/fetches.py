"""The table of fetches under way: each command that was given, until its one ending."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, PeerId


@dataclass(slots=True)
class Fetch:
    """One `FetchChunks` or `FetchObject` under way."""

    fetch_id: int
    peer: PeerId
    #: The blob whose chunks are fetched, or the digest of the object.
    target: Digest
    #: Chunks asked for and not yet verified from this fetch; 0 for an object.
    remaining: int
    #: Bytes of a full chunk; the size of an object.
    chunk_bytes: int
    started_s: float
    deadline_s: float
    #: How long it should take by the estimate.
    estimate_s: float
    is_object: bool = False
    #: Over the control connection.
    is_carried: bool = False
    is_hedge: bool = False
    is_hedged: bool = False
    is_cancelled: bool = False
    #: The blob was closed meanwhile: what still arrives lies in no place of a blob opened later.
    is_abandoned: bool = False

    @property
    def bytes_left(self) -> int:
        """Bytes still to come, counting every chunk as full."""
        return self.chunk_bytes if self.is_object else self.remaining.bit_count() * self.chunk_bytes


class FetchTable:
    """All fetches under way, with what each peer owes.

    Invariant: `in_flight(peer)` is the sum of `bytes_left` over the peer's fetches, `total_bytes` over all.
    """

    def __init__(self) -> None:
        self._fetches: dict[int, Fetch] = {}
        self._count_of: dict[PeerId, int] = {}
        self._bytes_of: dict[PeerId, int] = {}
        self._next_id = 1
        #: Peers with a carried fetch under way, in order.
        self.carrying: dict[PeerId, None] = {}
        #: Bytes asked for and not yet here, over all peers.
        self.total_bytes = 0

    def __iter__(self) -> Iterator[Fetch]:
        return iter(list(self._fetches.values()))

    def __len__(self) -> int:
        return len(self._fetches)

    def get(self, fetch_id: int) -> Fetch | None:
        """Return a fetch under way."""
        return self._fetches.get(fetch_id)

    def next_id(self) -> int:
        """Return an id that was never used."""
        self._next_id += 1
        return self._next_id - 1

    def add(self, fetch: Fetch) -> None:
        """Enter a fetch that was just ordered."""
        self._fetches[fetch.fetch_id] = fetch
        self._count_of[fetch.peer] = self._count_of.get(fetch.peer, 0) + 1
        if fetch.is_carried:
            self.carrying[fetch.peer] = None
        self._owe(fetch.peer, fetch.bytes_left)

    def chunk_arrived(self, fetch: Fetch, index: int) -> bool:
        """Strike one chunk off a fetch; return whether it was still to come from it."""
        if index < 0 or not fetch.remaining >> index & 1:
            return False
        fetch.remaining ^= 1 << index
        self._owe(fetch.peer, -fetch.chunk_bytes)
        return True

    def end(self, fetch_id: int) -> Fetch | None:
        """Remove a fetch, or return None when it has ended before."""
        fetch = self._fetches.pop(fetch_id, None)
        if fetch is None:
            return None
        if fetch.is_carried:
            del self.carrying[fetch.peer]
        self._owe(fetch.peer, -fetch.bytes_left)
        count = self._count_of[fetch.peer] - 1
        if count:
            self._count_of[fetch.peer] = count
        else:
            del self._count_of[fetch.peer], self._bytes_of[fetch.peer]
        return fetch

    def count(self, peer: PeerId) -> int:
        """Return how many fetches run at a peer."""
        return self._count_of.get(peer, 0)

    def in_flight(self, peer: PeerId) -> int:
        """Return the bytes that a peer owes."""
        return self._bytes_of.get(peer, 0)

    def covering(self, blob: Digest) -> int:
        """Return the mask of chunks of `blob` that some fetch under way still brings."""
        mask = 0
        for fetch in self._fetches.values():
            if fetch.target == blob and not fetch.is_object and not fetch.is_abandoned:
                mask |= fetch.remaining
        return mask

    def check(self) -> None:
        """Compare the sums with a recount.

        Raises:
            InvariantViolated: They differ.
        """
        carried = [fetch.peer for fetch in self._fetches.values() if fetch.is_carried]
        if carried != list(self.carrying):
            raise InvariantViolated(f"carried fetches of {carried} differ from {list(self.carrying)}")
        owed: dict[PeerId, int] = {}
        for fetch in self._fetches.values():
            owed[fetch.peer] = owed.get(fetch.peer, 0) + fetch.bytes_left
        if owed != self._bytes_of or sum(owed.values()) != self.total_bytes:
            raise InvariantViolated(f"bytes in flight {self._bytes_of} differ from their recount {owed}")

    def _owe(self, peer: PeerId, size_bytes: int) -> None:
        self._bytes_of[peer] = self._bytes_of.get(peer, 0) + size_bytes
        self.total_bytes += size_bytes

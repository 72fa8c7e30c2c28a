"""The handing out of a blob by its source: each chunk once, to the stripe that has credit.

Credit, not assignment. A stripe may have a few chunks out that no third node holds yet; whoever passes its chunks on gets the next ones
sooner, so the shares follow the uplinks by themselves. A chunk counts as passed on when a neighbour other than the one it was given to
says that it holds it, or in a small swarm half of them do: a peer that kept what it was given, however loudly it acknowledged, would
attract no more. What is not passed on in time is given to another stripe, and the late one's window is halved.

The window is rate * least latency * gain, both measured, like the congestion window of BBR; have-updates, which come in batches, are
allowed for as BBR allows for acknowledgements that do. A root that comes later shows with one chunk what it is. Of the stripes with
credit the one in which a chunk waits least gets the next. Near the end a stripe gets no chunk that it would pass on later than all the
others are done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId

from .config import RelayConfig

#: Confirmations that a stripe's rate and latency are measured over.
_SAMPLES_MAX = 16


@dataclass
class Share:
    """One stripe as its source sees it."""

    root: PeerId
    #: Chunks handed out and not yet seen at a third node, with the time of handing out.
    unconfirmed: dict[int, float] = field(default_factory=dict)
    #: Times and latencies of the last confirmations.
    confirmed: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_SAMPLES_MAX))
    #: Chunks that were not passed on in time; others are to have them.
    late: int = 0
    #: Halved with each chunk that was not passed on in time, recovering with each that was.
    trust: float = 1.0

    def rate_per_s(self, now_s: float) -> float | None:
        """Return the chunks that the stripe passes on in a second, None before two were."""
        if len(self.confirmed) < 2:
            return None
        return len(self.confirmed) / max(now_s - self.confirmed[0][0] + self.confirmed[0][1], 1e-3)

    def credit(self, config: RelayConfig, now_s: float) -> int:
        """Return how many chunks may be out."""
        rate = self.rate_per_s(now_s)
        wish: float = config.credit_first
        if rate is not None:
            wish = max(rate * self._base_s(config) * config.credit_gain + 1, config.credit_min)
        return max(int(min(wish, config.credit_max) * self.trust), 1)

    def passed_on(self, index: int, now_s: float) -> None:
        """A chunk was seen at a third node."""
        self.confirmed.append((now_s, now_s - self.unconfirmed.pop(index)))
        self.trust = min(1.0, self.trust * 1.25)

    def queue_s(self, config: RelayConfig, now_s: float) -> float:
        """Return how long a chunk given now would wait for those before it: what is out, by Little's law, beyond the least latency."""
        rate = self.rate_per_s(now_s)
        return 0.0 if rate is None else max(len(self.unconfirmed) / rate - self._base_s(config), 0.0)

    def eta_s(self, now_s: float) -> float:
        """Return how long the stripe needs for what is out and one chunk more; 0 before it was measured."""
        rate = self.rate_per_s(now_s)
        return 0.0 if rate is None else (len(self.unconfirmed) + 1) / rate

    def _base_s(self, config: RelayConfig) -> float:
        """Return the latency without a queue: the least of late, and what a have-update waits for company, which the luckiest did not."""
        return min(latency_s for _, latency_s in self.confirmed) + config.have_interval_linked_s


class Source:
    """The first copies of one blob.

    Invariant: every chunk of the blob is either to be handed out, or out at exactly one stripe, or passed on; those of another source's
    duty count as passed on.
    """

    def __init__(self, config: RelayConfig, blob: Digest, *, chunk_count: int, chunk_bytes: int) -> None:
        self._config = config
        self.blob = blob
        self.chunk_count = chunk_count
        self._patience_min_s = config.credit_deadline_s + chunk_bytes / config.credit_floor_bytes_per_s
        #: Chunks to hand out.
        self.todo = (1 << chunk_count) - 1
        #: The stripes with a root.
        self.shares: dict[int, Share] = {}
        #: The stripe that each unconfirmed chunk is out at.
        self._stripe_of: dict[int, int] = {}
        #: The third nodes that each unconfirmed chunk was seen at.
        self._witnesses: dict[int, dict[PeerId, None]] = {}
        #: Handed out more than once.
        self.repeated_count = 0

    @property
    def is_done(self) -> bool:
        """Whether all of it was handed out and passed on."""
        return not self.todo and not self._stripe_of

    @property
    def is_handed_out(self) -> bool:
        """Whether nothing is left to hand out."""
        return not self.todo

    @property
    def out(self) -> int:
        """The mask of the chunks that are out at a stripe."""
        return sum(1 << index for index in self._stripe_of)

    def leave_to_others(self, own: PeerId, others: list[PeerId]) -> None:
        """Leave to the other sources what is their duty: a chunk's first copy comes from the source with the smallest digest."""
        for index in range(self.chunk_count):
            if self.todo >> index & 1 and min([own, *others], key=lambda peer: _duty(index, peer)) != own:
                self.todo ^= 1 << index

    def root_up(self, stripe: int, root: PeerId) -> None:
        """A stripe has a root."""
        self.root_down(stripe)
        self.shares[stripe] = Share(root)

    def root_down(self, stripe: int) -> None:
        """A stripe has lost its root: what it has not passed on is handed out again."""
        share = self.shares.pop(stripe, None)
        if share is not None:
            for index in share.unconfirmed:
                self._take_back(index)

    def choose(self, ready: Mapping[int, int], now_s: float, *, spare: int) -> tuple[int, int] | None:
        """Return the stripe and the chunk to hand out next, or None when no stripe has credit.

        Args:
            ready: The stripes whose roots can take a chunk now, each with the mask of what its root holds.
            spare: While fewer chunks than this are out, one is handed out without credit.
        """
        if not self.todo:
            return None
        limit_s = self._end_s(now_s)
        best, best_rank = None, (inf, inf, inf)
        for stripe, held in ready.items():
            share = self.shares[stripe]
            is_newcomer = self._is_newcomer(share)
            load = len(share.unconfirmed) / (1 if is_newcomer else share.credit(self._config, now_s))
            if load >= 1.0 and (is_newcomer or share.trust < 1.0):
                continue
            rank = (max(load, 1.0), share.queue_s(self._config, now_s), load)
            if rank < best_rank and self._fit(share, held) and share.eta_s(now_s) <= limit_s:
                best, best_rank = stripe, rank
        if best is None or (best_rank[2] >= 1.0 and len(self._stripe_of) >= spare):
            return None
        candidates = self._fit(self.shares[best], ready[best])
        index = (candidates & -candidates).bit_length() - 1
        self.todo ^= 1 << index
        self._stripe_of[index] = best
        self.shares[best].unconfirmed[index] = now_s
        return best, index

    def all_roots_hold(self, mask: int) -> None:
        """These chunks need no handing out."""
        self.todo &= ~mask

    def seen(self, peer: PeerId, mask: int, now_s: float, *, is_alone: bool, quorum: int = 1) -> None:
        """A neighbour holds these chunks.

        Args:
            is_alone: There is no third node that could confirm.
            quorum: So many third nodes must hold a chunk before it counts as passed on.
        """
        for index in [index for index in self._stripe_of if mask >> index & 1]:
            share = self.shares[self._stripe_of[index]]
            if share.root == peer and not is_alone:
                continue
            witnesses = self._witnesses.setdefault(index, {})
            witnesses[peer] = None
            if is_alone or len(witnesses) >= quorum:
                share.passed_on(index, now_s)
                del self._stripe_of[index], self._witnesses[index]

    def not_sent(self, stripe: int, index: int, root: PeerId) -> None:
        """A chunk did not leave for a root: it is handed out again."""
        share = self.shares.get(stripe)
        if share is not None and share.root == root and share.unconfirmed.pop(index, None) is not None:
            self._take_back(index)

    def take_back_late(self, now_s: float) -> list[int]:
        """Hand out again what was not passed on in time; return the stripes whose roots pass nothing on."""
        lost: list[int] = []
        for stripe, share in self.shares.items():
            before_s = now_s - self._patience_s(share)
            late = [index for index, given_s in share.unconfirmed.items() if given_s < before_s]
            for index in late:
                del share.unconfirmed[index]
                share.late |= 1 << index
                self._take_back(index)
                self.repeated_count += 1
            if late:
                share.trust = 0.0 if self._is_newcomer(share) else share.trust / 2
            if share.trust < self._config.credit_trust_min:
                lost.append(stripe)
        return lost

    def next_late_s(self) -> float | None:
        """Return when the next chunk will be late."""
        times = [
            min(share.unconfirmed.values()) + self._patience_s(share)
            for share in self.shares.values()
            if share.unconfirmed
        ]
        return min(times, default=None)

    def check(self) -> None:
        """Check the invariant.

        Raises:
            InvariantViolated: It is broken.
        """
        out = {index: stripe for stripe, share in self.shares.items() for index in share.unconfirmed}
        if out != self._stripe_of or any(self.todo >> index & 1 for index in out):
            raise InvariantViolated(f"chunks of blob {self.blob.hex()[:12]} are handed out twice or not at all")

    def _is_newcomer(self, share: Share) -> bool:
        """Whether a root has passed on nothing yet while others have: one chunk shows what it is, and a second chance is not due."""
        return not share.confirmed and any(other.confirmed for other in self.shares.values())

    def _patience_s(self, share: Share) -> float:
        latency_s = max((latency_s for _, latency_s in share.confirmed), default=0.0)
        return max(self._patience_min_s, self._config.credit_deadline_factor * latency_s)

    def _end_s(self, now_s: float) -> float:
        """Return within which time a chunk that is handed out now should be passed on: as long as all the rest takes, or the quickest can.

        Infinite while some stripe was not measured.
        """
        rates = [share.rate_per_s(now_s) for share in self.shares.values()]
        known = [rate for rate in rates if rate is not None]
        if len(known) < len(rates) or not known:
            return inf
        left_s = self.todo.bit_count() / sum(known)
        quickest_s = min(share.eta_s(now_s) for share in self.shares.values())
        return max(left_s + self._config.credit_tail_s, quickest_s)

    def _fit(self, share: Share, held: int) -> int:
        """Return the chunks that a stripe might be given: none again that was late there, as long as there is another."""
        return self.todo & ~held & (~share.late if len(self.shares) > 1 else -1)

    def _take_back(self, index: int) -> None:
        self._stripe_of.pop(index, None)
        self._witnesses.pop(index, None)
        self.todo |= 1 << index


def _duty(index: int, peer: PeerId) -> bytes:
    return digest_of(index.to_bytes(4, "big") + peer.encode())

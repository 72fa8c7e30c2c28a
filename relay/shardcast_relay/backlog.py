"""The backlog of one child: the chunks that wait to be pushed to it, bounded, and those on their way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest


@dataclass
class Backlog:
    """What one child is to be sent.

    Invariant: a chunk waits at most once; `waiting_bytes` is the sum over what waits.
    """

    #: Waiting chunks by blob, as (stripe, index), the oldest first, with the bytes of each.
    waiting: dict[Digest, deque[tuple[int, int]]] = field(default_factory=dict)
    chunk_bytes: dict[Digest, int] = field(default_factory=dict)
    #: Chunks that wait, are on their way, or were pushed over the link that is up, by blob.
    given: dict[Digest, int] = field(default_factory=dict)
    waiting_bytes: int = 0
    waiting_count: int = 0
    #: Pushes ordered and not ended.
    on_way: int = 0
    #: Chunks that did not fit.
    overflow_count: int = 0

    def offer(self, blob: Digest, stripe: int, index: int, *, size_bytes: int, bytes_max: int, count_min: int) -> bool:
        """Let a chunk wait unless it was given before, or too much waits; return whether it does."""
        bit = 1 << index
        given = self.given.get(blob, 0)
        if given & bit:
            return False
        if self.waiting_count >= count_min and self.waiting_bytes + size_bytes > bytes_max:
            self.overflow_count += 1
            return False
        self.given[blob] = given | bit
        self.waiting.setdefault(blob, deque()).append((stripe, index))
        self.chunk_bytes[blob] = size_bytes
        self.waiting_bytes += size_bytes
        self.waiting_count += 1
        return True

    def next(self, blob: Digest) -> tuple[int, int]:
        """Take the oldest chunk of a blob that waits."""
        queue = self.waiting[blob]
        item = queue.popleft()
        self._took(blob, 1)
        if not queue:
            del self.waiting[blob]
        return item

    def skip(self, blob: Digest, mask: int) -> None:
        """Drop what waits of these chunks, and push none of them later."""
        self.given[blob] = self.given.get(blob, 0) | mask
        queue = self.waiting.get(blob)
        if queue is None:
            return
        kept = deque((stripe, index) for stripe, index in queue if not mask >> index & 1)
        self._took(blob, len(queue) - len(kept))
        if kept:
            self.waiting[blob] = kept
        else:
            del self.waiting[blob]

    def drop_stripe(self, blob: Digest, stripe: int) -> None:
        """Drop what waits of one stripe: its child has left it."""
        queue = self.waiting.get(blob, deque())
        self.skip(blob, sum(1 << index for other, index in queue if other == stripe))

    def drop(self, blob: Digest) -> None:
        """Forget a blob."""
        queue = self.waiting.pop(blob, None)
        if queue is not None:
            self._took(blob, len(queue))
        self.given.pop(blob, None)
        self.chunk_bytes.pop(blob, None)

    def link_lost(self) -> None:
        """Forget all: what was pushed may not have arrived."""
        for blob in list(self.given):
            self.drop(blob)

    def check(self) -> None:
        """Compare with a recount.

        Raises:
            InvariantViolated: They differ.
        """
        recount = sum(len(queue) * self.chunk_bytes[blob] for blob, queue in self.waiting.items())
        if recount != self.waiting_bytes or any(not queue for queue in self.waiting.values()):
            raise InvariantViolated(f"{self.waiting_bytes} bytes wait for a child, recounted {recount}")

    def _took(self, blob: Digest, count: int) -> None:
        self.waiting_count -= count
        self.waiting_bytes -= count * self.chunk_bytes[blob]

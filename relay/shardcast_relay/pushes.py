"""The pushes of this node: what it hands out as a source and passes on as a parent.

`tree` says who the children are, `source` which stripe gets a new chunk, `backlog` what waits for a child. Here chunks meet links: a push
is ordered when its child's link is up and fewer than `push_window` pushes are on their way to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.messages import Omit

from .backlog import Backlog
from .commands import PushChunk
from .config import RelayConfig
from .events import Outcome, PushArrived, PushEnded
from .exchange import Exchange
from .links import Links
from .outbox import Outbox
from .source import Source
from .transfer import Transfer
from .tree import Forest


@dataclass(frozen=True)
class Push:
    """One push on its way."""

    peer: PeerId
    blob: Digest
    stripe: int
    index: int


class Pushes:
    """What goes out unasked. Gives commands through the `Outbox` it is handed.

    Invariant: never more than `push_window` pushes on their way to one peer.
    """

    def __init__(self, config: RelayConfig, exchange: Exchange, forest: Forest, links: Links) -> None:
        self._config = config
        self._exchange = exchange
        self._forest = forest
        self._links = links
        self.sources: dict[Digest, Source] = {}
        #: By when each source lets itself be pulled from if somebody wants its blob and no root has a link until then.
        self._release_at_s: dict[Digest, float] = {}
        self.backlogs: dict[PeerId, Backlog] = {}
        self._on_way: dict[int, Push] = {}
        #: Peers that a push to has just failed: their links may be breaking, so nothing is pushed before a time.
        self._resting: dict[PeerId, float] = {}
        self._next_id = 1
        #: In a larger swarm: roots that were dismissed and are not worth their place among our neighbours.
        self.dismissed: list[PeerId] = []
        forest.on_root = self._root_changed
        forest.on_source = self._source_came

    # --- blobs, neighbours, links ---------------------------------------------------------------------------------------

    def opened(self, transfer: Transfer, now_s: float) -> None:
        """Begin handing out a blob of which this node is a source."""
        source = Source(self._config, transfer.blob, chunk_count=transfer.have.count, chunk_bytes=transfer.chunk_bytes)
        source.leave_to_others(self._exchange.self_id, self._forest.blobs[transfer.blob].sources())
        self.sources[transfer.blob] = source
        self._release_at_s[transfer.blob] = now_s + self._config.source_patience_s

    def closed(self, blob: Digest) -> None:
        """Forget a blob."""
        self.sources.pop(blob, None)
        self._release_at_s.pop(blob, None)
        for backlog in self.backlogs.values():
            backlog.drop(blob)

    def link_up(self, peer: PeerId, out: Outbox, now_s: float) -> None:
        """The sending link to a neighbour is up."""
        self._resting.pop(peer, None)
        self._flow(peer, out, now_s)
        self.hand_out(out, now_s)

    def link_down(self, peer: PeerId) -> None:
        """The sending link is gone, or the neighbour is."""
        self._resting.pop(peer, None)
        backlog = self.backlogs.get(peer)
        if backlog is not None:
            backlog.link_lost()
            if not backlog.on_way:
                del self.backlogs[peer]

    # --- chunks ---------------------------------------------------------------------------------------------------------

    def chunk_came(self, transfer: Transfer, event: PushArrived, out: Outbox, now_s: float) -> None:
        """Pass a chunk that came by a stripe on to the children there, a different one first each time."""
        children = self._forest.blobs[transfer.blob].fed_in(event.stripe)
        start = event.index % len(children) if children else 0
        for child in children[start:] + children[:start]:
            if not transfer.holders.get(child, 0) >> event.index & 1:
                self._offer(transfer, child, event, out)
                self._flow(child, out, now_s)

    def peer_has(self, transfer: Transfer, peer: PeerId, mask: int, *, out: Outbox, now_s: float) -> None:
        """A neighbour holds these chunks: they need not be pushed to it, and may be what a source waits to see."""
        backlog = self.backlogs.get(peer)
        if backlog is not None and mask & backlog.given.get(transfer.blob, 0) and transfer.blob in backlog.waiting:
            backlog.skip(transfer.blob, mask)
        source = self.sources.get(transfer.blob)
        if source is not None and not source.is_done:
            # where the root itself feeds everybody, its stripe is as slow as its last copies, not as its first
            quorum = max((len(transfer.listeners) - 1) // 2, 1) if self._forest.is_small() else 1
            source.seen(peer, mask, now_s, is_alone=self._is_alone(transfer, peer), quorum=quorum)
            self._hand_out_of(source, out, now_s)

    def skip(self, peer: PeerId, blob: Digest, mask: int) -> None:
        """A child does not want these chunks pushed."""
        backlog, transfer = self.backlogs.get(peer), self._exchange.transfers.get(blob)
        if backlog is not None and transfer is not None:
            backlog.skip(blob, mask & transfer.full())

    def child_left(self, peer: PeerId, blob: Digest, stripe: int) -> None:
        """A neighbour ended its edge in a stripe."""
        backlog = self.backlogs.get(peer)
        if backlog is not None:
            backlog.drop_stripe(blob, stripe)

    def ended(self, event: PushEnded, out: Outbox, now_s: float) -> None:
        """A push is over."""
        push = self._on_way.pop(event.push_id, None)
        if push is None:
            return
        backlog = self.backlogs[push.peer]
        backlog.on_way -= 1
        source = self.sources.get(push.blob)
        if event.outcome is not Outcome.DONE:
            if push.blob in backlog.given:
                backlog.given[push.blob] &= ~(1 << push.index)
            if source is not None:
                source.not_sent(push.stripe, push.index, push.peer)
            self._resting[push.peer] = now_s + self._config.push_rest_s
        if push.peer in self._links.sending.up:
            self._flow(push.peer, out, now_s)
        elif not backlog.on_way and not backlog.waiting:
            del self.backlogs[push.peer]
        self.hand_out(out, now_s)

    def tend(self, out: Outbox, now_s: float) -> None:
        """Hand out again what is late; dismiss roots that pass nothing on; let a source be pulled from when its time has come."""
        for peer in [peer for peer, until_s in self._resting.items() if now_s >= until_s]:
            del self._resting[peer]
            self._flow(peer, out, now_s)
        for blob, source in self.sources.items():
            for stripe in source.take_back_late(now_s):
                roots = self._forest.dismiss(blob, stripe, out)
                self.dismissed += [] if self._forest.is_small() else roots
        self.hand_out(out, now_s)
        for blob, source in self.sources.items():
            transfer = self._exchange.transfers[blob]
            roots = [share.root for share in source.shares.values()]
            is_linked = any(root in self._links.sending.up and root in transfer.listeners for root in roots)
            if is_linked or not transfer.listeners:
                self._release_at_s[blob] = now_s + self._config.source_patience_s
            if transfer.is_withheld and (source.is_handed_out or now_s >= self._release_at_s[blob]):
                self._exchange.release(transfer, out)

    @property
    def next_s(self) -> float | None:
        """When something here is due."""
        times = list(self._resting.values())
        times += [at_s for source in self.sources.values() if (at_s := source.next_late_s()) is not None]
        times += [at_s for blob, at_s in self._release_at_s.items() if self._is_withheld(blob)]
        return min(times, default=None)

    def check(self) -> None:
        """Recount.

        Raises:
            InvariantViolated: A count is off.
        """
        counts: dict[PeerId, int] = {}
        for push in self._on_way.values():
            counts[push.peer] = counts.get(push.peer, 0) + 1
        kept = {peer: backlog.on_way for peer, backlog in self.backlogs.items() if backlog.on_way}
        if counts != kept or any(count > self._config.push_window for count in counts.values()):
            raise InvariantViolated(f"pushes on their way {kept}, recounted {counts}")
        for backlog in self.backlogs.values():
            backlog.check()
        for source in self.sources.values():
            source.check()

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _root_changed(self, blob: Digest, stripe: int, root: PeerId | None) -> None:
        source = self.sources.get(blob)
        if source is not None and root is None:
            source.root_down(stripe)
        elif source is not None and root is not None:
            source.root_up(stripe, root)

    def _source_came(self, blob: Digest) -> None:
        source = self.sources.get(blob)
        if source is not None:
            source.leave_to_others(self._exchange.self_id, self._forest.blobs[blob].sources())

    def _is_withheld(self, blob: Digest) -> bool:
        transfer = self._exchange.transfers.get(blob)
        return transfer is not None and transfer.is_withheld

    def _is_alone(self, transfer: Transfer, peer: PeerId) -> bool:
        full = transfer.full()
        return not any(other != peer and transfer.holders.get(other, 0) != full for other in transfer.listeners)

    def _offer(self, transfer: Transfer, child: PeerId, event: PushArrived, out: Outbox) -> None:
        stripe, index = event.stripe, event.index
        backlog = self.backlogs.setdefault(child, Backlog())
        bytes_max = self._config.backlog_bytes_max
        if self._forest.up_bytes_per_s:
            span_s = self._config.backlog_s if self._forest.is_small() else self._config.backlog_large_s
            children = self._forest.blobs[transfer.blob].children
            bytes_max = min(bytes_max, int(self._forest.up_bytes_per_s * span_s / len(children)))
        is_full = not backlog.offer(
            transfer.blob,
            stripe,
            index,
            size_bytes=transfer.chunk_bytes,
            bytes_max=bytes_max,
            count_min=self._config.backlog_chunks_min,
        )
        if is_full and not backlog.given.get(transfer.blob, 0) >> index & 1:
            out.send(child, Omit(transfer.blob, ((index, 1),)))

    def _flow(self, peer: PeerId, out: Outbox, now_s: float) -> None:
        """Order what waits for a peer, the newest version first, as far as its window goes."""
        backlog = self.backlogs.get(peer)
        if backlog is None or peer not in self._links.sending.up or peer in self._resting:
            return
        transfers = self._exchange.transfers
        while backlog.waiting and backlog.on_way < self._config.push_window:
            blob = max(backlog.waiting, key=lambda blob: transfers[blob].priority)
            stripe, index = backlog.next(blob)
            if not transfers[blob].holders.get(peer, 0) >> index & 1:
                self._order(Push(peer, blob, stripe, index), out, now_s)

    def hand_out(self, out: Outbox, now_s: float) -> None:
        """Order first copies, of the newest version first, as far as credit and links go."""
        for source in sorted(self.sources.values(), key=lambda source: -self._exchange.transfers[source.blob].priority):
            if source.todo:
                self._hand_out_of(source, out, now_s)

    def _hand_out_of(self, source: Source, out: Outbox, now_s: float) -> None:
        transfer = self._exchange.transfers[source.blob]
        while source.todo:
            ready = {stripe: self._held(transfer, share.root) for stripe, share in source.shares.items()}
            if ready:
                common = -1
                for held in ready.values():
                    common &= held
                source.all_roots_hold(common & transfer.full())
            ready = {
                stripe: held for stripe, held in ready.items() if self._can_take(source.shares[stripe].root, transfer)
            }
            spare = 0 if self._forest.is_small() else self._config.credit_spare
            choice = source.choose(ready, now_s, spare=spare)
            if choice is None:
                return
            stripe, index = choice
            root = source.shares[stripe].root
            backlog = self.backlogs.setdefault(root, Backlog())
            backlog.given[source.blob] = backlog.given.get(source.blob, 0) | 1 << index
            self._order(Push(root, source.blob, stripe, index), out, now_s)

    def _held(self, transfer: Transfer, root: PeerId) -> int:
        return transfer.holders.get(root, 0)

    def _can_take(self, root: PeerId, transfer: Transfer) -> bool:
        """Whether a root has asked for the blob and has room on its way."""
        if root not in self._links.sending.up or root not in transfer.listeners or root in self._resting:
            return False
        backlog = self.backlogs.get(root)
        return backlog is None or backlog.on_way < self._config.push_window

    def _order(self, push: Push, out: Outbox, now_s: float) -> None:
        push_id, self._next_id = self._next_id, self._next_id + 1
        self._on_way[push_id] = push
        self.backlogs[push.peer].on_way += 1
        deadline_s = now_s + self._config.push_deadline_s
        out.add(PushChunk(out.cause, push_id, push.peer, push.blob, push.stripe, push.index, deadline_s))

"""The swarm machine: facts in, orders out.

Theory of operation. The machine is sans-IO: `handle(event, now_s=…)` is the only way in and returns commands; it opens no socket, reads
no clock, and draws randomness from the generator it was given, so that one seed is one run. The shell around it (the daemon's, or the
simulator's) carries the commands out and reports what happened. Payload bytes never pass through here: the machine knows chunks by
index, the bytes go from the wire to the store beside it.

    HeadAccepted ──► FetchObject(manifest) ──► BlobOpened ──► Want to neighbours ──► Have from them
                                                    │                                   │
                         Have to listeners ◄── ChunkVerified ◄── FetchChunks ◄── schedule: rarest first, from the
                                                    │                            source with the earliest arrival
                                         Done to neighbours (complete)

A relay serves a chunk from the moment it is verified (cut-through), because have-updates go out while it still fetches others.

Parts: `membership` (who the neighbours are), `exchange` (who has what), `downloads` (what to pull), `tree` (who feeds whom), `pushes` (what
to hand out and pass on), with `balance`, `transfer`, `availability`, `schedule`, `selection`, `stripes`, `source`, `backlog`, `links`,
`ledger`, `bandwidth` and `reputation` below them. Timers: `next_wake_s` is when to send `Ticked`.

The machine never raises for what a peer did; nonsense from a peer costs that peer its connection. It raises only `InvariantViolated`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shardcast_proto.bitmap import mask_of_runs
from shardcast_proto.errors import InvariantViolated, RemoteProtocolError
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import CHUNKS_MAX
from shardcast_proto.messages import (
    Adopt,
    Attach,
    Cancel,
    Detach,
    Done,
    GetHead,
    Have,
    Message,
    Omit,
    Rate,
    Redirect,
    Skip,
    Trees,
    Want,
)

from .commands import Command
from .config import RelayConfig
from .downloads import Downloads
from .events import (
    BlobClosed,
    BlobOpened,
    ChannelJoined,
    ChunkVerified,
    DialFailed,
    Event,
    FetchEnded,
    GoodbyeReceived,
    HeadAccepted,
    HelloReceived,
    LinkClosed,
    LinkFailed,
    LinkOpened,
    MessageReceived,
    Outcome,
    PeerConnected,
    PeerDisconnected,
    PeersReceived,
    PushArrived,
    PushBegan,
    PushEnded,
    Started,
    Ticked,
    UplinkMeasured,
)
from .exchange import Exchange
from .explanation import explain
from .links import Links
from .membership import Membership
from .outbox import Outbox
from .pushes import Pushes
from .randomness import Rng
from .story import Story
from .transfer import Transfer
from .tree import Forest

#: After these no fetch becomes possible that was not possible before.
_NO_NEWS_FOR_FETCHES: Final = frozenset({ChunkVerified, PushBegan, PushEnded})


class Machine:
    """The decisions of one node."""

    def __init__(self, self_id: PeerId, *, rng: Rng, config: RelayConfig | None = None) -> None:
        self.config = config or RelayConfig()
        self._rng = rng
        self._event_id = 0
        self._now_s = 0.0
        self.membership = Membership(self_id, self.config, rng)
        self.exchange = Exchange(self.config, self_id)
        self.downloads = Downloads(self.config, rng, self.exchange)
        self.links = Links(self.config, self.exchange.neighbours)
        self.trees = Forest(self.config, rng, self.exchange, self_id)
        self.pushes = Pushes(self.config, self.exchange, self.trees, self.links)
        self._join_parts()
        self.story = Story(self.config.story_max)
        #: Our uplink, told to neighbours; 0 when unknown.
        self._up_bytes_per_s = 0
        self._shuffle_at_s = self._reconcile_at_s = self._heartbeat_at_s = 0.0
        #: Dismissed roots that may not be neighbours before a time.
        self._shunned: dict[PeerId, float] = {}
        #: Messages of kinds or about blobs that nobody here knows what to do with.
        self.ignored_messages = 0
        self._handlers: dict[type, Callable[[Any, Outbox], None]] = {
            Started: self._started,
            Ticked: self._ticked,
            UplinkMeasured: self._uplink_measured,
            ChannelJoined: self._channel_joined,
            PeerConnected: lambda event, out: self.membership.peer_connected(event.peer, out, self._now_s),
            DialFailed: self._dial_failed,
            PeerDisconnected: self._peer_disconnected,
            HelloReceived: self._hello_received,
            PeersReceived: lambda event, out: self.membership.peers_received(event, out, self._now_s),
            GoodbyeReceived: self._goodbye_received,
            MessageReceived: self._message_received,
            HeadAccepted: lambda event, out: self.downloads.head_accepted(event),
            BlobOpened: self._blob_opened,
            BlobClosed: self._blob_closed,
            ChunkVerified: lambda event, out: self.downloads.chunk_verified(event, out, self._now_s),
            FetchEnded: self._fetch_ended,
            LinkOpened: self._link_opened,
            LinkFailed: lambda event, out: self.links.failed(event, self._now_s),
            LinkClosed: self._link_closed,
            PushBegan: lambda event, out: self.downloads.push_began(event, self._now_s),
            PushArrived: self._push_arrived,
            PushEnded: lambda event, out: self.pushes.ended(event, out, self._now_s),
        }
        self._message_handlers: dict[type[Message], Callable[[PeerId, Any, Outbox], None]] = {
            Have: self._have_received,
            Want: self._want_received,
            Done: self._done_received,
            Cancel: self._cancel_received,
            Rate: self._rate_received,
            Skip: lambda peer, message, out: self.pushes.skip(
                peer, message.blob, mask_of_runs(message.runs, CHUNKS_MAX)
            ),
            Omit: self._omit_received,
            Attach: self._attach_received,
            Adopt: lambda peer, message, out: self.trees.adopt_received(peer, message, out, self._now_s),
            Redirect: lambda peer, message, out: self.trees.redirect_received(peer, message, out, self._now_s),
            Detach: self._detach_received,
            Trees: lambda peer, message, out: self.trees.trees_received(peer, message, out, self._now_s),
        }

    def _join_parts(self) -> None:
        """Let each part ask the others what it needs to know."""
        self.membership.is_busy = self.exchange.is_busy
        self.membership.is_behind = self.exchange.is_behind
        self.membership.least_in_need = self.exchange.least_in_need
        self.membership.is_source = lambda: bool(self.membership.bindings or self.pushes.sources)
        self.membership.is_kept = self.trees.has_edge
        self.trees.is_small = lambda: len(self.membership.passive) <= self.config.small_passive_max
        self.trees.uplink_of = self._uplink_of
        self.exchange.on_complete = lambda transfer: self.trees.completed(transfer.blob, self._now_s)
        self.downloads.parents = self.trees.parents
        self.exchange.is_well_fed = lambda transfer: self.trees.is_well_fed(transfer.blob)
        self.downloads.grace_s = self._grace_s
        self.downloads.is_linked = lambda peer: peer in self.links.receiving.up
        self.exchange.is_linked = lambda peer: peer in self.links.receiving.up or peer in self.links.sending.up

    def handle(self, event: Event, *, now_s: float) -> list[Command]:
        """Take in one fact and return the orders that follow from it, in order.

        Args:
            event: What happened.
            now_s: Seconds on any monotonic clock, never smaller than before.

        Raises:
            InvariantViolated: Our own bug; the message ends with the story.
        """
        self._now_s = max(self._now_s, now_s)
        self._event_id += 1
        out = Outbox(self._event_id)
        self._hear(event)
        try:
            self._handlers[type(event)](event, out)
            if not self._is_no_news_for_fetches(event):
                self.downloads.ask_for_more(out, self._now_s)
        except InvariantViolated as error:
            lines = "\n".join(map(str, self.story.about()[-20:]))
            raise InvariantViolated(f"{error.message}, at {event}\n{lines}") from error
        self.story.tell(self._event_id, self._now_s, event, out.commands)
        return out.commands

    def _is_no_news_for_fetches(self, event: Event) -> bool:
        """Whether no fetch becomes possible by an event: room comes with the end of one, and what the trees may bring must ripen first."""
        if type(event) is MessageReceived and type(event.message) is Have and self.trees.parents(event.message.blob):
            transfer = self.exchange.transfers.get(event.message.blob)
            if transfer is not None and transfer.is_ending:
                return False
            self.downloads.look_again(self._now_s, self._now_s + self.config.have_interval_s)
            return True
        if type(event) is PushArrived and event.outcome is Outcome.DONE:
            return True
        return type(event) in _NO_NEWS_FOR_FETCHES

    @property
    def next_wake_s(self) -> float:
        """When, on the clock of `handle`, the machine wants a `Ticked` at the latest."""
        times = [self._shuffle_at_s, self._reconcile_at_s, self._heartbeat_at_s]
        others = (
            self.downloads.retry_at_s,
            self.exchange.tell_at_s,
            self.links.next_s,
            self.trees.next_s,
            self.pushes.next_s,
        )
        times += [at_s for at_s in others if at_s is not None]
        return min(times)

    def check(self) -> None:
        """Compare every count with a recount.

        Raises:
            InvariantViolated: One differs.
        """
        for part in (self.membership, self.downloads, self.links, self.trees, self.pushes):
            part.check()
        if self.exchange.neighbours.keys() != self.membership.active.keys():
            raise InvariantViolated("exchange and membership disagree about the neighbours")

    def _hear(self, event: Event) -> None:
        peer = getattr(event, "peer", None)
        neighbour = self.membership.active.get(peer) if peer else None
        if neighbour is not None:
            neighbour.heard_s = self._now_s

    def _started(self, event: Started, out: Outbox) -> None:
        self.membership.record, self.membership.bindings = event.record, event.bindings
        self.membership.bootstrap = {contact.peer: contact for contact in event.bootstrap}
        self._up_bytes_per_s = self.trees.up_bytes_per_s = event.up_bytes_per_s
        self._shuffle_at_s = self._now_s + self.config.shuffle_interval_s
        self._reconcile_at_s = self._now_s + self.config.reconcile_interval_s
        self._heartbeat_at_s = self._now_s + self.config.heartbeat_interval_s
        self.membership.look_for_neighbours(out, self._now_s)

    def _uplink_measured(self, event: UplinkMeasured, out: Outbox) -> None:
        self._up_bytes_per_s = self.trees.up_bytes_per_s = event.up_bytes_per_s

    def _channel_joined(self, event: ChannelJoined, out: Outbox) -> None:
        self.membership.channels[event.channel] = None
        for peer in self.membership.active:
            out.send(peer, GetHead(event.channel))

    def _ticked(self, event: Ticked, out: Outbox) -> None:
        now_s = self._now_s
        if self.exchange.tell_at_s is not None and now_s >= self.exchange.tell_at_s:
            self.exchange.tell_haves(out, now_s)
        self.links.tend(out, now_s)
        self.trees.tend(out, now_s)
        self.pushes.tend(out, now_s)
        self._shun(out)
        if now_s >= self._reconcile_at_s:
            self._reconcile_at_s = now_s + self.config.reconcile_interval_s
            self._reconcile(out)
        if now_s >= self._heartbeat_at_s:
            self._heartbeat_at_s = now_s + self.config.heartbeat_interval_s
            for peer in self.membership.active:
                out.send(peer, Rate(self._up_bytes_per_s))
            self.downloads.ask_again_what_others_have(out)
        if now_s >= self._shuffle_at_s:
            self._shuffle_at_s = now_s + self.config.shuffle_interval_s
            self.membership.shuffle(out)

    def _shun(self, out: Outbox) -> None:
        """Give the places of dismissed roots to others: all but the source find out who sends bad chunks, and such would fill its view."""
        for peer in self.pushes.dismissed:
            self._shunned = {other: until_s for other, until_s in self._shunned.items() if until_s > self._now_s}
            self._shunned[peer] = self._now_s + self.config.quarantine_s
            self._drop(peer, out, "passes nothing on")
            self.membership.rest(peer, self._shunned[peer])
        self.pushes.dismissed.clear()

    def _reconcile(self, out: Outbox) -> None:
        """Ask a few neighbours for their heads; replace neighbours that are gone or silent."""
        for peer in self.membership.silent_neighbours(self._now_s):
            self._drop(peer, out, "silent for too long")
        for peer in self.membership.idle_connections(self._now_s):
            self._drop(peer, out, "no neighbour of ours")
        self.membership.look_for_neighbours(out, self._now_s)
        self.membership.balance(out, self._now_s)
        for channel in self.membership.channels:
            peers = [peer for peer, other in self.membership.active.items() if channel in other.channels]
            for peer in self._rng.sample(peers, min(self.config.reconcile_neighbours, len(peers))):
                out.send(peer, GetHead(channel))

    def _hello_received(self, event: HelloReceived, out: Outbox) -> None:
        if event.contact.peer != event.peer or event.peer == self.membership.self_id:
            out.hangup(event.peer, "presents itself as somebody else")
            return
        self.downloads.reputation(event.peer).is_origin = event.is_origin
        if self._now_s < self.downloads.quarantined_until_s(event.peer) and not event.is_origin:
            out.hangup(event.peer, "quarantined")
            return
        if self._now_s < self._shunned.get(event.peer, 0.0):
            out.hangup(event.peer, "passes nothing on")
            return
        is_new, dropped = self.membership.hello_received(event, out, self._now_s)
        for peer in dropped:
            self._neighbour_down(peer, out)
        if not is_new:
            if event.peer in self.membership.active:
                self.exchange.neighbours[event.peer] = event.contact
            return
        self._neighbour_down(event.peer, out)  # a neighbour that begins anew has forgotten what it told and was told
        self.exchange.neighbour_up(event.contact, out)
        self.links.neighbour_up(event.peer, out, self._now_s)
        self.trees.neighbour_up(event.peer, out)
        self.downloads.rate(event.peer).advertised = event.contact.up_bytes_per_s
        for channel in self.membership.channels:
            if channel in event.channels:
                out.send(event.peer, GetHead(channel))

    def _dial_failed(self, event: DialFailed, out: Outbox) -> None:
        self.membership.dial_failed(event, self._now_s)
        self.membership.look_for_neighbours(out, self._now_s)

    def _goodbye_received(self, event: GoodbyeReceived, out: Outbox) -> None:
        if self.membership.goodbye_received(event, self._now_s):
            self._neighbour_down(event.peer, out)
        out.hangup(event.peer, "said goodbye")
        self.membership.look_for_neighbours(out, self._now_s)

    def _peer_disconnected(self, event: PeerDisconnected, out: Outbox) -> None:
        if self.membership.peer_disconnected(event.peer, self._now_s):
            self._neighbour_down(event.peer, out)
            self.membership.look_for_neighbours(out, self._now_s)

    def _message_received(self, event: MessageReceived, out: Outbox) -> None:
        peer, message = event.peer, event.message
        if peer not in self.membership.active:
            self.ignored_messages += 1
            return
        handler = self._message_handlers.get(type(message))
        if handler is None:
            self.ignored_messages += 1
            return
        try:
            handler(peer, message, out)
        except RemoteProtocolError as error:
            self.downloads.reputation(peer).failed(self._now_s)
            self._drop(peer, out, error.message)

    def _grace_s(self, transfer: Transfer) -> float:
        """Return how long chunks that neighbours hold are left to the trees: longer than the trees have taken, if they feed us at all."""
        if not self.trees.parents(transfer.blob):
            return 0.0
        config = self.config
        span_s = config.pull_grace_s + config.pull_grace_factor * transfer.push_lag_s
        return min(span_s, config.pull_grace_max_s)

    def _have_received(self, peer: PeerId, message: Have, out: Outbox) -> None:
        mask = self.exchange.have_received(peer, message)
        transfer = self.exchange.transfers.get(message.blob)
        if transfer is not None and mask:
            self.pushes.peer_has(transfer, peer, mask, out=out, now_s=self._now_s)

    def _omit_received(self, peer: PeerId, message: Omit, out: Outbox) -> None:
        """A parent does not push these chunks: they are pulled without waiting for it."""
        transfer = self.exchange.transfers.get(message.blob)
        if transfer is not None and peer in self.trees.parents(message.blob):
            transfer.holder_omits(peer, mask_of_runs(message.runs, transfer.have.count))

    def _want_received(self, peer: PeerId, message: Want, out: Outbox) -> None:
        self.exchange.want_received(peer, message, out, self._now_s)
        transfer = self.exchange.transfers.get(message.blob)
        if transfer is not None:
            self.pushes.peer_has(transfer, peer, transfer.holders.get(peer, 0), out=out, now_s=self._now_s)

    def _done_received(self, peer: PeerId, message: Done, out: Outbox) -> None:
        self.exchange.done_received(peer, message)
        transfer = self.exchange.transfers.get(message.blob)
        if transfer is not None:
            self.pushes.peer_has(transfer, peer, transfer.full(), out=out, now_s=self._now_s)

    def _attach_received(self, peer: PeerId, message: Attach, out: Outbox) -> None:
        self.trees.attach_received(peer, message, out, self._now_s)
        self.pushes.hand_out(out, self._now_s)

    def _detach_received(self, peer: PeerId, message: Detach, out: Outbox) -> None:
        self.pushes.child_left(peer, message.blob, message.stripe)
        self.trees.detach_received(peer, message, out, self._now_s)

    def _cancel_received(self, peer: PeerId, message: Cancel, out: Outbox) -> None:
        self.exchange.cancel_received(peer, message)
        self.trees.cancelled(peer, message.blob, out, self._now_s)

    def _uplink_of(self, peer: PeerId) -> int:
        known = self.downloads.rates.get(peer)
        return known.advertised if known is not None else 0

    def _rate_received(self, peer: PeerId, message: Rate, out: Outbox) -> None:
        self.downloads.rate(peer).advertised = message.up_bytes_per_s

    def _blob_opened(self, event: BlobOpened, out: Outbox) -> None:
        is_new = event.blob not in self.exchange.transfers
        self.downloads.blob_opened(event, out, self._now_s)
        if is_new:
            transfer = self.exchange.transfers[event.blob]
            is_source = event.is_source and transfer.is_complete
            self.trees.opened(event.blob, out, self._now_s, is_source=is_source)
            if is_source:
                self.pushes.opened(transfer, self._now_s)

    def _blob_closed(self, event: BlobClosed, out: Outbox) -> None:
        self.trees.closed(event.blob, out)
        self.pushes.closed(event.blob)
        self.downloads.blob_closed(event.blob, out)

    def _link_opened(self, event: LinkOpened, out: Outbox) -> None:
        if self.links.opened(event, out) and event.is_sending:
            self.pushes.link_up(event.peer, out, self._now_s)

    def _link_closed(self, event: LinkClosed, out: Outbox) -> None:
        if self.links.closed(event, self._now_s) and event.is_sending:
            self.pushes.link_down(event.peer)

    def _push_arrived(self, event: PushArrived, out: Outbox) -> None:
        transfer = self.downloads.push_arrived(event, out, self._now_s)
        if transfer is not None:
            self.pushes.chunk_came(transfer, event, out, self._now_s)
        if event.outcome is Outcome.CORRUPT and not self.downloads.reputation(event.peer).is_origin:
            self._drop(event.peer, out, "sent a bad chunk")

    def _neighbour_down(self, peer: PeerId, out: Outbox) -> None:
        self.exchange.neighbour_down(peer)
        self.trees.neighbour_down(peer, out, self._now_s)
        self.pushes.link_down(peer)
        self.links.neighbour_down(peer, out)

    def _fetch_ended(self, event: FetchEnded, out: Outbox) -> None:
        fetch = self.downloads.fetch_ended(event, out, self._now_s)
        if (
            fetch is not None
            and event.outcome is Outcome.CORRUPT
            and not self.downloads.reputation(fetch.peer).is_origin
        ):
            self._drop(fetch.peer, out, "sent a bad chunk")

    def _drop(self, peer: PeerId, out: Outbox, reason: str) -> None:
        out.hangup(peer, reason)
        if self.membership.peer_disconnected(peer, self._now_s):
            self._neighbour_down(peer, out)
        until_s = self.downloads.quarantined_until_s(peer)
        self.membership.rest(peer, max(until_s, self._now_s + self.config.redial_backoff_s))
        self.membership.look_for_neighbours(out, self._now_s)

    def explain(self, blob: Digest) -> str:
        """Say in one sentence where a blob stands, and why it stands still when it does."""
        return explain(
            blob,
            downloads=self.downloads,
            membership=self.membership,
            trees=self.trees,
            pushes=self.pushes,
            now_s=self._now_s,
        )

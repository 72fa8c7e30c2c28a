"""The downloads of this node: wanted objects, fetches under way, whom to ask next.

It owns the flow event → bookkeeping → next requests for everything that moves bytes. `exchange` owns what neighbours say they hold,
`membership` who the neighbours are, `ledger` what is known of how peers serve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.messages import Skip

from .arrivals import Arrivals
from .bandwidth import RateEstimate
from .commands import CancelFetch, FetchChunks, FetchObject
from .config import RelayConfig
from .events import (
    BlobOpened,
    ChunkVerified,
    Contact,
    FetchEnded,
    HeadAccepted,
    Outcome,
    PushArrived,
    PushBegan,
)
from .exchange import Exchange, want_of
from .fetches import Fetch, FetchTable
from .ledger import Ledger
from .objects import WantedObject, WantedObjects
from .outbox import Outbox
from .randomness import Rng
from .schedule import Request, next_hedge, next_request
from .selection import Source
from .transfer import Transfer


class Downloads:
    """What is fetched, and whom to ask next. Gives commands through the `Outbox` it is handed."""

    def __init__(self, config: RelayConfig, rng: Rng, exchange: Exchange) -> None:
        self._config = config
        self._rng = rng
        self._exchange = exchange
        self.neighbours = exchange.neighbours
        self.transfers = exchange.transfers
        self.objects = WantedObjects()
        self.fetches = FetchTable()
        self.arrivals = Arrivals()
        self._ledger = Ledger(config, self.neighbours)
        self.reputations = self._ledger.reputations
        self.rates = self._ledger.rates
        self.reaches = self._ledger.reaches
        self.reputation = self._ledger.reputation
        self.rate = self._ledger.rate
        self.quarantined_until_s = self._ledger.quarantined_until_s
        #: How long the chunks of a blob are left to its trees before they are pulled.
        self.grace_s: Callable[[Transfer], float] = lambda transfer: 0.0
        #: Who pushes the chunks of a blob to us.
        self.parents: Callable[[Digest], list[PeerId]] = lambda blob: []
        #: Whether a peer gives chunks over a bulk link.
        self.is_linked: Callable[[PeerId], bool] = lambda peer: False
        #: Nothing is fetched before this time: our own disk is in trouble.
        self.store_paused_until_s = 0.0
        #: When to look at stalled work again: hedges, paused peers, object retries. None: nothing waits.
        self.retry_at_s: float | None = None

    # --- objects and blobs ----------------------------------------------------------------------------------------

    def head_accepted(self, event: HeadAccepted) -> None:
        """Want the manifest that a new head names, unless its blob is open here."""
        if any(transfer.manifest == event.manifest for transfer in self.transfers.values()):
            return
        self.objects.want(
            WantedObject(event.manifest, event.manifest_bytes, event.channel, seq=event.seq, source=event.source)
        )

    def blob_opened(self, event: BlobOpened, out: Outbox, now_s: float) -> None:
        """Begin (or go on) fetching and serving a blob."""
        if event.manifest is not None:
            self.objects.obtained(event.manifest)
        transfer = self.transfers.get(event.blob)
        if transfer is None:
            transfer = self._exchange.open(event, out)
            transfer.wanted &= ~self.arrivals.covering(event.blob)
            return
        transfer.priority = max(transfer.priority, event.priority)
        transfer.manifest = event.manifest or transfer.manifest
        if transfer.chunks_found(event.mask):
            self._chunks_are_here(transfer, out, now_s)

    def blob_closed(self, blob: Digest, out: Outbox) -> None:
        """Stop fetching and serving a blob."""
        if self._exchange.close(blob, out):
            for fetch in self.fetches:
                if fetch.target == blob and not fetch.is_object:
                    fetch.is_abandoned = True
                    self._cancel(fetch, out)

    # --- fetches --------------------------------------------------------------------------------------------------

    def chunk_verified(self, event: ChunkVerified, out: Outbox, now_s: float) -> None:
        """Count a chunk, and cancel other fetches that only bring what is here."""
        fetch = self.fetches.get(event.fetch_id)
        if fetch is None or not self.fetches.chunk_arrived(fetch, event.index):
            return
        self._rate_of(fetch).bytes_arrived(event.size_bytes, now_s)
        transfer = None if fetch.is_abandoned else self.transfers.get(fetch.target)
        if transfer is not None and transfer.chunk_verified(event.index):
            self._chunks_are_here(transfer, out, now_s)

    def fetch_ended(self, event: FetchEnded, out: Outbox, now_s: float) -> Fetch | None:
        """Settle a fetch: what did not arrive is wanted again, and the peer's record is written."""
        fetch = self.fetches.end(event.fetch_id)
        if fetch is None:
            return None
        rate = self._rate_of(fetch)
        if event.rtt_s is not None:
            rate.first_byte_arrived(event.rtt_s)
        failed = event.outcome not in (Outcome.DONE, Outcome.PARTIAL)
        rate.fetch_ended(now_s, failed=failed, others=self.fetches.count(fetch.peer))
        transfer = None if fetch.is_abandoned else self.transfers.get(fetch.target)
        if fetch.is_object:
            # a cancelled object is one that this node refused: asking elsewhere for the same bytes is of no use
            self.objects.fetch_ended(fetch.fetch_id, is_final=event.outcome in (Outcome.DONE, Outcome.CANCELLED))
        elif transfer is not None:
            transfer.wanted |= fetch.remaining & ~transfer.have.mask & ~self._covering(fetch.target)
            if event.outcome is Outcome.MISSING:
                transfer.holder_lacks(fetch.peer, fetch.remaining)
            elif event.outcome is Outcome.PARTIAL:
                # the run stopped at the first chunk that is not there; nothing was said of those behind it
                transfer.holder_lacks(fetch.peer, fetch.remaining & -fetch.remaining)
            elif event.outcome is Outcome.CORRUPT:
                # until it says anew that it has the chunk, which matters for an origin: others are hung up on
                transfer.holder_lacks(fetch.peer, fetch.remaining & -fetch.remaining)
        if fetch.is_carried or self._is_first_word(fetch, event, now_s):
            self._settle_blame(fetch, event.outcome, now_s)
        if event.outcome is Outcome.CORRUPT:
            self._cancel_all_of(fetch.peer, out)
        return fetch

    def push_began(self, event: PushBegan, now_s: float) -> None:
        """A pushed chunk is coming in: it need not be asked for."""
        self.arrivals.began(event.peer, event.blob, event.index, now_s)
        transfer = self.transfers.get(event.blob)
        if transfer is not None:
            transfer.wanted &= ~(1 << event.index)

    def push_arrived(self, event: PushArrived, out: Outbox, now_s: float) -> Transfer | None:
        """Settle a pushed chunk; return its transfer when the chunk is new here."""
        if not self.arrivals.ended(event.peer, event.blob, event.index):
            return None
        if event.outcome is Outcome.STORE:
            self.store_paused_until_s = now_s + self._config.store_pause_s
        elif event.outcome is Outcome.CORRUPT:
            self.reputation(event.peer).sent_bad_chunk(now_s)
            self._cancel_all_of(event.peer, out)
        transfer = self.transfers.get(event.blob)
        if transfer is None or not 0 <= event.index < transfer.have.count:
            return None
        if event.outcome is Outcome.DONE:
            self.reputation(event.peer).succeeded()
        if event.outcome is Outcome.DONE and transfer.chunk_verified(event.index):
            transfer.push_came(event.index, now_s)
            self._chunks_are_here(transfer, out, now_s)
            return transfer
        transfer.wanted |= 1 << event.index & ~transfer.have.mask & ~self._covering(transfer.blob)
        return None

    def ask_for_more(self, out: Outbox, now_s: float) -> None:
        """Give every fetch command that the windows, the budget and the neighbours' haves allow."""
        self.retry_at_s = None
        if now_s < self.store_paused_until_s:
            self.retry_at_s = self.store_paused_until_s
            return
        unfinished = [transfer for transfer in self.transfers.values() if not transfer.is_complete]
        self._give_up_late_arrivals(now_s)
        for transfer in unfinished:
            ripens_s = transfer.ripen(now_s, self.grace_s(transfer))
            if ripens_s is not None:
                self.look_again(now_s, ripens_s)
            if transfer.is_ending:
                transfer.ripen_last(self._config.endgame_chunks - len(self.fetches))
            if self.fetches or transfer.wanted:
                self.look_again(now_s, now_s + self._config.hedge_after_min_s)
        if not self.objects:  # most events change nothing here
            unfinished = [one for one in unfinished if one.wanted & one.ripe or (self.fetches and not one.wanted)]
        if not (unfinished and self._has_budget) and not self.objects:
            return
        sources = self._sources(now_s)
        self._ask_for_objects(sources, out, now_s)
        for transfer in sorted(unfinished, key=lambda transfer: -transfer.priority):
            while self._has_budget and transfer.wanted & transfer.ripe:
                request = self._next_request(transfer, sources)
                if request is None:
                    break
                self._order(transfer, request, out, now_s)
            self._hedge(transfer, sources, out, now_s)

    def ask_again_what_others_have(self, out: Outbox) -> None:
        """Repeat `Want` for blobs that stand still: a `Want` or a `Have` may have been lost."""
        for transfer in self.transfers.values():
            if transfer.wanted and not self._covering(transfer.blob):
                for peer in self.neighbours:
                    if transfer.holders.get(peer) != transfer.full():
                        out.send(peer, want_of(transfer))

    def check(self) -> None:
        """Recount everything that is kept incrementally.

        Raises:
            InvariantViolated: A count is off, or a chunk is in two states.
        """
        self.fetches.check()
        self.arrivals.check()
        for transfer in self.transfers.values():
            transfer.check(self._covering(transfer.blob))

    # --- inside ---------------------------------------------------------------------------------------------------

    @property
    def _has_budget(self) -> bool:
        return self.fetches.total_bytes < self._config.receive_budget_bytes

    def _give_up_late_arrivals(self, now_s: float) -> None:
        """Want again what began to arrive and does not come: its sender may be gone without a word."""
        for blob, index in self.arrivals.give_up_late(now_s - self._config.arrival_patience_s):
            transfer = self.transfers.get(blob)
            if transfer is not None:
                transfer.wanted |= 1 << index & ~transfer.have.mask & ~self._covering(blob)
        oldest_s = self.arrivals.oldest_s()
        if oldest_s is not None:
            self.look_again(now_s, oldest_s + self._config.arrival_patience_s + 0.001)

    def _covering(self, blob: Digest) -> int:
        return self.fetches.covering(blob) | self.arrivals.covering(blob)

    def _cancel_all_of(self, peer: PeerId, out: Outbox) -> None:
        for fetch in self.fetches:
            if fetch.peer == peer:
                self._cancel(fetch, out)

    def _chunks_are_here(self, transfer: Transfer, out: Outbox, now_s: float) -> None:
        self._exchange.tell_soon(now_s)
        if transfer.hedged_count or transfer.is_complete:
            for fetch in self.fetches:
                is_useless = fetch.remaining and not fetch.remaining & ~transfer.have.mask
                if fetch.target == transfer.blob and is_useless:
                    self._cancel(fetch, out)
        if transfer.is_complete:
            self._exchange.announce_complete(transfer, out)

    def _sources(self, now_s: float) -> dict[PeerId, Source]:
        sources: dict[PeerId, Source] = {}
        for peer, contact in self.neighbours.items():
            reputation = self.reputation(peer)
            is_carried = self._is_carried(contact, now_s)
            if is_carried and not self._config.carried_fetches_max:
                continue
            if not reputation.is_usable(now_s):
                self.look_again(now_s, max(reputation.paused_until_s, reputation.quarantined_until_s))
                continue
            count = self.fetches.count(peer)
            sources[peer] = Source(
                peer,
                () if is_carried else contact.serve,
                self._ledger.reach(peer).carried if is_carried else self.rate(peer),
                reputation,
                self.fetches.in_flight(peer),
                count,
                is_carried,
                is_switching=bool(count) and is_carried is not (peer in self.fetches.carrying),
            )
        return sources

    def _is_carried(self, contact: Contact, now_s: float) -> bool:
        return not self.is_linked(contact.peer) and self._is_walled(contact, now_s)

    def _is_walled(self, contact: Contact, now_s: float) -> bool:
        """Whether a peer's data plane is not to be reached, as far as is known."""
        if not contact.serve:
            return True
        reach = self.reaches.get(contact.peer)
        return reach is not None and now_s < reach.direct_at_s and bool(self._config.carried_fetches_max)

    @property
    def _may_carry(self) -> bool:
        return len(self.fetches.carrying) < self._config.carried_fetches_max

    def _rate_of(self, fetch: Fetch) -> RateEstimate:
        return self._ledger.reach(fetch.peer).carried if fetch.is_carried else self.rate(fetch.peer)

    def _next_request(self, transfer: Transfer, sources: Mapping[PeerId, Source]) -> Request | None:
        """Return the next request to a data plane, of those that are no sources first; else to be carried, for what no data plane gives."""
        direct = [source for source in sources.values() if not source.is_carried]
        relays = [source for source in direct if source.peer not in transfer.followers]
        request = next_request(transfer, relays, self._config, self._rng, among=transfer.ripe)
        if request is None and len(relays) < len(direct):
            request = next_request(transfer, direct, self._config, self._rng, among=transfer.ripe)
        if request is not None or len(direct) == len(sources) or not self._may_carry:
            return request
        given = 0
        for source in direct:
            given |= transfer.holders.get(source.peer, 0)
        carried = [source for source in sources.values() if source.is_carried]
        return next_request(transfer, carried, self._config, self._rng, among=transfer.ripe & ~given)

    def _order(self, transfer: Transfer, request: Request, out: Outbox, now_s: float) -> Fetch:
        source = request.source
        estimate_s = source.eta_s(request.count * transfer.chunk_bytes)
        deadline_s = now_s + source.deadline_s(self._config, estimate_s)
        fetch = Fetch(
            self.fetches.next_id(),
            source.peer,
            transfer.blob,
            request.mask,
            transfer.chunk_bytes,
            now_s,
            deadline_s,
            estimate_s,
            is_carried=source.is_carried,
            is_hedge=request.is_hedge,
        )
        self._enter(fetch, source, now_s)
        transfer.wanted &= ~request.mask
        for parent in self.parents(transfer.blob):
            if parent != source.peer:
                out.send(parent, Skip(transfer.blob, ((request.first, request.count),)))
        out.add(
            FetchChunks(
                out.cause,
                fetch.fetch_id,
                source.peer,
                source.addresses,
                transfer.blob,
                request.first,
                request.count,
                deadline_s,
                self._config.fetch_idle_timeout_s,
            )
        )
        return fetch

    def _enter(self, fetch: Fetch, source: Source, now_s: float) -> None:
        if not self.fetches.count(source.peer):
            source.rate.fetch_started(now_s)
        self.fetches.add(fetch)
        source.owed_bytes = self.fetches.in_flight(source.peer)
        source.fetch_count = self.fetches.count(source.peer)

    def _hedge(self, transfer: Transfer, sources: Mapping[PeerId, Source], out: Outbox, now_s: float) -> None:
        while self._has_budget:
            usable = [source for source in sources.values() if not source.is_carried or self._may_carry]
            found = next_hedge(transfer, usable, self.fetches, self._config, now_s=now_s)
            if found is None:
                return
            fetch, request = found
            fetch.is_hedged = True
            transfer.hedged_count += request.count
            self._order(transfer, request, out, now_s)

    def _ask_for_objects(self, sources: Mapping[PeerId, Source], out: Outbox, now_s: float) -> None:
        for wanted in self.objects:
            if wanted.fetch_id is not None or not self._has_budget:
                continue
            wanted.begin_round(now_s)
            unasked = [source for peer, source in sources.items() if peer not in wanted.asked]
            unasked = [source for source in unasked if source.is_carried or self._can_give_object(source.peer, now_s)]
            candidates = [source for source in unasked if not source.is_carried]
            if not candidates and self._may_carry:
                candidates = [source for source in unasked if not source.fetch_count]
            if candidates:
                first = next((source for source in candidates if source.peer == wanted.source), None)
                self._order_object(wanted, first or self._rng.choice(candidates), out, now_s)
            elif all(peer in wanted.asked for peer in sources):
                self.look_again(now_s, wanted.end_round(self._config, now_s))

    def _can_give_object(self, peer: PeerId, now_s: float) -> bool:
        """Whether a peer whose chunks come over a link can be asked for an object now: one that is walled only by carriage."""
        if not self._is_walled(self.neighbours[peer], now_s):
            return True
        return self._may_carry and peer not in self.fetches.carrying

    def _order_object(self, wanted: WantedObject, source: Source, out: Outbox, now_s: float) -> None:
        # a link brings chunks only: an object comes from the data plane, or is carried
        is_carried = self._is_walled(self.neighbours[source.peer], now_s)
        estimate_s = source.eta_s(wanted.size_bytes)
        deadline_s = now_s + source.deadline_s(self._config, estimate_s)
        fetch = Fetch(
            self.fetches.next_id(),
            source.peer,
            wanted.digest,
            0,
            wanted.size_bytes,
            now_s,
            deadline_s,
            estimate_s,
            is_object=True,
            is_carried=is_carried,
        )
        wanted.fetch_id = fetch.fetch_id
        wanted.asked[source.peer] = None
        self._enter(fetch, source, now_s)
        out.add(
            FetchObject(
                out.cause,
                fetch.fetch_id,
                source.peer,
                () if is_carried else source.addresses,
                wanted.digest,
                wanted.size_bytes,
                deadline_s,
            )
        )

    def _settle_blame(self, fetch: Fetch, outcome: Outcome, now_s: float) -> None:
        if outcome is Outcome.STORE:
            self.store_paused_until_s = now_s + self._config.store_pause_s
        elif outcome in (Outcome.DONE, Outcome.PARTIAL):
            self.reputation(fetch.peer).succeeded()
        elif outcome is Outcome.CORRUPT:
            self.reputation(fetch.peer).sent_bad_chunk(now_s)
        elif outcome is Outcome.BUSY:
            self.reputation(fetch.peer).pause(now_s, self._config.retry_backoff_s)
        elif outcome is not Outcome.CANCELLED and not (outcome is Outcome.MISSING and fetch.is_object):
            self.reputation(fetch.peer).failed(now_s)

    def _is_first_word(self, fetch: Fetch, event: FetchEnded, now_s: float) -> bool:
        """Note whether a data plane was reached; return False when that it was not is known and there is another way."""
        is_silent = (
            event.outcome is Outcome.STALLED and event.rtt_s is None
        )  # something took the connection and said nothing
        if event.outcome is Outcome.UNREACHABLE or is_silent:
            is_news = self._ledger.reach(fetch.peer).unreachable(fetch.started_s, now_s)
            return is_news or not self._config.carried_fetches_max
        if fetch.peer in self.reaches and event.outcome not in (Outcome.CANCELLED, Outcome.STALLED, Outcome.DEADLINE):
            self.reaches[fetch.peer].reached()
        return True

    def _cancel(self, fetch: Fetch, out: Outbox) -> None:
        if not fetch.is_cancelled:
            fetch.is_cancelled = True
            out.add(CancelFetch(out.cause, fetch.fetch_id))

    def look_again(self, now_s: float, at_s: float) -> None:
        """Make sure that fetches are looked for at a time."""
        at_s = max(at_s, now_s + 0.01)
        if self.retry_at_s is None or at_s < self.retry_at_s:
            self.retry_at_s = at_s

"""The views of the overlay: a small active view of neighbours, a larger passive view of contacts to replace them with.

This is HyParView (Leitão, Pereira, Rodrigues, DSN 2007) over the messages of this protocol. A newcomer dials a bootstrap contact and says
Hello, urgently, since it has no neighbour: it is always admitted, if need be in place of a random neighbour. Its record then walks a few
hops, and whoever it ends at dials it. `Peers` messages shuffle the passive views. A lost neighbour is replaced from the passive view;
a Hello that is not urgent may be declined with a Goodbye. The relation is symmetric: both sides hold it or neither.

The paper's Disconnect is our Goodbye, its Neighbor request our Hello, its ForwardJoin a `Peers` with walk > 0, its Shuffle one without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import PEERS_PER_MESSAGE_MAX
from shardcast_proto.messages import Goodbye, Hello, Peers

from .balance import excess, fits, is_balanced, mean_uplink, place_for
from .config import RelayConfig
from .events import Contact, DialFailed, GoodbyeReceived, HelloReceived, PeersReceived
from .outbox import Outbox
from .randomness import Rng

#: Each vain attempt to better the view makes the next one wait so many times longer: the other side declines most.
_PAUSE_GROWTH: Final = 1.25


@dataclass
class Neighbour:
    """A peer in the active view."""

    contact: Contact
    channels: tuple[Digest, ...]
    heard_s: float
    #: When it was admitted, or last said Hello to again.
    greeted_s: float


@dataclass
class Connection:
    """A control connection, of a neighbour or not."""

    #: Since when its peer is connected and no neighbour.
    idle_since_s: float
    #: Whether our Hello was sent, with no Goodbye since.
    is_greeted: bool = False


@dataclass
class Membership:
    """Who our neighbours are, who else there is, whom we are dialling.

    Invariant: the active and the passive view are disjoint, within their sizes, and never hold this node itself.
    """

    self_id: PeerId
    config: RelayConfig
    rng: Rng
    record: bytes = b""
    bindings: tuple[bytes, ...] = ()
    channels: dict[Digest, None] = field(default_factory=dict)
    #: Contacts the operator named; never forgotten.
    bootstrap: dict[PeerId, Contact] = field(default_factory=dict)
    active: dict[PeerId, Neighbour] = field(default_factory=dict)
    passive: dict[PeerId, Contact] = field(default_factory=dict)
    #: Dials under way, by deadline.
    dialling: dict[PeerId, float] = field(default_factory=dict)
    #: Peers with a control connection, neighbours or not.
    connected: dict[PeerId, Connection] = field(default_factory=dict)
    #: Contacts left alone until a time.
    resting: dict[PeerId, float] = field(default_factory=dict)
    #: Dials of contacts the operator named that failed since there was a neighbour.
    failed_dials: dict[PeerId, int] = field(default_factory=dict)
    #: Whether something is being fetched, here or from here: neighbours that give are not changed for others that might give more.
    is_busy: Callable[[], bool] = lambda: False
    #: Whether most neighbours hold a good deal more of what is being fetched than we do.
    is_behind: Callable[[], bool] = lambda: False
    #: The one of some neighbours that needs us least.
    least_in_need: Callable[[list[PeerId]], PeerId | None] = lambda peers: None
    #: Whether versions come from here.
    is_source: Callable[[], bool] = lambda: False
    #: Whether a neighbour should not have to go for a newcomer in need: it feeds us, or is fed by us.
    is_kept: Callable[[PeerId], bool] = lambda peer: False
    #: Until when nobody more is taken in who dialled us.
    _newcomer_at_s: float = 0.0
    #: The view that was balanced last, and when that is tried again.
    _balanced: frozenset[PeerId] = frozenset()
    _balance_at_s: float = 0.0
    _balance_pause_s: float = 0.0

    def look_for_neighbours(self, out: Outbox, now_s: float) -> None:
        """Dial contacts while there are fewer neighbours than wanted."""
        self._forget_rested(now_s)
        wanted = self.config.active_view_aim - len(self.active) - len(self.dialling)
        for contact in self._candidates(now_s):
            if wanted <= 0 or len(self.dialling) >= self.config.dials_max:
                return
            wanted -= 1
            if contact.peer in self.connected:
                self._say_hello(contact.peer, out, now_s)
                continue
            self.dialling[contact.peer] = now_s + self.config.dial_timeout_s
            out.dial(contact.peer, contact.dial, now_s + self.config.dial_timeout_s)

    def balance(self, out: Outbox, now_s: float) -> None:
        """Dial contacts that would better the balance of the view (most decline); later and later while that changes nothing."""
        peers = frozenset(self.active)
        if peers != self._balanced:
            self._balanced, self._balance_pause_s = peers, self.config.reconcile_interval_s
        elif now_s < self._balance_at_s:
            return
        if self._is_settled or not self._is_large or len(self.active) < self.config.active_view_aim or self.dialling:
            return
        target, contacts = self._target_bytes_per_s(), self._contacts()
        if is_balanced(contacts, target, self.config.balance_tolerance):
            return
        self._balance_at_s = now_s + self._balance_pause_s
        self._balance_pause_s = min(_PAUSE_GROWTH * self._balance_pause_s, self.config.balance_pause_max_s)
        gain, has_room = self.config.balance_gain * target, len(contacts) < self.config.active_view_max
        for contact in self._candidates(now_s):
            if contact.peer in self.connected or len(self.dialling) >= self.config.dials_max:
                continue
            is_fit = has_room and fits(contact, contacts, target, gain=gain)
            if is_fit or place_for(contact, contacts, target, gain=gain) is not None:
                self.dialling[contact.peer] = now_s + self.config.dial_timeout_s
                out.dial(contact.peer, contact.dial, now_s + self.config.dial_timeout_s)

    def shuffle(self, out: Outbox) -> None:
        """Send a sample of what we know to one random neighbour."""
        if self.active:
            partner = self.rng.choice(list(self.active))
            out.send(partner, Peers(self._sample_records(exclude=partner)))

    def peer_connected(self, peer: PeerId, out: Outbox, now_s: float) -> None:
        """A control connection came up: the side that dialled speaks first."""
        self.connected.setdefault(peer, Connection(now_s))
        if self.dialling.pop(peer, None) is not None and peer not in self.active:
            self._say_hello(peer, out, now_s)

    def dial_failed(self, event: DialFailed, now_s: float) -> None:
        """Leave the contact alone for a while; a contact that cannot be dialled is not worth remembering.

        Who has no neighbour yet tries again soon, and then less and less often: what it named may be starting, or crowded for a moment.
        """
        self.dialling.pop(event.peer, None)
        pause_s = self.config.redial_backoff_s
        if not self.active and event.peer in self.bootstrap:
            failures = self.failed_dials.get(event.peer, 0)
            self.failed_dials[event.peer] = failures + 1
            pause_s = min(pause_s, self.config.retry_backoff_s * 2 ** min(failures, 16) * (1.0 + self.rng.random()))
        self.rest(event.peer, now_s + pause_s)
        self.passive.pop(event.peer, None)

    def peer_disconnected(self, peer: PeerId, now_s: float) -> bool:
        """Forget the connection; return whether the peer was a neighbour."""
        self.connected.pop(peer, None)
        neighbour = self.active.pop(peer, None)
        if neighbour is None:
            return False
        self._remember(neighbour.contact)
        self.rest(peer, now_s + self.config.retry_backoff_s)
        return True

    def hello_received(self, event: HelloReceived, out: Outbox, now_s: float) -> tuple[bool, list[PeerId]]:
        """Admit the peer or decline; return whether a neighbourship begins, and who had to go for it."""
        self.connected.setdefault(event.peer, Connection(now_s))
        known = self.active.get(event.peer)
        if known is not None:
            return self._hello_repeated(known, event, out, now_s), []
        dropped: list[PeerId] = []
        is_extra = len(self.active) >= self.config.active_view_aim and self.is_busy() and self._is_large
        is_uncalled = is_extra and not event.is_origin and not self.connected[event.peer].is_greeted
        if is_uncalled and now_s < self._newcomer_at_s:
            self._decline(event.contact, out)
            return False, []
        if len(self.active) >= self.config.active_view_max:
            place = self._place_for(event.contact)
            if place is not None:
                dropped.append(self._make_room(place, out, now_s))
            elif event.is_urgent:
                others = [peer for peer in self.active if not self.is_kept(peer)] or list(self.active)
                dropped.append(self._make_room(self.least_in_need(others) or self.rng.choice(others), out, now_s))
            else:
                self._decline(event.contact, out)
                return False, []
        if is_uncalled:
            self._newcomer_at_s = now_s + self.config.newcomer_interval_s
        self.passive.pop(event.peer, None)
        self.resting.pop(event.peer, None)
        self.failed_dials.clear()
        self.active[event.peer] = Neighbour(event.contact, event.channels, now_s, now_s)
        if not self.connected[event.peer].is_greeted:
            self._say_hello(event.peer, out, now_s)
        self._introduce(event.contact, out)
        return True, dropped

    def peers_received(self, event: PeersReceived, out: Outbox, now_s: float) -> None:
        """Take in contacts; pass a walking newcomer on."""
        for contact in event.contacts:
            self._remember(contact)
        if not event.walk or len(event.contacts) != 1:
            return
        contact = event.contacts[0]
        others = [peer for peer in self.active if peer not in (event.peer, contact.peer)]
        if event.walk > 1 and others:
            out.send(self.rng.choice(others), Peers((contact.record,), event.walk - 1))
        self.look_for_neighbours(out, now_s)

    def goodbye_received(self, event: GoodbyeReceived, now_s: float) -> bool:
        """Take the peer out of the active view; return whether it was in it."""
        for contact in event.contacts:
            self._remember(contact)
        self.connected.pop(event.peer, None)
        self.rest(event.peer, now_s + self.config.redial_backoff_s)
        neighbour = self.active.pop(event.peer, None)
        if neighbour is None:
            return False
        self._remember(neighbour.contact)
        return True

    def silent_neighbours(self, now_s: float) -> list[PeerId]:
        """Return the neighbours that have said nothing for too long."""
        limit = now_s - self.config.silence_max_s
        return [peer for peer, neighbour in self.active.items() if neighbour.heard_s < limit]

    def idle_connections(self, now_s: float) -> list[PeerId]:
        """Return the peers that have kept a connection for too long without being neighbours."""
        limit = now_s - self.config.silence_max_s
        return [
            peer
            for peer, connection in self.connected.items()
            if connection.idle_since_s < limit and peer not in self.active
        ]

    def rest(self, peer: PeerId, until_s: float) -> None:
        """Leave a peer alone until a time, or longer if that was decided before."""
        if peer not in self.resting and len(self.resting) >= self.config.resting_max:
            del self.resting[min(self.resting, key=self.resting.__getitem__)]
        self.resting[peer] = max(until_s, self.resting.get(peer, 0.0))

    def check(self) -> None:
        """Check the invariant.

        Raises:
            InvariantViolated: It is broken.
        """
        both = self.active.keys() & self.passive.keys()
        if both or self.self_id in self.active or self.self_id in self.passive:
            raise InvariantViolated(f"{sorted(both)} are in both views, or this node is in its own")
        if len(self.active) > self.config.active_view_max or len(self.passive) > self.config.passive_view_max:
            raise InvariantViolated(f"views of {len(self.active)} and {len(self.passive)} peers are too large")

    def _candidates(self, now_s: float) -> list[Contact]:
        pool = dict(self.passive)
        if not self.active or not pool:
            pool.update(self.bootstrap)
        usable = [
            contact
            for peer, contact in pool.items()
            if peer not in self.active
            and peer not in self.dialling
            and peer != self.self_id
            and contact.dial
            and self.resting.get(peer, 0.0) <= now_s
        ]
        return self.rng.sample(usable, len(usable))

    def _hello_repeated(self, known: Neighbour, event: HelloReceived, out: Outbox, now_s: float) -> bool:
        known.contact, known.channels, known.heard_s = event.contact, event.channels, now_s
        if now_s - known.greeted_s < self.config.hello_patience_s / 2:
            return False
        known.greeted_s = now_s
        self._say_hello(event.peer, out, now_s)
        return True

    def _say_hello(self, peer: PeerId, out: Outbox, now_s: float) -> None:
        self.connected[peer].is_greeted = True
        if peer not in self.active:
            self.rest(peer, now_s + self.config.hello_patience_s)
        is_urgent = not self.active or self._is_starving
        out.send(peer, Hello(self.record, tuple(self.channels), is_urgent, self.bindings))

    def _introduce(self, contact: Contact, out: Outbox) -> None:
        """Tell the newcomer of others, and let its record walk."""
        records = self._sample_records(exclude=contact.peer)
        if records:
            out.send(contact.peer, Peers(records))
        others = [peer for peer in self.active if peer != contact.peer]
        for peer in self.rng.sample(others, min(self.config.walks_per_join, len(others))):
            out.send(peer, Peers((contact.record,), self.config.walk_hops))

    def _place_for(self, newcomer: Contact) -> PeerId | None:
        """Return the neighbour in whose place a newcomer would better the balance, if there is one, while it may be changed."""
        if self._is_settled or not self._is_large:
            return None
        target = self._target_bytes_per_s()
        return place_for(newcomer, self._contacts(), target, gain=self.config.balance_gain * target)

    def _contacts(self) -> list[Contact]:
        return [neighbour.contact for neighbour in self.active.values()]

    @property
    def _is_settled(self) -> bool:
        """Whether neighbours are not changed for others that might give more: something is fetched, and not by us alone too slowly."""
        return self.is_busy() and not self._is_starving

    @property
    def _is_starving(self) -> bool:
        """Whether we are behind our neighbours because those that we have give less than others' do."""
        if not self._is_large or not self.is_behind():
            return False
        target = self._target_bytes_per_s()
        return excess(self._contacts(), target) < -self.config.balance_tolerance * target

    @property
    def _is_large(self) -> bool:
        return len(self.passive) > self.config.small_passive_max

    def _target_bytes_per_s(self) -> float:
        """Return what the uplinks of our neighbours should be together: those of a full view of usual nodes, or a source's of fast ones."""
        share = self.config.balance_source_share if self.is_source() else 1.0
        return self.config.active_view_max * share * mean_uplink([*self._contacts(), *self.passive.values()])

    def _decline(self, contact: Contact, out: Outbox) -> None:
        self._remember(contact)
        self.connected[contact.peer].is_greeted = False
        out.send(contact.peer, Goodbye("my view is full", self._sample_records(exclude=contact.peer)))

    def _make_room(self, peer: PeerId, out: Outbox, now_s: float) -> PeerId:
        contact = self.active.pop(peer).contact
        self.connected[peer] = Connection(now_s)
        out.send(peer, Goodbye("making room for a newcomer", self._sample_records(exclude=peer)))
        self._remember(contact)
        return peer

    def _sample_records(self, *, exclude: PeerId) -> tuple[bytes, ...]:
        known = [neighbour.contact for neighbour in self.active.values()] + list(self.passive.values())
        records = [contact.record for contact in known if contact.peer != exclude and contact.record]
        count = min(self.config.shuffle_sample, PEERS_PER_MESSAGE_MAX, len(records))
        return tuple(self.rng.sample(records, count))

    def _remember(self, contact: Contact) -> None:
        peer = contact.peer
        if peer == self.self_id:
            return
        if peer in self.active:
            if contact.issued_s > self.active[peer].contact.issued_s:
                self.active[peer].contact = contact
            return
        known = self.passive.get(peer)
        if known is None and len(self.passive) >= self.config.passive_view_max:
            del self.passive[self.rng.choice(list(self.passive))]
        if known is None or contact.issued_s >= known.issued_s:
            self.passive[peer] = contact

    def _forget_rested(self, now_s: float) -> None:
        self.resting = {peer: until_s for peer, until_s in self.resting.items() if until_s > now_s}

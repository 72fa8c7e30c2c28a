"""Any machine under any sequence of events, honest or hostile: it never breaks a rule of its own."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.messages import (
    Adopt,
    Attach,
    Cancel,
    Detach,
    Done,
    Have,
    Message,
    Omit,
    Rate,
    Redirect,
    Skip,
    Trees,
    Want,
)
from shardcast_relay import Machine, RelayConfig
from shardcast_relay.commands import (
    CancelFetch,
    CloseLink,
    Command,
    Dial,
    FetchChunks,
    FetchObject,
    Hangup,
    OpenLink,
    PushChunk,
    Send,
)
from shardcast_relay.events import (
    BlobClosed,
    BlobOpened,
    ChannelJoined,
    ChunkVerified,
    Contact,
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
)

from .parts import CHANNEL, CHUNK, SELF, contact, peer

CONFIG = RelayConfig(
    active_view_max=4,
    active_view_aim=3,
    passive_view_max=5,
    receive_budget_bytes=6 * CHUNK,
    peer_records_max=8,
    resting_max=6,
    early_blobs_per_peer_max=2,
)
COUNT = 12
OBJECT_BYTES = 4096
PEERS = 10

numbers = st.integers(0, PEERS)
blob_numbers = st.integers(0, 3)
blobs = blob_numbers.map(lambda number: digest_of(b"blob %d" % number))
masks = st.integers(0, (1 << COUNT) - 1)
runs = st.lists(st.tuples(st.integers(0, COUNT + 2), st.integers(0, COUNT)), max_size=3).map(tuple)
good_runs = st.integers(0, COUNT - 1).map(lambda first: ((first, COUNT - first),))
stripes = st.integers(0, 8)
contacts = st.builds(contact, numbers, serve=st.booleans(), issued_s=st.integers(0, 3))
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Done, blobs),
    st.builds(Have, blobs, good_runs, st.booleans()),
    st.builds(Have, blobs, runs, st.booleans()),
    st.builds(Want, blobs),
    st.builds(Cancel, blobs),
    st.builds(Rate, st.integers(0, 2**63 - 1)),
    st.builds(Want, blobs, runs),
    st.builds(Skip, blobs, runs),
    st.builds(Omit, blobs, runs),
    st.builds(Trees, blobs, st.lists(st.integers(0, 3), max_size=9).map(tuple), st.integers(0, 4)),
    st.builds(Trees, blobs, st.just((0,)), st.just(8)),
    st.builds(Attach, blobs, st.lists(stripes, max_size=3).map(tuple)),
    st.builds(Adopt, blobs, stripes, st.integers(0, 3)),
    st.builds(Redirect, blobs, stripes, st.lists(numbers.map(peer), max_size=2).map(tuple)),
    st.builds(Detach, blobs, stripes),
)


class AnySequence(RuleBasedStateMachine):
    """A shell that obeys the contract of commands and endings, among peers that obey nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 50.0
        self.machine = Machine(SELF, rng=random.Random(1), config=CONFIG)
        self.under_way: dict[int, FetchChunks | FetchObject] = {}
        self.arrived: dict[int, set[int]] = {}
        self.dialling: set[str] = set()
        self.opening: set[tuple[str, bool]] = set()
        self.links: set[tuple[str, bool]] = set()
        self.pushes: dict[int, PushChunk] = {}
        self.arriving: list[tuple[str, Digest, int, int]] = []
        self.cancelled: Counter[int] = Counter()
        self.last_event = 0
        self.tell(ChannelJoined(CHANNEL))
        self.tell(Started(b"record", (contact(1),)))

    def tell(self, event: Event) -> None:
        self.last_event += 1
        if isinstance(event, PeerConnected | DialFailed):
            self.dialling.discard(event.peer)  # either side may have dialled: a connection is a connection
        for command in self.machine.handle(event, now_s=self.now_s):
            assert command.cause == self.last_event
            self.obey(command)

    def obey(self, command: Command) -> None:
        if isinstance(command, FetchChunks | FetchObject):
            assert command.fetch_id not in self.arrived, "a fetch id was used twice"
            assert command.deadline_s > self.now_s
            carried = [other.peer for other in self.under_way.values() if not other.addresses]
            is_linked = (command.peer, False) in self.links
            assert (
                command.addresses
                or is_linked
                or (len(carried) < CONFIG.carried_fetches_max and command.peer not in carried)
            )
            assert command.peer in self.machine.membership.active
            assert not self.machine.downloads.reputation(command.peer).is_quarantined(self.now_s)
            self.under_way[command.fetch_id] = command
            self.arrived[command.fetch_id] = set()
        elif isinstance(command, CancelFetch):
            self.cancelled[command.fetch_id] += 1
            assert self.cancelled[command.fetch_id] == 1
        elif isinstance(command, Dial):
            assert command.peer not in self.dialling, "somebody is dialled twice at once"
            assert command.addresses and command.peer != SELF
            self.dialling.add(command.peer)
        elif isinstance(command, Send):
            assert command.peer != SELF
        elif isinstance(command, OpenLink):
            key = (command.peer, command.is_sending)
            assert command.addresses and key not in self.opening
            self.opening.add(key)
        elif isinstance(command, CloseLink):
            self.links.discard((command.peer, command.is_sending))
        elif isinstance(command, PushChunk):
            assert (command.peer, True) in self.links, "a push without a link"
            assert command.push_id not in self.pushes
            assert sum(push.peer == command.peer for push in self.pushes.values()) < CONFIG.push_window
            assert self.machine.exchange.transfers[command.blob].have.mask >> command.index & 1, (
                "a push of what is not held"
            )
            self.pushes[command.push_id] = command
        else:
            assert isinstance(command, Hangup)

    # --- time -------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.25, 1.0, 6.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(Ticked())

    @rule()
    def tick_on_time(self) -> None:
        self.now_s = max(self.now_s, self.machine.next_wake_s)
        self.tell(Ticked())

    # --- peers ------------------------------------------------------------------------------------------------------

    @rule(number=st.integers(1, PEERS))
    def connect(self, number: int) -> None:
        self.tell(PeerConnected(peer(number)))

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), succeeds=st.booleans())
    def end_dial(self, data: st.DataObject, succeeds: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.dialling)))
        number = next(number for number in range(PEERS + 1) if peer(number) == name)
        self.tell(PeerConnected(peer(number)) if succeeds else DialFailed(peer(number), "unreachable"))

    @rule(number=numbers)
    def disconnect(self, number: int) -> None:
        self.tell(PeerDisconnected(peer(number)))

    @rule(number=st.integers(1, PEERS), is_urgent=st.booleans(), serve=st.booleans(), is_origin=st.booleans())
    def hello(self, number: int, is_urgent: bool, serve: bool, is_origin: bool) -> None:
        self.tell(PeerConnected(peer(number)))
        self.tell(HelloReceived(peer(number), contact(number, serve=serve), (CHANNEL,), is_urgent, is_origin))

    @rule(number=numbers, claimed=contacts, is_urgent=st.booleans())
    def hostile_hello(self, number: int, claimed: Contact, is_urgent: bool) -> None:
        self.tell(HelloReceived(peer(number), claimed, (), is_urgent))

    @rule(number=numbers, others=st.lists(contacts, max_size=3), walk=st.integers(0, 6))
    def peers_named(self, number: int, others: list, walk: int) -> None:
        self.tell(PeersReceived(peer(number), tuple(others), walk))

    @rule(number=numbers, others=st.lists(contacts, max_size=3))
    def goodbye(self, number: int, others: list) -> None:
        self.tell(GoodbyeReceived(peer(number), "reason", tuple(others)))

    @rule(data=st.data(), message=messages, is_neighbour=st.booleans())
    def message(self, data: st.DataObject, message: Message, is_neighbour: bool) -> None:
        active = sorted(self.machine.membership.active)
        name = data.draw(st.sampled_from(active)) if active and is_neighbour else peer(data.draw(numbers))
        self.tell(MessageReceived(name, message))

    # --- blobs ------------------------------------------------------------------------------------------------------

    @rule(blob=blobs, mask=masks, priority=st.integers(0, 3))
    def open_blob(self, blob: Digest, mask: int, priority: int) -> None:
        self.tell(BlobOpened(blob, COUNT, CHUNK, mask, priority, digest_of(b"manifest of " + blob)))

    @rule(blob=blobs, mask=st.sampled_from([0, (1 << COUNT) - 1]))
    def open_published_blob(self, blob: Digest, mask: int) -> None:
        self.tell(BlobOpened(blob, COUNT, CHUNK, mask, is_source=True))

    @rule(blob=blobs)
    def open_empty_blob(self, blob: Digest) -> None:
        self.tell(BlobOpened(blob, COUNT, CHUNK, 0))

    @rule(blob=blobs)
    def close_blob(self, blob: Digest) -> None:
        self.tell(BlobClosed(blob))

    @rule(seq=st.integers(1, 5), number=numbers, blob=blobs)
    def accept_head(self, seq: int, number: int, blob: Digest) -> None:
        self.tell(HeadAccepted(CHANNEL, seq, digest_of(b"manifest of " + blob), OBJECT_BYTES, peer(number)))

    # --- fetches ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def chunk_arrives(self, data: st.DataObject) -> None:
        fetch = self.under_way[data.draw(st.sampled_from(sorted(self.under_way)))]
        if isinstance(fetch, FetchChunks):
            index = fetch.first + data.draw(st.integers(0, fetch.count - 1))
            self.arrived[fetch.fetch_id].add(index)
            self.tell(ChunkVerified(fetch.fetch_id, index, CHUNK))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def everything_arrives(self, data: st.DataObject) -> None:
        fetch = self.under_way.pop(data.draw(st.sampled_from(sorted(self.under_way))))
        if isinstance(fetch, FetchChunks):
            for index in range(fetch.first, fetch.first + fetch.count):
                self.tell(ChunkVerified(fetch.fetch_id, index, CHUNK))
        self.tell(FetchEnded(fetch.fetch_id, Outcome.DONE, 0.02))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), rtt_s=st.none() | st.floats(0, 5))
    def fetch_ends(self, data: st.DataObject, outcome: Outcome, rtt_s: float | None) -> None:
        fetch_id = data.draw(st.sampled_from(sorted(self.under_way)))
        del self.under_way[fetch_id]
        self.tell(FetchEnded(fetch_id, outcome, rtt_s))

    @rule(fetch_id=st.integers(0, 400), index=st.integers(-2, COUNT + 5))
    def chunk_of_an_ended_or_unknown_fetch(self, fetch_id: int, index: int) -> None:
        if fetch_id not in self.under_way:
            self.tell(ChunkVerified(fetch_id, index, CHUNK))

    @rule(fetch_id=st.integers(0, 400), outcome=st.sampled_from(Outcome))
    def ending_of_an_ended_or_unknown_fetch(self, fetch_id: int, outcome: Outcome) -> None:
        if fetch_id not in self.under_way:
            self.tell(FetchEnded(fetch_id, outcome))

    # --- links ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.opening)
    @rule(data=st.data(), succeeds=st.booleans())
    def end_opening(self, data: st.DataObject, succeeds: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.opening)))
        self.opening.discard(key)
        if succeeds:
            self.link_opens(key)
        else:
            self.tell(LinkFailed(peer_named(key[0]), key[1], Outcome.UNREACHABLE))

    @rule(number=numbers, is_sending=st.booleans())
    def somebody_opens_a_link(self, number: int, is_sending: bool) -> None:
        self.link_opens((peer(number), is_sending))

    def link_opens(self, key: tuple[str, bool]) -> None:
        self.links.add(key)
        self.opening.discard(key)  # whoever opened it: that was the ending of our order
        self.tell(LinkOpened(peer_named(key[0]), key[1]))

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def close_link(self, data: st.DataObject) -> None:
        name, is_sending = data.draw(st.sampled_from(sorted(self.links)))
        self.links.discard((name, is_sending))
        if is_sending:
            for push_id in [push_id for push_id, push in self.pushes.items() if push.peer == name]:
                del self.pushes[push_id]
                self.tell(PushEnded(push_id, Outcome.SHORT))
        self.tell(LinkClosed(peer_named(name), is_sending))

    @precondition(lambda self: self.pushes)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.DONE, Outcome.DONE, Outcome.STALLED, Outcome.MISSING]))
    def push_ends(self, data: st.DataObject, outcome: Outcome) -> None:
        push_id = data.draw(st.sampled_from(sorted(self.pushes)))
        del self.pushes[push_id]
        self.tell(PushEnded(push_id, outcome))

    @rule(number=numbers, blob=blobs, stripe=stripes, index=st.integers(0, COUNT - 1))
    def push_begins(self, number: int, blob: Digest, stripe: int, index: int) -> None:
        self.arriving.append((peer(number), blob, stripe, index))
        self.tell(PushBegan(peer(number), blob, stripe, index))

    @precondition(lambda self: self.arriving)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.DONE, Outcome.DONE, *Outcome]))
    def push_arrives(self, data: st.DataObject, outcome: Outcome) -> None:
        name, blob, stripe, index = self.arriving.pop(data.draw(st.integers(0, len(self.arriving) - 1)))
        self.tell(PushArrived(peer_named(name), blob, stripe, index, outcome, CHUNK))

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_machine_agrees_with_its_recount(self) -> None:
        self.machine.check()

    @invariant()
    def every_fetch_under_way_is_in_the_table_and_no_other(self) -> None:
        assert {fetch.fetch_id for fetch in self.machine.downloads.fetches} == set(self.under_way)

    @invariant()
    def every_dial_under_way_is_known_and_no_other(self) -> None:
        assert set(self.machine.membership.dialling) == self.dialling

    @invariant()
    def bytes_under_way_never_exceed_the_budget_and_one_run(self) -> None:
        run_bytes = max(CONFIG.run_bytes_max, OBJECT_BYTES)
        assert self.machine.downloads.fetches.total_bytes < CONFIG.receive_budget_bytes + run_bytes

    @invariant()
    def what_strangers_can_fill_is_bounded(self) -> None:
        machine = self.machine
        records_max = CONFIG.peer_records_max + CONFIG.active_view_max
        assert len(machine.downloads.reputations) <= records_max
        assert len(machine.downloads.rates) <= records_max
        assert len(machine.membership.resting) <= CONFIG.resting_max
        assert len(machine.membership.connected) <= PEERS + 1

    @invariant()
    def the_machine_wants_to_be_woken_while_something_waits(self) -> None:
        downloads = self.machine.downloads
        if any(not transfer.is_complete for transfer in downloads.transfers.values()):
            assert self.machine.next_wake_s <= self.now_s + CONFIG.store_pause_s

    @invariant()
    def every_link_being_opened_is_known(self) -> None:
        links = self.machine.links
        for direction, is_sending in ((links.receiving, False), (links.sending, True)):
            assert {(name, is_sending) for name in direction.opening} <= self.opening
            assert {(name, is_sending) for name in direction.up} <= self.links


def peer_named(name: str) -> PeerId:
    return PeerId(name)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)

"""The loop between the machine and the world.

Events come in from the control network (`P2pEvents`), from fetches and from a timer; each goes through `tell`, which hands it to the
machine and carries the orders out. Everything here belongs to the asyncio loop, but for `validate`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog

from shardcast.http.bucket import TokenBucket
from shardcast_proto import messages
from shardcast_proto.errors import InvariantViolated, ShardcastError, StoreError, TrustError
from shardcast_proto.ids import PeerId
from shardcast_proto.limits import BINDINGS_PER_HELLO_MAX
from shardcast_proto.trust import Reason
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
    ChannelJoined,
    DialFailed,
    Event,
    GoodbyeReceived,
    HelloReceived,
    MessageReceived,
    Outcome,
    PeerConnected,
    PeerDisconnected,
    PeersReceived,
    PushEnded,
    Started,
    Ticked,
)

from .carried import CarriedClient
from .channels import FollowedChannel
from .contacts import Contacts
from .fetcher import Fetcher
from .heads import GOSSIP, Heads
from .lander import Lander
from .linked import Linked
from .opener import REVIVE_AFTER_S, Opener
from .pushes import Pushes
from .tasks import Tasks
from .versions import Versions
from .wires import ControlWire, DataWire

_TRUST_MESSAGES = messages.GetHead | messages.HeadIs | messages.GetRoot | messages.RootIs

#: The length in front of each control frame.
_PREFIX_BYTES: Final = 4

_log = structlog.get_logger("shardcast.shell")


class Shell:
    """Everything around one machine."""

    def __init__(
        self,
        *,
        peer_id: PeerId,
        channels: Sequence[FollowedChannel],
        versions: Versions,
        client: DataWire,
        inbound: TokenBucket | None = None,
        config: RelayConfig | None = None,
        revive_after_s: float = REVIVE_AFTER_S,
    ) -> None:
        self.machine = Machine(peer_id, rng=random.SystemRandom(), config=config)
        self.channels = {channel.id: channel for channel in channels}
        self.versions = versions
        self._topics = {channel.topic: channel for channel in channels}
        self._tasks = Tasks(self.break_down)
        self.opener = Opener(self.channels, versions, tell=self.tell, tasks=self._tasks, revive_after_s=revive_after_s)
        self.heads = Heads(
            self.channels,
            send=self.send,
            follow=self.opener.follow,
            gossip=self._gossip,
            changed=versions.changed,
            on_store_error=self._note_store_error,
        )
        self._lander = Lander(versions, on_full=self.opener.complete_soon, on_store_error=self.opener.revive_soon)
        self.fetcher = Fetcher(
            client,
            versions,
            carried=CarriedClient(lambda: self._p2p, inbound=inbound),
            lander=self._lander,
            tell=self.tell,
            take_object=self.opener.take_manifest,
        )
        self._pushes = Pushes(versions, lander=self._lander, tell=self._tell_of_push)
        self.linked = Linked(
            fetcher=self.fetcher,
            pushes=self._pushes,
            tell=self._tell_if_open,
            tasks=self._tasks,
            on_nonsense=self._hang_up_soon,
            is_welcome=lambda peer: not self._is_closed and peer not in self._hanging_up,
        )
        #: Set when a bug of ours was found, after which nothing can be relied on; the node ends with it.
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Control messages that no queue had room for.
        self.dropped_messages = 0
        #: Control frames by libp2p, with their prefixes.
        self.control_sent_bytes = self.control_received_bytes = 0
        #: How the chunks that were pushed from here ended.
        self.push_outcomes: Counter[Outcome] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._p2p: ControlWire | None = None
        self._contacts: Contacts | None = None
        #: Peers that are being hung up: nonsense that is still on the way from them must not pile up work.
        self._hanging_up: set[PeerId] = set()
        self._is_closed = False

    async def start(
        self, p2p: ControlWire, contacts: Contacts, *, record: bytes, bootstrap: Sequence[str], up_bytes_per_s: int
    ) -> None:
        """Look for neighbours, and take up what the store holds.

        Raises:
            ConfigError: A bootstrap address is wrong.
            StoreError: The disk fails.
        """
        doors = tuple(contacts.bootstrap(address) for address in bootstrap)
        self._p2p, self._contacts = p2p, contacts
        for channel in self.channels.values():
            await p2p.subscribe(channel.topic)
            self.tell(ChannelJoined(channel.id))
        bindings = [channel.bind(self.machine.membership.self_id) for channel in self.channels.values() if channel.keys]
        self.tell(Started(record, doors, up_bytes_per_s, tuple(bindings[:BINDINGS_PER_HELLO_MAX])))
        for peer in p2p.peers:  # who came while this was not known yet
            self.tell(PeerConnected(peer))
        self._tasks.spawn(self.heads.run(), is_vital=True)
        for channel in self.channels.values():
            await self.opener.take_up(channel)

    async def aclose(self) -> None:
        """Stop everything that is under way."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.fetcher.aclose()
        await self._tasks.aclose()
        await self._pushes.aclose()
        await self._lander.aclose()

    def may_link(self, peer: PeerId) -> bool:
        """Whether a peer may open bulk links to this node: neighbours may."""
        return not self._is_closed and peer in self.machine.membership.active and peer not in self._hanging_up

    async def ask_heads(self, channel: FollowedChannel) -> None:
        """Learn the newest head that the neighbours know."""
        active = self.machine.membership.active
        await self.heads.ask(channel, [peer for peer, other in active.items() if channel.id in other.channels])

    async def announce(self, channel: FollowedChannel) -> None:
        """Gossip the newest head of a channel with its beacon."""
        if channel.shown.announce is not None:
            await self._gossip(channel, channel.shown.announce)

    async def _gossip(self, channel: FollowedChannel, announce: bytes) -> None:
        """Give an announcement to the swarm; that it gets there is never certain, so a failure is no error."""
        if self._p2p is None:
            return
        try:
            await self._p2p.publish(channel.topic, announce)
        except ShardcastError as error:
            _log.warning("not_gossiped", channel=channel.name, error=error.describe())

    def _note_store_error(self, error: StoreError) -> None:
        self.versions.store_error = error.message

    # --- the machine ------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Hand the machine a fact and carry out its orders."""
        if self._is_closed or self.broken.done():
            return
        loop = asyncio.get_running_loop()
        try:
            for command in self.machine.handle(event, now_s=loop.time()):
                self._carry_out(command)
        except Exception as error:  # noqa: BLE001 - the shell: the machine never raises for what a peer did, so this is our bug
            self.break_down(error)
            return
        self._wake_in_time()

    def _wake_in_time(self) -> None:
        """Set the timer for the machine's next wish. One that would ring too early stays: that costs less than moving it each time."""
        loop = asyncio.get_running_loop()
        at_s = max(self.machine.next_wake_s, loop.time() + 0.001)
        if self._timer is None or at_s < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(at_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if asyncio.get_running_loop().time() < self.machine.next_wake_s:
            self._wake_in_time()
        else:
            self.tell(Ticked())

    def break_down(self, error: BaseException) -> None:
        """Give up: a bug of ours has shown."""
        if self.broken.done():
            return
        if not isinstance(error, ShardcastError):
            _log.critical("bug", exc_info=error)
            bug = InvariantViolated(f"a bug: {type(error).__name__}: {error}")
            bug.__cause__ = error
            error = bug
        self.broken.set_exception(error)
        self.broken.exception()  # a node that fails while it starts does not ask

    def send(self, peer: PeerId, message: messages.Message) -> None:
        """Queue a control message; losing it is allowed."""
        payload = messages.encode(message)
        if self.linked.send(peer, message, payload):
            return
        if self._p2p is None or not self._p2p.send(peer, payload):
            self.dropped_messages += 1
        else:
            self.control_sent_bytes += _PREFIX_BYTES + len(payload)

    def _tell_of_push(self, event: Event) -> None:
        if isinstance(event, PushEnded):
            self.push_outcomes[event.outcome] += 1
        self._tell_if_open(event)

    def _tell_if_open(self, event: Event) -> None:
        if not self._is_closed:
            self.tell(event)

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Send):
            self.send(command.peer, command.message)
        elif isinstance(command, FetchObject | FetchChunks):
            self.fetcher.start(command)
        elif isinstance(command, CancelFetch):
            self.fetcher.cancel(command.fetch_id)
        elif isinstance(command, Dial):
            self._tasks.spawn(self._dial(command))
        elif isinstance(command, Hangup):
            _log.info("hangup", peer=command.peer, reason=command.reason)
            self._hang_up_soon(command.peer)
        elif isinstance(command, OpenLink | CloseLink | PushChunk):
            self.linked.carry_out(command)

    async def _dial(self, command: Dial) -> None:
        if self._p2p is None:
            return
        timeout_s = max(command.deadline_s - asyncio.get_running_loop().time(), 0.1)
        try:
            await self._p2p.dial(command.peer, command.addresses, timeout_s=timeout_s)
        except ShardcastError as error:
            _log.info("dial_failed", peer=command.peer, error=error.message)
            self.tell(DialFailed(command.peer, str(error.facts.get("reason", "unreachable"))))
            return
        if command.peer in self._p2p.peers:
            # a link that was there before the dial has reported itself long ago
            self.tell(PeerConnected(command.peer))
        else:
            self.tell(DialFailed(command.peer, "gone"))

    def _hang_up_soon(self, peer: PeerId) -> None:
        if peer not in self._hanging_up:
            self._hanging_up.add(peer)
            self.linked.drop(peer)
            self._tasks.spawn(self._hang_up(peer))

    async def _hang_up(self, peer: PeerId) -> None:
        try:
            if self._p2p is not None:
                await self._p2p.hangup(peer)
        except ShardcastError as error:
            _log.info("hangup_failed", peer=peer, error=error.message)
        finally:
            self._hanging_up.discard(peer)

    # --- the control network (P2pEvents) ----------------------------------------------------------------------------

    def peer_connected(self, peer: PeerId, remote_ip: str) -> None:
        """A control link came up."""
        if self._contacts is not None:
            self.tell(PeerConnected(peer))

    def peer_disconnected(self, peer: PeerId) -> None:
        """A control link is gone."""
        if self._contacts is not None:
            self.tell(PeerDisconnected(peer))

    def gossip_received(self, topic: str, sender: PeerId, data: bytes) -> None:
        """An announcement with good signatures came by gossip."""
        channel = self._topics.get(topic)
        if channel is not None:
            self.heads.queue(channel, data, sender)

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        """A control frame came; nonsense costs the peer its connection."""
        self.control_received_bytes += _PREFIX_BYTES + len(payload)
        if self._is_closed or peer in self._hanging_up:
            return
        try:
            self._receive(peer, messages.decode(payload))
        except ShardcastError as error:
            _log.warning("message_refused", peer=peer, error=error.message)
            self._hang_up_soon(peer)

    def validate(self, topic: str, data: bytes) -> bool:
        """Say whether a gossip message may be passed on. Called on the control network's thread: pure but for counts."""
        channel = self._topics.get(topic)
        if channel is None:
            return False
        try:
            channel.validate(data)
        except ShardcastError as error:
            self.heads.note_refusal(channel, error, GOSSIP)
            return False
        return True

    def _receive(self, peer: PeerId, message: messages.Message | messages.Unknown) -> None:
        contacts = self._contacts
        if contacts is None:
            return
        if isinstance(message, messages.Hello):
            contact = contacts.open(message.record)
            if contact.peer != peer:
                raise TrustError(f"the record is of {contact.peer}", reason=str(Reason.WRONG_PEER))
            is_origin = any(
                channel.is_bound(peer, binding) for channel in self.channels.values() for binding in message.bindings
            )
            self.tell(HelloReceived(peer, contact, message.channels, message.is_urgent, is_origin))
        elif isinstance(message, messages.Peers):
            self.tell(PeersReceived(peer, contacts.open_all(message.records), message.walk))
        elif isinstance(message, messages.Goodbye):
            self.tell(GoodbyeReceived(peer, message.reason, contacts.open_all(message.records)))
        elif isinstance(message, _TRUST_MESSAGES):
            work = self.heads.receive(peer, message)
            if work is not None:
                self._tasks.spawn(work)
        elif not isinstance(message, messages.Unknown):
            self.tell(MessageReceived(peer, message))

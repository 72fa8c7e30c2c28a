"""The pieces that the relay tests are put together from: a machine with a clock, contacts, a scripted order of chances."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId, peer_id_of_key
from shardcast_proto.messages import Done, Have, Message
from shardcast_relay import Machine, RelayConfig
from shardcast_relay.commands import CancelFetch, Command, Dial, FetchChunks, FetchObject, Hangup, Send
from shardcast_relay.events import (
    BlobOpened,
    ChannelJoined,
    ChunkVerified,
    Contact,
    Event,
    FetchEnded,
    HelloReceived,
    MessageReceived,
    Outcome,
    PeerConnected,
    Started,
    Ticked,
)

CHANNEL = digest_of(b"channel")
BLOB = digest_of(b"blob")
CHUNK = 262_144
T = TypeVar("T", bound=Command)


def peer(number: int) -> PeerId:
    """Return the id of one of the test's peers."""
    return peer_id_of_key(digest_of(b"peer %d" % number))


def contact(number: int, *, serve: bool = True, issued_s: int = 0) -> Contact:
    """Return the contact of a peer."""
    name = peer(number)
    addresses = (f"serve/{number}",) if serve else ()
    return Contact(name, b"record " + name.encode(), (f"dial/{number}",), addresses, issued_s=issued_s)


SELF = peer(0)


class Node:
    """A machine with a clock; it is checked after each event."""

    def __init__(self, seed: int = 0, config: RelayConfig | None = None) -> None:
        self.machine = Machine(SELF, rng=random.Random(seed), config=config)
        self.now_s = 100.0
        self.tell(ChannelJoined(CHANNEL))
        self.tell(Started(b"own record"))

    def tell(self, *events: Event) -> list[Command]:
        """Handle events now and return all commands that follow."""
        commands: list[Command] = []
        for event in events:
            commands += self.machine.handle(event, now_s=self.now_s)
            self.machine.check()
        return commands

    def hear(self, number: int, *messages: Message) -> list[Command]:
        """Receive control messages from a peer."""
        return self.tell(*(MessageReceived(peer(number), message) for message in messages))

    def hello(self, number: int, *, is_urgent: bool = False, serve: bool = True) -> list[Command]:
        """Let a peer present itself."""
        return self.tell(HelloReceived(peer(number), contact(number, serve=serve), (CHANNEL,), is_urgent))

    def meet(self, *numbers: int) -> list[Command]:
        """Let peers connect to us, and become neighbours."""
        commands = []
        for number in numbers:
            commands += self.tell(PeerConnected(peer(number)))
            commands += self.hello(number)
        return commands

    def open(self, chunk_count: int, mask: int = 0, *, blob: Digest = BLOB, priority: int = 0) -> list[Command]:
        """Open a blob."""
        return self.tell(BlobOpened(blob, chunk_count, CHUNK, mask, priority))

    def holds(self, number: int, *runs: tuple[int, int], blob: Digest = BLOB) -> list[Command]:
        """Let a neighbour say which chunks it holds: these runs, or all."""
        return self.hear(number, Have(blob, runs, is_snapshot=True) if runs else Done(blob))

    def wait(self, seconds: float) -> list[Command]:
        """Let time pass, ticking the machine whenever it wants to be."""
        until_s, commands = self.now_s + seconds, []
        while self.machine.next_wake_s <= until_s:
            self.now_s = max(self.machine.next_wake_s, self.now_s + 0.001)
            commands += self.tell(Ticked())
        self.now_s = max(self.now_s, until_s)
        return commands

    def keep_alive(self, seconds: float, *numbers: int) -> list[Command]:
        """Let time pass in which these peers are heard of."""
        commands: list[Command] = []
        for _ in range(int(seconds)):
            commands += self.wait(1.0)
            for number in numbers:
                commands += self.hear(number, Have(digest_of(b"other blob"), ()))
        return commands

    def deliver(self, fetch: FetchChunks, *indices: int) -> list[Command]:
        """Let chunks of a fetch arrive; all of them when none is named."""
        chunks = indices or range(fetch.first, fetch.first + fetch.count)
        return self.tell(*(ChunkVerified(fetch.fetch_id, index, CHUNK) for index in chunks))

    def finish(self, fetch: FetchChunks) -> list[Command]:
        """Let a fetch deliver everything and end well."""
        return self.deliver(fetch) + self.end(fetch)

    def end(self, fetch: FetchChunks | FetchObject, outcome: Outcome = Outcome.DONE) -> list[Command]:
        """End a fetch."""
        return self.tell(FetchEnded(fetch.fetch_id, outcome, 0.01))


def only(kind: type[T], commands: Sequence[Command]) -> list[T]:
    """Return the commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]


def fetches(commands: Sequence[Command]) -> list[FetchChunks]:
    """Return the chunk fetches among commands."""
    return only(FetchChunks, commands)


def objects(commands: Sequence[Command]) -> list[FetchObject]:
    """Return the object fetches among commands."""
    return only(FetchObject, commands)


def cancels(commands: Sequence[Command]) -> list[int]:
    """Return the ids of cancelled fetches."""
    return [command.fetch_id for command in only(CancelFetch, commands)]


def dials(commands: Sequence[Command]) -> list[PeerId]:
    """Return who is dialled."""
    return [command.peer for command in only(Dial, commands)]


def hangups(commands: Sequence[Command]) -> list[PeerId]:
    """Return whose connection is closed."""
    return [command.peer for command in only(Hangup, commands)]


def sent(commands: Sequence[Command], to: int | None = None) -> list[Message]:
    """Return the messages sent, to one peer or to all."""
    return [command.message for command in only(Send, commands) if to is None or command.peer == peer(to)]


def chunks(commands: Sequence[Command], of: int | None = None) -> list[int]:
    """Return the chunks asked for, of one peer or of all, in order."""
    asked = [fetch for fetch in fetches(commands) if of is None or fetch.peer == peer(of)]
    return [index for fetch in asked for index in range(fetch.first, fetch.first + fetch.count)]

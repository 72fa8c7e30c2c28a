"""The story, and the table of endings."""

from __future__ import annotations

import sys
from typing import get_args

import pytest

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.messages import Have
from shardcast_relay import RelayConfig
from shardcast_relay.commands import ENDINGS, CancelFetch, CloseLink, Command, Hangup, Send
from shardcast_relay.events import BlobOpened, Event, FetchEnded, MessageReceived, PeersReceived

from .parts import BLOB, CHUNK, Node, contact, fetches, peer


def test_every_command_that_starts_work_has_its_endings_in_the_table():
    instant = {Send, Hangup, CancelFetch, CloseLink}
    assert set(ENDINGS) == set(get_args(Command)) - instant
    assert all(ending in get_args(Event) for endings in ENDINGS.values() for ending in endings)


def test_every_command_that_starts_work_has_a_deadline():
    assert all("deadline_s" in command.__dataclass_fields__ for command in ENDINGS)


def test_the_story_of_a_peer_a_blob_or_a_fetch_names_each_event_about_it():
    node = Node()
    node.meet(1, 2)
    node.open(1)
    (fetch,) = fetches(node.holds(1))
    node.finish(fetch)
    story = node.machine.story
    assert {type(entry.event) for entry in story.about(BLOB)} >= {BlobOpened, MessageReceived}
    assert any(isinstance(entry.event, FetchEnded) for entry in story.about(fetch.fetch_id))
    assert len(story.about(peer(2))) < len(story.about())
    assert story.about(b"never heard of") == []


def test_the_story_is_bounded():
    node = Node(config=RelayConfig(story_max=20))
    for number in range(1, 50):
        node.meet(number)
    assert len(node.machine.story.about()) == 20


def test_an_entry_is_small_however_long_the_message_was():
    node = Node()
    node.meet(1)
    node.open(200_000)
    runs = tuple((index, 1) for index in range(0, 200_000, 2))
    node.machine.handle(MessageReceived(peer(1), Have(BLOB, runs, is_snapshot=True)), now_s=node.now_s)
    node.tell(PeersReceived(peer(1), tuple(contact(number) for number in range(20, 36))))
    node.tell(BlobOpened(BLOB, 200_000, CHUNK, (1 << 200_000) - 1))
    for entry in node.machine.story.about():
        assert size_of(entry.event) < 10_000
    assert isinstance(node.machine.story.about()[-3].event, MessageReceived)


def size_of(value: object) -> int:
    """Return the bytes of a value and everything in it."""
    inner = value if isinstance(value, tuple) else vars(value).values() if hasattr(value, "__dict__") else ()
    return sys.getsizeof(value) + sum(map(size_of, inner))


def test_a_broken_invariant_tells_its_story():
    node = Node()
    node.meet(1)
    node.open(4)
    node.holds(1)
    node.machine.downloads.transfers[BLOB].availability.levels = [0]
    with pytest.raises(InvariantViolated, match="BlobOpened"):
        node.hear(1, Have(BLOB, (), is_snapshot=True))


def test_the_check_sees_a_neighbour_that_only_one_side_knows():
    node = Node()
    node.meet(1)
    del node.machine.exchange.neighbours[peer(1)]
    with pytest.raises(InvariantViolated):
        node.machine.check()


def test_the_check_sees_a_chunk_in_two_states():
    node = Node()
    node.open(4, 0b1)
    node.machine.downloads.transfers[BLOB].wanted |= 1
    with pytest.raises(InvariantViolated):
        node.machine.check()

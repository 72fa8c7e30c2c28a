"""What neighbours tell each other of their chunks, through `Machine.handle` alone."""

from __future__ import annotations

import pytest

from shardcast_proto.hashing import digest_of
from shardcast_proto.limits import CHUNKS_MAX
from shardcast_proto.messages import Adopt, Cancel, Done, GetHead, Have, Rate, RootIs, Trees, Want
from shardcast_relay import RelayConfig
from shardcast_relay.commands import CancelFetch, FetchChunks
from shardcast_relay.events import (
    BlobClosed,
    BlobOpened,
    ChunkVerified,
    LinkOpened,
    Outcome,
    PeerDisconnected,
    PushArrived,
    PushBegan,
)

from .parts import BLOB, CHUNK, Node, chunks, fetches, hangups, peer, sent

CONFIG = RelayConfig()


def fetched(node: Node, number: int = 1) -> FetchChunks:
    """Return the first fetch that follows when a neighbour says that it has all of the blob."""
    return fetches(node.holds(number))[0]


def test_neighbours_are_asked_what_they_have_of_a_blob_that_opens_here():
    node = Node()
    node.meet(1, 2)
    commands = node.open(4)
    assert sent(commands, 1) == sent(commands, 2) == [Want(BLOB)]


def test_neighbours_are_told_of_a_blob_that_is_published_here():
    node = Node()
    node.meet(1)
    assert sent(node.open(4, 0b1111), 1) == [Done(BLOB)]


def test_a_want_is_answered_by_what_is_here():
    node = Node()
    node.open(6, 0b110011)
    node.meet(1)
    assert sent(node.hear(1, Want(BLOB)), 1) == [Have(BLOB, ((0, 2), (4, 2)), is_snapshot=True)]


def test_a_want_for_a_blob_that_is_not_known_yet_is_answered_when_it_opens():
    node = Node()
    node.meet(1)
    assert sent(node.hear(1, Want(BLOB))) == []
    assert Have(BLOB, ((0, 2),), is_snapshot=True) in sent(node.open(4, 0b11), 1)


def test_a_have_before_the_blob_is_known_is_remembered():
    node = Node()
    node.meet(1)
    node.hear(1, Have(BLOB, ((0, 1),), is_snapshot=True), Have(BLOB, ((2, 1),)))
    assert sorted(chunks(node.open(4), of=1)) == [0, 2]


def test_a_done_before_the_blob_is_known_is_remembered():
    node = Node()
    node.meet(1)
    node.holds(1)
    assert sorted(chunks(node.open(4), of=1)) == [0, 1, 2, 3]


def test_a_snapshot_before_the_blob_is_known_replaces_what_was_said():
    node = Node()
    node.meet(1)
    node.hear(1, Done(BLOB), Have(BLOB, ((1, 1),), is_snapshot=True))
    assert chunks(node.open(4)) == [1]


def test_a_cancel_before_the_blob_is_known_ends_the_want():
    node = Node()
    node.meet(1)
    node.hear(1, Want(BLOB), Cancel(BLOB))
    assert sent(node.open(4, 0b11), 1) == [Want(BLOB, ((2, 2),))]


def test_a_peer_may_speak_of_few_unknown_blobs_and_the_oldest_is_forgotten():
    node = Node()
    node.meet(1)
    blobs = [digest_of(b"blob %d" % number) for number in range(CONFIG.early_blobs_per_peer_max + 1)]
    node.hear(1, *(Done(blob) for blob in blobs))
    for blob in blobs:
        node.open(1, blob=blob)
    known = [blob for blob in blobs if node.machine.downloads.transfers[blob].holders]
    assert known == blobs[1:]


def test_what_a_peer_said_early_is_forgotten_when_it_leaves():
    node = Node()
    node.meet(1)
    node.holds(1)
    node.tell(PeerDisconnected(peer(1)))
    node.meet(1)
    assert chunks(node.open(4)) == []


def test_have_updates_are_batched():
    node = Node()
    node.meet(1, 2)
    node.open(40)
    node.hear(2, Want(BLOB))
    run = next(fetch for fetch in fetches(node.holds(1)) if fetch.count >= 3)
    assert not any(isinstance(message, Have) for message in sent(node.deliver(run), 2))
    told = [message for message in sent(node.wait(CONFIG.have_interval_s + 0.01), 2) if isinstance(message, Have)]
    assert told == [Have(BLOB, ((run.first, run.count),))]


def test_a_relay_tells_of_chunks_while_it_fetches_others():
    node = Node()
    node.meet(1, 2)
    node.open(40)
    node.hear(2, Want(BLOB))
    run = fetched(node)
    node.deliver(run, run.first)
    assert Have(BLOB, ((run.first, 1),)) in sent(node.wait(0.3), 2)
    assert len(node.machine.downloads.fetches) > 0


def test_only_those_who_want_to_hear_are_told():
    node = Node()
    node.meet(1, 2, 3)
    node.open(40)
    node.hear(2, Want(BLOB))
    node.hear(3, Want(BLOB), Cancel(BLOB))
    run = fetched(node)
    node.deliver(run, run.first)
    commands = node.wait(0.3)
    assert any(isinstance(message, Have) for message in sent(commands, 2))
    assert not any(isinstance(message, Have) for message in sent(commands, 3))


def test_who_has_everything_is_told_no_more():
    node = Node()
    node.meet(1)
    node.open(40)
    node.hear(1, Want(BLOB))
    run = fetched(node)
    node.deliver(run, run.first)
    assert not any(isinstance(message, Have) for message in sent(node.wait(0.3), 1))


def test_all_neighbours_are_told_when_the_last_chunk_is_here():
    node = Node()
    node.meet(1, 2)
    node.open(1)
    commands = node.finish(fetched(node))
    assert Done(BLOB) in sent(commands, 1)
    assert Done(BLOB) in sent(commands, 2)
    assert not any(isinstance(message, Have) for message in sent(node.wait(0.3)))


def test_repeated_wants_are_answered_once_in_each_interval():
    node = Node()
    node.open(6, 0b101010)
    node.meet(1)
    answers = sent(node.hear(1, *[Want(BLOB)] * 1000), 1)
    assert len(answers) == 1
    late = [message for message in sent(node.wait(CONFIG.have_interval_s + 0.01), 1) if isinstance(message, Have)]
    assert late == answers


def test_a_want_with_a_cancel_between_is_no_way_to_more_answers():
    node = Node()
    node.open(6, 0b101010)
    node.meet(1)
    assert len(sent(node.hear(1, *(Want(BLOB), Cancel(BLOB)) * 100), 1)) == 1


def test_closing_a_blob_takes_back_what_was_said():
    node = Node()
    node.open(4, 0b1111)
    node.meet(1)
    assert sent(node.tell(BlobClosed(BLOB)), 1) == [Cancel(BLOB), Have(BLOB, (), is_snapshot=True)]


def test_a_snapshot_takes_back_what_a_neighbour_said_before():
    node = Node()
    node.meet(1)
    node.open(4)
    node.holds(1)
    node.hear(1, Have(BLOB, (), is_snapshot=True))
    assert node.machine.downloads.transfers[BLOB].availability.held_by_anyone == 0


NONSENSE = {
    "beyond the last chunk": Have(BLOB, ((3, 2),)),
    "an empty run": Have(BLOB, ((0, 0),)),
    "out of order": Have(BLOB, ((2, 1), (0, 1))),
    "overlapping": Have(BLOB, ((0, 2), (1, 2)), is_snapshot=True),
    "a huge run": Have(BLOB, ((0, 2**62),)),
    "beyond every blob": Have(digest_of(b"unknown"), ((CHUNKS_MAX, 1),)),
}


@pytest.mark.parametrize("message", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_runs_cost_the_peer_its_connection(message):
    node = Node()
    node.meet(1)
    node.open(4)
    assert hangups(node.hear(1, message)) == [peer(1)]
    assert peer(1) not in node.machine.membership.active


@pytest.mark.parametrize("message", [Done(BLOB), Want(BLOB), Have(BLOB, ((0, 1),)), Cancel(BLOB), Rate(5)], ids=repr)
def test_what_a_peer_says_that_is_no_neighbour_is_ignored(message):
    node = Node()
    node.open(4)
    assert node.hear(1, message) == []
    assert node.machine.ignored_messages == 1
    assert not node.machine.downloads.rates


@pytest.mark.parametrize("message", [GetHead(BLOB), RootIs(BLOB, b"")], ids=repr)
def test_a_message_that_is_not_for_the_machine_is_counted_and_ignored(message):
    node = Node()
    node.meet(1)
    assert node.hear(1, message) == []
    assert node.machine.ignored_messages == 1


def test_a_blob_that_stands_still_is_asked_about_again():
    node = Node()
    node.meet(1)
    node.open(4)
    again = [
        message for message in sent(node.keep_alive(CONFIG.heartbeat_interval_s + 1, 1), 1) if message == Want(BLOB)
    ]
    assert len(again) == 1


def test_a_blob_that_is_being_fetched_is_not_asked_about_again():
    node = Node()
    node.meet(1)
    node.open(4)
    node.holds(1, (0, 1))
    assert Want(BLOB) not in sent(node.keep_alive(CONFIG.heartbeat_interval_s + 1, 1))


def test_chunks_found_on_disk_are_told_to_those_who_want_to_hear():
    node = Node()
    node.meet(1)
    node.open(6)
    node.hear(1, Want(BLOB))
    node.tell(BlobOpened(BLOB, 6, CHUNK, 0b11))
    assert Have(BLOB, ((0, 2),)) in sent(node.wait(0.3), 1)


def test_a_chunk_that_came_twice_is_told_once():
    node = Node()
    node.meet(1, 2)
    node.open(1)
    run = fetched(node)
    node.holds(2)
    hedge = next(fetch for fetch in fetches(node.keep_alive(2, 1, 2)))
    node.deliver(run)
    commands = node.tell(ChunkVerified(hedge.fetch_id, 0, CHUNK, is_new=False))
    assert not any(isinstance(command, CancelFetch) for command in commands)
    assert sent(commands) == []
    assert node.machine.downloads.transfers[BLOB].duplicate_count == 1


def test_the_largest_blob_is_handled_in_little_time_for_each_chunk():
    node = Node()
    node.meet(1)
    node.machine.check = lambda: None  # type: ignore[method-assign] # recounting is for small blobs
    count = CHUNKS_MAX
    node.open(count)
    waiting = fetches(node.holds(1))
    for _ in range(200):
        waiting += fetches(node.finish(waiting.pop(0)))
    assert node.machine.downloads.transfers[BLOB].have.held >= 200


# --- what is withheld ---


def publish(node: Node, count: int = 4) -> None:
    """Open a blob as its source."""
    node.tell(BlobOpened(BLOB, count, CHUNK, (1 << count) - 1, is_source=True))


def test_what_a_source_withholds_is_shown_to_nobody():
    node = Node()
    node.meet(1)
    node.hear(1, Want(BLOB))
    publish(node)
    node.meet(2)
    answers = sent(node.hear(2, Want(BLOB)), 2)
    assert answers == [Have(BLOB, (), is_snapshot=True)]
    assert node.machine.exchange.transfers[BLOB].is_withheld


def test_what_is_released_is_shown_to_all_and_in_every_answer_from_then_on():
    node = Node()
    node.meet(1, 2)
    publish(node)
    node.hear(1, Want(BLOB))
    told = node.wait(2 * CONFIG.source_patience_s)
    assert Done(BLOB) in sent(told, 1) and Done(BLOB) in sent(told, 2)
    node.meet(3)
    assert Have(BLOB, ((0, 4),), is_snapshot=True) in sent(node.hear(3, Want(BLOB)), 3)


def test_a_withheld_blob_that_is_closed_takes_back_nothing_that_was_never_said():
    node = Node()
    node.meet(1)
    publish(node)
    assert Have(BLOB, (), is_snapshot=True) not in sent(node.tell(BlobClosed(BLOB)), 1)


def test_a_complete_blob_of_a_relay_is_shown_at_once():
    node = Node()
    node.meet(1)
    assert Done(BLOB) in sent(node.open(4, 0b1111), 1)


# --- sources that look whether their chunks are passed on ---


def fed(node: Node, source: int, *indices: int) -> None:
    """Let a source push chunks to us."""
    for index in indices:
        node.tell(PushBegan(peer(source), BLOB, 0, index))
        node.tell(PushArrived(peer(source), BLOB, 0, index, Outcome.DONE, CHUNK))


def haves(commands: list, to: int) -> list[Have]:
    """Return the have-updates sent to one peer."""
    return [message for message in sent(commands, to) if isinstance(message, Have)]


def well_fed(*, is_linked: bool = True) -> Node:
    """A node below the source 1 that everybody listens to: the source 2, which wants nothing, and the relay 3, which wants all."""
    node = Node()
    node.meet(1, 2, 3)
    node.open(40)
    for number in (1, 2):
        node.hear(number, Trees(BLOB, (0,), CONFIG.stripes))
    node.hear(1, Adopt(BLOB, 0, 1))
    node.hear(3, Want(BLOB))
    if is_linked:
        node.tell(*(LinkOpened(peer(number), False) for number in (1, 2, 3)))
    node.wait(CONFIG.have_interval_s)
    return node


def test_a_source_is_told_of_chunks_although_it_wants_none():
    node = well_fed()
    fed(node, 1, 7)
    assert haves(node.wait(CONFIG.have_interval_s), 2) == [Have(BLOB, ((7, 1),))]


def test_over_bulk_links_chunks_are_told_sooner():
    for is_linked, interval_s in ((True, CONFIG.have_interval_linked_s), (False, CONFIG.have_interval_s)):
        node = well_fed(is_linked=is_linked)
        fed(node, 1, 7)
        assert haves(node.wait(interval_s * 0.9), 2) == []
        assert haves(node.wait(interval_s * 0.2), 2) != []


def test_one_neighbour_without_a_link_is_spared_the_many_messages():
    node = well_fed()
    node.meet(4)
    fed(node, 1, 7)
    assert haves(node.wait(CONFIG.have_interval_s * 0.9), 2) == []
    assert haves(node.wait(CONFIG.have_interval_s * 0.2), 2) != []


def test_where_the_trees_bring_everything_the_others_hear_less_often_than_the_sources():
    node = well_fed()
    heard: dict[int, list[Have]] = {2: [], 3: []}
    for index in range(20):
        fed(node, 1, index)
        told = node.wait(CONFIG.have_interval_linked_s)
        for number, messages in heard.items():
            messages += haves(told, number)
    told = node.wait(CONFIG.have_interval_s + CONFIG.have_interval_linked_s)
    for number, messages in heard.items():
        messages += haves(told, number)
        named = [
            index for message in messages for first, count in message.runs for index in range(first, first + count)
        ]
        assert named == list(range(20)), "each chunk is told once"
    assert 2 * len(heard[3]) < len(heard[2])


def test_where_a_stripe_has_no_parent_the_others_hear_as_often_as_the_sources():
    node = well_fed()
    node.hear(3, Trees(BLOB, (0, 1), 0))  # a stripe that we are not in
    fed(node, 1, 7)
    node.wait(CONFIG.have_interval_linked_s)
    fed(node, 1, 8)
    assert haves(node.wait(CONFIG.have_interval_linked_s), 3) == [Have(BLOB, ((8, 1),))]


def test_a_source_that_leaves_is_told_no_more():
    node = well_fed()
    node.tell(PeerDisconnected(peer(2)))
    fed(node, 1, 7)
    assert haves(node.wait(CONFIG.have_interval_s), 2) == []

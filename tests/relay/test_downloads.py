"""What a machine fetches and from whom, through `Machine.handle` alone."""

from __future__ import annotations

import pytest

from shardcast_proto.hashing import digest_of
from shardcast_relay import RelayConfig
from shardcast_relay.commands import FetchChunks
from shardcast_relay.events import (
    BlobClosed,
    BlobOpened,
    ChunkVerified,
    GoodbyeReceived,
    HeadAccepted,
    Outcome,
    PeerDisconnected,
)

from .parts import BLOB, CHANNEL, CHUNK, Node, cancels, chunks, dials, fetches, hangups, objects, peer

CONFIG = RelayConfig()
MANIFEST = digest_of(b"manifest")
FAILURES = [Outcome.UNREACHABLE, Outcome.STALLED, Outcome.DEADLINE, Outcome.SHORT, Outcome.PROTOCOL]


def fetching(count: int = 1, *, holders: tuple[int, ...] = (1, 2)) -> tuple[Node, FetchChunks]:
    """A node that has just asked one of `holders` for chunks of a blob of `count`, and the first fetch."""
    node = Node()
    node.meet(*holders)
    node.open(count)
    return node, fetches([command for number in holders for command in node.holds(number)])[0]


def number_of(name: str) -> int:
    return next(number for number in range(100) if peer(number) == name)


# --- chunks ---


def test_chunks_are_asked_from_a_neighbour_that_has_them():
    node = Node()
    node.meet(1, 2)
    node.open(10)
    assert sorted(chunks(node.holds(1, (2, 3)), of=1)) == [2, 3, 4]


def test_a_neighbour_without_a_data_plane_address_is_not_asked():
    node = Node(config=RelayConfig(carried_fetches_max=0))
    node.hello(1, serve=False)
    node.open(4)
    assert fetches(node.holds(1)) == []


def test_each_chunk_is_asked_for_once_however_many_have_it():
    node = Node()
    node.meet(1, 2, 3)
    node.open(12)
    commands = node.holds(1) + node.holds(2) + node.holds(3)
    assert sorted(chunks(commands)) == list(range(12))


def test_a_fetch_has_a_deadline_and_names_the_event_that_caused_it():
    node = Node()
    node.meet(1)
    node.open(1)
    (fetch,) = fetches(node.holds(1))
    assert fetch.deadline_s >= node.now_s + CONFIG.fetch_deadline_min_s
    assert node.machine.story.about()[-1].event_id == fetch.cause


def test_a_rejected_chunk_is_asked_from_another_peer():
    node, fetch = fetching()
    (again,) = fetches(node.end(fetch, Outcome.PROTOCOL))
    assert (again.first, again.peer == fetch.peer) == (0, False)


@pytest.mark.parametrize("outcome", FAILURES, ids=lambda outcome: outcome.value)
def test_a_peer_that_failed_is_left_alone_for_a_moment_and_then_asked_again(outcome):
    node, fetch = fetching(holders=(1,))
    assert fetches(node.end(fetch, outcome)) == []
    assert [again.peer for again in fetches(node.wait(CONFIG.retry_backoff_s + 0.1))] == [fetch.peer]


def test_a_missing_chunk_is_not_asked_from_that_peer_again():
    node, fetch = fetching(holders=(1,))
    node.end(fetch, Outcome.MISSING)
    assert fetches(node.keep_alive(30, 1)) == []
    assert "waiting for a holder" in node.machine.explain(BLOB)


def test_a_run_that_stops_at_a_chunk_the_peer_lacks_is_no_failure_and_only_that_chunk_is_not_asked_again():
    node, fetch = fetching(3, holders=(1,))
    node.deliver(fetch, *range(fetch.first, fetch.first + fetch.count - 1))
    lacking = fetch.first + fetch.count - 1
    node.end(fetch, Outcome.PARTIAL)
    assert node.machine.downloads.reputation(fetch.peer).failures == 0
    asked = [index for again in fetches(node.wait(1.0)) for index in range(again.first, again.first + again.count)]
    assert lacking not in asked


def test_a_missing_chunk_is_asked_for_again_when_the_peer_says_that_it_has_it_now():
    node, fetch = fetching(holders=(1,))
    node.end(fetch, Outcome.MISSING)
    assert fetches(node.holds(1) + node.wait(1.0)) != []


def test_chunks_that_did_not_arrive_are_wanted_again_and_those_that_did_are_not():
    node = Node()
    node.meet(1)
    node.open(40)
    fetch = next(fetch for fetch in fetches(node.holds(1)) if fetch.count > 1)
    node.deliver(fetch, fetch.first)
    transfer = node.machine.downloads.transfers[BLOB]
    before = transfer.wanted
    node.end(fetch, Outcome.SHORT)
    returned = [index for index in range(40) if (transfer.wanted & ~before) >> index & 1]
    assert returned == list(range(fetch.first + 1, fetch.first + fetch.count))


def test_a_busy_peer_is_paused_without_blame():
    node, fetch = fetching(holders=(1,))
    before = node.machine.downloads.reputation(peer(1)).success_rate
    node.end(fetch, Outcome.BUSY)
    assert node.machine.downloads.reputation(peer(1)).success_rate == before
    assert len(fetches(node.wait(CONFIG.retry_backoff_s + 0.1))) == 1


def test_a_corrupt_chunk_quarantines_its_sender_and_hangs_up():
    node, fetch = fetching()
    commands = node.end(fetch, Outcome.CORRUPT)
    assert hangups(commands) == [fetch.peer]
    assert fetch.peer not in node.machine.membership.active
    assert node.machine.downloads.reputation(fetch.peer).is_quarantined(node.now_s + 59)
    assert [again.peer != fetch.peer for again in fetches(commands)] == [True]


def test_a_quarantined_peer_that_comes_back_is_hung_up_on_until_its_time_is_over():
    node, fetch = fetching()
    node.end(fetch, Outcome.CORRUPT)
    number = number_of(fetch.peer)
    assert hangups(node.hello(number)) == [fetch.peer]
    node.wait(CONFIG.quarantine_s + 1)
    assert hangups(node.hello(number)) == []
    assert fetch.peer in node.machine.membership.active


def test_a_corrupt_chunk_cancels_what_else_its_sender_was_to_bring():
    node = Node()
    node.meet(1)
    node.open(40)
    first, *others = fetches(node.holds(1))
    assert others
    commands = node.end(first, Outcome.CORRUPT)
    assert cancels(commands) == [fetch.fetch_id for fetch in others]
    node.end(others[0], Outcome.CORRUPT)
    assert node.machine.downloads.reputation(peer(1)).bad_chunks == 1


def test_a_goodbye_does_not_shorten_a_quarantine():
    node, fetch = fetching()
    node.end(fetch, Outcome.CORRUPT)
    node.tell(GoodbyeReceived(fetch.peer, "sorry"), PeerDisconnected(fetch.peer))
    assert fetch.peer not in dials(node.wait(CONFIG.quarantine_s - 1))
    assert fetch.peer in dials(node.wait(5))


def test_store_trouble_pauses_fetching_and_blames_nobody():
    node, fetch = fetching(30)
    commands = node.end(fetch, Outcome.STORE)
    assert fetches(commands + node.keep_alive(CONFIG.store_pause_s - 1, 1, 2)) == []
    assert node.machine.downloads.reputation(fetch.peer).failures == 0
    assert fetches(node.keep_alive(2, 1, 2)) != []


def test_an_ending_that_comes_twice_counts_once():
    node, fetch = fetching(holders=(1,))
    node.end(fetch, Outcome.PROTOCOL)
    assert node.end(fetch, Outcome.CORRUPT) == []
    assert peer(1) in node.machine.membership.active
    assert node.machine.downloads.reputation(peer(1)).failures == 1


def test_a_chunk_that_was_never_asked_for_is_not_counted():
    node, fetch = fetching(4, holders=(1,))
    node.tell(ChunkVerified(999, 0, CHUNK), ChunkVerified(fetch.fetch_id, 10**6, CHUNK))
    node.tell(ChunkVerified(fetch.fetch_id, -1, CHUNK))
    assert node.machine.downloads.transfers[BLOB].have.held == 0


def test_a_peer_that_leaves_takes_what_it_had_with_it_and_its_fetches_end_by_themselves():
    node, fetch = fetching(holders=(1,))
    node.tell(PeerDisconnected(peer(1)))
    assert len(node.machine.downloads.fetches) == 1
    assert fetches(node.end(fetch, Outcome.UNREACHABLE)) == []
    assert "no neighbour" in node.machine.explain(BLOB)


def test_bytes_under_way_stay_within_the_receive_budget_and_one_run():
    config = RelayConfig(receive_budget_bytes=6 * CHUNK)
    node = Node(config=config)
    node.meet(1, 2, 3, 4)
    node.open(200)
    for number in (1, 2, 3, 4):
        node.holds(number)
    under_way = node.machine.downloads.fetches.total_bytes
    run_bytes = max(fetch.chunk_bytes * fetch.remaining.bit_count() for fetch in node.machine.downloads.fetches)
    assert config.receive_budget_bytes <= under_way < config.receive_budget_bytes + run_bytes


def test_the_blob_of_the_newer_version_comes_first():
    config = RelayConfig(receive_budget_bytes=CHUNK)
    node = Node(config=config)
    newer = digest_of(b"newer blob")
    node.meet(1)
    node.open(8, priority=1)
    first = fetches(node.holds(1))
    node.open(8, blob=newer, priority=2)
    node.holds(1, blob=newer)
    commands = [command for fetch in first for command in node.finish(fetch)]
    assert {fetch.blob for fetch in fetches(commands)} == {newer}


def test_the_last_chunk_is_asked_for_twice_when_it_is_slow_and_the_slower_fetch_cancelled():
    node, fetch = fetching()
    (hedge,) = fetches(node.keep_alive(2, 1, 2))
    assert hedge.peer != fetch.peer
    assert cancels(node.finish(hedge)) == [fetch.fetch_id]
    node.end(fetch, Outcome.CANCELLED)
    assert node.machine.downloads.reputation(fetch.peer).failures == 0
    assert node.machine.explain(BLOB) == "complete"


def test_a_hedge_waits_for_room_in_the_receive_budget():
    node = Node(config=RelayConfig(receive_budget_bytes=CHUNK))
    node.meet(1, 2)
    node.open(1)
    node.holds(1)
    node.holds(2)
    assert fetches(node.keep_alive(3, 1, 2)) == []


def test_closing_a_blob_cancels_its_fetches():
    node, fetch = fetching(holders=(1,))
    assert cancels(node.tell(BlobClosed(BLOB))) == [fetch.fetch_id]
    assert node.tell(BlobClosed(BLOB)) == []
    assert node.machine.explain(BLOB) == "not known here"


def test_a_chunk_for_a_closed_blob_does_not_count_for_the_same_blob_opened_again():
    node, fetch = fetching(holders=(1,))
    node.tell(BlobClosed(BLOB))
    node.open(1)
    node.deliver(fetch)
    assert node.machine.downloads.transfers[BLOB].have.held == 0
    node.holds(1)
    assert chunks(node.end(fetch, Outcome.CANCELLED) + node.wait(1.0)) or len(node.machine.downloads.fetches) == 1


def test_a_blob_that_is_opened_again_with_more_chunks_is_not_fetched_further():
    node, fetch = fetching(4, holders=(1,))
    commands = node.tell(BlobOpened(BLOB, 4, CHUNK, 0b1111, 0))
    assert fetch.fetch_id in cancels(commands)
    assert node.machine.explain(BLOB) == "complete"


def test_a_blob_without_chunks_is_complete_at_once():
    node = Node()
    node.meet(1)
    node.open(0)
    assert node.machine.explain(BLOB) == "complete"


def test_a_peer_too_slow_for_one_chunk_within_the_deadline_gets_longer_ones():
    node, fetch = fetching(holders=(1,))
    spans = []
    for _ in range(4):
        spans.append(fetch.deadline_s - node.now_s)
        commands = node.end(fetch, Outcome.DEADLINE)
        while not (found := fetches(commands)):
            commands = node.keep_alive(1, 1)
        fetch = found[0]
    assert [round(span_s / spans[0]) for span_s in spans] == [1, 2, 4, 8]


# --- manifests ---


def head(seq: int, source: int | None = 1, manifest: bytes | None = None) -> HeadAccepted:
    digest = digest_of(manifest or b"manifest %d" % seq)
    return HeadAccepted(CHANNEL, seq, digest, 4096, peer(source) if source else None)


def test_the_manifest_of_a_new_head_is_asked_from_whoever_sent_the_head():
    node = Node()
    node.meet(1, 2, 3)
    (fetch,) = objects(node.tell(head(1, source=2)))
    assert (fetch.peer, fetch.size_bytes) == (peer(2), 4096)


def test_a_manifest_that_one_peer_lacks_is_asked_from_the_others_in_turn():
    node = Node()
    node.meet(1, 2, 3)
    found = objects(node.tell(head(1)))
    asked = []
    while found:
        asked.append(found[0].peer)
        found = objects(node.end(found[0], Outcome.MISSING))
    assert sorted(asked) == sorted(peer(number) for number in (1, 2, 3))


def test_a_manifest_that_nobody_has_is_asked_for_again_less_and_less_often():
    node = Node()
    node.meet(1)
    (fetch,) = objects(node.tell(head(1)))
    gaps, asked_s = [], node.now_s
    for _ in range(5):
        node.end(fetch, Outcome.MISSING)
        while not (found := objects(node.keep_alive(1, 1))):
            pass
        fetch = found[0]
        gaps.append(round(node.now_s - asked_s))
        asked_s = node.now_s
    assert gaps == sorted(gaps)
    assert gaps[-1] <= CONFIG.reconcile_interval_s + 1


def test_a_manifest_is_asked_from_a_new_neighbour_at_once():
    node = Node()
    node.meet(1)
    (fetch,) = objects(node.tell(head(1)))
    node.end(fetch, Outcome.MISSING)
    assert [fetch.peer for fetch in objects(node.meet(2))] == [peer(2)]


def test_a_newer_head_replaces_the_wanted_manifest():
    node = Node()
    node.tell(head(1), head(2))
    assert [fetch.digest for fetch in objects(node.meet(1))] == [digest_of(b"manifest 2")]


def test_the_manifest_of_an_older_head_is_not_asked_for_again_when_its_fetch_fails():
    node = Node()
    node.meet(1, 2)
    (old,) = objects(node.tell(head(1)))
    (new,) = objects(node.tell(head(2)))
    assert objects(node.end(old, Outcome.SHORT)) == []
    node.end(new)
    assert len(node.machine.downloads.objects) == 0


def test_a_manifest_that_was_obtained_is_not_asked_for_again():
    node = Node()
    node.meet(1)
    (fetch,) = objects(node.tell(head(1)))
    node.end(fetch)
    assert objects(node.keep_alive(10, 1)) == []


def test_a_manifest_that_this_node_refused_is_not_asked_for_again():
    node = Node()
    node.meet(1, 2)
    (fetch,) = objects(node.tell(head(1)))
    assert objects(node.end(fetch, Outcome.CANCELLED) + node.keep_alive(10, 1, 2)) == []


def test_the_manifest_of_an_open_blob_is_not_fetched():
    node = Node()
    node.meet(1)
    node.tell(BlobOpened(BLOB, 1, CHUNK, 1, manifest=MANIFEST))
    assert objects(node.tell(head(1, manifest=b"manifest"))) == []


def test_a_blob_that_was_opened_ends_the_wish_for_its_manifest():
    node = Node()
    node.tell(head(1, manifest=b"manifest"), BlobOpened(BLOB, 1, CHUNK, 0, manifest=MANIFEST))
    assert objects(node.meet(1)) == []


def test_a_corrupt_manifest_quarantines_its_sender():
    node = Node()
    node.meet(1, 2)
    (fetch,) = objects(node.tell(head(1)))
    commands = node.end(fetch, Outcome.CORRUPT)
    assert hangups(commands) == [peer(1)]
    assert [again.peer for again in objects(commands)] == [peer(2)]

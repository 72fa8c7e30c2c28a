"""The ways to a peer's chunks: which neighbours are carried, how rarely, and when the data plane is tried again."""

from __future__ import annotations

import pytest

from shardcast_proto.hashing import digest_of
from shardcast_relay import RelayConfig
from shardcast_relay.commands import FetchChunks
from shardcast_relay.events import FetchEnded, HeadAccepted, HelloReceived, Outcome
from shardcast_relay.reach import Reach

from .parts import BLOB, CHANNEL, CHUNK, Node, chunks, contact, fetches, hangups, objects, peer

CONFIG = RelayConfig()
HEAD = HeadAccepted(CHANNEL, 1, digest_of(b"manifest"), 4096)


def hidden(*numbers: int) -> Node:
    """Return a node whose neighbours `numbers` announce no data plane."""
    node = Node()
    for number in numbers:
        node.hello(number, serve=False)
    return node


def test_a_neighbour_without_a_data_plane_is_asked_over_its_connection_for_one_run_at_a_time():
    node = hidden(1)
    node.open(100)
    (fetch,) = fetches(node.holds(1))
    assert fetch.addresses == ()
    assert fetch.count * CHUNK <= CONFIG.carried_run_bytes_max
    assert fetches(node.deliver(fetch)) == []
    (following,) = fetches(node.end(fetch))
    assert following.addresses == ()


def test_carried_runs_are_as_long_as_what_comes_in_a_second_and_no_longer_than_the_cap():
    node = hidden(1)
    node.open(200)
    node.holds(1)
    for _ in range(30):
        (under_way,) = node.machine.downloads.fetches
        fetch = FetchChunks(0, under_way.fetch_id, peer(1), (), BLOB, _lowest(under_way.remaining), 0, 0.0, 0.0)
        node.now_s += 0.2
        node.deliver(fetch, *_bits(under_way.remaining))
        assert under_way.estimate_s < 5
        if not fetches(node.end(fetch)):
            break
        (under_way,) = node.machine.downloads.fetches
        assert under_way.remaining.bit_count() * CHUNK <= CONFIG.carried_run_bytes_max


def _bits(mask: int) -> list[int]:
    return [index for index in range(mask.bit_length()) if mask >> index & 1]


def _lowest(mask: int) -> int:
    return _bits(mask)[0]


def test_a_chunk_that_a_data_plane_has_is_not_carried_though_that_peer_is_busy():
    node = Node(config=RelayConfig(fetches_per_peer_max=1))
    node.hello(1, serve=False)
    node.meet(2)
    node.open(40)
    commands = node.holds(1) + node.holds(2, (0, 20))
    assert chunks(commands, of=1), "what only the hidden peer has is carried"
    direct = set(range(20))
    node = Node(config=RelayConfig(fetches_per_peer_max=1))
    node.hello(1, serve=False)
    node.meet(2)
    node.holds(2, (0, 20))
    node.holds(1)
    commands = node.open(40)
    assert set(chunks(commands, of=2)) <= direct
    assert set(chunks(commands, of=1)).isdisjoint(direct)


def test_a_few_peers_are_carried_at_once_and_the_next_when_one_is_done():
    node = hidden(*range(1, 8))
    for number in range(1, 8):
        node.holds(number)
    started = fetches(node.open(400))
    assert len(started) == CONFIG.carried_fetches_max
    assert len({fetch.peer for fetch in started}) == CONFIG.carried_fetches_max
    assert len(fetches(node.finish(started[0]))) == 1


def test_a_manifest_is_asked_of_data_planes_first_and_carried_when_none_has_it():
    node = hidden(1)
    node.meet(2)
    (fetch,) = objects(node.tell(HeadAccepted(CHANNEL, 1, HEAD.manifest, 4096, source=peer(1))))
    assert fetch.peer == peer(2)
    (carried,) = objects(node.end(fetch, Outcome.MISSING))
    assert (carried.peer, carried.addresses) == (peer(1), ())


def unreachable(node: Node, fetch: FetchChunks) -> list[FetchChunks]:
    """Let a fetch not reach its data plane; return what is asked for within the next second."""
    return fetches(node.tell(FetchEnded(fetch.fetch_id, Outcome.UNREACHABLE)) + node.wait(1.0))


def test_a_peer_whose_data_plane_cannot_be_reached_is_carried_until_that_is_tried_again():
    node = Node()
    node.meet(1)
    node.open(400)
    first, *others = fetches(node.holds(1))
    again = unreachable(node, first)
    for other in others:
        again += unreachable(node, other)
    assert [fetch.addresses for fetch in again] == [()]
    assert node.machine.downloads.reputation(peer(1)).failures == 1, "one incident was counted several times"
    node.wait(CONFIG.direct_retry_s)
    tried = fetches(node.finish(again[0]))
    assert tried and all(fetch.addresses for fetch in tried)


def test_a_data_plane_that_takes_connections_and_says_nothing_is_out_of_reach_too():
    node = Node()
    node.meet(1)
    node.open(4)
    (fetch, *_) = fetches(node.holds(1))
    again = fetches(node.tell(FetchEnded(fetch.fetch_id, Outcome.STALLED)) + node.wait(1.0))
    for other in list(node.machine.downloads.fetches):
        if not other.is_carried:
            again += fetches(node.tell(FetchEnded(other.fetch_id, Outcome.STALLED)) + node.wait(1.0))
    assert again and not any(fetch.addresses for fetch in again)


def test_the_two_ways_to_a_peer_are_not_mixed():
    node = Node()
    node.meet(1)
    node.open(400)
    first, second, *_ = fetches(node.holds(1))
    assert unreachable(node, first) == [], "while fetches of the data plane are under way nothing is carried"
    assert second.fetch_id in {fetch.fetch_id for fetch in node.machine.downloads.fetches}


def test_each_way_has_its_own_rate():
    node = hidden(1)
    node.open(40)
    (fetch,) = fetches(node.holds(1))
    node.now_s += 1.0
    node.finish(fetch)
    assert node.machine.downloads.reaches[peer(1)].carried.mean is not None
    assert node.machine.downloads.rate(peer(1)).mean is None


def test_a_data_plane_out_of_reach_is_tried_less_and_less_often_and_at_once_after_it_answered():
    reach = Reach(CONFIG)
    pauses, now_s = [], 0.0
    for _ in range(12):
        assert reach.unreachable(now_s, now_s + 5.0)
        now_s += 5.0
        pauses.append(reach.direct_at_s - now_s)
        now_s = reach.direct_at_s
    assert pauses[:3] == [CONFIG.direct_retry_s * factor for factor in (1, 2, 4)]
    assert pauses[-1] == CONFIG.direct_retry_max_s
    reach.reached()
    assert reach.direct_at_s == 0.0
    now_s += 1.0
    reach.unreachable(now_s, now_s)
    assert reach.direct_at_s - now_s == CONFIG.direct_retry_s


# --- origins ----------------------------------------------------------------------------------------------------------


def with_origin(*, is_origin: bool = True) -> tuple[Node, FetchChunks]:
    """Return a node that fetches from peer 1, which has proved to act for an origin key."""
    node = Node()
    node.tell(HelloReceived(peer(1), contact(1), (CHANNEL,), is_origin=is_origin))
    node.open(4)
    return node, fetches(node.holds(1))[0]


def test_an_origin_that_sent_a_bad_chunk_is_paused_and_stays_a_neighbour():
    node, fetch = with_origin()
    commands = node.end(fetch, Outcome.CORRUPT)
    assert hangups(commands) == [] and peer(1) in node.machine.membership.active
    record = node.machine.downloads.reputation(peer(1))
    assert not record.is_quarantined(node.now_s) and record.bad_chunks == 0
    assert not record.is_usable(node.now_s + CONFIG.origin_pause_s - 0.1)
    assert record.is_usable(node.now_s + CONFIG.origin_pause_s + 0.1)


def test_the_bad_chunk_of_an_origin_is_not_asked_from_it_again_until_it_says_that_it_has_it():
    node, fetch = with_origin()
    for other in list(node.machine.downloads.fetches):
        commands = node.tell(FetchEnded(other.fetch_id, Outcome.CORRUPT))
    commands = node.keep_alive(4, 1)
    assert fetch.first not in chunks(commands)
    asked = chunks(node.keep_alive(60, 1) + node.holds(1) + node.keep_alive(60, 1))
    assert fetch.first in asked


def test_the_pause_of_an_origin_doubles_with_each_bad_chunk_and_ends_with_a_good_one():
    record = Node().machine.downloads.reputation(peer(1))
    record.is_origin = True
    pauses, now_s = [], 100.0
    for _ in range(6):
        record.sent_bad_chunk(now_s)
        pauses.append(record.paused_until_s - now_s)
        now_s = record.paused_until_s
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    record.succeeded()
    record.sent_bad_chunk(now_s)
    assert record.paused_until_s - now_s == 5.0


@pytest.mark.parametrize("proof_first", [True, False])
def test_a_peer_that_has_proved_nothing_in_its_last_hello_is_quarantined(proof_first):
    node, fetch = with_origin(is_origin=proof_first)
    node.now_s += CONFIG.hello_patience_s
    node.tell(HelloReceived(peer(1), contact(1), (CHANNEL,)))
    under_way = next(iter(node.machine.downloads.fetches))
    assert under_way.peer == fetch.peer
    commands = node.tell(FetchEnded(under_way.fetch_id, Outcome.CORRUPT))
    assert hangups(commands) == [peer(1)]
    assert node.machine.downloads.reputation(peer(1)).is_quarantined(node.now_s)

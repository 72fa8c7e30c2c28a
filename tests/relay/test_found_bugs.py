"""Bugs that were found in the trees, the pushes and the hedges: one test for each, so that none comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.hashing import digest_of
from shardcast_proto.limits import CHUNKS_MAX
from shardcast_proto.messages import Adopt, Attach, Cancel, Detach, Have, Redirect, Skip, Trees, Want, encode
from shardcast_relay import RelayConfig
from shardcast_relay.events import LinkOpened, Outcome, PeerDisconnected, PushArrived, PushBegan, PushEnded
from shardcast_relay.fetches import Fetch
from shardcast_relay.schedule import next_hedge
from tests.relay.parts import BLOB, CHUNK, Node, chunks, peer, sent
from tests.relay.test_exchange import fed, haves, well_fed
from tests.relay.test_pushes import (
    come,
    indices,
    is_shown,
    link,
    on_way,
    publish,
    pushes,
    relay_of,
    source_of,
    take,
    take_all,
)
from tests.relay.test_schedule import bits, source, sources, tail
from tests.relay.test_source import after_patience, hand_out
from tests.relay.test_source import source as source_with
from tests.relay.test_tree import CONFIG as TREE_CONFIG
from tests.relay.test_tree import SOURCE, Place, child_of

CONFIG = RelayConfig()


def test_a_fetch_within_its_time_is_hedged_with_a_peer_that_should_deliver_much_sooner():
    blob, table, fetch = tail()
    now_s = fetch.started_s + CONFIG.hedge_after_min_s + 0.1
    quick = source(2)
    fetch.estimate_s = now_s + 1.01 * CONFIG.hedge_gain * quick.eta_s(CHUNK)
    found = next_hedge(blob, [source(1), quick], table, CONFIG, now_s=now_s)
    assert found is not None and found[0] is fetch and found[1].source is quick
    fetch.estimate_s = now_s + 0.99 * CONFIG.hedge_gain * quick.eta_s(CHUNK)
    assert next_hedge(blob, [source(1), quick], table, CONFIG, now_s=now_s) is None


def test_a_fetch_that_has_just_begun_is_not_hedged_however_long_it_will_take():
    blob, table, fetch = tail()
    fetch.estimate_s = 100.0
    assert next_hedge(blob, sources(1, 2), table, CONFIG, now_s=CONFIG.hedge_after_min_s) is None
    assert next_hedge(blob, sources(1, 2), table, CONFIG, now_s=CONFIG.hedge_after_min_s + 0.01) is not None


def test_of_the_fetches_within_their_time_the_one_that_is_to_end_last_is_hedged_first():
    blob, table, first = tail(remaining=bits(0, 9), holders=4)
    first.remaining, first.estimate_s = bits(0, 3), 50.0
    later = [
        Fetch(table.next_id(), peer(number), BLOB, bits(3 * number - 3, 3), CHUNK, 0.0, 500.0, estimate_s)
        for number, estimate_s in ((2, 90.0), (3, 70.0))
    ]
    for fetch in later:
        table.add(fetch)
    hedged = []
    while (found := next_hedge(blob, [source(4)], table, CONFIG, now_s=2.0)) is not None:
        found[0].is_hedged = True
        hedged.append(found[0].estimate_s)
    assert hedged == [90.0, 70.0, 50.0]


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 20)), min_size=1, max_size=6),
    st.floats(0, 10),
    st.floats(1e5, 1e8),
)
def test_a_hedge_is_for_a_fetch_that_is_overdue_or_would_end_much_sooner_elsewhere(spans, now_s, rate):
    blob, table, only = tail(100, remaining=bits(0, len(spans)))
    table.end(only.fetch_id)
    for index, (started_s, estimate_s) in enumerate(spans):
        table.add(Fetch(table.next_id(), peer(1), BLOB, bits(index, 1), CHUNK, started_s, 500.0, estimate_s))
    other = source(2, rate=rate)
    found = next_hedge(blob, [other], table, CONFIG, now_s=now_s)
    gain_s = CONFIG.hedge_gain * other.eta_s(CHUNK)
    worthy = [
        fetch
        for fetch in table
        if now_s - fetch.started_s > CONFIG.hedge_after_min_s
        and (
            now_s - fetch.started_s > CONFIG.hedge_factor * fetch.estimate_s
            or fetch.started_s + fetch.estimate_s - now_s >= gain_s
        )
    ]
    assert (found[0] in worthy) if found is not None else not worthy


def test_a_root_gets_its_first_copies_as_soon_as_it_attaches():
    node = Node()
    node.meet(1)
    publish(node, 20)
    link(node, 1)
    node.hear(1, Want(BLOB))  # the order in which a node that opens a blob says it: Want by exchange.open, then Attach
    assert pushes(node.hear(1, Attach(BLOB, ()))) != [], (
        f"nothing until {node.machine.next_wake_s - node.now_s:.2f} s later"
    )


def test_the_failed_push_of_a_former_root_does_not_take_the_chunk_from_the_new_one():
    node, commands = source_of(1, 1)
    node.meet(2)
    node.tell(LinkOpened(peer(2), True))
    (lost,) = pushes(commands)
    node.tell(PeerDisconnected(peer(1)))
    node.hear(2, Attach(BLOB, ()))
    again = pushes(node.hear(2, Want(BLOB)))
    assert [push.index for push in again] == [0]
    take(node, *again)
    assert pushes(take(node, lost, outcome=Outcome.SHORT)) == [], "handed out twice"


def test_what_is_late_goes_to_another_stripe():
    value = source_with(1, 2, count=1)
    assert value.choose({0: 0}, 0.0, spare=0) == (0, 0)
    now_s = after_patience(value)
    value.take_back_late(now_s)
    assert hand_out(value, now_s) == [(1, 0)]


def test_a_child_that_skips_chunks_of_unknown_blobs_takes_no_memory():
    node = relay_of(20, 1)
    come(node, 0)
    node.hear(1, *(Skip(digest_of(b"blob %d" % number), ((0, CHUNKS_MAX),)) for number in range(200)))
    assert len(node.machine.pushes.backlogs[peer(1)].given) <= 1 + CONFIG.early_blobs_per_peer_max


def test_a_child_that_says_that_it_is_a_source_does_not_become_the_parent_in_its_stripe():
    place = child_of(1, others=(2,))
    assert place.hear(2, Attach(BLOB, (0,))) == [(2, Adopt(BLOB, 0, 2))]
    place.hear(2, SOURCE)
    place.hear(2, Adopt(BLOB, 0, 1))  # Place.hear ends with forest.check()


def test_the_answer_to_an_attach_can_always_be_encoded():
    place = child_of(1, depth=64, others=(2,), is_small=False)
    for _, message in place.hear(2, Attach(BLOB, (0,))):
        encode(message)


def test_a_linked_root_that_wants_nothing_does_not_keep_a_source_from_being_pulled_from():
    node = Node()
    node.meet(1, 2)
    publish(node, 20)
    link(node, 1)
    node.hear(1, Attach(BLOB, ()))
    node.hear(2, Want(BLOB))  # no link to it
    assert is_shown(node.keep_alive(20 * CONFIG.source_patience_s, 1, 2), 2)


def test_a_source_that_cancels_is_told_of_no_more_chunks():
    node = well_fed()
    node.hear(2, Cancel(BLOB))
    fed(node, 1, 7)
    assert haves(node.wait(CONFIG.have_interval_s), 2) == []


def test_a_source_that_cancels_is_not_asked_again_and_again_to_adopt_us():
    node = well_fed()
    node.hear(2, Redirect(BLOB, 0))
    node.hear(2, Cancel(BLOB), Have(BLOB, (), is_snapshot=True))
    asked = 0
    for _ in range(10):
        said = sent(node.keep_alive(1, 1, 2, 3), 2)
        asked += said.count(Attach(BLOB, ()))
        node.hear(2, Redirect(BLOB, 0))
    assert asked <= 1


def test_who_never_answered_an_attach_is_not_asked_again_before_its_answer_must_be_lost():
    a = Place(1, 0, 2, 3, is_small=False)
    a.open()
    assert a.hear(2, Trees(BLOB, (1,), 8)) == [(2, Attach(BLOB, (0,)))]
    assert a.wait(TREE_CONFIG.attach_patience_s) == [(2, Detach(BLOB, 0))]
    assert a.wait(TREE_CONFIG.attach_silence_s - 1.0) == []
    assert a.hear(2, Adopt(BLOB, 0, 2)) == [(2, Detach(BLOB, 0))]
    assert not a.parents


def test_a_child_that_detached_is_not_pushed_what_still_waits():
    node = relay_of(20, 1)
    first = indices(come(node, *range(6)))
    node.hear(1, Detach(BLOB, 0))
    assert indices(take_all(node)) == [], f"after {first}"


def test_a_push_that_failed_is_not_ordered_again_and_again_over_a_link_that_is_breaking():
    node, _ = source_of(20, 1)
    orders = 0
    for _ in range(50):
        ids = on_way(node, 1)
        orders += len(ids)
        node.tell(*(PushEnded(push_id, Outcome.SHORT) for push_id in ids))
    assert orders <= 2 * CONFIG.push_window, f"{orders} orders at one moment"


def test_a_chunk_whose_push_failed_is_asked_for_at_once():
    node = Node()
    node.meet(1, 2)
    node.open(1)
    node.wait(3.0)
    node.tell(PushBegan(peer(1), BLOB, 0, 0))
    node.holds(2)
    commands = node.tell(PushArrived(peer(1), BLOB, 0, 0, Outcome.SHORT))
    assert chunks(commands) == [0] or node.machine.next_wake_s < node.now_s + 0.05, (
        f"not before {node.machine.next_wake_s - node.now_s:.2f} s later"
    )

"""The balance of the active view: the measure alone, then the machine that changes neighbours by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardcast_proto.messages import Done, Goodbye, Hello, Want
from shardcast_relay import RelayConfig
from shardcast_relay.balance import fits, is_balanced, mean_uplink, place_for
from shardcast_relay.events import BlobOpened, Contact, HelloReceived, PeerConnected, PeersReceived

from .parts import BLOB, CHANNEL, CHUNK, Node, contact, dials, peer, sent

CONFIG = RelayConfig()
FULL = range(1, CONFIG.active_view_max + 1)
MB = 1_000_000


def with_uplink(number: int, up_bytes_per_s: int) -> Contact:
    return replace(contact(number), up_bytes_per_s=up_bytes_per_s)


def views(*uplinks: int) -> list[Contact]:
    return [with_uplink(number, uplink) for number, uplink in enumerate(uplinks)]


def neighbours_with(uplink: int, others: int) -> Node:
    """A node with a full view of neighbours with one uplink, that knows of others with another."""
    node = Node()
    for number in FULL:
        node.tell(PeerConnected(peer(number)), greeting(number, uplink))
    node.tell(PeersReceived(peer(1), tuple(with_uplink(number, others) for number in range(20, 40)), 0))
    return node


def greeting(number: int, uplink: int) -> HelloReceived:
    return HelloReceived(peer(number), with_uplink(number, uplink), (CHANNEL,), False)


@pytest.mark.parametrize(("uplinks", "mean"), [((), 0.0), ((0, 0), 0.0), ((4, 0, 8), 6.0)])
def test_the_mean_is_that_of_the_uplinks_that_are_told(uplinks: tuple[int, ...], mean: float):
    assert mean_uplink(views(*uplinks)) == mean


def test_a_view_is_balanced_within_the_tolerance_and_an_untold_uplink_counts_as_the_mean():
    assert is_balanced(views(10, 10, 0), 30, 0.0)
    assert is_balanced(views(10, 10), 22, 0.1)
    assert not is_balanced(views(10, 10), 23, 0.1)


def test_a_newcomer_takes_the_place_that_brings_the_sum_nearest_to_the_target():
    poor = views(10, 20, 40)
    assert place_for(with_uplink(9, 40), poor, 100, gain=1) == peer(0)
    assert place_for(with_uplink(9, 20), poor, 50, gain=1) == peer(2)


def test_a_newcomer_that_gains_too_little_or_tells_no_uplink_gets_no_place():
    assert place_for(with_uplink(9, 12), views(10, 10), 30, gain=3) is None
    assert place_for(with_uplink(9, 0), views(10, 10), 30, gain=0) is None
    assert place_for(with_uplink(9, 10), views(0, 0), 30, gain=0) is None


def test_a_newcomer_fits_where_the_sum_comes_nearer_by_the_gain():
    assert fits(with_uplink(9, 10), views(10, 10), 30, gain=5)
    assert not fits(with_uplink(9, 20), views(10, 10), 30, gain=5)
    assert not fits(with_uplink(9, 0), views(10, 10), 30, gain=0)


def test_a_full_view_makes_room_for_a_newcomer_that_betters_it():
    node = neighbours_with(2 * MB, others=8 * MB)
    commands = node.tell(PeerConnected(peer(50)), greeting(50, 8 * MB))
    assert next(type(message) for message in sent(commands, 50)) is Hello
    assert peer(50) in node.machine.membership.active
    assert len(node.machine.membership.active) == CONFIG.active_view_max


@pytest.mark.parametrize("uplink", [0, 2 * MB])
def test_a_full_view_declines_who_does_not_better_it(uplink: int):
    node = neighbours_with(2 * MB, others=8 * MB)
    commands = node.tell(PeerConnected(peer(50)), greeting(50, uplink))
    assert [type(message) for message in sent(commands, 50)] == [Goodbye]


def test_neighbours_are_not_changed_while_something_is_fetched():
    node = neighbours_with(2 * MB, others=8 * MB)
    node.open(4)
    assert [type(message) for message in sent(node.tell(PeerConnected(peer(50)), greeting(50, 8 * MB)), 50)] == [
        Goodbye
    ]
    assert dials(node.keep_alive(30.0, *FULL)) == []


def test_a_source_looks_for_neighbours_that_are_faster_than_usual():
    node = neighbours_with(4 * MB, others=4 * MB)
    node.tell(PeersReceived(peer(1), (with_uplink(50, 8 * MB),), 0))
    assert dials(node.keep_alive(3.0, *FULL)) == []
    node.tell(BlobOpened(BLOB, 4, CHUNK, 15, is_source=True))
    assert dials(node.keep_alive(3.0, *FULL)) == [peer(50)]


def test_a_source_does_not_change_neighbours_while_one_of_them_lacks_something():
    node = neighbours_with(2 * MB, others=8 * MB)
    node.open(4, 15)
    node.hear(1, Want(BLOB))
    assert dials(node.keep_alive(3.0, *FULL)) == []
    node.hear(1, Done(BLOB))
    assert len(dials(node.keep_alive(3.0, *FULL))) == CONFIG.dials_max


def test_an_unbalanced_node_dials_who_would_better_its_view():
    node = neighbours_with(2 * MB, others=8 * MB)
    assert len(dials(node.keep_alive(2.5, *FULL))) == CONFIG.dials_max
    assert node.machine.membership.dialling


def test_a_balanced_node_and_one_that_knows_no_uplinks_dial_nobody():
    assert dials(neighbours_with(4 * MB, others=4 * MB).keep_alive(30.0, *FULL)) == []
    assert dials(neighbours_with(0, others=0).keep_alive(30.0, *FULL)) == []


# --- in mid-transfer ---


def behind(*, own: int, others: int) -> Node:
    """A node that fetches a blob of which all its neighbours hold half and it holds nothing."""
    node = neighbours_with(own, others=others)
    node.open(100)
    for number in FULL:
        node.holds(number, (0, 50))
    return node


def test_who_is_behind_with_poor_neighbours_goes_for_better_ones_in_mid_transfer_and_may_not_be_turned_away():
    node = behind(own=2 * MB, others=8 * MB)
    target, *_ = dials(node.keep_alive(2.5, *FULL))
    (hello,) = [message for message in sent(node.tell(PeerConnected(target))) if isinstance(message, Hello)]
    assert hello.is_urgent


def test_who_is_behind_with_usual_neighbours_keeps_them():
    assert dials(behind(own=4 * MB, others=4 * MB).keep_alive(30.0, *FULL)) == []


def test_who_is_not_behind_keeps_poor_neighbours_until_the_end():
    node = neighbours_with(2 * MB, others=8 * MB)
    node.open(100, (1 << 50) - 1)
    for number in FULL:
        node.holds(number, (1, 50))
    assert dials(node.keep_alive(30.0, *FULL)) == []


def test_a_full_view_makes_room_for_the_urgent_by_the_neighbour_that_needs_it_least():
    node = neighbours_with(4 * MB, others=4 * MB)
    node.open(100, (1 << 50) - 1)
    for number in FULL:
        node.hear(number, Want(BLOB))
        node.holds(number, (0, 90 if number == 7 else number))
    node.tell(PeerConnected(peer(60)), replace(greeting(60, 4 * MB), is_urgent=True))
    assert set(FULL) - {7} == {number for number in FULL if peer(number) in node.machine.membership.active}


def test_while_something_is_fetched_a_full_view_takes_a_stranger_in_so_often_and_no_more():
    """Liars, whom all others hang up on, have no neighbours, so each is urgent."""
    node = neighbours_with(4 * MB, others=4 * MB)
    node.open(100)
    urgent = [replace(greeting(number, 4 * MB), is_urgent=True) for number in (60, 61, 62)]
    for event in urgent[:2]:
        node.tell(PeerConnected(event.peer), event)
    assert (peer(60) in node.machine.membership.active, peer(61) in node.machine.membership.active) == (True, False)
    node.keep_alive(CONFIG.newcomer_interval_s, *FULL)
    node.tell(PeerConnected(peer(62)), urgent[2])
    assert peer(62) in node.machine.membership.active


def test_while_something_is_fetched_origins_and_those_that_were_dialled_are_taken_in_at_any_time():
    node = behind(own=2 * MB, others=8 * MB)
    target, *_ = dials(node.keep_alive(2.5, *FULL))
    node.tell(PeerConnected(peer(60)), replace(greeting(60, 4 * MB), is_urgent=True))
    node.tell(PeerConnected(peer(61)), replace(greeting(61, 4 * MB), is_urgent=True, is_origin=True))
    answer = next(number for number in range(20, 40) if peer(number) == target)
    node.tell(PeerConnected(target), greeting(answer, 8 * MB))
    assert {peer(60), peer(61), target} <= set(node.machine.membership.active)

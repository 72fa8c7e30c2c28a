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

"""The bulk links: the receiver opens, the sender after a moment, what fails is tried again later."""

from __future__ import annotations

import pytest

from shardcast_relay import RelayConfig
from shardcast_relay.commands import CloseLink, OpenLink
from shardcast_relay.events import LinkClosed, LinkFailed, LinkOpened, Outcome, PeerDisconnected
from shardcast_relay.links import Links
from shardcast_relay.outbox import Outbox

from .parts import Node, contact, fetches, only, peer

CONFIG = RelayConfig()


class Pair:
    """The links to one neighbour, peer 1, with a clock."""

    def __init__(self, *, serve: bool = True) -> None:
        self.neighbours = {peer(1): contact(1, serve=serve)}
        self.links = Links(CONFIG, self.neighbours)
        self.now_s = 10.0
        out = Outbox(1)
        self.links.neighbour_up(peer(1), out, self.now_s)
        self.first = out.commands

    def tend(self, seconds: float = 0.0) -> list[bool]:
        """Let time pass; return for each link that is opened then whether it is a sending one."""
        self.now_s += seconds
        out = Outbox(2)
        self.links.tend(out, self.now_s)
        self.links.check()
        return [command.is_sending for command in only(OpenLink, out.commands)]

    def opened(self, *, is_sending: bool) -> bool:
        return self.links.opened(LinkOpened(peer(1), is_sending), Outbox(3))

    def failed(self, *, is_sending: bool = False) -> None:
        self.links.failed(LinkFailed(peer(1), is_sending, Outcome.UNREACHABLE), self.now_s)


def test_the_receiving_link_is_opened_at_once_and_the_other_side_is_given_a_moment_for_the_sending_one():
    pair = Pair()
    assert pair.first == [OpenLink(1, peer(1), ("serve/1",), False, 10.0 + CONFIG.link_timeout_s)]
    assert pair.tend(CONFIG.link_patience_s * 0.9) == []
    assert pair.tend(CONFIG.link_patience_s * 0.2) == [True]


def test_a_link_that_the_other_side_opened_is_not_opened_from_here():
    pair = Pair()
    assert pair.opened(is_sending=True)
    assert pair.tend(100.0) == []


def test_a_neighbour_without_addresses_is_waited_for():
    pair = Pair(serve=False)
    assert pair.first == [] and pair.tend(100.0) == []
    assert pair.links.next_s is None
    assert pair.opened(is_sending=False)


def test_a_link_that_is_being_opened_is_not_opened_twice():
    pair = Pair()
    pair.tend(CONFIG.link_patience_s)
    assert pair.tend(100.0) == []


def test_a_link_that_fails_is_tried_again_later_each_time():
    pair = Pair()
    pair.opened(is_sending=True)
    pauses_s = []
    for _ in range(12):
        pair.failed()
        pauses_s.append(pair.links.next_s - pair.now_s)
        assert pair.tend(pauses_s[-1] * 0.9) == []
        assert pair.tend(pauses_s[-1] * 0.2) == [False]
    assert pauses_s[0] == pytest.approx(CONFIG.link_retry_s)
    assert pauses_s[1] == pytest.approx(2 * CONFIG.link_retry_s)
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == pytest.approx(CONFIG.link_retry_max_s)


def test_a_link_that_came_up_begins_anew_with_its_pauses():
    pair = Pair()
    pair.opened(is_sending=True)
    for _ in range(4):
        pair.failed()
        pair.tend(CONFIG.link_retry_max_s)
    pair.opened(is_sending=False)
    pair.links.closed(LinkClosed(peer(1), False), pair.now_s)
    pair.tend(CONFIG.link_retry_s)
    pair.failed()
    assert pair.links.next_s == pytest.approx(pair.now_s + CONFIG.link_retry_s)


def test_the_ending_of_the_other_of_two_links_that_cross_changes_nothing():
    pair = Pair()
    pair.opened(is_sending=False)
    pair.failed()
    assert peer(1) in pair.links.receiving.up
    assert False not in pair.tend(CONFIG.link_retry_s)


def test_a_link_that_closes_is_opened_again_soon():
    pair = Pair()
    pair.opened(is_sending=False)
    pair.opened(is_sending=True)
    assert pair.links.next_s is None
    assert pair.links.closed(LinkClosed(peer(1), False), pair.now_s)
    assert pair.tend(CONFIG.link_retry_s * 0.9) == []
    assert pair.tend(CONFIG.link_retry_s * 0.2) == [False]


def test_the_close_of_a_link_that_was_not_up_is_none():
    pair = Pair()
    assert not pair.links.closed(LinkClosed(peer(1), False), pair.now_s)
    assert pair.links.closed(LinkClosed(peer(1), True), pair.now_s) is False


def test_the_two_directions_have_nothing_to_do_with_each_other():
    pair = Pair()
    pair.opened(is_sending=False)
    assert not pair.links.closed(LinkClosed(peer(1), True), pair.now_s)
    assert peer(1) in pair.links.receiving.up


# --- through the machine ---


def test_the_links_of_a_neighbour_that_leaves_are_closed():
    node = Node()
    node.meet(1)
    node.tell(LinkOpened(peer(1), False), LinkOpened(peer(1), True))
    closed = only(CloseLink, node.tell(PeerDisconnected(peer(1))))
    assert {command.is_sending for command in closed} == {False, True}


def test_a_link_that_comes_up_after_its_neighbour_left_is_closed():
    node = Node()
    node.meet(1)
    node.tell(PeerDisconnected(peer(1)))
    (closed,) = only(CloseLink, node.tell(LinkOpened(peer(1), False)))
    assert (closed.peer, closed.is_sending) == (peer(1), False)


def test_a_link_of_a_stranger_is_closed():
    node = Node()
    assert len(only(CloseLink, node.tell(LinkOpened(peer(1), True)))) == 1


def test_a_neighbour_that_comes_back_while_its_link_is_being_opened_is_not_opened_to_twice():
    node = Node()
    node.meet(1)
    node.tell(PeerDisconnected(peer(1)))
    assert [command.is_sending for command in only(OpenLink, node.meet(1))] == []
    assert only(CloseLink, node.tell(LinkOpened(peer(1), False))) == []


def test_a_link_that_is_missing_wakes_the_machine():
    node = Node()
    node.meet(1)
    opened = only(OpenLink, node.wait(CONFIG.link_patience_s + 0.01))
    assert [command.is_sending for command in opened] == [True]


def test_a_peer_with_a_link_is_asked_for_chunks_although_it_has_no_data_plane():
    node = Node(config=RelayConfig(carried_fetches_max=0))
    node.hello(1, serve=False)
    node.open(4)
    node.tell(LinkOpened(peer(1), False))
    assert node.machine.links.receiving.up == {peer(1): None}
    assert fetches(node.holds(1)) != []

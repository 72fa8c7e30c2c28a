"""The conversation of the trees: attach, adopt, redirect, detach."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from shardcast_proto.bitmap import full_mask
from shardcast_proto.hashing import digest_of
from shardcast_proto.messages import Adopt, Attach, Detach, Message, Redirect, Trees
from shardcast_relay import RelayConfig
from shardcast_relay.commands import Send
from shardcast_relay.events import BlobOpened
from shardcast_relay.exchange import Exchange
from shardcast_relay.outbox import Outbox
from shardcast_relay.tree import Forest

from .parts import BLOB, CHUNK, contact, peer

CONFIG = RelayConfig()
COUNT = 4
#: What a source says of itself.
SOURCE = Trees(BLOB, (0,), CONFIG.stripes)
NUMBER_OF = {peer(number): number for number in range(20)}
Said = list[tuple[int, Message]]


class Place:
    """The forest of one node, whose neighbours are these; what it says is returned as (to whom, message)."""

    def __init__(self, number: int, *others: int, is_small: bool = True, config: RelayConfig = CONFIG) -> None:
        self.config = config
        self.now_s = 10.0
        self.exchange = Exchange(config, peer(number))
        self.forest = Forest(config, random.Random(number), self.exchange, peer(number))
        self.forest.is_small = lambda: is_small
        self.forest.on_root = lambda blob, stripe, root: self.roots.append((stripe, root))
        self.roots: list[tuple[int, str | None]] = []
        for other in others:
            self.exchange.neighbours[peer(other)] = contact(other)

    def open(self, *, is_source: bool = False) -> Said:
        mask = full_mask(COUNT) if is_source else 0
        self.exchange.open(BlobOpened(BLOB, COUNT, CHUNK, mask, is_source=is_source), Outbox(1))
        out = Outbox(1)
        self.forest.opened(BLOB, out, self.now_s, is_source=is_source)
        return self.said(out)

    def close(self) -> Said:
        out = Outbox(1)
        self.forest.closed(BLOB, out)
        self.exchange.close(BLOB, Outbox(1))
        return self.said(out)

    def hear(self, number: int, message: Message) -> Said:
        forest, out, name = self.forest, Outbox(1), peer(number)
        if isinstance(message, Trees):
            forest.trees_received(name, message, out, self.now_s)
        elif isinstance(message, Attach):
            forest.attach_received(name, message, out, self.now_s)
        elif isinstance(message, Adopt):
            forest.adopt_received(name, message, out, self.now_s)
        elif isinstance(message, Redirect):
            forest.redirect_received(name, message, out, self.now_s)
        elif isinstance(message, Detach):
            forest.detach_received(name, message, out, self.now_s)
        return self.said(out)

    def wait(self, seconds: float) -> Said:
        self.now_s += seconds
        out = Outbox(1)
        self.forest.tend(out, self.now_s)
        return self.said(out)

    def gone(self, number: int) -> Said:
        """Lose a neighbour."""
        out = Outbox(1)
        self.exchange.neighbour_down(peer(number))
        self.forest.neighbour_down(peer(number), out, self.now_s)
        return self.said(out)

    def came(self, number: int) -> Said:
        """Get a neighbour."""
        out = Outbox(1)
        self.exchange.neighbour_up(contact(number), Outbox(1))
        self.forest.neighbour_up(peer(number), out)
        return self.said(out)

    def uplinks(self, own: int, *others: int) -> None:
        """Let us know our uplink, and those of the neighbours 1, 2, …"""
        self.forest.up_bytes_per_s = own
        for number, rate in enumerate(others, 1):
            self.exchange.neighbours[peer(number)] = replace(contact(number), up_bytes_per_s=rate)

    @property
    def parents(self) -> dict[int, int]:
        return {stripe: NUMBER_OF[parent] for stripe, parent in self.forest.edges(BLOB)}

    @property
    def children(self) -> set[tuple[int, int]]:
        return {(stripe, NUMBER_OF[child]) for stripe, child in self.forest.children(BLOB)}

    def said(self, out: Outbox) -> Said:
        self.forest.check()
        return [(NUMBER_OF[send.peer], send.message) for send in out.commands if isinstance(send, Send)]


def child_of(*parents: int, depth: int = 1, others: tuple[int, ...] = (), is_small: bool = True) -> Place:
    """Node 0 below these in the stripes 0, 1, …, so deep; `others` are more neighbours."""
    place = Place(0, *dict.fromkeys(parents + others), is_small=is_small)
    place.open()
    for stripe, parent in enumerate(parents):
        place.hear(parent, Trees(BLOB, (0,) * stripe + (max(depth - 1, 1),), 1))
        place.hear(parent, Adopt(BLOB, stripe, depth))
    assert place.parents == dict(enumerate(parents))
    return place


# --- the source ---


def test_a_source_says_what_it_is_to_all_neighbours():
    assert Place(0, 1, 2).open(is_source=True) == [(1, SOURCE), (2, SOURCE)]


def test_a_source_says_what_it_is_to_a_new_neighbour():
    place = Place(0)
    place.open(is_source=True)
    assert place.came(1) == [(1, SOURCE)]


def test_who_asks_a_source_becomes_the_root_of_a_stripe_of_its_choice():
    place = Place(0, 1, 2)
    place.open(is_source=True)
    assert place.hear(1, Attach(BLOB, ())) == [(1, Adopt(BLOB, 0, 1))]
    assert place.hear(2, Attach(BLOB, ())) == [(2, Adopt(BLOB, 1, 1))]
    assert place.roots == [(0, peer(1)), (1, peer(2))]


def test_a_root_that_asks_again_gets_the_same_answer():
    place = Place(0, 1)
    place.open(is_source=True)
    assert place.hear(1, Attach(BLOB, ())) == place.hear(1, Attach(BLOB, ()))
    assert place.roots == [(0, peer(1))]


def test_a_source_without_a_stripe_to_give_names_its_roots():
    place = Place(0, *range(1, CONFIG.stripes + 2))
    place.open(is_source=True)
    for number in range(1, CONFIG.stripes + 1):
        place.hear(number, Attach(BLOB, ()))
    ((to, answer),) = place.hear(CONFIG.stripes + 1, Attach(BLOB, ()))
    assert to == CONFIG.stripes + 1
    assert answer == Redirect(BLOB, 0, tuple(peer(number) for number in range(1, CONFIG.stripes + 1)))


def test_a_stripe_whose_root_leaves_is_given_to_the_next_that_asks():
    place = Place(0, 1, 2)
    place.open(is_source=True)
    place.hear(1, Attach(BLOB, ()))
    place.gone(1)
    assert place.hear(2, Attach(BLOB, ())) == [(2, Adopt(BLOB, 0, 1))]
    assert place.roots == [(0, peer(1)), (0, None), (0, peer(2))]


def test_a_root_that_is_dismissed_is_told_and_gets_no_stripe_again():
    place = Place(0, 1)
    place.open(is_source=True)
    place.hear(1, Attach(BLOB, ()))
    out = Outbox(1)
    place.forest.dismiss(BLOB, 0, out)
    assert place.said(out) == [(1, Detach(BLOB, 0))]
    assert place.roots[-1] == (0, None)
    assert place.hear(1, Attach(BLOB, ())) == [(1, Redirect(BLOB, 0))]


def test_of_two_sources_each_roots_its_own_stripes():
    stripes: list[list[int]] = []
    for own, other in ((0, 1), (1, 0)):
        place = Place(own, other, *range(2, 12))
        place.open(is_source=True)
        place.hear(other, SOURCE)
        answers = [answer for number in range(2, 12) for _, answer in place.hear(number, Attach(BLOB, ()))]
        stripes.append([answer.stripe for answer in answers if isinstance(answer, Adopt)])
    assert sorted(stripes[0] + stripes[1]) == list(range(CONFIG.stripes))
    assert stripes[0] and stripes[1]


#: is small, uplink of the one that asks, is made a root; the others have 100
FIT = {
    "a slow one in a large swarm": (False, 10, False),
    "a mean one in a large swarm": (False, 100, True),
    "one that does not say in a large swarm": (False, 0, True),
    "a slow one in a small swarm": (True, 10, True),
}


@pytest.mark.parametrize(("is_small", "rate", "expected"), FIT.values(), ids=FIT)
def test_first_copies_are_well_placed_at(is_small, rate, expected):
    place = Place(0, 1, 2, 3, 4, 5, is_small=is_small)
    place.uplinks(100, rate, 100, 100, 100, 100)
    place.open(is_source=True)
    ((_, answer),) = place.hear(1, Attach(BLOB, ()))
    assert isinstance(answer, Adopt) is expected


# --- asking for a parent ---


def test_a_source_is_asked_for_a_stripe_whichever_it_may_be():
    place = Place(0, 1)
    place.open()
    assert place.hear(1, SOURCE) == [(1, Attach(BLOB, ()))]
    place.hear(1, Adopt(BLOB, 5, 1))
    assert place.parents == {5: 1}


def test_a_source_that_spoke_before_the_blob_was_known_is_asked_when_it_opens():
    place = Place(0, 1)
    place.hear(1, SOURCE)
    assert place.open() == [(1, Attach(BLOB, ()))]


def test_every_stripe_that_lacks_a_parent_is_asked_for_in_one_message():
    place = Place(0, 1)
    place.open()
    assert place.hear(1, Trees(BLOB, (1, 0, 1), 1)) == [(1, Attach(BLOB, (0, 2)))]


def test_one_parent_is_asked_for_at_a_time():
    place = Place(0, 1, 2)
    place.open()
    place.hear(1, Trees(BLOB, (1,), 1))
    assert place.hear(2, Trees(BLOB, (1,), 1)) == []


def test_who_declined_is_left_alone_and_another_asked():
    place = Place(0, 1, 2)
    place.open()
    place.hear(1, Trees(BLOB, (1,), 1))
    place.hear(2, Trees(BLOB, (1,), 1))
    assert place.hear(1, Redirect(BLOB, 0)) == [(2, Attach(BLOB, (0,)))]
    assert place.hear(2, Redirect(BLOB, 0)) == []
    assert len(place.wait(CONFIG.attach_patience_s)) == 1


def test_a_child_of_who_declined_is_asked_first():
    place = Place(0, *range(1, 10))
    place.open()
    place.hear(1, Trees(BLOB, (1,), 1))
    for number in range(2, 10):
        place.hear(number, Trees(BLOB, (1,), 1))
    assert place.hear(1, Redirect(BLOB, 0, (peer(7), peer(15)))) == [(7, Attach(BLOB, (0,)))]


def test_who_does_not_answer_is_told_that_it_is_too_late():
    place = Place(0, 1, 2)
    place.open()
    place.hear(1, Trees(BLOB, (1,), 1))
    place.hear(2, Trees(BLOB, (1,), 1))
    assert place.wait(CONFIG.attach_patience_s * 0.9) == []
    assert place.wait(CONFIG.attach_patience_s * 0.2) == [(1, Detach(BLOB, 0)), (2, Attach(BLOB, (0,)))]


def test_an_answer_that_nobody_waits_for_is_sent_back():
    place = Place(0, 1)
    place.open()
    assert place.hear(1, Adopt(BLOB, 0, 2)) == [(1, Detach(BLOB, 0))]
    assert place.parents == {}


def test_an_answer_from_somebody_else_is_sent_back():
    place = Place(0, 1, 2)
    place.open()
    place.hear(1, Trees(BLOB, (1,), 1))
    assert place.hear(2, Adopt(BLOB, 0, 2)) == [(2, Detach(BLOB, 0))]


def test_an_answer_of_a_source_that_is_not_the_source_is_sent_back():
    place = Place(0, 1)
    place.open()
    place.hear(1, SOURCE)
    assert place.hear(1, Adopt(BLOB, 0, 2)) == [(1, Detach(BLOB, 0))]


def test_a_source_takes_the_place_of_another_parent():
    place = child_of(1, depth=2, others=(2,))
    assert place.hear(2, SOURCE) == [(2, Attach(BLOB, ()))]
    assert place.hear(2, Adopt(BLOB, 0, 1)) == [(1, Detach(BLOB, 0))]
    assert place.parents == {0: 2}


def test_a_source_takes_the_place_of_one_that_was_asked():
    place = Place(0, 1, 2)
    place.open()
    place.hear(1, Trees(BLOB, (1,), 1))
    place.hear(2, SOURCE)
    assert place.hear(2, Adopt(BLOB, 0, 1)) == [(1, Detach(BLOB, 0))]
    assert place.hear(1, Adopt(BLOB, 0, 2)) == [(1, Detach(BLOB, 0))]
    assert place.parents == {0: 2}


def test_a_complete_node_looks_for_no_parent():
    place = Place(0, 1)
    place.open()
    place.exchange.transfers[BLOB].chunks_found(full_mask(COUNT))
    assert place.hear(1, Trees(BLOB, (1, 1), 8)) == []
    assert place.hear(1, SOURCE) == []


def test_a_blob_that_is_not_open_here_has_no_places():
    place = Place(0, 1)
    assert place.hear(1, Attach(BLOB, (2, 3))) == [(1, Redirect(BLOB, 2)), (1, Redirect(BLOB, 3))]
    assert place.hear(1, Attach(BLOB, ())) == [(1, Redirect(BLOB, 0))]
    assert place.hear(1, Adopt(BLOB, 0, 2)) == [(1, Detach(BLOB, 0))]
    assert place.hear(1, Redirect(BLOB, 0)) == place.hear(1, Detach(BLOB, 0)) == []


def test_a_peer_may_speak_of_few_unknown_blobs():
    place = Place(0, 1)
    for number in range(CONFIG.early_blobs_per_peer_max):
        place.hear(1, Trees(digest_of(b"blob %d" % number), (0,), 1))
    place.hear(1, SOURCE)
    place.hear(1, Trees(digest_of(b"another blob"), (0,), 1))
    assert len(place.forest._early[peer(1)]) == CONFIG.early_blobs_per_peer_max
    assert place.open() == [(1, Attach(BLOB, ()))]


# --- children ---


def test_a_child_is_one_deeper():
    place = child_of(1, depth=3, others=(2,), is_small=False)
    assert place.hear(2, Attach(BLOB, (0,))) == [(2, Adopt(BLOB, 0, 4))]
    assert place.children == {(0, 2)}


def test_who_is_not_taken_is_told_of_the_children():
    place = child_of(1, others=(2, 3), is_small=False)
    place.hear(2, Attach(BLOB, (0,)))
    place.uplinks(1, 1000, 1000, 1000)  # room for nobody else
    assert place.hear(3, Attach(BLOB, (0,))) == [(3, Redirect(BLOB, 0, (peer(2),)))]


def test_each_stripe_is_answered_by_itself():
    place = child_of(1, others=(2,))
    assert place.hear(2, Attach(BLOB, (0, 1))) == [(2, Adopt(BLOB, 0, 2)), (2, Redirect(BLOB, 1))]


def test_a_node_that_waits_for_a_parent_adopts_nobody():
    place = Place(0, 1, 2)
    place.open()
    place.hear(1, Trees(BLOB, (1,), 1))
    assert place.hear(2, Attach(BLOB, (0,))) == [(2, Redirect(BLOB, 0))]


def test_a_node_that_loses_its_parent_lets_its_children_go_and_looks_for_another():
    place = child_of(1, 1, others=(2, 3))
    place.hear(2, Attach(BLOB, (0, 1)))
    place.hear(3, Trees(BLOB, (1, 1), 1))
    said = place.hear(1, Detach(BLOB, 0))
    assert said == [(2, Detach(BLOB, 0)), (3, Attach(BLOB, (0,)))]
    assert place.children == {(1, 2)}
    assert place.parents == {1: 1}


def test_a_parent_that_detached_is_left_alone_for_a_while():
    place = child_of(1)
    assert place.hear(1, Detach(BLOB, 0)) == []
    assert (1, Attach(BLOB, (0,))) in place.wait(CONFIG.attach_patience_s)


def test_a_parent_that_is_gone_is_replaced_in_all_its_stripes():
    place = child_of(1, 1, others=(2, 3))
    place.hear(2, Attach(BLOB, (0, 1)))
    place.hear(3, Trees(BLOB, (1, 1), 1))
    said = place.gone(1)
    assert [message for to, message in said if to == 2] == [Detach(BLOB, 0), Detach(BLOB, 1)]
    assert {stripe for to, message in said if to == 3 for stripe in message.stripes} == {0, 1}


def test_a_child_that_is_gone_is_forgotten():
    place = child_of(1, others=(2,))
    place.hear(2, Attach(BLOB, (0,)))
    place.gone(2)
    assert place.children == set()


def test_a_child_that_detaches_is_let_go_in_that_stripe():
    place = child_of(1, 1, others=(2,))
    place.hear(2, Attach(BLOB, (0, 1)))
    assert place.hear(2, Detach(BLOB, 0)) == []
    assert place.children == {(1, 2)}


def test_an_edge_that_is_none_is_ended_without_harm():
    place = child_of(1, others=(2,))
    assert place.hear(2, Detach(BLOB, 0)) == place.hear(1, Detach(BLOB, 3)) == []
    assert place.parents == {0: 1}


def test_who_leaves_the_trees_tells_parents_and_children():
    place = child_of(1, others=(2,))
    place.hear(2, Attach(BLOB, (0,)))
    assert place.close() == [(1, Detach(BLOB, 0)), (2, Detach(BLOB, 0))]
    assert place.close() == []


# --- what others are told ---


def test_a_place_in_which_children_are_fed_is_told_after_a_moment():
    place = child_of(1, depth=1, others=(2,))
    assert place.forest.next_s <= place.now_s + CONFIG.trees_interval_s
    told = place.wait(CONFIG.trees_interval_s)
    assert told == [(1, Trees(BLOB, (1,), CONFIG.stripes)), (2, Trees(BLOB, (1,), CONFIG.stripes))]
    assert place.wait(CONFIG.trees_interval_s) == []


def test_a_root_tells_of_its_place_at_once():
    place = Place(0, 1, 2, is_small=True)
    place.open()
    place.hear(1, Trees(BLOB, (0,), CONFIG.stripes))
    place.hear(1, Adopt(BLOB, 3, 1))
    assert place.forest.next_s <= place.now_s
    assert (2, Trees(BLOB, (0, 0, 0, 1), CONFIG.stripes)) in place.wait(0.0)


def test_a_place_in_which_nobody_can_be_fed_is_not_told():
    place = child_of(1, depth=2, others=(2,))
    assert place.wait(CONFIG.trees_interval_s) == []


def test_a_place_that_is_lost_is_told():
    place = child_of(1, others=(2,))
    place.wait(CONFIG.trees_interval_s)
    place.gone(1)
    assert (2, Trees(BLOB, (), CONFIG.stripes)) in place.wait(CONFIG.trees_interval_s)


def test_who_has_everything_is_not_told_of_places():
    place = child_of(1, others=(2,))
    place.exchange.transfers[BLOB].holder_has(peer(2), full_mask(COUNT), is_snapshot=True)
    assert [to for to, _ in place.wait(CONFIG.trees_interval_s)] == [1]


def test_a_new_neighbour_is_told_what_the_others_were():
    place = child_of(1)
    assert place.came(2) == []
    place.wait(CONFIG.trees_interval_s)
    assert place.came(3) == [(3, Trees(BLOB, (1,), CONFIG.stripes))]


# --- room ---


#: is small, own uplink, uplinks of the neighbours, room as a share of the stripes
ROOM = {
    "nobody knows": (True, 0, (), 1.0),
    "we do not know ours": (False, 0, (100, 100), 1.0),
    "equal uplinks in a small swarm": (True, 100, (100, 100), 1.0),
    "twice the mean in a small swarm": (True, 300, (100, 50), 2.0),
    "a slow one in a small swarm": (True, 100, (250, 250, 200), 0.5),
    "equal uplinks in a large swarm": (False, 100, (100, 100), CONFIG.tree_share),
    "a slow one in a large swarm": (False, 10, (100, 100), 0.0),
}


@pytest.mark.parametrize(("is_small", "own", "others", "expected"), ROOM.values(), ids=ROOM)
def test_room_goes_with_the_share_in_the_uplinks_around(is_small, own, others, expected):
    place = Place(0, *range(1, len(others) + 1), is_small=is_small)
    place.uplinks(own, *others)
    assert place.forest.room() == int(CONFIG.stripes * expected)


# --- well fed ---


def test_a_node_is_well_fed_with_a_parent_in_every_stripe_that_it_knows_of():
    place = child_of(1, 2, others=(3,))
    assert place.forest.is_well_fed(BLOB)
    place.hear(3, Trees(BLOB, (0, 0, 1), 1))
    assert not place.forest.is_well_fed(BLOB)
    place.hear(3, Adopt(BLOB, 2, 2))
    assert place.forest.is_well_fed(BLOB)


def test_in_a_large_swarm_nobody_relies_on_the_trees_alone():
    assert not child_of(1, is_small=False).forest.is_well_fed(BLOB)


def test_without_a_parent_a_node_is_not_well_fed():
    place = Place(0, 1)
    assert not place.forest.is_well_fed(BLOB)
    place.open()
    assert not place.forest.is_well_fed(BLOB)

"""The neighbourships of a node, through `Machine.handle` alone."""

from __future__ import annotations

import pytest

from shardcast_proto.hashing import digest_of
from shardcast_proto.messages import Attach, GetHead, Goodbye, Hello, Peers, Rate, Want
from shardcast_relay import RelayConfig
from shardcast_relay.events import (
    BlobOpened,
    ChannelJoined,
    DialFailed,
    GoodbyeReceived,
    HelloReceived,
    PeerConnected,
    PeerDisconnected,
    PeersReceived,
    Started,
)

from .parts import BLOB, CHANNEL, CHUNK, SELF, Node, contact, dials, hangups, peer, sent

CONFIG = RelayConfig()
FULL = tuple(range(1, CONFIG.active_view_max + 1))


def active(node: Node) -> set[str]:
    return set(node.machine.membership.active)


def started(*numbers: int) -> tuple[Node, list]:
    """A node that knows these contacts."""
    node = Node()
    return node, node.tell(Started(b"own record", tuple(contact(number) for number in numbers)))


def kinds(commands: list, to: int) -> list[type]:
    return [type(message) for message in sent(commands, to)]


def test_a_node_dials_its_bootstrap_contacts():
    assert set(dials(started(1, 2)[1])) == {peer(1), peer(2)}


def test_a_node_does_not_dial_more_at_once_than_the_limit():
    assert len(dials(started(*range(1, 20))[1])) == CONFIG.dials_max


def test_a_node_does_not_dial_itself_or_somebody_without_an_address():
    node = Node()
    nowhere = contact(1).__class__(peer(1), b"record", (), ())
    own = contact(0)
    assert own.peer == SELF
    assert dials(node.tell(Started(b"own record", (own, nowhere)))) == []


def test_the_side_that_dialled_says_hello_first_and_urgently_when_it_is_alone():
    node, _ = started(1)
    assert sent(node.tell(PeerConnected(peer(1))), 1) == [Hello(b"own record", (CHANNEL,), is_urgent=True)]


def test_the_side_that_was_dialled_waits_for_the_hello():
    assert sent(Node().tell(PeerConnected(peer(1)))) == []


def test_a_hello_is_answered_by_a_hello_and_the_question_for_the_newest_head():
    commands = Node().meet(1)
    assert sent(commands, 1) == [Hello(b"own record", (CHANNEL,)), GetHead(CHANNEL)]


def test_a_new_neighbour_is_asked_what_it_has_of_what_is_missing_here():
    node = Node()
    node.open(4)
    assert Want in kinds(node.meet(1), 1)


def test_a_neighbour_that_does_not_follow_our_channel_is_not_asked_for_its_head():
    node = Node()
    node.tell(PeerConnected(peer(1)))
    assert GetHead not in kinds(node.tell(HelloReceived(peer(1), contact(1), ())), 1)


def test_a_channel_joined_later_is_asked_about_at_once():
    node = Node()
    node.meet(1)
    other = digest_of(b"other channel")
    assert sent(node.tell(ChannelJoined(other)), 1) == [GetHead(other)]


def test_a_newcomer_is_told_of_others_and_its_record_walks():
    node = Node()
    node.meet(1, 2, 3)
    commands = node.meet(4)
    assert Peers in kinds(commands, 4)
    walks = [(message.records, message.walk) for n in (1, 2, 3) for message in sent(commands, n)]
    assert walks == [((contact(4).record,), CONFIG.walk_hops)] * CONFIG.walks_per_join


def test_a_walking_record_is_passed_on_with_one_hop_less():
    node = Node()
    node.meet(1, 2)
    commands = node.tell(PeersReceived(peer(1), (contact(9),), walk=3))
    assert sent(commands, 2) == [Peers((contact(9).record,), 2)]


def test_a_record_at_the_end_of_its_walk_is_dialled():
    node = Node()
    node.meet(1, 2)
    commands = node.tell(PeersReceived(peer(1), (contact(9),), walk=1))
    assert (sent(commands), dials(commands)) == ([], [peer(9)])


def test_a_full_view_declines_a_newcomer_that_is_not_in_need():
    node = Node()
    node.meet(*FULL)
    commands = node.meet(20)
    assert kinds(commands, 20) == [Goodbye]
    assert active(node) == {peer(number) for number in FULL}


def test_a_full_view_makes_room_for_a_newcomer_in_need():
    node = Node()
    node.meet(*FULL)
    commands = node.hello(20, is_urgent=True)
    assert peer(20) in active(node)
    assert len(active(node)) == CONFIG.active_view_max
    gone = [number for number in FULL if peer(number) not in active(node)]
    assert len(gone) == 1
    assert Goodbye in kinds(commands, gone[0])


def test_who_feeds_us_or_is_fed_does_not_go_for_a_newcomer_in_need():
    node = Node()
    node.meet(*FULL)
    node.tell(BlobOpened(BLOB, 4, CHUNK, 15, is_source=True))
    for number in FULL[:8]:
        node.hear(number, Want(BLOB), Attach(BLOB, ()))
    node.hello(20, is_urgent=True)
    assert {peer(number) for number in FULL[:8]} <= active(node)
    assert peer(20) in active(node)


def test_a_goodbye_names_others_to_try():
    node = Node()
    node.meet(*FULL)
    (goodbye,) = sent(node.meet(20), 20)
    assert isinstance(goodbye, Goodbye)
    assert 0 < len(goodbye.records) <= CONFIG.shuffle_sample
    assert contact(20).record not in goodbye.records


def test_a_goodbye_ends_the_neighbourship_and_its_connection_and_a_replacement_is_dialled():
    node = Node()
    node.meet(1)
    commands = node.tell(GoodbyeReceived(peer(1), "my view is full", (contact(2),)))
    assert active(node) == set()
    assert hangups(commands) == [peer(1)]
    assert dials(commands) == [peer(2)]


def test_who_said_goodbye_is_left_alone_for_a_while():
    node = Node()
    node.meet(1)
    node.tell(GoodbyeReceived(peer(1), "my view is full"), PeerDisconnected(peer(1)))
    assert dials(node.wait(CONFIG.redial_backoff_s - 3)) == []
    assert dials(node.wait(6)) == [peer(1)]


def test_a_lost_neighbour_is_replaced_and_remembered():
    node = Node()
    node.meet(1)
    node.tell(PeersReceived(peer(1), (contact(2),)))
    assert dials(node.wait(3)) == [peer(2)]
    node.tell(PeerDisconnected(peer(1)))
    assert dials(node.wait(3)) == [peer(1)]


def test_a_contact_that_cannot_be_dialled_is_forgotten_and_the_next_one_tried():
    node = Node()
    node.meet(1)
    node.tell(PeersReceived(peer(1), tuple(contact(number) for number in range(2, 10))))
    first = dials(node.wait(2.5))
    assert len(first) == CONFIG.dials_max
    commands = node.tell(DialFailed(first[0], "unreachable"))
    assert len(dials(commands)) == 1
    assert first[0] not in node.machine.membership.passive


def test_a_node_without_neighbours_dials_its_bootstrap_contact_again_soon_and_then_less_often():
    node, _ = started(1)
    pauses_s = []
    for _ in range(8):
        failed_s = node.now_s
        node.tell(DialFailed(peer(1), "refused"))
        while not dials(node.wait(0.25)):
            assert node.now_s < failed_s + CONFIG.redial_backoff_s + 3
        pauses_s.append(node.now_s - failed_s)
    assert pauses_s[0] <= 2 * CONFIG.retry_backoff_s + CONFIG.reconcile_interval_s
    assert pauses_s[-1] >= CONFIG.redial_backoff_s


def test_a_node_with_neighbours_leaves_a_bootstrap_contact_that_cannot_be_dialled_alone():
    node, _ = started(1, 2)
    node.meet(2)
    node.tell(DialFailed(peer(1), "refused"))
    assert dials(node.wait(CONFIG.redial_backoff_s - 3)) == []


def test_a_silent_neighbour_is_dropped():
    node = Node()
    node.meet(1, 2)
    commands = node.keep_alive(CONFIG.silence_max_s + 5, 2)
    assert hangups(commands) == [peer(1)]
    assert active(node) == {peer(2)}


def test_a_connection_that_never_becomes_a_neighbourship_is_closed():
    node = Node()
    node.meet(1)
    node.tell(PeerConnected(peer(2)))
    assert hangups(node.keep_alive(CONFIG.silence_max_s + 5, 1)) == [peer(2)]
    assert peer(2) not in node.machine.membership.connected


def test_neighbours_hear_a_heartbeat():
    node = Node()
    node.meet(1)
    beats = [message for message in sent(node.keep_alive(21, 1), 1) if isinstance(message, Rate)]
    assert len(beats) == 4


def test_a_few_neighbours_are_asked_for_their_head_every_few_seconds():
    node = Node()
    node.meet(1, 2, 3, 4)
    asked = [message for message in sent(node.wait(2.5)) if isinstance(message, GetHead)]
    assert len(asked) == CONFIG.reconcile_neighbours


def test_what_is_known_of_others_is_shuffled_now_and_then():
    node = Node()
    node.meet(1, 2)
    assert any(isinstance(message, Peers) for message in sent(node.wait(CONFIG.shuffle_interval_s + 0.5)))


def test_a_node_stops_looking_when_it_has_enough_neighbours():
    node = Node()
    node.meet(*range(1, CONFIG.active_view_aim + 1))
    node.tell(PeersReceived(peer(1), tuple(contact(number) for number in range(20, 30))))
    assert dials(node.wait(2.5)) == []


def test_the_passive_view_is_capped():
    node = Node()
    node.meet(1)
    for start in range(100, 400, 10):
        node.tell(PeersReceived(peer(1), tuple(contact(number) for number in range(start, start + 10))))
    assert len(node.machine.membership.passive) == CONFIG.passive_view_max


def test_the_newest_record_of_a_contact_is_kept():
    node = Node()
    node.meet(1)
    for issued_s in (5, 9, 7):
        node.tell(PeersReceived(peer(1), (contact(2, issued_s=issued_s),)))
    assert node.machine.membership.passive[peer(2)].issued_s == 9


def test_a_node_never_remembers_itself():
    node = Node()
    node.meet(1)
    node.tell(PeersReceived(peer(1), (contact(0),)))
    assert SELF not in node.machine.membership.passive


@pytest.mark.parametrize(("claimed", "real"), [(2, 1), (0, 1), (0, 0)])
def test_a_peer_that_presents_itself_as_somebody_else_is_hung_up_on(claimed, real):
    node = Node()
    commands = node.tell(PeerConnected(peer(real)), HelloReceived(peer(real), contact(claimed), (CHANNEL,)))
    assert hangups(commands) == [peer(real)]
    assert active(node) == set()


def test_two_hellos_that_crossed_are_not_answered_for_ever():
    node = Node()
    node.meet(1)
    assert sent(node.hello(1)) == []


def test_a_neighbour_that_has_forgotten_us_is_greeted_anew():
    node = Node()
    node.open(4)
    node.meet(1)
    node.holds(1)
    node.now_s += CONFIG.hello_patience_s
    commands = node.hello(1)
    assert kinds(commands, 1)[:2] == [Hello, Want]
    assert node.machine.exchange.transfers[next(iter(node.machine.exchange.transfers))].holders == {}
    assert sent(node.hello(1)) == []


def test_a_hello_that_was_not_answered_is_said_again():
    node, _ = started(1)
    node.tell(PeerConnected(peer(1)))
    again = [message for message in sent(node.wait(6.0), 1) if isinstance(message, Hello)]
    assert len(again) == 1


def test_a_second_report_of_one_connection_changes_nothing():
    node = Node()
    node.meet(1)
    assert node.tell(PeerConnected(peer(1))) == []
    assert active(node) == {peer(1)}


def test_a_flood_of_goodbyes_from_new_names_leaves_little_behind():
    node = Node()
    node.meet(1)
    for number in range(100, 1400):
        node.machine.handle(GoodbyeReceived(peer(number), "", ()), now_s=node.now_s)
    node.machine.check()
    assert len(node.machine.membership.resting) <= node.machine.config.resting_max
    assert len(node.machine.membership.connected) == 1


def test_a_flood_of_hellos_from_new_names_leaves_little_behind():
    node = Node()
    for number in range(100, 1500):
        node.machine.handle(PeerConnected(peer(number)), now_s=node.now_s)
        hello = HelloReceived(peer(number), contact(number), (CHANNEL,), is_urgent=bool(number % 2))
        node.machine.handle(hello, now_s=node.now_s)
        node.machine.handle(PeerDisconnected(peer(number)), now_s=node.now_s)
    node.machine.check()
    machine = node.machine
    sizes = [len(machine.downloads.reputations), len(machine.downloads.rates), len(machine.membership.resting)]
    assert max(sizes) <= 1024 + CONFIG.active_view_max
    assert len(machine.membership.connected) == 0

"""What goes out unasked: first copies of a source, what a parent passes on. Through `Machine.handle` alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shardcast_proto.bitmap import full_mask
from shardcast_proto.hashing import digest_of
from shardcast_proto.messages import Adopt, Attach, Cancel, Detach, Done, Have, Omit, Redirect, Skip, Trees, Want
from shardcast_relay import RelayConfig
from shardcast_relay.commands import Command, PushChunk
from shardcast_relay.events import (
    BlobClosed,
    BlobOpened,
    LinkClosed,
    LinkOpened,
    Outcome,
    PeerDisconnected,
    PushArrived,
    PushBegan,
    PushEnded,
    Started,
    Ticked,
)

from .parts import BLOB, CHUNK, Node, only, peer, sent

CONFIG = RelayConfig()
#: The number of the node that feeds us.
PARENT = 9
STRIPE = 0


def pushes(commands: Sequence[Command], to: int | None = None) -> list[PushChunk]:
    """Return the pushes ordered, to one peer or to all."""
    return [push for push in only(PushChunk, commands) if to is None or push.peer == peer(to)]


def indices(commands: Sequence[Command], to: int | None = None) -> list[int]:
    """Return the chunks that are pushed, to one peer or to all, in order."""
    return [push.index for push in pushes(commands, to)]


def is_shown(commands: Sequence[Command], to: int) -> bool:
    """Whether a peer is told that everything is here."""
    return Done(BLOB) in sent(commands, to)


def link(node: Node, number: int) -> list[Command]:
    """Let the sending link to a neighbour come up."""
    return node.tell(LinkOpened(peer(number), True))


def on_way(node: Node, to: int | None = None) -> list[int]:
    """Return the ids of the pushes that have not ended, to one peer or to all."""
    return [push_id for push_id, push in node.machine.pushes._on_way.items() if to is None or push.peer == peer(to)]


def unlink(node: Node, number: int) -> list[Command]:
    """Let the sending link break; what is on its way over it ends, and what is ordered meanwhile."""
    commands = node.tell(*(PushEnded(push_id, Outcome.SHORT) for push_id in on_way(node, number)))
    commands += node.tell(LinkClosed(peer(number), True))
    return commands + node.tell(*(PushEnded(push_id, Outcome.SHORT) for push_id in on_way(node, number)))


def publish(node: Node, count: int) -> list[Command]:
    """Open a blob as its source."""
    return node.tell(BlobOpened(BLOB, count, CHUNK, full_mask(count), is_source=True))


def take(node: Node, *orders: PushChunk, outcome: Outcome = Outcome.DONE) -> list[Command]:
    """Let pushes end."""
    return node.tell(*(PushEnded(push.push_id, outcome) for push in orders))


def take_all(node: Node, to: int | None = None) -> list[Command]:
    """Let all pushes end well, those that follow too, to one peer or to all."""
    commands: list[Command] = []
    while ids := on_way(node, to):
        commands += node.tell(*(PushEnded(push_id, Outcome.DONE) for push_id in ids))
    return commands


def root(node: Node, number: int) -> list[Command]:
    """Let a neighbour want the blob and become the root of a stripe."""
    return node.hear(number, Want(BLOB), Attach(BLOB, ())) + node.tell(Ticked())


def source_of(count: int, *roots: int, others: int = 1) -> tuple[Node, list[Command]]:
    """A source with these roots, linked, and as many more neighbours that want the blob; and what it orders at first."""
    node = Node()
    node.meet(*roots, *range(20, 20 + others))
    publish(node, count)
    for number in range(20, 20 + others):
        node.hear(number, Want(BLOB))
    commands: list[Command] = []
    for number in roots:
        link(node, number)
        commands += root(node, number)
    return node, commands


def relay_of(count: int, *children: int, config: RelayConfig | None = None, up_bytes_per_s: int = 0) -> Node:
    """A node with a parent that is a root, and children in one stripe, linked."""
    node = Node(config=config)
    node.tell(Started(b"own record", up_bytes_per_s=up_bytes_per_s))
    node.meet(PARENT, *children)
    node.tell(BlobOpened(BLOB, count, CHUNK, 0))
    node.hear(PARENT, Trees(BLOB, (0,), CONFIG.stripes))
    node.hear(PARENT, Adopt(BLOB, STRIPE, 1))
    for number in children:
        assert Adopt(BLOB, STRIPE, 2) in sent(node.hear(number, Want(BLOB), Attach(BLOB, (STRIPE,))), number)
        link(node, number)
    return node


def come(node: Node, *chunks: int, stripe: int = STRIPE, outcome: Outcome = Outcome.DONE) -> list[Command]:
    """Let chunks arrive from the parent."""
    commands: list[Command] = []
    for index in chunks:
        commands += node.tell(
            PushBegan(peer(PARENT), BLOB, stripe, index),
            PushArrived(peer(PARENT), BLOB, stripe, index, outcome, CHUNK),
        )
    return commands


# --- a source ---


def test_a_root_gets_first_copies_when_it_has_a_link_and_wants_the_blob():
    node = Node()
    node.meet(1)
    publish(node, 20)
    assert pushes(link(node, 1)) == []
    assert indices(root(node, 1)) == list(range(CONFIG.push_window))


def test_a_root_that_has_not_said_that_it_wants_the_blob_gets_nothing_yet():
    node = Node()
    node.meet(1)
    publish(node, 20)
    link(node, 1)
    assert pushes(node.hear(1, Attach(BLOB, ()))) == []
    assert pushes(node.hear(1, Want(BLOB))) != []


def test_a_root_without_a_link_gets_its_first_copies_when_the_link_is_up():
    node = Node()
    node.meet(1)
    publish(node, 20)
    assert pushes(root(node, 1)) == []
    assert indices(link(node, 1)) == list(range(CONFIG.push_window))


def test_a_push_names_its_stripe_its_deadline_and_its_cause():
    node, commands = source_of(20, 1)
    push = pushes(commands)[0]
    assert (push.peer, push.blob, push.stripe) == (peer(1), BLOB, 0)
    assert push.deadline_s == node.now_s + CONFIG.push_deadline_s
    assert push.cause in {entry.event_id for entry in node.machine.story.about()}


def test_first_copies_never_exceed_the_window_and_stop_when_credit_does():
    node, commands = source_of(100, 1)
    waiting, given = pushes(commands), []
    while waiting:
        assert len(waiting) <= CONFIG.push_window
        given.append(waiting[0].index)
        waiting = waiting[1:] + pushes(take(node, waiting[0]))
    assert given == list(range(CONFIG.credit_first))


def test_a_root_gains_nothing_by_saying_that_it_holds_what_it_was_given():
    node, _ = source_of(100, 1)
    take_all(node)
    out = node.machine.pushes.sources[BLOB].out
    assert pushes(node.holds(1, (0, CONFIG.credit_first))) == []
    assert node.machine.pushes.sources[BLOB].out == out


def test_a_root_gains_by_what_a_third_node_holds():
    node, _ = source_of(100, 1)
    take_all(node)
    assert indices(node.holds(20, (0, 1)), 1) == [CONFIG.credit_first]


def test_the_only_node_that_lacks_something_is_taken_at_its_word():
    node, _ = source_of(100, 1, others=0)
    take_all(node)
    assert indices(node.holds(1, (0, CONFIG.credit_first))) != []


def test_a_third_node_that_is_complete_cannot_confirm():
    node, _ = source_of(100, 1)
    take_all(node)
    node.hear(20, Have(BLOB, ((0, 100),)))  # complete, though it has not said Done
    take_all(node)
    given = node.machine.pushes.sources[BLOB].out
    assert given
    node.hear(1, Have(BLOB, ((0, 100),)))
    assert node.machine.pushes.sources[BLOB].out & given == 0


def test_each_chunk_goes_to_one_root():
    _, commands = source_of(3 * CONFIG.push_window, 1, 2, 3)
    assert sorted(indices(commands)) == list(range(3 * CONFIG.push_window))
    assert {push.peer for push in pushes(commands)} == {peer(1), peer(2), peer(3)}


def test_what_a_root_holds_is_not_pushed_to_it():
    node = Node()
    node.meet(1)
    publish(node, 10)
    link(node, 1)
    assert min(indices(node.hear(1, Want(BLOB, ((4, 6),)), Attach(BLOB, ())))) == 4


def test_a_push_that_did_not_leave_is_handed_out_again():
    node, commands = source_of(CONFIG.push_window, 1)
    first = pushes(commands)[0]
    again = take(node, first, outcome=Outcome.STALLED) + node.wait(1.0)
    assert indices(again)[:1] == [first.index]


def test_the_pushes_of_a_link_that_is_lost_are_handed_out_to_another():
    node, commands = source_of(2 * CONFIG.push_window, 1, 2)
    lost = indices(commands, 1)
    took = unlink(node, 1) + take_all(node, 2)
    assert sorted(indices(commands + took, 2)) == list(range(2 * CONFIG.push_window))
    assert set(lost) <= set(indices(took, 2))


def test_the_pushes_of_a_root_that_leaves_are_handed_out_to_another():
    node, commands = source_of(2 * CONFIG.push_window, 1, 2)
    lost, kept = pushes(commands, 1), pushes(commands, 2)
    assert pushes(node.tell(PeerDisconnected(peer(1)))) == []
    assert sorted(indices(take(node, *kept), 2)) == sorted(push.index for push in lost)
    assert take(node, *lost, outcome=Outcome.SHORT) == []


def test_a_root_that_passes_nothing_on_is_dismissed_in_the_end_and_gets_no_stripe_again():
    node, commands = source_of(4, 1)
    while not (told := [message for message in sent(commands, 1) if isinstance(message, Detach)]):
        commands = take_all(node) + node.keep_alive(1, 1, 20)
    assert told == [Detach(BLOB, 0)]
    assert node.machine.pushes.sources[BLOB].repeated_count > 0
    assert sent(node.hear(1, Attach(BLOB, ())), 1) == [Redirect(BLOB, 0)]


def test_what_a_root_holds_and_does_not_pass_on_is_handed_out_to_another():
    node, commands = source_of(1, 1, 2)
    (first,) = pushes(commands)
    take(node, first)
    node.holds(1, (0, 1))
    again = pushes(node.keep_alive(CONFIG.credit_deadline_s + 2, 1, 2, 20))
    assert [(push.peer, push.index) for push in again][:1] == [(peer(2), 0)]


def test_the_newest_version_is_handed_out_first():
    newer = digest_of(b"newer blob")
    node = Node()
    node.meet(1)
    publish(node, 20)
    node.tell(BlobOpened(newer, 20, CHUNK, full_mask(20), 5, is_source=True))
    for blob in (BLOB, newer):
        node.hear(1, Want(blob), Attach(blob, ()))
    assert {push.blob for push in pushes(link(node, 1))} == {newer}


def test_a_blob_that_is_closed_is_handed_out_no_further():
    node, commands = source_of(20, 1)
    node.tell(BlobClosed(BLOB))
    assert pushes(take(node, *pushes(commands))) == []


# --- what a source shows ---


def test_a_source_shows_nothing_before_it_has_handed_out():
    node = Node()
    node.meet(1)
    assert not is_shown(publish(node, 40), 1)
    assert sent(node.hear(1, Want(BLOB)), 1) == [Have(BLOB, (), is_snapshot=True)]
    assert not is_shown(node.meet(2), 2)


def test_a_source_shows_everything_when_all_is_handed_out():
    node, commands = source_of(CONFIG.push_window, 1)
    assert node.machine.pushes.sources[BLOB].is_handed_out
    commands += node.wait(CONFIG.source_patience_s)
    assert is_shown(commands, 1) and is_shown(commands, 20)
    assert node.machine.exchange.transfers[BLOB].shown == full_mask(CONFIG.push_window)


def test_a_source_that_hands_out_shows_nothing_however_long_it_takes():
    node, told = source_of(400, 1)
    for step in range(int(4 * CONFIG.source_patience_s / 0.1)):
        told += take_all(node) + node.holds(20, (0, step + 1)) + node.wait(0.1)
    assert node.machine.pushes.sources[BLOB].todo
    assert not is_shown(told, 20)


def test_a_source_that_is_wanted_and_has_no_root_with_a_link_lets_itself_be_pulled_from():
    node = Node()
    node.meet(1)
    publish(node, 400)
    root(node, 1)
    assert not is_shown(node.wait(CONFIG.source_patience_s * 0.9), 1)
    assert is_shown(node.wait(CONFIG.source_patience_s * 0.2), 1)
    assert sent(node.hear(1, Want(BLOB)) + node.wait(1.0), 1) != []


def test_a_source_that_nobody_wants_waits():
    node = Node()
    node.meet(1)
    publish(node, 400)
    assert not is_shown(node.keep_alive(5 * CONFIG.source_patience_s, 1), 1)
    node.hear(1, Want(BLOB))
    assert is_shown(node.wait(2 * CONFIG.source_patience_s), 1)


def test_a_source_whose_only_root_loses_its_link_lets_itself_be_pulled_from():
    node, _ = source_of(400, 1)
    node.wait(0.5)
    unlink(node, 1)
    assert is_shown(node.wait(2 * CONFIG.source_patience_s), 20)


def test_a_source_that_was_opened_incomplete_is_none():
    node = Node()
    node.meet(1)
    node.tell(BlobOpened(BLOB, 4, CHUNK, 0b0011, is_source=True))
    assert node.machine.pushes.sources == {}
    assert sent(node.hear(1, Want(BLOB)), 1) == [Have(BLOB, ((0, 2),), is_snapshot=True)]


# --- a parent ---


def test_a_chunk_that_came_by_a_stripe_is_passed_on_to_the_children_there():
    node = relay_of(20, 1, 2)
    assert {push.peer for push in pushes(come(node, 5))} == {peer(1), peer(2)}
    assert indices(come(node, 6, stripe=STRIPE + 1)) == []


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.DONE])
def test_a_chunk_that_did_not_come_is_not_passed_on(outcome):
    assert pushes(come(relay_of(20, 1), 5, outcome=outcome)) == []


def test_a_chunk_that_came_twice_is_passed_on_once():
    node = relay_of(20, 1)
    assert indices(come(node, 5, 5)) == [5]


def test_a_child_that_holds_the_chunk_is_not_pushed_to():
    node = relay_of(20, 1, 2)
    node.holds(1, (5, 1))
    assert [push.peer for push in pushes(come(node, 5))] == [peer(2)]


def test_children_come_first_in_turn():
    node = relay_of(20, 1, 2)
    first = [pushes(come(node, index))[0].peer for index in (4, 5)]
    assert sorted(first) == sorted([peer(1), peer(2)])


def test_pushes_to_a_child_never_exceed_the_window():
    node = relay_of(40, 1)
    waiting = pushes(come(node, *range(10)))
    assert len(waiting) == CONFIG.push_window
    given = []
    while waiting:
        given.append(waiting[0].index)
        waiting = waiting[1:] + pushes(take(node, waiting[0]))
        assert len(waiting) <= CONFIG.push_window
    assert given == list(range(10))


def test_a_slow_child_does_not_keep_the_others_waiting():
    node = relay_of(40, 1, 2)
    given = []
    waiting: list[PushChunk] = []
    for index in range(10):
        waiting += pushes(come(node, index), 2)
        given += [push.index for push in waiting]
        waiting = pushes(take(node, *waiting), 2)
    assert sorted(given + [push.index for push in waiting]) == list(range(10))


def test_what_is_too_much_for_a_child_is_left_to_the_mesh():
    config = RelayConfig(backlog_bytes_max=3 * CHUNK)
    node = relay_of(40, 1, config=config)
    waiting = pushes(come(node, *range(20)))
    given = []
    while waiting:
        given.append(waiting[0].index)
        waiting = waiting[1:] + pushes(take(node, waiting[0]))
    assert given == list(range(config.push_window + 3))
    assert node.machine.pushes.backlogs[peer(1)].overflow_count == 20 - len(given)


def test_a_child_is_told_what_is_too_much_for_it():
    node = relay_of(20, 1, 2, config=RelayConfig(backlog_bytes_max=3 * CHUNK))
    commands = come(node, *range(CONFIG.push_window + 3))
    assert not any(isinstance(message, Omit) for message in sent(commands, 1))
    link_of_2 = take_all(node, 2)
    commands = come(node, 10, 11)
    assert [message for message in sent(commands, 1) if isinstance(message, Omit)] == [
        Omit(BLOB, ((10, 1),)),
        Omit(BLOB, ((11, 1),)),
    ]
    assert indices(link_of_2 + commands, 2)[-2:] == [10, 11]
    assert not any(isinstance(message, Omit) for message in sent(commands, 2))


def test_children_share_what_our_uplink_sends_in_the_time_of_the_backlog():
    config = RelayConfig(backlog_s=1.0, backlog_chunks_min=0)
    node = relay_of(40, 1, 2, config=config, up_bytes_per_s=8 * CHUNK)
    come(node, *range(20))
    assert [node.machine.pushes.backlogs[peer(number)].waiting_count for number in (1, 2)] == [4, 4]


def test_a_chunk_that_the_child_has_from_elsewhere_meanwhile_is_dropped():
    node = relay_of(20, 1)
    commands = come(node, *range(5))
    node.hear(1, Have(BLOB, ((3, 1),)))
    assert indices(commands + take_all(node)) == [0, 1, 2, 4]


def test_skip_drops_what_waits_and_keeps_out_what_comes():
    node = relay_of(20, 1)
    commands = come(node, *range(5))
    node.hear(1, Skip(BLOB, ((3, 1), (7, 1))))
    commands += come(node, 6, 7)
    assert indices(commands + take_all(node)) == [0, 1, 2, 4, 6]


def test_a_child_that_is_not_linked_is_pushed_to_when_it_is():
    node = relay_of(20, 1)
    unlink(node, 1)
    assert pushes(come(node, 3)) == []
    assert indices(link(node, 1)) == [3]


def test_what_waited_for_a_link_that_is_lost_is_left_to_the_mesh():
    node = relay_of(20, 1)
    come(node, *range(5))
    unlink(node, 1)
    assert pushes(link(node, 1)) == []
    assert indices(come(node, 7)) == [7]


def test_a_child_that_left_is_pushed_to_no_more():
    node = relay_of(20, 1)
    node.hear(1, Detach(BLOB, STRIPE))
    assert pushes(come(node, 3)) == []


def test_a_neighbour_that_left_is_forgotten_when_its_last_push_has_ended():
    node = relay_of(20, 1)
    lost = pushes(come(node, 3))
    node.tell(PeerDisconnected(peer(1)))
    assert peer(1) in node.machine.pushes.backlogs
    take(node, *lost, outcome=Outcome.SHORT)
    assert peer(1) not in node.machine.pushes.backlogs


def test_an_ending_that_comes_twice_counts_once():
    node = relay_of(20, 1)
    (push,) = pushes(come(node, 3))
    take(node, push)
    assert take(node, push) == []


def test_a_closed_blob_is_not_pushed():
    node = relay_of(20, 1)
    waiting = pushes(come(node, *range(5)))
    node.tell(BlobClosed(BLOB))
    assert pushes(take(node, *waiting)) == []


def test_a_root_that_wants_the_blob_no_more_gets_nothing():
    node, commands = source_of(40, 1)
    node.hear(1, Cancel(BLOB))
    assert pushes(take(node, *pushes(commands))) == []

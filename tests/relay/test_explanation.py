"""What a machine says of a blob: where it stands, and why it stands still."""

from __future__ import annotations

from shardcast_proto.messages import Adopt, Attach, Detach, Trees, Want
from shardcast_relay.events import (
    BlobOpened,
    LinkOpened,
    Outcome,
    PeerDisconnected,
    PushArrived,
    PushBegan,
)
from shardcast_relay.transfer import Transfer
from tests.relay.parts import BLOB, CHUNK, Node, fetches, peer


def said(node: Node) -> str:
    return node.machine.explain(BLOB)


def fed_node() -> Node:
    """A node with two neighbours: 1 is the source, 2 feeds it in stripe 3."""
    node = Node()
    node.meet(1, 2)
    node.open(8)
    node.hear(2, Trees(BLOB, (0, 0, 0, 1), 8))
    node.hear(2, Adopt(BLOB, 3, 2))
    node.hear(1, Trees(BLOB, (0,), 8))
    assert node.machine.trees.parents(BLOB) == [peer(2)]
    return node


def lose(node: Node, number: int, *runs: tuple[int, int]) -> None:
    """Let a neighbour say that it holds chunks, be asked for them, and be gone."""
    (fetch,) = fetches(node.holds(number, *runs))
    node.end(fetch, Outcome.SHORT)
    node.tell(PeerDisconnected(peer(number)))


def push(node: Node, index: int) -> None:
    node.tell(PushBegan(peer(2), BLOB, 3, index), PushArrived(peer(2), BLOB, 3, index, Outcome.DONE, CHUNK, True))


def test_a_blob_that_nobody_was_told_of_is_not_known():
    assert said(Node()) == "not known here"


def test_a_node_alone_says_so():
    node = Node()
    node.open(3, 0b1)
    assert said(node) == "2 chunks missing, no neighbour"


def test_chunks_that_no_neighbour_holds_are_counted():
    node = Node()
    node.meet(1)
    node.open(3)
    assert said(node) == "waiting for a holder of 3 chunks: the one neighbour does not hold them"
    node.meet(2, 3)
    assert said(node) == "waiting for a holder of 3 chunks: none of the 3 neighbours holds them"


def test_a_holder_that_left_is_named_with_the_time_since():
    node = Node()
    node.meet(1, 2)
    node.open(3)
    lose(node, 1, (0, 2))
    node.keep_alive(12, 2)
    assert said(node) == f"waiting for a holder of 3 chunks: last seen at {peer(1)}, 12 s ago"
    node.tell(PeerDisconnected(peer(2)))
    assert said(node).endswith(", 12 s ago; no neighbour")


def test_a_source_that_left_before_it_showed_anything_is_named():
    node = fed_node()
    node.tell(PeerDisconnected(peer(1)))
    node.hear(2, Detach(BLOB, 3))
    assert f"last seen at {peer(1)}, " in said(node)


def test_a_holder_that_came_back_is_no_lost_one():
    node = Node()
    node.meet(1)
    node.open(3)
    lose(node, 1)
    assert f"last seen at {peer(1)}" in said(node)
    node.wait(120.0)
    node.meet(1)
    node.holds(1)
    assert node.machine.downloads.transfers[BLOB].lost == {}


def test_who_feeds_is_said_with_the_pace():
    node = fed_node()
    node.keep_alive(1, 1, 2)
    for index in range(3):
        push(node, index)
    node.keep_alive(1, 1, 2)
    assert said(node) == "fed by 1 parent, 3 chunks a second; 5 chunks missing"
    node.keep_alive(3, 1, 2)
    assert said(node) == "fed by 1 parent, nothing comes; 5 chunks missing, 5 of them not handed out by the source yet"


def test_a_pull_is_said():
    node = Node()
    node.meet(1)
    node.open(3)
    assert fetches(node.holds(1))
    assert said(node) == "pulled from 1 neighbour; 3 chunks missing"


def test_holders_that_failed_are_said_to_rest():
    node = Node()
    node.meet(1)
    node.open(2)
    (fetch,) = fetches(node.holds(1))
    node.end(fetch, Outcome.STALLED)
    assert said(node).startswith("2 chunks missing, the neighbour that holds them failed of late: asked again in ")


def test_a_disk_that_refuses_is_said():
    node = Node()
    node.meet(1)
    node.open(2)
    (fetch,) = fetches(node.holds(1))
    node.end(fetch, Outcome.STORE)
    assert said(node).startswith("our disk refused what came, tried again in ")


def test_a_source_says_how_far_the_handing_out_is():
    node = Node()
    node.meet(1, 2)
    node.tell(BlobOpened(BLOB, 4, CHUNK, 0b1111, 0, is_source=True))
    assert said(node) == "complete", "nobody has asked for it"
    node.hear(1, Want(BLOB, ()))
    assert said(node) == "the source hands out: 4 chunks to go, no stripe has a root"
    node.hear(1, Attach(BLOB, ()))
    node.tell(LinkOpened(peer(1), True))
    out = node.machine.pushes.sources[BLOB].out.bit_count()
    assert 0 < out < 4
    assert said(node) == f"the source hands out: {4 - out} chunks to go, {out} chunks to be passed on, 1 stripe"


# --- what is remembered ---


def transfer(mask: int = 0) -> Transfer:
    made = Transfer(BLOB, chunk_count=64, chunk_bytes=CHUNK, mask=mask, priority=0)
    made.ripen(10.0, 0.0)
    return made


def test_lost_holders_are_remembered_in_order_and_not_without_end():
    books = transfer()
    for number in range(20):
        books.holder_has(peer(number), 1 << number | 1 << 63, is_snapshot=True)
        books.ripen(10.0 + number, 0.0)
        books.holder_left(peer(number))
    assert len(books.lost) == 8
    assert books.last_holder(1 << 63) == (peer(19), 29.0)
    assert books.last_holder(1 << 12) == (peer(12), 22.0)
    assert books.last_holder(1 << 11) is None, "forgotten"


def test_what_is_held_here_or_there_again_was_not_lost():
    books = transfer(mask=0b11)
    books.holder_has(peer(1), 0b11, is_snapshot=True)
    books.holder_left(peer(1))
    assert books.lost == {}
    books.holder_has(peer(1), 0b1100, is_snapshot=True)
    books.holder_lacks(peer(1), 0b1100)
    assert books.last_holder(0b100) == (peer(1), 10.0)
    books.holder_has(peer(1), 0b100, is_snapshot=False)
    assert books.last_holder(0b100) is None and books.last_holder(0b1000) == (peer(1), 10.0)
    books.holder_has(peer(1), 0b1000, is_snapshot=False)
    assert books.lost == {}


def test_the_pace_is_of_the_last_whole_second():
    books = transfer()
    for index in range(5):
        books.chunk_verified(index)
    books.ripen(10.9, 0.0)
    assert books.pace_per_s == 0
    books.ripen(11.0, 0.0)
    assert books.pace_per_s == 5
    books.ripen(13.0, 0.0)
    assert books.pace_per_s == 0

"""A root that passes nothing on loses its place among the source's neighbours, where there are others to take it."""

from __future__ import annotations

from shardcast_proto.bitmap import full_mask
from shardcast_proto.messages import Attach, Want
from shardcast_relay import RelayConfig
from shardcast_relay.commands import Command, PushChunk
from shardcast_relay.events import (
    BlobOpened,
    LinkOpened,
    Outcome,
    PeerConnected,
    PeerDisconnected,
    PeersReceived,
    PushEnded,
)

from .parts import BLOB, CHUNK, Node, contact, hangups, only, peer

CONFIG = RelayConfig()
ROOT, OTHER = 1, 20


def source_that_knows_of(others: int) -> tuple[Node, list[Command]]:
    """A source with a root, a neighbour that wants the blob, and so many contacts more; and what it orders at first."""
    node = Node()
    node.meet(ROOT, OTHER)
    node.tell(PeersReceived(peer(OTHER), tuple(contact(30 + number) for number in range(others)), 0))
    node.tell(BlobOpened(BLOB, 4, CHUNK, full_mask(4), is_source=True))
    node.hear(OTHER, Want(BLOB))
    node.tell(LinkOpened(peer(ROOT), True))
    return node, node.hear(ROOT, Want(BLOB), Attach(BLOB, ()))


def pass_nothing_on(node: Node, commands: list[Command], seconds: int) -> list[Command]:
    """Let time pass in which pushes leave and no third node has them; return all that is ordered."""
    ordered = list(commands)
    waiting = only(PushChunk, commands)
    for _ in range(seconds):
        while waiting:
            commands = node.tell(PushEnded(waiting.pop(0).push_id, Outcome.DONE))
            ordered += commands
            waiting += only(PushChunk, commands)
        commands = node.keep_alive(1, ROOT, OTHER)
        ordered += commands
        waiting += only(PushChunk, commands)
    return ordered


def test_a_dismissed_root_loses_its_place_and_gets_none_for_a_while():
    node, commands = source_that_knows_of(5)
    assert hangups(pass_nothing_on(node, commands, 40)) == [peer(ROOT)]
    node.tell(PeerDisconnected(peer(ROOT)), PeerConnected(peer(ROOT)))
    assert hangups(node.hello(ROOT, is_urgent=True)) == [peer(ROOT)]
    assert peer(ROOT) not in node.machine.membership.active
    node.keep_alive(CONFIG.quarantine_s, OTHER)
    node.tell(PeerConnected(peer(ROOT)))
    node.hello(ROOT)
    assert peer(ROOT) in node.machine.membership.active


def test_in_a_small_swarm_a_dismissed_root_stays_a_neighbour():
    node, commands = source_that_knows_of(0)
    assert hangups(pass_nothing_on(node, commands, 40)) == []
    assert peer(ROOT) in node.machine.membership.active
    assert node.machine.trees.blobs[BLOB].dismissed

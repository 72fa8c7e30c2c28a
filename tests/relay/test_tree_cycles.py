"""Four forests that talk to each other: no edges that both ends name close a cycle, whatever is lost or late."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardcast_proto.messages import Message
from shardcast_relay import RelayConfig
from shardcast_relay.outbox import Outbox

from .parts import BLOB
from .test_tree import Place, Said

CONFIG = RelayConfig()


class FourForests(RuleBasedStateMachine):
    """A source and three nodes that all know each other; messages come in any order, late, or never.

    Each node has room for one child, so that the only tree is a chain: whoever attaches anew finds room at its own descendants.
    """

    NODES = range(4)
    STRIPES = 1

    def __init__(self) -> None:
        super().__init__()
        config = RelayConfig(stripes=self.STRIPES, interior_stripes=self.STRIPES)
        self.places = [
            Place(number, *(other for other in self.NODES if other != number), is_small=False, config=config)
            for number in self.NODES
        ]
        self.on_way: list[tuple[int, int, Message]] = []
        for number in self.NODES:
            self.post(number, self.places[number].open(is_source=number == 0))

    def post(self, sender: int, said: Said) -> None:
        self.on_way += [(sender, to, message) for to, message in said]

    def deliver(self, position: int) -> None:
        sender, to, message = self.on_way.pop(position)
        self.post(to, self.places[to].hear(sender, message))

    @precondition(lambda self: self.on_way)
    @rule(data=st.data())
    def a_message_comes(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.integers(0, len(self.on_way) - 1)))

    @precondition(lambda self: self.on_way)
    @rule()
    def all_messages_come(self) -> None:
        for _ in range(len(self.on_way)):
            self.deliver(0)

    @rule()
    def all_is_quiet(self) -> None:
        """Let everything arrive, and time pass, until each has found its place: a chain."""
        for _ in range(4):
            while self.on_way:
                self.deliver(0)
            for number in self.NODES:
                self.time_passes(number, CONFIG.attach_patience_s)

    @precondition(lambda self: self.on_way)
    @rule(data=st.data())
    def a_message_is_lost(self, data: st.DataObject) -> None:
        del self.on_way[data.draw(st.integers(0, len(self.on_way) - 1))]

    @rule(number=st.sampled_from(NODES), seconds=st.sampled_from([CONFIG.trees_interval_s, CONFIG.attach_patience_s]))
    def time_passes(self, number: int, seconds: float) -> None:
        self.post(number, self.places[number].wait(seconds))

    @rule(ends=st.permutations(NODES))
    def a_connection_is_lost_and_made_anew(self, ends: list[int]) -> None:
        one, other = ends[:2]
        self.on_way = [entry for entry in self.on_way if {one, other} != set(entry[:2])]
        self.post(one, self.places[one].gone(other))
        self.post(other, self.places[other].gone(one))
        self.on_way = [entry for entry in self.on_way if {one, other} != set(entry[:2])]
        self.post(one, self.places[one].came(other))
        self.post(other, self.places[other].came(one))

    @rule(number=st.sampled_from(NODES[1:]))
    def a_node_closes_the_blob_and_opens_it_again(self, number: int) -> None:
        self.post(number, self.places[number].close())
        self.post(number, self.places[number].open())

    @rule(stripe=st.integers(0, STRIPES - 1))
    def a_root_is_dismissed(self, stripe: int) -> None:
        out = Outbox(1)
        self.places[0].forest.dismiss(BLOB, stripe, out)
        self.post(0, self.places[0].said(out))
        self.places[0].forest.blobs[BLOB].dismissed.clear()  # with so few nodes nobody would be left to be a root

    @invariant()
    def edges_that_both_ends_name_form_no_cycle(self) -> None:
        for stripe in range(self.STRIPES):
            above = {
                number: place.parents[stripe]
                for number, place in enumerate(self.places)
                if stripe in place.parents and (stripe, number) in self.places[place.parents[stripe]].children
            }
            for number in above:
                path = [number]
                while path[-1] in above:
                    path.append(above[path[-1]])
                    assert path[-1] not in path[:-1], f"a cycle in stripe {stripe}: {path}"


TestFourForests = FourForests.TestCase
TestFourForests.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)

"""Gossip between real hosts on 127.0.0.1."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from shardcast_proto.errors import LocalProtocolError
from shardcast_proto.limits import GOSSIP_BYTES_MAX
from tests.loopback.p2p_hosts import Node, nodes

TOPIC = "/shardcast/1/" + "ab" * 32


async def test_gossip_reaches_a_third_node_through_the_middle_one() -> None:
    async with nodes(3) as (a, b, c):
        await _line(a, b, c)
        await _publish_until_heard(a, c, b"news")
        assert {event[2] for event in c.heard.of("gossip")} == {a.id}
        assert not c.heard.of("connected", a.id)


async def test_a_node_does_not_hear_itself_and_hears_each_message_once() -> None:
    async with nodes(3) as (a, b, c):
        await _line(a, b, c)
        await a.link(c)
        await _publish_until_heard(a, c, b"news")
        for text in (b"one", b"two", b"three"):
            await a.p2p.publish(TOPIC, text)
        for node in (b, c):
            await node.heard.until_count(1, "gossip", TOPIC, a.id, b"three")
            assert [len(node.heard.of("gossip", TOPIC, a.id, text)) for text in (b"one", b"two", b"three")] == [1, 1, 1]
        assert not a.heard.of("gossip")


async def test_what_the_validator_refuses_is_neither_delivered_nor_passed_on() -> None:
    def no_lies(_topic: str, data: bytes) -> bool:
        return not data.startswith(b"lie")

    async with nodes(3, validate=[lambda t, d: True, no_lies]) as (a, b, c):
        await _line(a, b, c)
        await _publish_until_heard(a, c, b"news")
        await a.p2p.publish(TOPIC, b"lie")
        await _publish_until_heard(a, c, b"more news")
        for node in (b, c):
            assert not node.heard.of("gossip", TOPIC, a.id, b"lie")


async def test_a_validator_that_raises_refuses_the_message_and_harms_nobody() -> None:
    def broken(_topic: str, data: bytes) -> bool:
        if data.startswith(b"odd"):
            raise ValueError("a bug in the validator")
        return True

    async with nodes(2, validate=[lambda t, d: True, broken]) as (a, b):
        await _line(a, b)
        await _publish_until_heard(a, b, b"news")
        await a.p2p.publish(TOPIC, b"odd")
        await _publish_until_heard(a, b, b"more news")
        assert not b.heard.of("gossip", TOPIC, a.id, b"odd")


async def test_the_largest_message_arrives_and_a_larger_one_is_refused() -> None:
    async with nodes(2) as (a, b):
        await _line(a, b)
        await _publish_until_heard(a, b, bytes(GOSSIP_BYTES_MAX))
        with pytest.raises(LocalProtocolError, match="4097 bytes"):
            await a.p2p.publish(TOPIC, bytes(GOSSIP_BYTES_MAX + 1))


async def test_topics_are_apart() -> None:
    async with nodes(2) as (a, b):
        await _line(a, b)
        await a.p2p.subscribe("other")
        await a.p2p.publish("other", b"not for b")
        await _publish_until_heard(a, b, b"news")
        assert not b.heard.of("gossip", "other")


async def _line(*line: Node) -> None:
    for node in line:
        await node.p2p.subscribe(TOPIC)
    for left, right in itertools.pairwise(line):
        await left.link(right)


async def _publish_until_heard(origin: Node, hearer: Node, data: bytes) -> None:
    """Publish until it arrives: gossip is a hint, the mesh needs a moment to form."""
    async with asyncio.timeout(15):
        while not hearer.heard.of("gossip", TOPIC, origin.id, data):
            await origin.p2p.publish(TOPIC, data)
            try:
                await hearer.heard.until_count(1, "gossip", TOPIC, origin.id, data, timeout_s=0.5)
            except TimeoutError:
                continue

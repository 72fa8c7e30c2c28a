"""Chunks over real libp2p connections: what comes through, what is capped, what a bad peer costs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from libp2p.network.stream.exceptions import StreamError

from shardcast.p2p import P2pLimits, P2pNode
from shardcast.p2p.uploads import PIECE_BYTES_MAX, ServeFn, Upload
from shardcast_proto.carriage import (
    PROTOCOL_ID,
    Answer,
    ChunkRequest,
    ObjectRequest,
    Status,
    encode_answer,
    encode_request,
)
from shardcast_proto.errors import RemoteProtocolError, TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId
from tests.loopback.p2p_hosts import LOOPBACK, Node, RawHost, Recorder, raw_host

pytestmark = pytest.mark.timeout(60)

D = Digest(b"d" * 32)
BODY = os.urandom(3 * 1024 * 1024 + 17)


class Taken:
    """A receiver that keeps everything."""

    def __init__(self, length_max: int = 1 << 30) -> None:
        self.length_max = length_max
        self.parts: list[bytes] = []
        self.has_begun = asyncio.Event()

    def judge(self, answer: Answer) -> None:
        if answer.length > self.length_max:
            raise RemoteProtocolError("too much")

    def began(self, answer: Answer) -> None:
        self.has_begun.set()

    def received(self, data: bytes) -> None:
        self.parts.append(data)

    @property
    def digest(self) -> Digest:
        return digest_of(b"".join(self.parts))


async def serve_body(upload: Upload) -> None:
    """Answer everything with the body."""
    await upload.answer(Answer(Status.OK, 1, len(BODY)))
    for start in range(0, len(BODY), PIECE_BYTES_MAX):
        await upload.send(BODY[start : start + PIECE_BYTES_MAX])


class Gate:
    """Serves the head of a body, and the rest once it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def serve(self, upload: Upload) -> None:
        await upload.answer(Answer(Status.OK, 1, 2))
        await upload.send(b"a")
        self.waiting += 1
        await self.opened.wait()
        await upload.send(b"b")


@asynccontextmanager
async def nodes(*serving: ServeFn | None, limits: P2pLimits | None = None) -> AsyncIterator[list[Node]]:
    started: list[Node] = []
    try:
        for serve in serving:
            heard = Recorder()
            p2p = P2pNode(
                os.urandom(32),
                LOOPBACK,
                announce=None,
                events=heard,
                validate=lambda topic, data: True,
                limits=limits or P2pLimits(),
                serve=serve,
            )
            started.append(Node(p2p, heard, await p2p.start()))
        yield started
    finally:
        for node in started:
            await node.p2p.aclose()


async def carry(node: Node, peer: PeerId, receiver: Taken, *, idle_timeout_s: float = 5.0) -> Answer:
    return await node.p2p.carry(peer, ObjectRequest(D), receiver, idle_timeout_s=idle_timeout_s)


async def reason_of(node: Node, peer: PeerId, receiver: Taken | None = None, *, idle_timeout_s: float = 5.0) -> str:
    with pytest.raises(TransferError) as caught:
        await carry(node, peer, receiver or Taken(), idle_timeout_s=idle_timeout_s)
    return str(caught.value.facts["reason"])


async def test_a_body_is_carried_in_both_directions_of_one_connection_whoever_dialled_it() -> None:
    async with nodes(serve_body, serve_body) as (one, other):
        await one.link(other)
        there, back = Taken(), Taken()
        answers = await asyncio.gather(carry(one, other.id, there), carry(other, one.id, back))
        assert list(answers) == [Answer(Status.OK, 1, len(BODY))] * 2
        assert there.digest == back.digest == digest_of(BODY)


async def test_the_server_sees_who_asks_and_for_what() -> None:
    seen: list[tuple[PeerId, object]] = []

    async def serve(upload: Upload) -> None:
        seen.append((upload.peer, upload.request))
        await upload.answer(Answer(Status.MISSING))

    async with nodes(None, serve) as (one, other):
        await one.link(other)
        request = ChunkRequest(D, 7, 3)
        assert (await one.p2p.carry(other.id, request, Taken(), idle_timeout_s=5)).status is Status.MISSING
        assert seen == [(one.id, request)]


async def test_a_peer_has_one_stream_and_the_second_is_told_that_it_is_busy() -> None:
    gate = Gate()
    async with nodes(None, gate.serve) as (one, other):
        await one.link(other)
        first = Taken()
        running = asyncio.ensure_future(carry(one, other.id, first))
        await first.has_begun.wait()
        assert (await carry(one, other.id, Taken())).status is Status.BUSY
        gate.opened.set()
        assert (await running).status is Status.OK and first.parts == [b"a", b"b"]
        gate.opened.clear()
        again = Taken()
        running = asyncio.ensure_future(carry(one, other.id, again))
        await again.has_begun.wait()  # the place is free again
        running.cancel()


async def test_all_peers_together_have_a_few_streams() -> None:
    gate = Gate()
    async with nodes(gate.serve, None, None, None, limits=P2pLimits(carried_uploads_max=2)) as (server, *others):
        takers = [Taken() for _ in others]
        for other in others:
            await other.link(server)
        running = [asyncio.ensure_future(carry(others[i], server.id, takers[i])) for i in range(2)]
        for taker in takers[:2]:
            await taker.has_begun.wait()
        assert (await carry(others[2], server.id, takers[2])).status is Status.BUSY
        gate.opened.set()
        assert [answer.status for answer in await asyncio.gather(*running)] == [Status.OK] * 2


async def test_nobody_is_dialled_to_carry_and_who_does_not_carry_is_unreachable() -> None:
    async with nodes(None, None) as (one, other):
        assert await reason_of(one, other.id) == "unreachable"
        await one.link(other)
        assert await reason_of(one, other.id) == "unreachable"


async def test_an_answer_that_is_none_to_the_question_is_refused_before_its_body() -> None:
    async with nodes(None, serve_body) as (one, other):
        await one.link(other)
        receiver = Taken(length_max=10)
        assert await reason_of(one, other.id, receiver) == "protocol"
        assert receiver.parts == []


async def test_a_server_that_fails_in_mid_body_is_short_and_the_next_request_is_served() -> None:
    fails = True

    async def serve(upload: Upload) -> None:
        await upload.answer(Answer(Status.OK, 1, 2))
        await upload.send(b"a")
        if fails:
            raise TransferError("the disk is gone")
        await upload.send(b"b")

    async with nodes(None, serve) as (one, other):
        await one.link(other)
        assert await reason_of(one, other.id) == "short"
        fails = False
        assert (await carry(one, other.id, Taken())).status is Status.OK


async def test_a_server_that_falls_silent_is_stalled_after_the_idle_timeout() -> None:
    gate = Gate()
    async with nodes(None, gate.serve) as (one, other):
        await one.link(other)
        started_s = time.monotonic()
        assert await reason_of(one, other.id, idle_timeout_s=0.5) == "stalled"
        assert time.monotonic() - started_s < 3


async def test_a_cancelled_fetch_frees_the_servers_place_and_keeps_the_connection() -> None:
    async def serve(upload: Upload) -> None:
        await upload.answer(Answer(Status.OK, 1, 1 << 30))
        while True:
            await upload.send(bytes(PIECE_BYTES_MAX))

    async with nodes(None, serve) as (one, other):
        await one.link(other)
        for _ in range(3):
            receiver = Taken()
            running = asyncio.ensure_future(carry(one, other.id, receiver))
            done, _ = await asyncio.wait({running, asyncio.ensure_future(receiver.has_begun.wait())}, timeout=5)
            assert running not in done
            running.cancel()
            await asyncio.wait({running})
            await free_again(one, other)
        assert one.p2p.peers == (other.id,) and one.p2p.send(other.id, b"still here")
        await other.heard.until_count(1, "frame", one.id)


async def free_again(one: Node, other: Node) -> None:
    """Wait until `other` carries for `one` again."""
    async with asyncio.timeout(5):
        while True:
            receiver = Taken(length_max=0)
            try:
                answer = await carry(one, other.id, receiver)
            except TransferError:
                return  # judged, so it was served
            assert answer.status is Status.BUSY
            await asyncio.sleep(0.02)


async def test_closing_a_node_ends_its_uploads_within_two_seconds() -> None:
    gate = Gate()
    async with nodes(None, gate.serve) as (one, other):
        await one.link(other)
        receiver = Taken()
        running = asyncio.ensure_future(reason_of(one, other.id, receiver))
        await receiver.has_begun.wait()
        started_s = time.monotonic()
        await other.p2p.aclose()
        assert time.monotonic() - started_s < 2
        assert await running in ("short", "stalled")


async def test_a_peer_that_asks_and_does_not_read_loses_its_stream_and_others_are_served() -> None:
    limits = P2pLimits(carried_uploads_max=1, carried_stall_s=1.0)
    async with nodes(serve_body, None, limits=limits) as (server, other), raw_host() as raw:
        await raw.connect(server)
        stream = await raw.open(server, PROTOCOL_ID)
        await raw.call(stream.write, encode_request(ObjectRequest(D)))
        await other.link(server)
        async with asyncio.timeout(10):
            while (await carry(other, server.id, Taken())).status is Status.BUSY:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "junk",
    [b"\xff" * 64, b"\x00\x00\x00\x01\xc0", b"\x00\x00\x00\x00", os.urandom(4096)],
    ids=["ff", "nil", "empty", "random"],
)
async def test_a_request_that_is_none_costs_the_stream_and_nothing_else(junk: bytes) -> None:
    async with nodes(serve_body, None) as (server, other), raw_host() as raw:
        await raw.connect(server)
        stream = await raw.open(server, PROTOCOL_ID)
        await raw.call(stream.write, junk)
        with pytest.raises(StreamError):
            await raw.call(stream.read, 1)
        await other.link(server)
        receiver = Taken()
        await carry(other, server.id, receiver)
        assert receiver.digest == digest_of(BODY)


async def test_a_stream_that_asks_for_nothing_is_reset_after_a_while() -> None:
    async with nodes(serve_body, limits=P2pLimits(carried_request_s=0.5)) as (server,), raw_host() as raw:
        await raw.connect(server)
        stream = await raw.open(server, PROTOCOL_ID)
        async with asyncio.timeout(5):
            with pytest.raises(StreamError):
                await raw.call(stream.read, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc0",
        encode_answer(Answer(Status.OK, 1, 2)) + b"abc",
        encode_answer(Answer(Status.MISSING)) + b"a",
    ],
    ids=["a huge frame", "nil", "a body too long", "a body after a refusal"],
)
async def test_an_answer_that_is_none_is_a_protocol_error(answer: bytes) -> None:
    async with nodes(None) as (one,), raw_host() as raw:
        await answer_with(raw, answer)
        await raw.connect(one)
        peer = PeerId(str(await raw.call(_own_id, raw)))
        assert await reason_of(one, peer) == "protocol"


async def answer_with(raw: RawHost, data: bytes) -> None:
    """Let a raw host answer every carriage request with these bytes."""

    async def handle(stream: object) -> None:
        await stream.read(256)  # type: ignore[attr-defined]
        await stream.write(data)  # type: ignore[attr-defined]

    async def install() -> None:
        raw.host.set_stream_handler(PROTOCOL_ID, handle)

    await raw.call(install)


async def _own_id(raw: RawHost) -> object:
    return raw.host.get_id()

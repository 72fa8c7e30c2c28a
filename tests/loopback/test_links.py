"""Bulk links over real sockets: what two tables do with each other, and with those who are no honest table."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from shardcast.http.data_client import DataClient
from shardcast_proto.bulk import (
    ANSWER_BYTES,
    ChunkHead,
    Opening,
    encode_head,
)
from shardcast_proto.errors import TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from tests.loopback.data_plane import BLOB, BYTES, CHUNK, LENGTHS, Landed, expected
from tests.loopback.link_pair import KEYS, End, Owner, ends, linked

SOON: dict[str, Any] = {"deadline_s": 10.0, "idle_timeout_s": 10.0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "blob"
    file.write_bytes(BYTES)
    return file


@pytest.mark.parametrize("opener_sends", [True, False])
async def test_either_end_opens_a_link_in_either_direction(path: Path, opener_sends: bool) -> None:
    async with ends(path) as (one, other):
        await one.links.open(other.peer, [other.base], is_sending=opener_sends, timeout_s=5)
        await other.owner.until(lambda: ("opened", one.peer, not opener_sends) in other.owner.told)
        assert one.owner.told == [("opened", other.peer, opener_sends)]
        sender, receiver = (one, other) if opener_sends else (other, one)
        assert receiver.links.has(sender.peer, is_sending=False)
        assert not receiver.links.has(sender.peer, is_sending=True)
        await sender.links.push(receiver.peer, BLOB, 3, 5, deadline_s=5)
        await receiver.owner.until(lambda: ("arrived", 5, 3) in receiver.owner.told)
        assert receiver.owner.chunks == expected(5, 1)


async def test_pushes_arrive_whole_and_in_order(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        await asyncio.gather(*(sender.links.push(receiver.peer, BLOB, 0, at, deadline_s=5) for at in range(100)))
        await receiver.owner.until(lambda: len(receiver.owner.chunks) == 100)
        assert receiver.owner.chunks == expected(0, 100)
        assert list(receiver.owner.chunks) == list(range(100))
        assert sum(sender.sent) == len(BYTES)
        assert receiver.links.stats()[0].received_bytes == sender.links.stats()[0].sent_bytes == len(BYTES)


async def test_runs_are_fetched_beside_pushes(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        landed, more = Landed(), Landed()
        counts = await asyncio.gather(
            receiver.links.fetch_run(sender.peer, BLOB, 0, LENGTHS[:40], on_chunk=landed, **SOON),
            receiver.links.fetch_run(sender.peer, BLOB, 90, LENGTHS[90:], on_chunk=more, **SOON),
            *(sender.links.push(receiver.peer, BLOB, 0, at, deadline_s=5) for at in range(40, 60)),
        )
        assert counts[:2] == [40, 10]
        assert landed.chunks == expected(0, 40) and more.chunks == expected(90, 10)
        await receiver.owner.until(lambda: len(receiver.owner.chunks) == 20)


async def test_a_run_ends_where_the_peer_holds_no_more(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        sender.source.lacking = {7}
        landed = Landed()
        assert await receiver.links.fetch_run(sender.peer, BLOB, 5, LENGTHS[5:15], on_chunk=landed, **SOON) == 2
        assert await reason_of(
            receiver.links.fetch_run(sender.peer, BLOB, 7, LENGTHS[7:9], on_chunk=landed, **SOON)
        ) == ("missing")
        assert await reason_of(sender.links.push(receiver.peer, BLOB, 0, 7, deadline_s=5)) == "missing"


async def test_a_ninth_run_at_once_finds_the_peer_busy(path: Path) -> None:
    async with linked(path, answers_max=2) as (sender, receiver):
        held = asyncio.Event()

        async def hold(index: int, segments: object) -> None:
            await held.wait()

        sender.bucket.set_rate(CHUNK)  # nothing is done soon
        sender.bucket.reserve(2**20)
        tasks = [
            asyncio.create_task(
                receiver.links.fetch_run(sender.peer, BLOB, at, LENGTHS[at : at + 1], on_chunk=hold, **SOON)
            )
            for at in range(3)
        ]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [task.exception().facts["reason"] for task in done] == ["busy"] and len(waiting) == 2
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_what_is_cancelled_is_not_sent_and_the_link_goes_on(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        sender.bucket.set_rate(1.0)  # nobody gets a token before the test is over
        began = asyncio.Event()
        fetch = asyncio.create_task(
            receiver.links.fetch_run(sender.peer, BLOB, 0, LENGTHS[:60], on_chunk=Landed(), on_began=began.set, **SOON)
        )
        sender.bucket.reserve(2**20)
        await began.wait()
        fetch.cancel()
        await asyncio.wait([fetch])
        assert receiver.links.send(sender.peer, b"after the cancel")
        await sender.owner.until(lambda: ("frame", receiver.peer, b"after the cancel") in sender.owner.told)
        sent = sum(sender.sent)
        assert sent < 60 * CHUNK
        assert sender.links.has(receiver.peer, is_sending=True) and fetch.cancelled()


async def test_messages_go_both_ways_over_one_link_and_stop_at_a_limit(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        for end, other in ((sender, receiver), (receiver, sender)):
            assert end.links.send(other.peer, b"hello")
            assert not end.links.send(other.peer, b"x" * (64 * 1024 + 1)), "too long for a link"
            await other.owner.told_of("frame", end.peer, b"hello")
        assert not sender.links.send(KEYS[2].peer, b"hello"), "there is no link"
        stats = sender.links.stats()[0]
        assert (stats.control_sent_bytes, stats.control_received_bytes) == (10, 5)


async def test_uploads_are_paced_by_the_bucket(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        taken: list[int] = []
        sender.bucket.set_rate(100e6)
        reserve = sender.bucket.reserve

        def note(size_bytes: int) -> float:
            taken.append(size_bytes)
            return reserve(size_bytes)

        sender.bucket.reserve = note  # type: ignore[method-assign]
        await asyncio.gather(*(sender.links.push(receiver.peer, BLOB, 0, at, deadline_s=5) for at in range(10)))
        assert sum(taken) == sum(sender.sent) == 10 * CHUNK


async def test_a_reader_that_stops_ends_the_push_and_the_link(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * 2**20)
    async with linked(path, stall_timeout_s=0.2, waiting_bytes_max=1) as (sender, receiver):
        sender.source.lengths = receiver.owner.lengths = [8 * 2**20] * 8
        receiver.owner.may_land.clear()
        pushes = [sender.links.push(receiver.peer, BLOB, 0, at, deadline_s=30) for at in range(8)]
        ends_ = await asyncio.gather(*pushes, return_exceptions=True)
        assert "stalled" in [error.facts["reason"] for error in ends_ if isinstance(error, TransferError)]
        await sender.owner.until(lambda: ("closed", receiver.peer, True) in sender.owner.told)
        receiver.owner.may_land.set()
        await receiver.owner.until(lambda: ("closed", sender.peer, False) in receiver.owner.told)


async def test_everything_under_way_ends_before_the_link_is_said_to_be_closed(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        sender.bucket.set_rate(1.0)
        sender.bucket.reserve(2**20)
        began = asyncio.Event()

        async def fetch() -> None:
            reason = await reason_of(
                receiver.links.fetch_run(
                    sender.peer, BLOB, 0, LENGTHS[:9], on_chunk=Landed(), on_began=began.set, **SOON
                )
            )
            receiver.owner._note("fetch", reason)

        async def push() -> None:
            sender.owner._note("push", await reason_of(sender.links.push(receiver.peer, BLOB, 0, 1, deadline_s=9)))

        tasks = [asyncio.create_task(fetch())]
        await began.wait()
        tasks.append(asyncio.create_task(push()))
        await asyncio.sleep(0)
        receiver.links.close(sender.peer, is_sending=False)
        await asyncio.wait(tasks)
        for end, other, is_sending in ((receiver, sender, False), (sender, receiver, True)):
            await end.owner.told_of("closed", other.peer, is_sending)
        assert receiver.owner.told[1:] == [("fetch", "short"), ("closed", sender.peer, False)]
        assert sender.owner.told[1:] == [("push", "short"), ("closed", receiver.peer, True)]


async def test_http_on_the_same_port_still_works(path: Path) -> None:
    async with linked(path) as (sender, receiver):
        client, landed = DataClient(), Landed()
        assert await client.fetch_run(sender.base, BLOB, 0, LENGTHS[:3], on_chunk=landed, **SOON) == 3
        assert landed.chunks == expected(0, 3)
        assert sender.server.connection_count == 2
        await client.aclose()
        receiver.links.close(sender.peer, is_sending=False)
        await sender.owner.until(lambda: ("closed", receiver.peer, True) in sender.owner.told)
        await until(lambda: sender.server.connection_count == 0)


# --- who is refused ---


async def test_a_peer_that_is_no_neighbour_is_refused(path: Path) -> None:
    async with ends(path) as (one, other):
        other.strangers.add(one.peer)
        assert await reason_of(one.links.open(other.peer, [other.base], is_sending=True, timeout_s=5)) == "busy"
        assert other.owner.told == []


async def test_a_peer_at_the_address_of_another_is_refused(path: Path) -> None:
    async with ends(path) as (one, other):
        assert await reason_of(one.links.open(KEYS[2].peer, [other.base], is_sending=True, timeout_s=5)) == "busy"
        assert (
            await reason_of(one.links.open(other.peer, ["127.0.0.1:1"], is_sending=True, timeout_s=5)) == "unreachable"
        )
        assert await reason_of(one.links.open(other.peer, ["host:80"], is_sending=True, timeout_s=5)) == "unreachable"
        assert await reason_of(one.links.open(other.peer, [], is_sending=True, timeout_s=5)) == "unreachable"


async def test_a_replayed_preamble_is_refused(path: Path) -> None:
    async with ends(path) as (one, other):
        opening = Opening(KEYS[0], other.peer, b"n" * 32, is_sending=True)
        reader, writer = await asyncio.open_connection(*other.base.split(":"))
        writer.write(opening.hello)
        proof = opening.prove(await reader.readexactly(ANSWER_BYTES))
        writer.write(proof)
        await other.owner.until(lambda: ("opened", one.peer, False) in other.owner.told)
        again, replay = await asyncio.open_connection(*other.base.split(":"))
        replay.write(opening.hello)
        await again.readexactly(ANSWER_BYTES)
        replay.write(proof)
        assert await closed(again)
        assert other.owner.told == [("opened", one.peer, False)]
        writer.close()
        replay.close()


BAD_BEGINNINGS = {
    "another magic": b"\x00SC9" + bytes(98),
    "garbage": b"\x00" + b"garbage" * 30,
    "more than a hello": Opening(KEYS[0], KEYS[1].peer, b"n" * 32, is_sending=True).hello + b"x",
    "an acceptor nobody is": Opening(KEYS[0], KEYS[2].peer, b"n" * 32, is_sending=True).hello,
}


@pytest.mark.parametrize("what", BAD_BEGINNINGS)
async def test_a_connection_is_closed_that_begins_with(path: Path, what: str) -> None:
    async with ends(path) as (_, other):
        reader, writer = await asyncio.open_connection(*other.base.split(":"))
        writer.write(BAD_BEGINNINGS[what])
        assert await closed(reader)
        writer.close()
        await until(lambda: other.server.connection_count == 0)


async def test_a_preamble_that_comes_byte_by_byte_is_as_good(path: Path) -> None:
    async with ends(path) as (one, other):
        opening = Opening(KEYS[0], other.peer, b"n" * 32, is_sending=True)
        reader, writer = await asyncio.open_connection(*other.base.split(":"))
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(opening.hello)):
            writer.write(opening.hello[at : at + 1])
            await writer.drain()
        writer.write(opening.prove(await reader.readexactly(ANSWER_BYTES)))
        await other.owner.until(lambda: ("opened", one.peer, False) in other.owner.told)
        writer.close()


OTHER_BLOB = Digest(digest_of(b"another"))


async def test_a_push_of_an_unknown_blob_is_thrown_away(path: Path) -> None:
    async with rogue(path) as (writer, owner, other):
        writer.write(encode_head(ChunkHead(OTHER_BLOB, 0, 100_000, 0)) + bytes(100_000))
        writer.write(encode_head(ChunkHead(BLOB, 1, CHUNK, 0)) + BYTES[CHUNK : 2 * CHUNK])
        await owner.until(lambda: ("arrived", 1, 0) in owner.told)
        assert owner.chunks == expected(1, 1) and other.links.has(KEYS[0].peer, is_sending=False)


async def test_a_push_of_another_length_costs_the_link(path: Path) -> None:
    async with rogue(path) as (writer, owner, _):
        writer.write(encode_head(ChunkHead(BLOB, 1, CHUNK + 1, 0)))
        await owner.until(lambda: ("closed", KEYS[0].peer, False) in owner.told)
        assert owner.told[-2:] == [("broken", 1, "protocol"), ("closed", KEYS[0].peer, False)]


async def test_a_push_that_is_cut_is_told_of_before_the_end_of_its_link(path: Path) -> None:
    async with rogue(path) as (writer, owner, _):
        writer.write(encode_head(ChunkHead(BLOB, 0, CHUNK, 0)) + BYTES[:CHUNK])
        writer.write(encode_head(ChunkHead(BLOB, 1, CHUNK, 0)) + BYTES[CHUNK : CHUNK + 100])
        writer.close()
        await owner.until(lambda: ("closed", KEYS[0].peer, False) in owner.told)
        assert set(owner.told[1:3]) == {("arrived", 0, 0), ("broken", 1, "short")}


@pytest.mark.parametrize("data", [b"\x09" * 50, encode_head(ChunkHead(BLOB, 0, CHUNK, request=7))])
async def test_frames_that_make_no_sense_cost_the_link(path: Path, data: bytes) -> None:
    async with rogue(path) as (writer, owner, _):
        writer.write(data)
        await owner.until(lambda: ("closed", KEYS[0].peer, False) in owner.told)


async def test_a_second_link_replaces_the_first(path: Path) -> None:
    async with rogue(path) as (_, owner, other), rogue_link(other):
        opened, closed_ = ("opened", KEYS[0].peer, False), ("closed", KEYS[0].peer, False)
        await owner.until(lambda: owner.told.count(opened) == 2)
        assert owner.told == [opened, closed_, opened] and len(other.links.stats()) == 1


async def test_of_two_links_that_cross_both_ends_keep_the_same(path: Path) -> None:
    async with ends(path) as (one, other):
        await asyncio.gather(
            one.links.open(other.peer, [other.base], is_sending=True, timeout_s=5),
            other.links.open(one.peer, [one.base], is_sending=False, timeout_s=5),
        )
        await until(lambda: one.server.connection_count + other.server.connection_count == 1)
        await one.links.push(other.peer, BLOB, 0, 3, deadline_s=5)
        await other.owner.until(lambda: ("arrived", 3, 0) in other.owner.told)


# --- helpers ---


class rogue_link:
    """A sending link opened by hand; what goes over it is the test's."""

    def __init__(self, other: End) -> None:
        self._other = other

    async def __aenter__(self) -> asyncio.StreamWriter:
        opening = Opening(KEYS[0], self._other.peer, b"n" * 32, is_sending=True)
        reader, self._writer = await asyncio.open_connection(*self._other.base.split(":"))
        self._writer.write(opening.hello)
        self._writer.write(opening.prove(await reader.readexactly(ANSWER_BYTES)))
        await self._other.owner.until(lambda: ("opened", KEYS[0].peer, False) in self._other.owner.told)
        return self._writer

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()


class rogue:
    """A node with a link that was opened by hand."""

    def __init__(self, path: Path) -> None:
        self._ends = ends(path)

    async def __aenter__(self) -> tuple[asyncio.StreamWriter, Owner, End]:
        _, other = await self._ends.__aenter__()
        self._link = rogue_link(other)
        return await self._link.__aenter__(), other.owner, other

    async def __aexit__(self, *_: object) -> None:
        await self._link.__aexit__()
        await self._ends.__aexit__(None, None, None)


async def reason_of(work) -> str:
    with pytest.raises(TransferError) as caught:
        await work
    return str(caught.value.facts["reason"])


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other end has closed; whether it said anything before."""
    async with asyncio.timeout(10):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is the other end of a socket
            await asyncio.sleep(0)

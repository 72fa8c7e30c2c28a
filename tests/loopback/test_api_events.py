"""Events over real sockets: the stream, where it goes on, readers that leave or stand still; the long poll."""

from __future__ import annotations

import asyncio
import json

import pytest

from shardcast.http import api_events
from tests.loopback.api_node import CHANNEL, SOON_S, FolderNode, eventually, folder_node, serving

TARGET = f"/v1/channels/{CHANNEL}/events"
STREAM = "Accept: text/event-stream"


@pytest.fixture
def node(tmp_path) -> FolderNode:
    made = folder_node(tmp_path)
    for kind in ("snapshot", "announced", "complete"):
        made.happen(kind)
    return made


async def read_until(reader: asyncio.StreamReader, mark: bytes) -> bytes:
    async with asyncio.timeout(SOON_S):
        return await reader.readuntil(mark)


async def opened(call, *lines: str, target: str = TARGET) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await call.connect()
    writer.write(call.request("GET", target, STREAM, *lines))
    return reader, writer


async def test_a_stream_sends_each_event_with_its_id_as_it_happens(node):
    async with serving(node) as (_, call):
        reader, writer = await opened(call)
        head = await read_until(reader, b"\r\n\r\n")
        assert b"HTTP/1.1 200 " in head and b"Content-Type: text/event-stream\r\n" in head
        await read_until(reader, b"retry: 1000\n\n")
        first = await read_until(reader, b"\n\n")
        assert first.startswith(b"id: 1\nevent: snapshot\ndata: {")
        assert json.loads(first.split(b"data: ")[1]) == node.happened[0]
        await read_until(reader, b"event: complete\n")
        node.happen("gone")
        assert b"id: 4\nevent: gone\n" in await read_until(reader, b"event: gone\n")
        writer.close()


@pytest.mark.parametrize(
    ("lines", "query", "since"),
    [
        (["Last-Event-ID: 2"], "", "2"),
        (["Last-Event-ID: 2"], "?since=1", "2"),
        ([], "?since=1", "1"),
        (["Last-Event-ID:"], "?since=1", "1"),
        (["Last-Event-ID:"], "", None),
    ],
)
async def test_a_stream_goes_on_behind_the_event_that_its_reader_saw_last(node, lines, query, since):
    async with serving(node) as (_, call):
        reader, writer = await opened(call, *lines, target=TARGET + query)
        await read_until(reader, f"id: {int(since or 0) + 1}\n".encode())
        assert node.asked_since[0] == since
        writer.close()


async def test_a_reader_hears_something_while_nothing_happens(node):
    async with serving(node, alive_interval_s=0.1) as (_, call):
        reader, writer = await opened(call, "Last-Event-ID: 3")
        for _ in range(3):
            await read_until(reader, b": alive\n\n")
        writer.close()


async def test_a_stream_ends_when_its_reader_leaves(node):
    async with serving(node) as (server, call):
        reader, writer = await opened(call, "Last-Event-ID: 3")
        await read_until(reader, b"retry")
        await eventually(lambda: node.waiting_count == 1)
        writer.transport.abort()
        await eventually(lambda: node.waiting_count == 0 and server.connection_count == 0)


async def test_a_reader_that_stands_still_is_cut_off(node):
    node.happened *= 1000
    for number, event in enumerate(node.happened, 1):
        node.happened[number - 1] = {**event, "id": str(number)}
    async with serving(node, stall_timeout_s=0.3) as (server, call):
        _, writer = await opened(call)
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        while server.connection_count:
            node.happened += [
                {**event, "id": str(len(node.happened) + index)} for index, event in enumerate(node.happened)
            ]
            node.changed.set()
            await asyncio.sleep(0.2)
        writer.transport.abort()


async def test_the_server_stops_although_somebody_reads_events(node):
    async with serving(node) as (_, call):
        reader, writer = await opened(call, "Last-Event-ID: 3")
        await read_until(reader, b"retry")
    async with asyncio.timeout(SOON_S):
        with pytest.raises(ConnectionError):
            while await reader.read(1000):
                pass
            raise ConnectionResetError
    writer.close()


async def test_one_stream_too_many_is_told_to_come_back(node, monkeypatch):
    monkeypatch.setattr(api_events, "STREAMS_MAX", 1)
    async with serving(node) as (_, call):
        reader, writer = await opened(call)
        await read_until(reader, b"retry")
        refused = await call("GET", TARGET, STREAM)
        assert refused.problem(503)["facts"]["reason"] == "busy" and refused.headers["retry-after"]
        assert (await call("GET", TARGET)).status == 200, "a long poll is no stream"
        writer.close()
        await eventually(lambda: node.waiting_count == 0)


async def test_a_long_poll_answers_at_once_what_there_is(node):
    async with serving(node) as (_, call):
        assert (await call("GET", TARGET)).json == {"events": node.happened, "next": "3"}
        assert (await call("GET", f"{TARGET}?since=2&timeout=60")).json == {"events": node.happened[2:], "next": "3"}
        assert (await call("GET", f"{TARGET}?since=3")).json == {"events": [], "next": "3"}


async def test_a_long_poll_waits_for_the_next_event(node):
    async with serving(node) as (_, call):
        polling = asyncio.ensure_future(call("GET", f"{TARGET}?since=3&timeout=60"))
        await eventually(lambda: node.waiting_count == 1)
        node.happen("failed")
        assert (await polling).json == {"events": node.happened[3:], "next": "4"}


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("?timeout=61", "X: 1"),
        ("?timeout=x", "X: 1"),
        ("?since=", "X: 1"),
        ("?since=%0a", "X: 1"),
        ("?since=" + "1" * 65, "X: 1"),
        ("?wait=1", "X: 1"),
        ("?timeout=1", STREAM),
        ("", "Last-Event-ID: a b"),
        ("?since=", "Last-Event-ID: 1"),
    ],
)
async def test_a_question_that_is_not_understood_is_refused(node, query, line):
    async with serving(node) as (_, call):
        (await call("GET", TARGET + query, line)).problem(400)
    assert node.asked_since == []


async def test_a_stream_of_an_unknown_channel_is_not_found(node):
    async with serving(node) as (_, call):
        (await call("GET", "/v1/channels/other/events", STREAM)).problem(404)


async def test_a_head_request_for_a_stream_ends(node):
    async with serving(node) as (_, call):
        reply = await call("HEAD", TARGET, STREAM)
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "text/event-stream", b"")

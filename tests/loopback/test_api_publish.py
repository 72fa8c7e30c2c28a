"""Publishing over real sockets: the stream of lines, refusals before it, callers that leave."""

from __future__ import annotations

import asyncio
import json

import pytest

from shardcast.http.api_streams import RUNNING_MAX
from shardcast.http.facade import PublishRequest
from shardcast_proto.errors import Conflict, StoreError
from tests.loopback.api_node import CHANNEL, SOON_S, eventually, failing_with, folder_node, reply_in, serving

TARGET = f"/v1/channels/{CHANNEL}/versions"
STEPS = [(0, 100), (50, 100), (100, 100)]


def lines_in(body: bytes) -> list[dict]:
    assert body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


@pytest.fixture
def wanted(tmp_path):
    return {"path": str(tmp_path), "step": 30}


async def test_a_publication_ends_in_one_result(tmp_path, wanted):
    node = folder_node(tmp_path)
    node.may_publish.set()
    async with serving(node) as (_, call):
        reply = await call.post(TARGET, {**wanted, "rewind": True, "link": "copy"})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/x-ndjson")
    (line,) = lines_in(reply.body)
    assert (line["event"], line["seq"], line["step"], line["existing"]) == ("published", 3, 30, False)
    asked = PublishRequest(path=str(tmp_path), channel=CHANNEL, step=30, rewind=True, link="copy", is_own_user=True)
    assert node.published == [asked]


async def test_progress_is_told_while_it_is_made(tmp_path, wanted):
    node = folder_node(tmp_path, steps=STEPS)
    async with serving(node) as (_, call):
        reader, writer = await call.connect()
        body = json.dumps(wanted).encode()
        writer.write(call.request("POST", TARGET, "Content-Type: application/json", body=body))
        async with asyncio.timeout(SOON_S):
            await reader.readuntil(b'{"event":"hashing","done":100,"total":100}\n')
            node.may_publish.set()
            rest = await reader.read()
        assert rest.count(b'"event":"published"') == 1
        assert rest.endswith(b"\r\n0\r\n\r\n")
        writer.close()


async def lines_until_the_end(node, call, wanted) -> list[dict]:
    """Publish, let it end only once the first line is here, and return all lines."""
    reader, writer = await call.connect()
    body = json.dumps(wanted).encode()
    writer.write(call.request("POST", TARGET, "Content-Type: application/json", body=body))
    async with asyncio.timeout(SOON_S):
        begun = await reader.readuntil(b"}\n")
        node.may_publish.set()
        reply = reply_in(begun + await reader.read())
    writer.close()
    assert reply.status == 200
    return lines_in(reply.body)


async def test_an_error_after_the_first_line_is_the_last_line(tmp_path, wanted):
    node = folder_node(tmp_path, steps=STEPS, publish_error=Conflict("the file changed", path="x"))
    async with serving(node) as (_, call):
        *told, last = await lines_until_the_end(node, call, wanted)
    assert [line["event"] for line in told] == ["hashing"] * len(told)
    assert 1 <= len(told) <= len(STEPS)
    assert last["event"] == "error"
    assert (last["problem"]["status"], last["problem"]["type"]) == (409, "urn:shardcast:error:conflict")
    assert last["problem"]["facts"] == {"path": "x"}


async def test_a_fault_after_the_first_line_tells_the_outside_nothing(tmp_path, wanted):
    node = folder_node(tmp_path, steps=STEPS, publish_error=RuntimeError("secret"))
    async with serving(node) as (_, call):
        last = (await lines_until_the_end(node, call, wanted))[-1]
    assert last["problem"]["type"] == "urn:shardcast:error:internal"
    assert "secret" not in str(last)


@pytest.mark.parametrize("steps", [[], STEPS])
async def test_an_error_before_the_first_line_is_a_problem_with_its_status(tmp_path, wanted, steps):
    async with serving(failing_with(StoreError("full"), tmp_path, *steps)) as (_, call):
        assert (await call.post(TARGET, wanted)).problem(507)["detail"] == "full"


async def test_a_caller_hears_something_while_nothing_happens(tmp_path, wanted):
    node = folder_node(tmp_path, publish_error=Conflict("other content"))
    async with serving(node, repeat_interval_s=0.1) as (_, call):
        reader, writer = await call.connect()
        body = json.dumps(wanted).encode()
        writer.write(call.request("POST", TARGET, "Content-Type: application/json", body=body))
        async with asyncio.timeout(SOON_S):
            for _ in range(3):
                await reader.readuntil(b'{"event":"waiting"}\n')
            node.may_publish.set()
            assert b'"event":"error"' in await reader.read()
        writer.close()


async def test_a_path_that_does_not_exist_is_not_found(tmp_path, wanted):
    async with serving(folder_node(tmp_path)) as (_, call):
        (await call.post(TARGET, {**wanted, "path": "/no/such/path"})).problem(404)


async def test_a_publication_goes_on_when_its_caller_leaves(tmp_path, wanted):
    node = folder_node(tmp_path, steps=STEPS)
    async with serving(node) as (server, call):
        reader, writer = await call.connect()
        body = json.dumps(wanted).encode()
        writer.write(call.request("POST", TARGET, "Content-Type: application/json", body=body))
        await reader.readuntil(b"hashing")
        writer.transport.abort()
        await eventually(lambda: server.connection_count == 0)
        assert node.publishing_count == 1
        node.may_publish.set()
        await eventually(lambda: node.publishing_count == 0)


async def test_closing_the_server_cancels_what_is_being_published(tmp_path, wanted):
    node = folder_node(tmp_path, steps=STEPS)
    async with serving(node) as (_, call):
        asking = asyncio.create_task(call.post(TARGET, wanted))
        await eventually(lambda: node.publishing_count == 1)
    assert node.publishing_count == 0
    with pytest.raises((ConnectionError, AssertionError)):
        await asking


async def test_too_many_publications_at_once_are_asked_to_come_back(tmp_path, wanted):
    node = folder_node(tmp_path)
    async with serving(node) as (_, call):
        running = [asyncio.create_task(call.post(TARGET, wanted)) for _ in range(RUNNING_MAX)]
        await eventually(lambda: node.publishing_count == RUNNING_MAX)
        reply = await call.post(TARGET, wanted)
        assert reply.problem(503)["facts"]["reason"] == "busy"
        assert reply.headers["retry-after"] == "1"
        node.may_publish.set()
        assert {reply.status for reply in await asyncio.gather(*running)} == {200}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"path": "/x"}', b'{"path": "x", "step": 1}', b'{"path": "/x", "step": 1, "x": 1}']
)
async def test_a_body_that_is_no_request_is_refused(tmp_path, body):
    node = folder_node(tmp_path)
    async with serving(node) as (_, call):
        (await call("POST", TARGET, "Content-Type: application/json", body=body)).problem(400)
    assert node.published == []


async def test_a_body_nested_beyond_reason_is_refused(tmp_path):
    async with serving(folder_node(tmp_path)) as (_, call):
        (await call("POST", TARGET, "Content-Type: application/json", body=b"[" * 65_000)).problem(400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json-seq"])
async def test_a_body_of_another_type_is_refused(tmp_path, wanted, kind):
    async with serving(folder_node(tmp_path)) as (_, call):
        (await call("POST", TARGET, f"Content-Type: {kind}", body=json.dumps(wanted).encode())).problem(415)
        (await call("POST", TARGET, body=json.dumps(wanted).encode())).problem(415)


@pytest.mark.parametrize("size", [64 * 1024 + 1, 5_000_000])
async def test_a_body_that_is_too_large_is_refused(tmp_path, size):
    async with serving(folder_node(tmp_path)) as (_, call):
        (await call("POST", TARGET, "Content-Type: application/json", body=b" " * size)).problem(413)


async def test_a_body_that_states_no_length_is_bounded_too(tmp_path):
    async with serving(folder_node(tmp_path)) as (_, call):
        head = call.request("POST", TARGET, "Content-Type: application/json", "Transfer-Encoding: chunked")
        part = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
        answer = await call.raw(head + part * 20 + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path):
    async with serving(folder_node(tmp_path), body_timeout_s=0.2) as (_, call):
        head = call.request("POST", TARGET, "Content-Type: application/json", "Content-Length: 10")
        answer = await call.raw(head + b'{"pa')
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_caller_that_asks_before_it_sends_is_told_to_go_on(tmp_path, wanted):
    node = folder_node(tmp_path)
    node.may_publish.set()
    body = json.dumps(wanted).encode()
    async with serving(node) as (_, call):
        reader, writer = await call.connect()
        lines = ["Content-Type: application/json", "Expect: 100-continue", f"Content-Length: {len(body)}"]
        writer.write(call.request("POST", TARGET, *lines))
        async with asyncio.timeout(SOON_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert b'"event":"published"' in await reader.read()
        writer.close()
        (await call("POST", TARGET, "Content-Type: application/json", "Expect: tea", body=body)).problem(417)


async def test_a_caller_that_asks_to_send_too_much_is_refused_before_it_sends(tmp_path):
    async with serving(folder_node(tmp_path)) as (_, call):
        lines = ["Content-Type: application/json", "Expect: 100-continue", "Content-Length: 70000"]
        assert (await call.raw(call.request("POST", TARGET, *lines))).startswith(b"HTTP/1.1 413 ")

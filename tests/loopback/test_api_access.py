"""Who the API answers, over real sockets: hosts, pages, tokens, connections that owe something."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from shardcast.http.api import ApiServer
from shardcast.http.gate import GateLimits
from shardcast_proto.errors import ConfigError
from tests.loopback.api_node import CHANNEL, SOON_S, TOKEN, eventually, folder_node, serving

BEARER = f"Authorization: Bearer {TOKEN.decode()}"


@pytest.fixture
def node(tmp_path):
    return folder_node(tmp_path)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:7480", "[::1]", "127.0.0.1"])
async def test_a_loopback_name_is_answered_at_any_port(node, host):
    async with serving(node) as (_, call):
        assert (await call("GET", "/v1/status", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7480",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1:7480",
        "[::2]",
        "[::1",
        "::1",
        "localhost:port",
        "localhost@evil.example",
        "2130706433",
    ],
)
async def test_a_foreign_host_is_refused_before_anything_is_looked_up(node, host):
    node.broken = RuntimeError("must not be asked")
    async with serving(node) as (_, call):
        (await call("GET", "/v1/status", host=host)).problem(421)
        (await call("GET", "/livez", host=host)).problem(421)
        target = f"/v1/channels/{CHANNEL}/versions"
        (await call("POST", target, "Content-Type: application/json", body=b"{}", host=host)).problem(421)


async def test_a_request_names_exactly_one_host(node):
    async with serving(node) as (_, call):
        for version in (b"1.0", b"1.1"):
            answer = await call.raw(b"GET /livez HTTP/" + version + b"\r\nConnection: close\r\n\r\n")
            assert answer.split(b" ")[1] == b"400"
        assert (await call("GET", "/livez", "Host: evil.example")).status == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:7480", ""])
async def test_a_web_page_is_refused_whatever_it_calls_itself(node, origin):
    async with serving(node) as (_, call):
        (await call("GET", "/v1/status", f"Origin: {origin}")).problem(403)
    async with serving(node, token=TOKEN) as (_, call):
        (await call("GET", "/v1/status", f"Origin: {origin}", BEARER)).problem(403)


@pytest.mark.parametrize("line", [BEARER, BEARER.replace("Bearer", "bearer"), f"{BEARER} "])
async def test_the_right_token_opens_everything_under_any_host(node, line):
    async with serving(node, token=TOKEN) as (_, call):
        assert (await call("GET", "/v1/status", line)).status == 200
        assert (await call("GET", "/v1/status", line, host="node7.cluster:7480")).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization: "],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        [f"Authorization: Bearer {TOKEN.decode()}x"],
        [f"Authorization: Bearer {TOKEN.decode()[:-1]}"],
        [f"Authorization: Bearer {TOKEN.decode().upper()}"],
        [f"Authorization: Bearer x {TOKEN.decode()}"],
        [f"Authorization: Basic {TOKEN.decode()}"],
        [f"Authorization: {TOKEN.decode()}"],
        ["Authorization: Bearer é"],
        ["Authorization: Bearer \udcff"],
        [BEARER, BEARER],
        [f"Cookie: token={TOKEN.decode()}"],
    ],
)
async def test_a_wrong_or_missing_token_opens_nothing(node, lines):
    node.broken = RuntimeError("must not be asked")
    async with serving(node, token=TOKEN) as (_, call):
        for target in ("/v1/status", "/v1/leases/1", "/no/such/path", f"/v1/channels/{CHANNEL}/versions?x"):
            reply = await call("GET", target, *lines)
            if reply.status == 400 and b"problem" not in reply.headers["content-type"].encode():
                continue  # the parser refused the field itself
            assert reply.problem(401)["type"] == "urn:shardcast:error:trust"
            assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_a_probe_needs_no_token(node):
    async with serving(node, token=TOKEN) as (_, call):
        assert (await call("GET", "/livez", host="10.1.2.3:7480")).status == 200
        assert (await call("GET", "/readyz")).status == 200
        (await call("GET", "/livez/..")).problem(401)


async def test_other_hosts_are_let_in_with_a_token_only(node):
    async with ApiServer(node, token=None) as server:
        with pytest.raises(ConfigError) as caught:
            await server.start("0.0.0.0", 0)
        assert "--token-file" in str(caught.value.hint)
    async with ApiServer(node, token=TOKEN) as server:
        assert (await server.start("0.0.0.0", 0))[1] > 0


@pytest.mark.parametrize("sent", [b"", b"GET /v1/sta", b"GET /livez HTTP/1.1\r\nHost: local", b"\r\n"])
async def test_a_connection_that_sends_no_whole_request_is_cut(node, sent):
    gate = GateLimits(head_timeout_s=0.2, idle_timeout_s=0.2, sweep_interval_s=0.05)
    async with serving(node, gate=gate) as (server, call):
        reader, writer = await call.connect()
        writer.write(sent)
        async with asyncio.timeout(SOON_S):
            with contextlib.suppress(ConnectionResetError):  # cut is cut
                assert await reader.read() == b""
        assert server.connection_count == 0
        writer.close()


async def test_a_connection_that_rests_between_requests_is_closed(node):
    gate = GateLimits(idle_timeout_s=0.2, sweep_interval_s=0.05)
    async with serving(node, gate=gate) as (server, call):
        _, writer = await call.connect()
        writer.write(call.request("GET", "/livez").replace(b"Connection: close", b"Connection: keep-alive"))
        await eventually(lambda: server.connection_count == 1)
        await eventually(lambda: server.connection_count == 0)
        writer.close()


async def test_one_connection_too_many_is_told_to_come_back(node):
    gate = GateLimits(connections_max=2)
    async with serving(node, gate=gate) as (server, call):
        node.versions_held[0].is_complete = False
        held = [await call.connect() for _ in range(2)]
        for _, writer in held:  # whoever has asked for nothing, or has got it, would lose its place
            writer.write(call.request("GET", f"/v1/channels/{CHANNEL}/versions/latest?wait=60"))
        await eventually(lambda: node.waiting_count == 2)
        assert server.connection_count == 2
        assert (await call.raw(b"")).startswith(b"HTTP/1.1 503 ")
        for _, writer in held:
            writer.close()
        await eventually(lambda: server.connection_count == 0)
        assert (await call("GET", "/livez")).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 100 + b"\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        bytes(range(256)),
    ],
)
async def test_bytes_that_are_no_request_are_refused_and_the_node_lives(node, request_bytes):
    async with serving(node) as (_, call):
        assert (await call.raw(request_bytes)).startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert (await call("GET", "/livez")).status == 200

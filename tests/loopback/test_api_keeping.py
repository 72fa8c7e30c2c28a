"""Verification, pins, collection, spools, metrics over real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

from shardcast_proto.errors import IntegrityError
from tests.loopback.api_node import CHANNEL, SOON_S, FolderNode, eventually, folder_node, serving

VERSION = f"/v1/channels/{CHANNEL}/versions/latest"
STEPS = [(0, 100), (50, 100), (100, 100)]
JSON = "Content-Type: application/json"


@pytest.fixture
def node(tmp_path) -> FolderNode:
    return folder_node(tmp_path, steps=STEPS)


async def test_a_verification_is_a_stream_that_ends_in_its_result(node):
    async with serving(node) as (_, call):
        reader, writer = await call.connect()
        writer.write(call.request("POST", f"{VERSION}/verify"))
        async with asyncio.timeout(SOON_S):
            await reader.readuntil(b'{"event":"verifying","done":100,"total":100}\n')
            node.may_publish.set()
            last = json.loads((await reader.readuntil(b"}\n")).split(b"\r\n")[-1])
        writer.close()
    assert (last["event"], last["seq"], last["chunks"]) == ("verified", 2, node.versions_held[0].view()["chunks"])


async def test_wrong_chunks_are_an_error_with_their_files(node):
    node.steps, node.verify_error = [], IntegrityError("1 of 9 chunks is wrong", files=["a"], wrong_chunks=1)
    node.may_publish.set()
    async with serving(node) as (_, call):
        problem = (await call("POST", f"{VERSION}/verify")).problem(502)
    assert problem["facts"] == {"files": ["a"], "wrong_chunks": 1}


async def test_a_verification_ends_when_its_caller_leaves(node):
    async with serving(node) as (_, call):
        reader, writer = await call.connect()
        writer.write(call.request("POST", f"{VERSION}/verify"))
        async with asyncio.timeout(SOON_S):
            await reader.readuntil(b"verifying")
        assert node.publishing_count == 1
        writer.transport.abort()
        await eventually(lambda: node.publishing_count == 0)


@pytest.mark.parametrize(
    ("line", "goes_on"),
    [
        ({"event": "waiting", "marker": "STABLE"}, False),
        ({"event": "spreading", "seq": 1, "complete_neighbours": 0, "wait_neighbours": 2}, False),
        ({"event": "hashing", "done": 1, "total": 2}, True),
    ],
)
async def test_a_publication_that_only_waits_ends_with_its_caller(tmp_path, line, goes_on):
    node = folder_node(tmp_path, waiting_line=line)
    body = json.dumps({"path": str(tmp_path), "step": 1}).encode()
    async with serving(node) as (server, call):
        reader, writer = await call.connect()
        writer.write(call.request("POST", f"/v1/channels/{CHANNEL}/versions", JSON, body=body))
        async with asyncio.timeout(SOON_S):
            assert json.dumps(line, separators=(",", ":")).encode() in await reader.readuntil(b"}\n")
        writer.transport.abort()
        await eventually(lambda: server.connection_count == 0)
        await eventually(lambda: node.publishing_count == int(goes_on))


async def test_a_version_is_pinned_and_unpinned(node):
    async with serving(node) as (_, call):
        assert (await call("POST", f"{VERSION}/pin")).json["pinned"] is True
        assert (await call("GET", VERSION)).json["pinned"] is True
        assert (await call.post(f"{VERSION}/pin", {})).json["pinned"] is True
        assert (await call("DELETE", f"{VERSION}/pin")).json["pinned"] is False
        (await call("POST", f"/v1/channels/{CHANNEL}/versions/7/pin")).problem(404)
        (await call.post(f"{VERSION}/pin", {"for": "ever"})).problem(400)
        (await call("DELETE", f"{VERSION}/pin", body=b"{}")).problem(400)
        (await call("GET", f"{VERSION}/pin")).problem(405)


async def test_a_collection_says_what_has_gone(node):
    async with serving(node) as (_, call):
        assert (await call("POST", "/v1/gc")).json["dry_run"] is False
        assert (await call.post("/v1/gc", {"dry_run": True})).json["dry_run"] is True
        (await call.post("/v1/gc", {"dry_run": "yes"})).problem(400)
        (await call("POST", "/v1/gc", "Content-Type: text/plain", body=b"{}")).problem(415)


async def test_a_spool_is_lent_and_given_back(node):
    async with serving(node) as (_, call):
        lent = await call("POST", f"/v1/channels/{CHANNEL}/spool")
        assert (lent.status, lent.json) == (201, {"spool": "s1", "path": "/data/spool/s1"})
        assert lent.headers["location"] == "/v1/spools/s1"
        assert (await call("DELETE", "/v1/spools/s1")).status == 204
        (await call("DELETE", "/v1/spools/s1")).problem(404)
        (await call("DELETE", "/v1/spools/")).problem(404)


async def test_metrics_are_text_of_prometheus_and_need_the_token(node):
    token = b"0123456789abcdef"
    async with serving(node, token=token) as (_, call):
        reply = await call("GET", "/metrics", f"Authorization: Bearer {token.decode()}")
        assert (reply.status, reply.body) == (200, node.metrics())
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        (await call("GET", "/metrics")).problem(401)


async def test_nobody_who_presents_a_token_is_taken_for_the_nodes_own_user(tmp_path):
    node = folder_node(tmp_path)
    node.may_publish.set()
    token = b"0123456789abcdef"
    async with serving(node, token=token) as (_, call):
        bearer = f"Authorization: Bearer {token.decode()}"
        await call.post(f"/v1/channels/{CHANNEL}/versions", {"path": str(tmp_path), "step": 1}, bearer)
    assert [request.is_own_user for request in node.published] == [False]

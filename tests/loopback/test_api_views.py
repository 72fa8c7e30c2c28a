"""The API's views over real sockets: every route that answers JSON, and how a request goes wrong."""

from __future__ import annotations

import asyncio

import pytest

from shardcast.http.api import ApiServer
from shardcast.http.gate import GateLimits
from shardcast_proto.errors import ConfigError, StoreError
from tests.loopback.api_node import CHANNEL, CHANNEL_ID, SOON_S, eventually, folder_node, serving

VERSIONS = f"/v1/channels/{CHANNEL}/versions"


@pytest.fixture
def node(tmp_path):
    return folder_node(tmp_path)


@pytest.fixture
async def call(node):
    async with serving(node) as (_, caller):
        yield caller


async def test_a_node_shows_its_status_even_with_a_path_that_is_no_text(node, call):
    reply = await call("GET", "/v1/status")
    assert (reply.status, reply.json) == (200, node.status())
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.headers["cache-control"] == "no-store"


async def test_lists_come_under_the_name_of_their_route(node, call):
    assert (await call("GET", "/v1/peers")).json == {"peers": []}
    assert (await call("GET", "/v1/channels")).json == {"channels": node.channels()}
    assert (await call("GET", VERSIONS)).json == {"versions": node.versions(CHANNEL)}
    assert (await call("GET", f"/v1/channels/{CHANNEL_ID}/versions")).json == {"versions": node.versions(CHANNEL)}


async def test_each_selector_finds_its_version(node, call):
    newest, older = node.versions(CHANNEL)
    for selector in ("latest", "20", "seq:2", "seq%3A2", newest["manifest"]):
        assert (await call("GET", f"{VERSIONS}/{selector}")).json == newest
    assert (await call("GET", f"{VERSIONS}/10")).json == older


async def test_a_tree_is_of_one_version(node, call):
    assert (await call("GET", f"{VERSIONS}/seq:1/tree")).json == node.tree(CHANNEL, "10")
    (await call("GET", f"{VERSIONS}/99/tree")).problem(404)
    (await call("GET", f"{VERSIONS}/wrong/tree")).problem(400)
    (await call("GET", f"{VERSIONS}/10/tree/x")).problem(404)
    assert (await call("POST", f"{VERSIONS}/10/tree")).headers["allow"] == "GET, HEAD"


async def test_head_answers_like_get_without_the_body(call):
    for target in ("/livez", "/v1/status", VERSIONS, f"{VERSIONS}/latest"):
        whole, head = await call("GET", target), await call("HEAD", target)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.body))


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/",
        "/v2/status",
        "/v1/status/",
        "//v1/status",
        "/v1/channels/",
        "/v1/channels//versions",
        "/v1/channels/none/versions",
        "/v1/channels/none/versions/latest",
        f"{VERSIONS}/",
        f"{VERSIONS}/99",
        f"{VERSIONS}/seq:99",
        f"{VERSIONS}/latest/files",
        f"{VERSIONS}/latest/other",
        f"{VERSIONS}/latest/manifest/x",
        "/v1/leases/x",
        "/v1/leases/-1",
        "http://127.0.0.1/v1/status",
        "/v1/channels/%00/versions",
        "/v1/channels/..%2f..%2fetc/versions",
    ],
)
async def test_what_does_not_exist_is_not_found(call, target):
    assert (await call("GET", target)).problem(404)["type"] == "urn:shardcast:error:not_found"


@pytest.mark.parametrize(
    "target",
    [
        "/%zz",
        "/v1/channels/%ff/versions",
        f"{VERSIONS}/wrong",
        "/v1/status?x=1",
        "/v1/status?wait=1",
        f"{VERSIONS}?wait=1",
        f"{VERSIONS}/latest/manifest?wait=1",
        f"{VERSIONS}/latest?wait=61",
        f"{VERSIONS}/latest?wait=soon",
        f"{VERSIONS}/latest?since=4",
    ],
)
async def test_what_cannot_mean_anything_is_a_bad_request(call, target):
    assert (await call("GET", target)).problem(400)["type"] == "urn:shardcast:error:config"


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/v1/status", "GET, HEAD"),
        ("PUT", VERSIONS, "GET, POST, HEAD"),
        ("OPTIONS", VERSIONS, "GET, POST, HEAD"),
        ("GET", "/v1/leases/1", "DELETE"),
        ("GET", f"{VERSIONS}/latest/lease", "POST"),
        ("DELETE", f"{VERSIONS}/latest", "GET, HEAD"),
        ("PROPFIND", "/livez", "GET, HEAD"),
    ],
)
async def test_a_method_that_a_path_lacks_is_refused_with_those_it_has(call, method, target, allowed):
    reply = await call(method, target)
    reply.problem(405)
    assert reply.headers["allow"] == allowed


async def test_a_get_with_a_body_is_refused(call):
    (await call("GET", "/v1/status", body=b"{}")).problem(400)


async def test_a_fault_of_ours_tells_the_outside_nothing(node, call):
    node.broken = RuntimeError("secret detail")
    reply = await call("GET", "/v1/status")
    assert reply.problem(500)["type"] == "urn:shardcast:error:internal"
    assert b"secret" not in reply.body


async def test_an_error_of_the_node_keeps_its_facts(node, call):
    node.broken = StoreError("the disk is full", hint="free some", free_bytes=7)
    assert (await call("GET", "/v1/status")).problem(507) == {
        "type": "urn:shardcast:error:store",
        "title": "store",
        "status": 507,
        "detail": "the disk is full",
        "hint": "free some",
        "facts": {"free_bytes": 7},
    }


async def test_probes_say_whether_the_node_lives_and_works(node, call):
    assert (await call("GET", "/livez")).json == {"live": True}
    assert (await call("GET", "/readyz")).json == {"ready": True, "reason": "serving"}
    node.unready = "the store is closed"
    reply = await call("GET", "/readyz")
    assert reply.problem(503)["detail"] == "the store is closed"
    assert (await call("GET", "/livez")).status == 200


async def test_a_wait_returns_once_the_version_is_complete(node, call):
    node.versions_held[0].is_complete = False
    asking = asyncio.create_task(call("GET", f"{VERSIONS}/latest?wait=60"))
    await eventually(lambda: node.waiting_count == 1)
    node.complete()
    assert (await asking).json["state"] == "complete"


async def test_a_wait_that_ends_without_the_version_shows_how_far_it_is(node, call):
    node.versions_held[0].is_complete = False
    reply = await call("GET", f"{VERSIONS}/20?wait=0.05")
    assert (reply.status, reply.json["state"]) == (200, "staging")


async def test_a_wait_for_what_never_appears_says_not_ready(call):
    reply = await call("GET", f"{VERSIONS}/30?wait=0.05")
    assert reply.problem(409)["type"] == "urn:shardcast:error:version_not_ready"
    assert reply.headers["retry-after"] == "1"


async def test_a_caller_that_leaves_ends_its_wait(node, call):
    node.versions_held[0].is_complete = False
    _, writer = await call.connect()
    writer.write(call.request("GET", f"{VERSIONS}/latest?wait=60"))
    await eventually(lambda: node.waiting_count == 1)
    writer.close()
    await eventually(lambda: node.waiting_count == 0)


async def test_a_wait_may_last_longer_than_a_silent_connection(node):
    node.versions_held[0].is_complete = False
    gate = GateLimits(head_timeout_s=0.1, idle_timeout_s=0.1, sweep_interval_s=0.02)
    async with serving(node, gate=gate) as (_, caller):
        assert (await caller("GET", f"{VERSIONS}/latest?wait=0.5")).json["state"] == "staging"


async def test_many_waits_do_not_keep_the_others_from_being_answered(node, call):
    node.versions_held[0].is_complete = False
    waits = [asyncio.create_task(call("GET", f"{VERSIONS}/latest?wait=60")) for _ in range(100)]
    await eventually(lambda: node.waiting_count == 100)
    assert (await call("GET", "/v1/status")).status == 200
    node.complete()
    assert {reply.json["state"] for reply in await asyncio.gather(*waits)} == {"complete"}


async def test_a_lease_is_taken_and_given_back_once(node, call):
    reply = await call.post(f"{VERSIONS}/10/lease", {"holder": "pull", "ttl_s": 60})
    assert (reply.status, node.leases) == (201, {1: ("pull", 60.0)})
    assert reply.json == {**node.version(CHANNEL, "10"), "lease": 1}
    assert reply.headers["location"] == "/v1/leases/1"
    released = await call("DELETE", reply.headers["location"])
    assert (released.status, released.body, node.leases) == (204, b"", {})
    (await call("DELETE", "/v1/leases/1")).problem(404)


async def test_a_lease_on_an_incomplete_version_is_not_ready(node, call):
    node.versions_held[0].is_complete = False
    reply = await call.post(f"{VERSIONS}/latest/lease", {"holder": "pull", "ttl_s": 60})
    reply.problem(409)
    assert reply.headers["retry-after"] == "1"


async def test_several_requests_share_one_connection(call):
    reader, writer = await call.connect()
    for _ in range(3):
        request = call.request("GET", "/livez").replace(b"Connection: close", b"Connection: keep-alive")
        writer.write(request)
        async with asyncio.timeout(SOON_S):
            assert (await reader.readuntil(b'{"live":true}')).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_an_address_that_is_taken_is_the_operators_to_change(node, call):
    async with ApiServer(node, token=None) as second:
        with pytest.raises(ConfigError, match="cannot listen"):
            await second.start(*call.address)


async def test_closing_ends_every_wait_and_frees_the_port(node):
    node.versions_held[0].is_complete = False
    async with serving(node) as (server, caller):
        _, writer = await caller.connect()
        writer.write(caller.request("GET", f"{VERSIONS}/latest?wait=60"))
        await eventually(lambda: node.waiting_count == 1)
        async with asyncio.timeout(SOON_S):
            await server.aclose()
            await server.aclose()
        assert node.waiting_count == 0
        with pytest.raises(ConnectionError):
            await caller.connect()
        writer.close()

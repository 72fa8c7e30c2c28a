"""The API and its own client, each against the other: what one says the other understands."""

from __future__ import annotations

import asyncio

import pytest

from shardcast.api_client import ApiClient
from shardcast_proto.errors import ConfigError, Conflict, NotFound, NotReady, ShardcastError
from tests.loopback.api_node import CHANNEL, FILES, TOKEN, failing_with, folder_node, serving


@pytest.fixture
def node(tmp_path):
    return folder_node(tmp_path)


@pytest.fixture
async def client(node):
    async with serving(node) as (_, caller):
        yield ApiClient(f"http://{caller.address[0]}:{caller.address[1]}")


async def test_views_arrive_as_the_node_gave_them(node, client):
    assert await asyncio.to_thread(client.status) == node.status()
    assert await asyncio.to_thread(client.peers) == node.peers()
    assert await asyncio.to_thread(client.channels) == node.channels()
    assert await asyncio.to_thread(client.versions, CHANNEL) == node.versions(CHANNEL)
    assert await asyncio.to_thread(client.version, CHANNEL, "seq:1") == node.version(CHANNEL, "seq:1")
    assert await asyncio.to_thread(client.tree, CHANNEL, "10") == node.tree(CHANNEL, "10")
    manifest = await asyncio.to_thread(client.manifest, CHANNEL, "latest")
    assert manifest == node.manifest_bytes(CHANNEL, "latest")


@pytest.mark.parametrize("name", FILES)
async def test_files_arrive_whole_or_in_part(client, name):
    def read(part):
        with client.open_file(CHANNEL, "latest", name, part=part) as reply:
            return reply.status, reply.read(2_000_000)

    assert await asyncio.to_thread(read, None) == (200, FILES[name])
    if FILES[name]:
        assert await asyncio.to_thread(read, (2, 3)) == (206, FILES[name][2:5])


async def test_a_wait_is_told_when_the_version_is_complete(node, client):
    node.versions_held[0].is_complete = False
    with pytest.raises(NotReady):
        await asyncio.to_thread(client.wait, CHANNEL, "latest", timeout_s=0.05)
    with pytest.raises(NotReady):
        await asyncio.to_thread(client.wait, CHANNEL, "99", timeout_s=0.05)
    node.complete()
    assert (await asyncio.to_thread(client.wait, CHANNEL, "latest"))["state"] == "complete"


async def test_a_lease_goes_and_comes_back(node, client):
    lease = await asyncio.to_thread(client.lease, CHANNEL, "10", holder="pull", ttl_s=5)
    assert node.leases == {lease["lease"]: ("pull", 5.0)}
    await asyncio.to_thread(client.release_lease, lease["lease"])
    with pytest.raises(NotFound):
        await asyncio.to_thread(client.release_lease, lease["lease"])


async def test_a_publication_is_followed_to_its_end(tmp_path, node, client):
    node.steps = [(1, 2)]
    told: list[dict] = []
    loop = asyncio.get_running_loop()

    def on_news(event):
        told.append(event)
        loop.call_soon_threadsafe(node.may_publish.set)

    result = await asyncio.to_thread(client.publish, CHANNEL, {"path": str(tmp_path), "step": 5}, on_news)
    assert (result["step"], result["existing"]) == (5, False)
    assert {"event": "hashing", "done": 1, "total": 2} in told


async def test_a_refusal_comes_back_as_the_error_that_it_was(tmp_path, node, client):
    cases = [
        (NotFound, lambda: client.versions("none")),
        (NotFound, lambda: client.version(CHANNEL, "99")),
        (ConfigError, lambda: client.version(CHANNEL, "wrong")),
        (NotFound, lambda: client.publish(CHANNEL, {"path": "/no/such/path", "step": 1})),
        (ConfigError, lambda: client.publish(CHANNEL, {"path": "relative", "step": 1})),
    ]
    for kind, ask in cases:
        with pytest.raises(kind):
            await asyncio.to_thread(ask)


async def test_an_error_of_a_publication_keeps_its_kind(tmp_path):
    async with serving(failing_with(Conflict("other content", seq=3), tmp_path)) as (_, caller):
        client = ApiClient(f"{caller.address[0]}:{caller.address[1]}")
        with pytest.raises(Conflict) as caught:
            await asyncio.to_thread(client.publish, CHANNEL, {"path": str(tmp_path), "step": 1})
    assert caught.value.facts == {"seq": 3}


async def test_a_token_is_asked_for_and_given(node):
    async with serving(node, token=TOKEN) as (_, caller):
        url = f"{caller.address[0]}:{caller.address[1]}"
        assert await asyncio.to_thread(ApiClient(url, token=TOKEN.decode()).status) == node.status()
        with pytest.raises(ShardcastError, match="bearer"):
            await asyncio.to_thread(ApiClient(url).status)

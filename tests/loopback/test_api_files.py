"""Files and manifests over real sockets: conditions, ranges, names that try to escape, readers that do not read."""

from __future__ import annotations

import asyncio
import os
import socket
from urllib.parse import quote

import pytest

from shardcast.http.gate import GateLimits
from shardcast_proto.hashing import digest_of
from shardcast_proto.manifest import Manifest
from tests.loopback.api_node import CHANNEL, FILES, SOON_S, WEIGHTS, eventually, folder_node, serving

VERSION = f"/v1/channels/{CHANNEL}/versions/latest"
FILE = f"{VERSION}/files/weights%201.bin"
TAG = f'"blake3:{digest_of(WEIGHTS).hex()}"'
SIZE = len(WEIGHTS)


@pytest.fixture
def node(tmp_path):
    return folder_node(tmp_path)


@pytest.fixture
async def call(node):
    async with serving(node) as (_, caller):
        yield caller


@pytest.fixture(autouse=True)
def every_opened_file_is_closed(node):
    yield
    assert node.closed_count == len(node.opened)
    assert all(opened.file.closed for opened in node.opened)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("safe", ["/", ""])
async def test_every_file_arrives_whole_however_its_name_is_escaped(call, name, safe):
    reply = await call("GET", f"{VERSION}/files/{quote(name, safe=safe)}")
    assert (reply.status, reply.body) == (200, FILES[name])
    assert reply.headers["etag"] == f'"blake3:{digest_of(FILES[name]).hex()}"'
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["cache-control"] == "no-cache"


async def test_a_range_brings_exactly_its_bytes(call):
    for value, first, last in [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-300000", 1000, 300000),
        ("bytes=999999-", 999999, SIZE - 1),
        ("bytes=-3", SIZE - 3, SIZE - 1),
        ("bytes=5-99999999", 5, SIZE - 1),
    ]:
        reply = await call("GET", FILE, f"Range: {value}")
        assert (reply.status, reply.body) == (206, WEIGHTS[first : last + 1])
        assert reply.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
        assert reply.headers["etag"] == TAG


@pytest.mark.parametrize("value", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0"])
async def test_a_range_outside_the_file_is_refused_with_its_size(call, value):
    reply = await call("GET", FILE, f"Range: {value}")
    reply.problem(416)
    assert reply.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "value", ["bytes=9-1", "bytes=0-1,4-5", "bytes=a-b", "lines=1-2", "bytes=٠-٩", "bytes=²-", "bytes=-", "bytes=+1-2"]
)
async def test_a_range_that_means_nothing_here_brings_the_whole_file(call, value):
    reply = await call("GET", FILE, f"Range: {value}")
    assert (reply.status, reply.body) == (200, WEIGHTS)
    assert "content-range" not in reply.headers


async def test_two_range_fields_are_one_list_of_ranges(call):
    reply = await call("GET", FILE, "Range: bytes=0-1", "Range: bytes=4-5")
    assert (reply.status, reply.body) == (200, WEIGHTS)


async def test_a_range_under_if_range_counts_for_this_file_only(call):
    reply = await call("GET", FILE, "Range: bytes=10-19", f"If-Range: {TAG}")
    assert (reply.status, reply.body) == (206, WEIGHTS[10:20])
    for other in ('"blake3:00"', f"W/{TAG}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        reply = await call("GET", FILE, "Range: bytes=10-19", f"If-Range: {other}")
        assert (reply.status, reply.body) == (200, WEIGHTS)


async def test_a_reader_that_has_the_file_is_not_sent_it_again(call):
    for value in (TAG, f"W/{TAG}", f'"x", {TAG}', "*"):
        reply = await call("GET", FILE, f"If-None-Match: {value}")
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", TAG)
    assert (await call("HEAD", FILE, f"If-None-Match: {TAG}")).status == 304
    assert (await call("GET", FILE, 'If-None-Match: "x"')).body == WEIGHTS


async def test_a_reader_that_wants_another_file_is_told_so(call):
    reply = await call("GET", FILE, 'If-Match: "x"')
    reply.problem(412)
    assert reply.headers["etag"] == TAG


async def test_head_states_the_whole_file_and_knows_no_ranges(call):
    for lines in ([], ["Range: bytes=0-9"], ["Range: bytes=99999999-"]):
        reply = await call("HEAD", FILE, *lines)
        assert (reply.status, reply.body) == (200, b"")
        assert (reply.headers["content-length"], reply.headers["etag"]) == (str(SIZE), TAG)


@pytest.mark.parametrize(
    "path",
    [
        "none",
        "",
        ".",
        "..",
        "../v1/config.json",
        "%2e%2e/v1/config.json",
        "..%2Fv1%2Fconfig.json",
        "sub/../config.json",
        "sub%2F..%2Fconfig.json",
        "./config.json",
        "//config.json",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "config.json%00",
        "config.json/",
        "sub",
        "sub/",
        "sub\\x",
        "CONFIG.JSON",
        "config.json%20",
        "a/" * 20 + "b",
        "a" * 300,
        "%252e%252e/config.json",
    ],
)
async def test_a_path_that_is_not_in_the_manifest_is_not_found(node, call, path):
    (await call("GET", f"{VERSION}/files/{path}")).problem(404)
    assert not any(name in asked.split("/") for asked in node.asked_paths for name in ("", ".", ".."))


async def test_a_file_of_an_incomplete_version_is_not_ready(node, call):
    node.versions_held[0].is_complete = False
    for method in ("GET", "HEAD"):
        reply = await call(method, FILE)
        assert (reply.status, reply.headers["retry-after"]) == (409, "1")
    assert (await call("GET", FILE)).problem(409)["type"] == "urn:shardcast:error:version_not_ready"


async def test_a_manifest_arrives_as_it_was_sealed_and_is_named_by_its_digest(node, call):
    reply = await call("GET", f"{VERSION}/manifest")
    manifest = Manifest.decode(reply.body)
    assert manifest == node.versions_held[0].manifest
    assert reply.headers["etag"] == f'"blake3:{manifest.digest.hex()}"'
    again = await call("GET", f"{VERSION}/manifest", f"If-None-Match: {reply.headers['etag']}")
    assert (again.status, again.body) == (304, b"")
    head = await call("HEAD", f"{VERSION}/manifest", "Range: bytes=0-1")
    assert (head.status, head.headers["content-length"]) == (200, str(len(reply.body)))


async def test_two_files_over_one_connection_do_not_mix(call):
    reader, writer = await call.connect()
    for first in (0, 500_000):
        request = call.request("GET", FILE, f"Range: bytes={first}-{first + 99_999}")
        writer.write(request.replace(b"Connection: close", b"Connection: keep-alive"))
        async with asyncio.timeout(SOON_S):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(100_000) == WEIGHTS[first : first + 100_000]
    writer.close()


async def test_a_reader_that_leaves_frees_the_file(node, call):
    (node.versions_held[0].root / "big").write_bytes(bytes(64 * 1024 * 1024))
    reader, writer = await call.connect()
    writer.write(call.request("GET", f"{VERSION}/files/big"))
    await reader.readexactly(1000)
    assert not node.opened[-1].file.closed
    writer.transport.abort()
    await eventually(lambda: node.closed_count == 1)


async def test_a_reader_that_stops_reading_is_cut_off_and_frees_the_file(node):
    with (node.versions_held[0].root / "big").open("wb") as big:
        os.truncate(big.fileno(), 64 * 1024 * 1024)
    async with serving(node, stall_timeout_s=0.3) as (server, caller):
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            lazy.setblocking(False)
            await asyncio.get_running_loop().sock_connect(lazy, caller.address)
            await asyncio.get_running_loop().sock_sendall(lazy, caller.request("GET", f"{VERSION}/files/big"))
            await eventually(lambda: len(node.opened) == 1)
            await eventually(lambda: node.closed_count == 1 and server.connection_count == 0)


async def test_a_reader_of_a_long_list_that_stops_reading_is_cut_off(node):
    node.versions_held *= 20_000
    gate = GateLimits(idle_timeout_s=0.3, sweep_interval_s=0.05)
    async with serving(node, gate=gate) as (server, caller):
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, caller.address)
            await loop.sock_sendall(lazy, caller.request("GET", f"/v1/channels/{CHANNEL}/versions"))
            await eventually(lambda: server.connection_count == 1)
            await eventually(lambda: server.connection_count == 0)


async def test_a_file_that_shrinks_under_its_reader_is_cut_not_padded(node, call):
    path = node.versions_held[0].root / "shrinking"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 64 * 1024 * 1024)
    reader, writer = await call.connect()
    writer.write(call.request("GET", f"{VERSION}/files/shrinking"))
    await reader.readuntil(b"\r\n\r\n")
    os.truncate(path, 1024)
    async with asyncio.timeout(SOON_S):
        try:
            received = len(await reader.read())
        except ConnectionError:
            received = 0
    assert received < 64 * 1024 * 1024
    writer.close()
    await eventually(lambda: node.closed_count == 1)

"""The data plane over real sockets on 127.0.0.1: our server, and our server against a peer that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shardcast.http.bucket import TokenBucket
from shardcast.http.data_client import DataClient
from shardcast.http.data_server import DataServer
from shardcast.http.gate import GateLimits
from shardcast_proto.errors import ConfigError, StoreError, TransferError
from shardcast_proto.hashing import digest_of
from tests.loopback.data_plane import (
    BLOB,
    BYTES,
    CHUNK,
    LENGTHS,
    OBJECT,
    PEER,
    SOON_S,
    FileSource,
    Landed,
    eventually,
    expected,
    fetch,
    problem_in,
    raw,
    reason_of,
    serving,
)

#: All that there is takes eight seconds, one chunk of it a tenth.
SLOWLY = 50_000


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    path = tmp_path / "blob"
    path.write_bytes(BYTES)
    return FileSource(path)


@pytest.fixture
async def client() -> AsyncIterator[DataClient]:
    async with DataClient(peer_id=PEER) as client:
        yield client


async def test_a_run_arrives_chunk_by_chunk_exactly_as_it_is_held(source, client):
    async with serving(source) as (_, base):
        assert await fetch(client, base, 90, 10) == expected(90, 10)


async def test_a_run_is_as_long_as_what_is_held_in_a_row(source, client):
    source.lacking = {5}
    async with serving(source) as (_, base):
        assert await fetch(client, base, 2, 40) == expected(2, 3)


async def test_a_run_ends_at_64_chunks(source, client):
    async with serving(source) as (_, base):
        assert await fetch(client, base, 0, 90) == expected(0, 64)


async def test_a_run_ends_with_the_chunk_that_passes_8_mib(tmp_path, client):
    path = tmp_path / "big"
    size = 3 * 1024 * 1024
    path.write_bytes(bytes(size * 6))
    source = FileSource(path, lengths=[size] * 6)
    landed = Landed()
    async with serving(source) as (_, base):
        count = await client.fetch_run(
            base, BLOB, 0, [size] * 6, on_chunk=landed, deadline_s=SOON_S, idle_timeout_s=SOON_S
        )
    assert (count, sorted(landed.chunks)) == (3, [0, 1, 2])


async def test_what_is_not_held_is_missing_and_the_connection_stays_usable(source, client):
    source.lacking = {3}
    async with serving(source) as (server, base):
        assert await reason_of(client, base, first=3) == "missing"
        assert await fetch(client, base, 4) == expected(4, 1)
        assert server.connection_count == 1


async def test_every_located_file_is_closed_again(source, client):
    source.lacking = {3}
    async with serving(source) as (_, base):
        await fetch(client, base, 0, 3)
        await reason_of(client, base, first=3)
        await eventually(lambda: all(file.closed for file in source.opened))


async def test_an_object_arrives_and_is_checked(source, client):
    async with serving(source) as (_, base):
        data = await client.fetch_object(base, digest_of(OBJECT), size_max=len(OBJECT), deadline_s=SOON_S)
    assert data == OBJECT


async def test_an_object_that_is_not_held_is_missing(source, client):
    async with serving(source) as (_, base):
        with pytest.raises(TransferError) as caught:
            await client.fetch_object(base, digest_of(b"other"), size_max=100, deadline_s=SOON_S)
    assert caught.value.facts["reason"] == "missing"


async def test_an_object_longer_than_allowed_is_not_read(source, client):
    async with serving(source) as (_, base):
        with pytest.raises(TransferError) as caught:
            await client.fetch_object(base, digest_of(OBJECT), size_max=len(OBJECT) - 1, deadline_s=SOON_S)
    assert caught.value.facts["reason"] == "protocol"


async def test_the_upload_counters_name_the_peer_by_its_hint(source, client):
    sent: Counter[str] = Counter()
    async with serving(source, on_sent=lambda peer, size: sent.update({peer: size})) as (_, base):
        await fetch(client, base, 0, 10)
        await client.fetch_object(base, digest_of(OBJECT), size_max=len(OBJECT), deadline_s=SOON_S)
    assert sent == {PEER: 10 * CHUNK + len(OBJECT)}


async def test_uploads_run_at_the_rate_of_the_bucket_together(source, client):
    size = 50 * CHUNK
    async with serving(source, rate=1e6) as (_, base):
        started = time.monotonic()
        await asyncio.gather(*(fetch(client, base, 0, 50) for _ in range(4)))
        took = time.monotonic() - started
    at_least = 4 * size / 1e6
    assert at_least * 0.98 <= took < at_least + 2


async def test_a_busy_server_says_so_and_serves_again_later(source, client):
    async with serving(source, rate=300e3, uploads_max=1) as (server, base):
        first = asyncio.create_task(fetch(client, base, 0, 64))
        await eventually(lambda: server.uploads_running == 1)
        with pytest.raises(TransferError) as caught:
            await fetch(client, base, 0)
        assert (caught.value.facts["reason"], caught.value.facts["retry_after_s"]) == ("busy", 1)
        assert await first == expected(0, 64)
        assert await fetch(client, base, 0) == expected(0, 1)


# --- our server, a peer that misbehaves ---


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (f"GET /chunk/{BLOB.hex()}/0?count=0 HTTP/1.1", 400),
        (f"GET /chunk/{BLOB.hex()}/999999 HTTP/1.1", 400),
        (f"GET /chunk/{BLOB.hex()}/-1 HTTP/1.1", 404),
        (f"GET /chunk/{BLOB.hex()[:-1]}/0 HTTP/1.1", 404),
        (f"GET /chunk/{BLOB.hex().upper()}/0 HTTP/1.1", 404),
        (f"GET /chunk/{BLOB.hex()}/0?count=1&more=2 HTTP/1.1", 404),
        ("GET /object/../../etc/passwd HTTP/1.1", 404),
        ("GET / HTTP/1.1", 404),
        (f"POST /chunk/{BLOB.hex()}/0 HTTP/1.1", 405),
        (f"DELETE /object/{BLOB.hex()} HTTP/1.1", 405),
    ],
)
async def test_a_request_for_anything_else_is_answered_with_a_problem_document(source, request_line, status):
    request = f"{request_line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    async with serving(source) as (_, base):
        assert problem_in(await raw(base, request))["status"] == status


async def test_a_request_with_a_body_is_refused_and_its_connection_closed(source):
    request = f"GET /chunk/{BLOB.hex()}/0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc".encode()
    async with serving(source) as (_, base):
        assert problem_in(await raw(base, request))["status"] == 400


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_a_garbage_request_ends_its_own_connection_only(source, client, garbage):
    async with serving(source) as (_, base):
        answer = await raw(base, garbage)
        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        assert await fetch(client, base, 0) == expected(0, 1)


async def test_a_head_request_is_answered_without_a_body(source):
    request = f"HEAD /chunk/{BLOB.hex()}/0?count=3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    async with serving(source) as (_, base):
        header, _, body = (await raw(base, request)).partition(b"\r\n\r\n")
    assert body == b""
    assert b"Content-Length: 12288\r\n" in header
    assert b"X-Shardcast-Count: 3\r\n" in header


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_without_a_complete_request_header_is_closed_in_bounded_time(source, sent):
    gate = GateLimits(head_timeout_s=0.2, sweep_interval_s=0.05)
    async with serving(source, gate=gate) as (server, base):
        started = time.monotonic()
        assert await raw(base, sent) == b""
        assert time.monotonic() - started < SOON_S / 2
        assert server.connection_count == 0


async def test_a_connection_dripping_its_second_request_is_closed_in_bounded_time(source):
    gate = GateLimits(head_timeout_s=0.2, sweep_interval_s=0.05)
    async with serving(source, gate=gate) as (server, base):
        host, port = base.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"HEAD /chunk/{BLOB.hex()}/0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /")
        await eventually(lambda: server.connection_count == 0)
        writer.close()


async def test_an_idle_connection_outlives_the_header_limit(source, client):
    gate = GateLimits(head_timeout_s=0.05, sweep_interval_s=0.02, idle_timeout_s=60)
    async with serving(source, gate=gate) as (server, base):
        await fetch(client, base, 0)
        await asyncio.sleep(0.3)
        assert server.connection_count == 1


async def test_connections_beyond_the_cap_are_refused_and_counted_no_longer_once_closed(source, client):
    gate = GateLimits(connections_max=2)
    async with serving(source, gate=gate, rate=SLOWLY) as (server, base):
        held = [await being_served(base) for _ in range(2)]
        assert server.connection_count == 2
        assert await reason_of(client, base) in ("busy", "unreachable")
        held[0].close()
        await eventually(lambda: server.connection_count == 1)
        assert await fetch(client, base, 0) == expected(0, 1)
        held[1].close()


async def test_one_address_cannot_take_every_connection(source, client):
    gate = GateLimits(connections_per_address_max=1)
    async with serving(source, gate=gate, rate=SLOWLY) as (_, base):
        writer = await being_served(base)
        assert await reason_of(client, base) in ("busy", "unreachable")
        writer.close()


@pytest.mark.parametrize("gate", [GateLimits(connections_max=2), GateLimits(connections_per_address_max=2)])
async def test_whoever_has_said_nothing_for_the_longest_makes_room_for_a_newcomer(source, client, gate):
    async with serving(source, gate=gate) as (server, base):
        host, port = base.split(":")
        first, second = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        await eventually(lambda: server.connection_count == 2)
        assert await fetch(client, base, 0) == expected(0, 1)
        with contextlib.suppress(ConnectionError):
            assert await first[0].read() == b""
        second[1].write(f"HEAD /chunk/{BLOB.hex()}/0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await second[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        for _, writer in (first, second):
            writer.close()


@pytest.mark.parametrize("gate", [GateLimits(connections_max=3), GateLimits(connections_per_address_max=3)])
async def test_whoever_has_been_idle_for_the_longest_makes_room_for_a_newcomer(source, client, gate):
    async with serving(source, gate=gate) as (server, base):
        idle = [await served(base) for _ in range(3)]
        await ask(*idle[0])  # so that the second is the one
        assert await fetch(client, base, 0) == expected(0, 1)
        async with asyncio.timeout(SOON_S):
            with contextlib.suppress(ConnectionError):
                assert await idle[1][0].read() == b""
        assert server.connection_count == 3
        for kept in (idle[0], idle[2]):
            await ask(*kept)
        for _, writer in idle:
            writer.close()


async def test_a_connection_that_is_being_answered_never_makes_room(source, client):
    gate = GateLimits(connections_per_address_max=2)
    async with serving(source, gate=gate, rate=SLOWLY) as (server, base):
        busy = await being_served(base)
        _, idle = await served(base)
        newcomers = [await served(base) for _ in range(5)]
        assert (server.connection_count, server.uploads_running) == (2, 1)
        for writer in (busy, idle, *(writer for _, writer in newcomers)):
            writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask for something small, and get it."""
    writer.write(f"HEAD /chunk/{BLOB.hex()}/0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(SOON_S):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def served(base: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection that has asked for something and got it."""
    host, port = base.split(":")
    connection = await asyncio.open_connection(host, int(port))
    await ask(*connection)
    return connection


async def being_served(base: str) -> asyncio.StreamWriter:
    """Open a connection that has asked for everything, and of which the answer has begun."""
    host, port = base.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /chunk/{BLOB.hex()}/0?count={len(LENGTHS)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(SOON_S):
        await reader.readuntil(b"\r\n\r\n")
    return writer


async def test_an_upload_that_nobody_reads_is_cut(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(bytes(16 * 1024 * 1024))
    source = FileSource(path, lengths=[8 * 1024 * 1024] * 2)
    async with serving(source, stall_timeout_s=0.3) as (server, base):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        host, port = base.split(":")
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        request = f"GET /chunk/{BLOB.hex()}/0 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        await asyncio.get_running_loop().sock_sendall(sock, request)
        await eventually(lambda: server.uploads_running == 1)
        await eventually(lambda: server.uploads_running == 0 and server.connection_count == 0)
        assert source.opened[0].closed
        sock.close()


async def test_a_file_that_shrank_ends_in_a_short_body_not_in_wrong_bytes(source, client):
    source.path.write_bytes(BYTES[: 2 * CHUNK + 10])
    async with serving(source) as (_, base):
        landed = Landed()
        with pytest.raises(TransferError) as caught:
            await client.fetch_run(
                base, BLOB, 0, LENGTHS[:5], on_chunk=landed, deadline_s=SOON_S, idle_timeout_s=SOON_S
            )
    assert (caught.value.facts["reason"], caught.value.facts["received"]) == ("short", 2)
    assert landed.chunks == expected(0, 2)


async def test_a_withdrawn_version_is_missing_and_a_fault_of_ours_is_not_told(source, client):
    async with serving(source) as (_, base):
        source.broken = StoreError("the published file changed")
        assert await reason_of(client, base) == "missing"
        source.broken = RuntimeError("a secret of ours")
        request = f"GET /chunk/{BLOB.hex()}/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        answer = await raw(base, request)
    assert problem_in(answer)["status"] == 500
    assert b"secret" not in answer


async def test_closing_the_server_cuts_what_is_running(source, client):
    async with serving(source, rate=10_000) as (server, base):
        fetching = asyncio.create_task(reason_of(client, base, count=100))
        await eventually(lambda: server.uploads_running == 1)
        async with asyncio.timeout(5):
            await server.aclose()
    assert await fetching in ("short", "unreachable")


async def test_an_address_in_use_is_a_configuration_error(source):
    async with serving(source) as (_, base), DataServer(source, bucket=TokenBucket(None)) as second:
        with pytest.raises(ConfigError):
            await second.start("127.0.0.1", int(base.split(":")[1]))

"""The fetching end of the data plane over real sockets, against peers that send what no honest peer does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from shardcast.http.chunk_stream import Segments
from shardcast.http.data_client import DataClient
from shardcast_proto.errors import IntegrityError, TransferError
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
    head,
    reason_of,
    run_head,
    scripted,
    serving,
)


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    path = tmp_path / "blob"
    path.write_bytes(BYTES)
    return FileSource(path)


@pytest.fixture
async def client() -> AsyncIterator[DataClient]:
    async with DataClient(peer_id=PEER) as client:
        yield client


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (run_head(2) + BYTES[: CHUNK + 5], "short"),
        (run_head(2), "short"),
        (b"", "unreachable"),
        (head("404 Not Found", Content_Length=0), "missing"),
        (head("507 Insufficient Storage", Content_Length=0), "missing"),
        (head("503 Service Unavailable", Content_Length=0), "busy"),
        (head("503 Service Unavailable", Content_Length=10**9), "busy"),
        (head("302 Found", Location="http://127.0.0.1:1/", Content_Length=0), "protocol"),
        (head("206 Partial Content", Content_Length=0), "protocol"),
        (head("101 Switching Protocols", Upgrade="x", Connection="upgrade"), "protocol"),
        (run_head(2, 2 * CHUNK + 1) + BYTES[: 2 * CHUNK + 1], "protocol"),
        (run_head(2, 10**15), "protocol"),
        (run_head(2, 2 * CHUNK - 1) + BYTES, "protocol"),
        (run_head(6) + BYTES[: 6 * CHUNK], "protocol"),
        (run_head(0), "protocol"),
        (head(X_Shardcast_Count="two", Content_Length=CHUNK) + BYTES[:CHUNK], "protocol"),
        (head(Content_Length=CHUNK) + BYTES[:CHUNK], "protocol"),
        (head(X_Shardcast_Count=2) + BYTES[: 2 * CHUNK], "protocol"),
        (
            head(X_Shardcast_Count=1, Transfer_Encoding="chunked") + b"1000\r\n" + BYTES[:CHUNK] + b"\r\n0\r\n\r\n",
            "protocol",
        ),
        (head(X_Shardcast_Count=1, Content_Length=CHUNK, Content_Encoding="gzip") + BYTES[:CHUNK], "protocol"),
        (head(X_Shardcast_Count=1, Content_Length=-1) + BYTES, "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", "protocol"),
        (b"\x00\x01\x02 garbage\r\n\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol"),
    ],
)
async def test_an_answer_of_that_kind_fails_for_this_reason(client, answer, reason):
    async with scripted(answer) as base:
        assert await reason_of(client, base, count=5) == reason


async def test_bytes_behind_an_exact_body_are_never_taken_for_the_next_answer(client):
    landed = Landed()
    async with scripted(run_head(1) + BYTES[:CHUNK] + run_head(1) + bytes(CHUNK)) as base:
        for _ in range(3):
            with suppress(TransferError):
                await client.fetch_run(
                    base, BLOB, 0, [CHUNK], on_chunk=landed, deadline_s=SOON_S, idle_timeout_s=SOON_S
                )
    assert landed.chunks in ({}, expected(0, 1))


async def test_an_error_quotes_no_more_than_a_line_of_what_a_peer_sent(client):
    async with scripted(b"HTTP/1.1 200 " + b"a" * 100_000 + b"\r\n\r\n") as base:
        with pytest.raises(TransferError) as caught:
            await fetch(client, base)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", run_head(2), run_head(2) + BYTES[: CHUNK + 1]])
async def test_a_peer_that_falls_silent_stalls_in_bounded_time(client, answer):
    async with scripted(answer, then_hang=True) as base:
        started = time.monotonic()
        assert await reason_of(client, base, count=2, idle_timeout_s=0.2) == "stalled"
        assert time.monotonic() - started < SOON_S / 2


async def test_a_peer_that_is_too_slow_misses_the_deadline(client, source):
    async with serving(source, rate=40_000) as (_, base):
        started = time.monotonic()
        assert await reason_of(client, base, count=64, deadline_s=0.4) == "deadline"
        assert time.monotonic() - started < SOON_S / 2


async def test_the_chunks_before_a_failure_are_taken_and_counted(client):
    landed = Landed()

    async def land_slowly(index: int, segments: Segments) -> None:
        if index == 2:
            await asyncio.sleep(0.5)  # still at it when the peer has been silent for too long
        await landed(index, segments)

    async with scripted(run_head(5) + BYTES[: 3 * CHUNK + 7], then_hang=True) as base:
        with pytest.raises(TransferError) as caught:
            await client.fetch_run(
                base, BLOB, 0, LENGTHS[:5], on_chunk=land_slowly, deadline_s=SOON_S, idle_timeout_s=0.2
            )
    assert (caught.value.facts["reason"], caught.value.facts["received"]) == ("stalled", 3)
    assert landed.chunks == expected(0, 3)


async def test_nobody_listening_is_unreachable(client):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert await reason_of(client, f"127.0.0.1:{port}") == "unreachable"


@pytest.mark.parametrize(
    "base", ["localhost:80", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", "", "a@127.0.0.1:80"]
)
async def test_only_ip_literals_with_a_port_are_asked(client, base):
    assert await reason_of(client, base) == "unreachable"


async def test_other_bytes_for_an_object_are_an_integrity_error(client):
    async with scripted(head(Content_Length=5) + b"wrong") as base:
        with pytest.raises(IntegrityError) as caught:
            await client.fetch_object(base, digest_of(OBJECT), size_max=100, deadline_s=SOON_S)
    assert caught.value.facts["actual"] == digest_of(b"wrong")
    assert caught.value.facts["peer"] == base


async def test_what_lands_the_chunks_ends_the_fetch_with_its_own_error(source, client):
    async def refuse(index: int, segments: Segments) -> None:
        if index == 1:
            raise IntegrityError("chunk 1 is not what was promised", chunk_index=1)

    async with serving(source) as (_, base):
        with pytest.raises(IntegrityError):
            await client.fetch_run(base, BLOB, 0, LENGTHS, on_chunk=refuse, deadline_s=SOON_S, idle_timeout_s=SOON_S)


async def test_a_full_disk_is_not_mistaken_for_the_peer(source, client):
    async def full(index: int, segments: Segments) -> None:
        raise TimeoutError("a disk of ours")

    async with serving(source) as (_, base):
        with pytest.raises(TimeoutError, match="a disk of ours"):
            await client.fetch_run(base, BLOB, 0, LENGTHS, on_chunk=full, deadline_s=SOON_S, idle_timeout_s=SOON_S)


async def test_a_cancelled_fetch_leaves_no_connection_behind(source, client):
    async with serving(source, rate=10_000) as (server, base):
        fetching = asyncio.create_task(fetch(client, base, 0, 64))
        await eventually(lambda: server.uploads_running == 1)
        fetching.cancel()
        await asyncio.wait([fetching])
        assert fetching.cancelled()
        await eventually(lambda: server.connection_count == 0)

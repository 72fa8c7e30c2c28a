"""What the tests of the data plane share: a source of chunks in a file, a server round it, peers that follow a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from shardcast.http.bucket import TokenBucket
from shardcast.http.chunk_stream import Segments
from shardcast.http.data_client import DataClient
from shardcast.http.data_server import DataServer, ServeLimits
from shardcast_proto.errors import TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest

CHUNK = 4096
COUNT = 100
LAST = 1000
LENGTHS = [CHUNK] * (COUNT - 1) + [LAST]
BYTES = bytes((index * 7 + index // 251) % 256 for index in range(sum(LENGTHS)))
BLOB = digest_of(b"a blob")
OBJECT = b"a manifest, say" * 10_000
PEER = "12D3KooW" + "A" * 44
#: Long enough for a loaded machine, short enough to fail a test.
SOON_S = 10.0


@dataclass
class Location:
    file: BinaryIO
    offset: int
    length: int


@dataclass
class FileSource:
    """Holds one blob in one file, except the chunks in `lacking`."""

    path: Path
    lacking: set[int] = field(default_factory=set)
    lengths: list[int] = field(default_factory=lambda: LENGTHS)
    opened: list[BinaryIO] = field(default_factory=list)
    broken: Exception | None = None

    def locate_staged(self, blob: Digest, index: int) -> list[Location]:
        return []

    def locate_run(self, blob: Digest, first: int, count: int) -> list[Location]:
        if self.broken is not None:
            raise self.broken
        run: list[Location] = []
        if blob != BLOB or first in self.lacking:
            return run
        file = self.path.open("rb", buffering=0)
        self.opened.append(file)
        for index in range(first, min(first + count, len(self.lengths))):
            if index in self.lacking:
                break
            run.append(Location(file, sum(self.lengths[:index]), self.lengths[index]))
        return run

    def object(self, digest: Digest) -> bytes | None:
        return OBJECT if digest == digest_of(OBJECT) else None


@asynccontextmanager
async def serving(source: FileSource, *, rate: float | None = None, on_sent=lambda peer, size: None, **limits):
    bucket = TokenBucket(rate)
    bucket.reserve(256 * 1024)  # what may leave at once, so that what a test sends is paced from its first byte on
    async with DataServer(source, bucket=bucket, limits=ServeLimits(**limits), on_sent=on_sent) as server:
        host, port = await server.start("127.0.0.1", 0)
        yield server, f"{host}:{port}"


@asynccontextmanager
async def scripted(answer: bytes, *, then_hang: bool = False):
    """A peer that answers every request with the same bytes, whatever they are."""
    hanging = asyncio.Event()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if then_hang:
            await hanging.wait()
        writer.close()

    async with await asyncio.start_server(on_connection, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        hanging.set()


class Landed:
    """Collects what arrives, chunk by chunk."""

    def __init__(self) -> None:
        self.chunks: dict[int, bytes] = {}

    async def __call__(self, index: int, segments: Segments) -> None:
        self.chunks[index] = b"".join(segments)


def expected(first: int, count: int) -> dict[int, bytes]:
    return {i: BYTES[i * CHUNK : i * CHUNK + LENGTHS[i]] for i in range(first, first + count)}


async def fetch(
    client: DataClient, base: str, first: int = 0, count: int = 1, *, deadline_s=SOON_S, idle_timeout_s=SOON_S
):
    landed = Landed()
    lengths = LENGTHS[first : first + count]
    received = await client.fetch_run(
        base, BLOB, first, lengths, on_chunk=landed, deadline_s=deadline_s, idle_timeout_s=idle_timeout_s
    )
    assert received == len(landed.chunks)
    return landed.chunks


async def reason_of(client: DataClient, base: str, **options) -> str:
    with pytest.raises(TransferError) as caught:
        await fetch(client, base, **options)
    assert caught.value.facts["peer"] == base
    return str(caught.value.facts["reason"])


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is the other end of a socket
            await asyncio.sleep(0.01)


def head(status: str = "200 OK", **headers: object) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode()


def run_head(count: int = 1, length: int | None = None) -> bytes:
    return head(X_Shardcast_Count=count, Content_Length=count * CHUNK if length is None else length)


async def raw(base: str, request: bytes) -> bytes:
    """Send bytes as they are and return everything that comes back until the server closes."""
    host, port = base.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(SOON_S):
        answer = await reader.read()
    writer.close()
    return answer


def problem_in(answer: bytes) -> dict[str, object]:
    header, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in header
    document = json.loads(body)
    assert f" {document['status']} ".encode() in header.split(b"\r\n")[0]
    return document

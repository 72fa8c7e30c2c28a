"""The fetching end of the data plane.

`DataClient` asks one peer for one thing per call, bounded in bytes by what the caller knows to expect, in time by a
deadline, in silence by an idle limit. It verifies objects (it was given their digest); a chunk goes, as it becomes
whole, to the caller's `on_chunk`, which verifies and lands it while the next one comes in. Whom to ask, what to ask
next, whom to blame: the relay machine decides that from the reason in the error.

    reason        what happened                                            whose fault, likely
    unreachable   no connection, or it ended before a response             the address, the network, a peer that is gone
    missing       404: the peer does not hold the first chunk              nobody's: our picture of the peer is old
    busy          503: all its upload slots are taken                      nobody's: come back later
    stalled       nothing arrived for `idle_timeout_s`                     the peer or its network
    deadline      the whole did not arrive within `deadline_s`             the peer is slower than planned
    short         the body ended early                                     the peer, killed or withdrawn in mid-transfer
    protocol      anything an honest peer does not send                    the peer
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal, Self, TypeAlias

import aiohttp
from yarl import URL

from shardcast.http.bucket import TokenBucket
from shardcast.http.chunk_stream import ChunkSplitter, ChunkTaker, Segments
from shardcast.http.data_server import COUNT_HEADER, RUN_CHUNKS_MAX
from shardcast.http.upload import PEER_HEADER
from shardcast_proto.errors import IntegrityError, TransferError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest

Reason: TypeAlias = Literal["unreachable", "missing", "busy", "stalled", "deadline", "short", "protocol"]

#: One read of the loop brings up to 256 KiB; four of them may wait while a chunk is being landed (measured: 64 KiB
#: halves the rate).
_READ_BUFFER_BYTES: Final = 1024 * 1024
#: A peer that has not accepted by then is behind a firewall that drops, or overloaded: ask another.
_CONNECT_TIMEOUT_S: Final = 5.0
#: Connections kept to one peer; the machine asks for fewer runs at a time than this.
_CONNECTIONS_PER_PEER_MAX: Final = 16
_CONNECTIONS_MAX: Final = 256
#: Below the server's idle limit (60 s), so that a connection is not reused in the moment the peer closes it.
_KEEPALIVE_S: Final = 30.0
#: Error bodies up to this are read so that the connection can be used again; longer ones cost the connection.
_ERROR_BYTES_MAX: Final = 8 * 1024
_LINE_BYTES_MAX: Final = 512
_FIELD_BYTES_MAX: Final = 1024
_FIELDS_MAX: Final = 32
_RETRY_AFTER_MAX_S: Final = 60
_OBJECT_IDLE_TIMEOUT_S: Final = 10.0
#: What the HTTP library says may quote the peer's bytes at length.
_CAUSE_CHARACTERS_MAX: Final = 200
#: Hashing this much takes under 0.1 ms; more is hashed in a thread.
_ON_LOOP_HASH_BYTES_MAX: Final = 256 * 1024


class DataClient:
    """One node's outgoing data plane: a pool of connections to many peers.

    Args:
        peer_id: Our own peer id, sent as a hint for the peer's counters.
        inbound: Paces everything that this node receives (`--down-mbps`): what is not read yet waits at its sender.
    """

    def __init__(self, *, peer_id: str = "", inbound: TokenBucket | None = None) -> None:
        self._inbound = inbound or TokenBucket(None)
        self._headers = {PEER_HEADER: peer_id} if peer_id else {}
        self._session: aiohttp.ClientSession | None = None

    async def fetch_object(self, base: str, digest: Digest, *, size_max: int, deadline_s: float) -> bytes:
        """Fetch the object with `digest` from the peer at `base` ("ip:port").

        Args:
            size_max: The longest body that is accepted, in bytes.
            deadline_s: Seconds from now until the whole must be here.

        Raises:
            TransferError: It could not be fetched; `facts["reason"]` is one of the reasons above.
            IntegrityError: The peer sent other bytes.
        """
        idle_timeout_s = min(deadline_s, _OBJECT_IDLE_TIMEOUT_S)
        parts: list[bytes] = []
        async with self._response(base, f"/object/{digest.hex()}", deadline_s, idle_timeout_s) as response:
            size = _length_of(response, base)
            if size > size_max:
                raise _failure("protocol", base, f"the object is {size} bytes long, {size_max} were allowed")
            async for data in response.content.iter_any():
                await self._inbound.take(len(data))
                parts.append(data)
        data = b"".join(parts)
        small = len(data) <= _ON_LOOP_HASH_BYTES_MAX
        actual = digest_of(data) if small else await asyncio.to_thread(digest_of, data)
        if actual != digest:
            raise IntegrityError(
                f"{base} sent other bytes than the object that was asked for", peer=base, expected=digest, actual=actual
            )
        return data

    async def fetch_run(
        self,
        base: str,
        blob: Digest,
        first: int,
        lengths: Sequence[int],
        *,
        on_chunk: Callable[[int, Segments], Awaitable[None]],
        on_began: Callable[[], None] = lambda: None,
        deadline_s: float,
        idle_timeout_s: float,
    ) -> int:
        """Fetch the chunks `first`, `first + 1`, … of `blob`, as many of `lengths` as the peer holds in a row.

        `on_chunk(index, segments)` is awaited once per whole chunk, in order, while the next chunk comes in; at most
        one is running. What it raises ends the call.

        Args:
            lengths: The exact length of each chunk asked for.
            on_began: Called once, when the response has begun.
            deadline_s: Seconds from now until the whole must be here.
            idle_timeout_s: The longest silence of the peer that is put up with.

        Returns:
            How many chunks came; less than asked when the peer holds no more in a row.

        Raises:
            TransferError: `facts["reason"]` is one of the reasons above, `facts["received"]` counts the chunks that
                `on_chunk` has taken before.

        Cancellation: the connection is closed; chunks that `on_chunk` has taken stay taken, the running one is
        cancelled.
        """
        asked = list(lengths[:RUN_CHUNKS_MAX])
        path = f"/chunk/{blob.hex()}/{first}?count={len(asked)}"
        taker = ChunkTaker(first, on_chunk)
        try:
            async with self._response(base, path, deadline_s, idle_timeout_s) as response:
                on_began()
                return await _take_run(response, asked, taker, base=base, inbound=self._inbound)
        except TransferError as error:
            await taker.finish()
            error.facts.setdefault("received", taker.taken_count)
            raise
        finally:
            await taker.abandon()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @asynccontextmanager
    async def _response(
        self, base: str, path: str, deadline_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Open the response to one GET and make sure that it is a 200.

        Leaving early, by an error or by cancellation, closes the connection; leaving at the end of the body keeps it.
        """
        url = _url_of(base, path)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=idle_timeout_s)
        began = False
        deadline = asyncio.timeout(deadline_s)
        try:
            async with deadline:
                session = self._open_session()
                async with session.get(url, headers=self._headers, timeout=timeout, allow_redirects=False) as response:
                    began = True
                    await _require_ok(response, base)
                    yield response
        except aiohttp.ClientError as error:
            raise _translate(error, base, began=began) from error
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise _failure("deadline", base, f"not whole after {deadline_s:.1f} s") from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=_CONNECTIONS_MAX,
                limit_per_host=_CONNECTIONS_PER_PEER_MAX,
                keepalive_timeout=_KEEPALIVE_S,
                use_dns_cache=False,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER_BYTES,
                max_line_size=_LINE_BYTES_MAX,
                max_field_size=_FIELD_BYTES_MAX,
                max_headers=_FIELDS_MAX,
                skip_auto_headers=("Accept-Encoding", "Accept", "User-Agent"),
            )
        return self._session


async def _take_run(
    response: aiohttp.ClientResponse, asked: Sequence[int], taker: ChunkTaker, *, base: str, inbound: TokenBucket
) -> int:
    """Read the body of a run and hand its chunks over; return their number."""
    count = _count_of(response, asked, base)
    splitter = ChunkSplitter(asked[:count])
    async for data in response.content.iter_any():
        await inbound.take(len(data))
        for segments in splitter.feed(data):
            await taker.take(segments)
    await taker.finish()
    if taker.taken_count < count or splitter.surplus_bytes:
        raise _failure("short", base, f"the body ended after {taker.taken_count} of {count} chunks")
    return count


def _count_of(response: aiohttp.ClientResponse, asked: Sequence[int], base: str) -> int:
    """Return how many chunks the response holds, when its headers make sense."""
    text = response.headers.get(COUNT_HEADER, "")
    count = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= count <= len(asked):
        raise _failure("protocol", base, f"{COUNT_HEADER} is {text!r} for a run of {len(asked)}")
    length, expected = _length_of(response, base), sum(asked[:count])
    if length != expected:
        raise _failure("protocol", base, f"the body is {length} bytes long, {count} chunks have {expected}")
    return count


def _length_of(response: aiohttp.ClientResponse, base: str) -> int:
    """Return the announced length of a plain body; a body without one has no end that could be checked."""
    if response.content_length is None or "Content-Encoding" in response.headers:
        raise _failure("protocol", base, "the body has no announced length, or is encoded")
    return response.content_length


async def _require_ok(response: aiohttp.ClientResponse, base: str) -> None:
    status = response.status
    if status == 200:
        return
    if response.content_length is not None and response.content_length <= _ERROR_BYTES_MAX:
        await response.read()
    else:
        response.close()
    if status in (404, 507):
        raise _failure("missing", base, f"the peer answers {status}")
    if status == 429 or status >= 500:
        text = response.headers.get("Retry-After", "")
        failure = _failure("busy", base, f"the peer answers {status}")
        is_number = text.isascii() and text.isdigit() and len(text) < 6
        failure.facts["retry_after_s"] = min(int(text), _RETRY_AFTER_MAX_S) if is_number else 1
        raise failure
    raise _failure("protocol", base, f"the peer answers {status}")


def _url_of(base: str, path: str) -> URL:
    """Return the address of `path` at a peer; only IP literals, so that nothing is looked up."""
    host, _, port = base.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(port)
    except ValueError as error:
        raise _failure("unreachable", base, "not an address of the form ip:port") from error
    return URL.build(scheme="http", host=str(address), port=int(port)).join(URL(path, encoded=True))


def _translate(error: aiohttp.ClientError, base: str, *, began: bool) -> TransferError:
    """Turn what the HTTP library says into one of our reasons.

    Args:
        began: Whether a response header had arrived.
    """
    if isinstance(error, aiohttp.SocketTimeoutError):
        return _failure("stalled", base, "nothing came for too long")
    if isinstance(error, aiohttp.ClientResponseError):
        return _failure("protocol", base, f"not HTTP as we speak it: {error.message}")
    if began:
        return _failure("short", base, "the connection ended in the body")
    return _failure("unreachable", base, str(error) or type(error).__name__)


def _failure(reason: Reason, base: str, what: str) -> TransferError:
    return TransferError(
        f"fetching from {base} failed ({reason}): {what[:_CAUSE_CHARACTERS_MAX]}", reason=reason, peer=base
    )

"""The table of a node's bulk links: at most one to each peer in each direction, whoever opened it.

reason of a failure   what happened
unreachable           no connection; or there is no link
busy                  the peer closed the connection: it has no room, or is no neighbour
protocol              the peer said what no honest one says
deadline, stalled     too late; the peer took, or sent, nothing for too long
short                 the link ended
missing               the chunk is not held
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import structlog

from shardcast.http.bucket import TokenBucket
from shardcast.http.chunk_stream import Segments
from shardcast.http.gate import Door
from shardcast_proto.bulk import Accepting, Opening
from shardcast_proto.errors import RemoteProtocolError, TransferError
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import LINK_MESSAGE_BYTES_MAX, LINK_NONCE_BYTES
from shardcast_proto.trust import SigningKey

from .events import LinkEvents
from .limits import LinkLimits
from .link import Link, LinkNeeds, SendingLink
from .meter import LinkStats
from .orders import RunSource
from .preamble import Acceptor, Opener
from .receiving import ReceivingLink

#: As for other look-ups: they must not wait behind the hashing of incoming chunks.
_LOOKUP_THREADS: Final = 2

#: A peer, and whether the chunks go there.
Key: TypeAlias = tuple[PeerId, bool]

_log = structlog.get_logger("shardcast.bulk")


class BulkLinks:
    """The links of one node.

    Invariant: a link in the table is open; of each key the events alternate, `link_opened` first.

    Args:
        key: The identity of this node.
        source: Where the bytes come from.
        bucket: Paces all uploads of the node together; `inbound` paces what it receives.
        may_link: Says whether a peer may open links to this node.
        on_sent: Told (peer, chunk bytes) for each piece that the kernel took.
    """

    def __init__(
        self,
        key: SigningKey,
        *,
        source: RunSource,
        bucket: TokenBucket,
        inbound: TokenBucket,
        may_link: Callable[[PeerId], bool],
        on_sent: Callable[[str, int], None] = lambda peer, size_bytes: None,
        limits: LinkLimits | None = None,
    ) -> None:
        self.limits: Final = limits or LinkLimits()
        #: Set before the first link comes up.
        self.events: LinkEvents
        self._key = key
        self._source, self._bucket, self._inbound = source, bucket, inbound
        self._may_link = may_link
        self._on_sent = on_sent
        self._pool = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="link-lookup")
        self._links: dict[Key, Link] = {}
        #: The last report of each key that still waits for something.
        self._reports: dict[Key, asyncio.Task[None]] = {}
        #: Control bytes (sent, received) of the links that are gone.
        self._past_control_bytes = (0, 0)
        self._is_closed = False

    async def open(self, peer: PeerId, addresses: Sequence[str], *, is_sending: bool, timeout_s: float) -> None:
        """Open a link at the first address that answers; one that is up already stays. Returns when `link_opened` was told.

        Args:
            addresses: The data plane of the peer, "ip:port" each.
            is_sending: Whether the chunks are to go from here to there.

        Raises:
            TransferError: `facts["reason"]` is unreachable, busy, protocol or deadline.
        """
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                await self._open_at_some(peer, addresses, is_sending=is_sending)
                report = self._reports.get((peer, is_sending))
                if report is not None:
                    await asyncio.wait([report])
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TransferError(f"no link to {peer} within {timeout_s:.1f} s", reason="deadline", peer=peer) from error

    def close(self, peer: PeerId, *, is_sending: bool) -> None:
        """Close a link, if it is up. What is under way on it ends as "short"."""
        link = self._links.get((peer, is_sending))
        if link is not None:
            link.close(TransferError(f"the link to {peer} was closed here", reason="short", peer=peer))

    def has(self, peer: PeerId, *, is_sending: bool) -> bool:
        """Whether a link is up."""
        return (peer, is_sending) in self._links

    async def push(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, deadline_s: float) -> None:
        """Send a chunk unasked; returns when the kernel has all of it.

        Raises:
            TransferError: `facts["reason"]` is short, stalled, deadline, missing or unreachable.
            StoreError: Our own disk fails.

        Cancellation: a chunk that has not begun is not sent.
        """
        link = self._links.get((peer, True))
        if not isinstance(link, SendingLink):
            raise TransferError(f"there is no sending link to {peer}", reason="unreachable", peer=peer)
        await link.push(blob, stripe, index, deadline_s=deadline_s)

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
        """Fetch chunks of a blob in a row over the link from the peer `base`; see `DataClient.fetch_run`.

        Cancellation: the rest is cancelled at the peer; what it has sent already is thrown away.
        """
        link = self._links.get((PeerId(base), False))
        if not isinstance(link, ReceivingLink):
            raise TransferError(f"there is no link from {base}", reason="unreachable", peer=base)
        return await link.fetch_run(
            blob,
            first,
            lengths,
            on_chunk=on_chunk,
            on_began=on_began,
            deadline_s=deadline_s,
            idle_timeout_s=idle_timeout_s,
        )

    def send(self, peer: PeerId, payload: bytes) -> bool:
        """Queue a control message over whichever link is up; False when there is none, or no room."""
        if len(payload) > LINK_MESSAGE_BYTES_MAX:
            return False
        links = (self._links.get((peer, is_sending)) for is_sending in (False, True))
        return any(link is not None and link.message(payload) for link in links)

    def sending_sockets(self) -> list[tuple[PeerId, socket.socket]]:
        """Return the connections that chunks go out by, for what the kernel knows about them."""
        return [(link.peer, link.outlet.sock) for link in self._links.values() if isinstance(link, SendingLink)]

    def stats(self) -> list[LinkStats]:
        """Return the counts of every link that is up."""
        return [link.stats() for link in self._links.values()]

    @property
    def control_bytes(self) -> tuple[int, int]:
        """Control bytes (sent, received) over all links since the start."""
        sent, received = self._past_control_bytes
        for stats in self.stats():
            sent, received = sent + stats.control_sent_bytes, received + stats.control_received_bytes
        return sent, received

    @property
    def uplink_bytes_per_s(self) -> float | None:
        """The rate that uploads are paced at; None when they are not."""
        return self._bucket.rate_bytes_per_s

    def accept(self, door: Door) -> asyncio.BufferedProtocol:
        """Return what reads a connection that began as a link does; for the gate."""
        return Acceptor(self._key, door, may_link=self._is_welcome, on_proved=self._accepted)

    async def aclose(self) -> None:
        """Close every link and wait until all of it is over."""
        self._is_closed = True
        for peer, is_sending in list(self._links):
            self.close(peer, is_sending=is_sending)
        while self._reports:
            await asyncio.wait(list(self._reports.values()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- coming up --------------------------------------------------------------------------------------------------

    async def _open_at_some(self, peer: PeerId, addresses: Sequence[str], *, is_sending: bool) -> None:
        failure = TransferError(f"{peer} has no address", reason="unreachable", peer=peer)
        if self._is_closed:
            raise failure
        for address in addresses:
            if self.has(peer, is_sending=is_sending):
                return
            try:
                await self._open_at(peer, address, is_sending=is_sending)
            except TransferError as error:
                failure = error
            else:
                return
        raise failure

    async def _open_at(self, peer: PeerId, address: str, *, is_sending: bool) -> None:
        host, port = _endpoint_of(address, peer)
        nonce = secrets.token_bytes(LINK_NONCE_BYTES)
        try:
            opening = Opening(self._key, peer, nonce, is_sending=is_sending)
        except RemoteProtocolError as error:
            raise TransferError(f"{peer} has no key: {error.message}", reason="protocol", peer=peer) from error
        opener = Opener(opening, peer)
        try:
            await asyncio.get_running_loop().create_connection(lambda: opener, host, port)
            transport = await opener.proved
        except OSError as error:
            raise TransferError(f"{peer} is not at {address}: {error}", reason="unreachable", peer=peer) from error
        except asyncio.CancelledError:
            opener.abort()
            raise
        self._enter((peer, is_sending), transport, is_ours=True, on_gone=lambda: None)

    def _is_welcome(self, peer: PeerId) -> bool:
        return not self._is_closed and self._may_link(peer)

    def _accepted(self, accepting: Accepting, transport: asyncio.Transport, door: Door) -> None:
        if not self._is_welcome(accepting.peer):
            transport.abort()
            return
        door.request_started()
        key = (accepting.peer, accepting.is_sending)
        self._enter(key, transport, is_ours=False, on_gone=lambda: door.connection_lost(None))

    def _enter(self, key: Key, transport: asyncio.Transport, *, is_ours: bool, on_gone: Callable[[], None]) -> None:
        """Make a connection a link of the table, instead of the one that may be there."""
        older = self._links.get(key)
        if self._is_closed or transport.is_closing() or (older is not None and self._stays(older, is_ours=is_ours)):
            transport.abort()
            return
        if older is not None:
            older.close(TransferError(f"a newer link to {key[0]} came", reason="short", peer=key[0]))
        needs = LinkNeeds(
            source=self._source,
            pool=self._pool,
            bucket=self._bucket,
            inbound=self._inbound,
            limits=self.limits,
            events=self.events,
            on_sent=self._on_sent,
        )
        make = SendingLink if key[1] else ReceivingLink
        link = make(key[0], transport, needs, is_ours=is_ours, on_closed=self._link_ended, on_gone=on_gone)
        self._links[key] = link
        self._report(key, self._tell_opened, link)

    def _stays(self, older: Link, *, is_ours: bool) -> bool:
        """Say whether a link stays although another one came.

        Two links that were opened from both ends at once have crossed, and both ends must keep the same one: the one that the smaller peer
        id opened. Any other newcomer is there because its opener has lost the older one.
        """
        has_crossed = older.is_ours != is_ours and _now_s() - older.since_s < self.limits.crossing_s
        return has_crossed and older.is_ours == (self._key.peer < older.peer)

    # --- going down -------------------------------------------------------------------------------------------------

    def _link_ended(self, link: Link) -> None:
        key = (link.peer, link.is_sending)
        if self._links.get(key) is link:
            del self._links[key]
        stats, (sent, received) = link.stats(), self._past_control_bytes
        self._past_control_bytes = (sent + stats.control_sent_bytes, received + stats.control_received_bytes)
        error = link.error
        _log.info("link_closed", peer=link.peer, is_sending=link.is_sending, error=error and error.message)
        self._report(key, self._tell_closed, link)

    def _report(self, key: Key, tell: Callable[[Link], Awaitable[None]], link: Link) -> None:
        """Tell one thing after the other."""
        before = self._reports.get(key)

        async def work() -> None:
            if before is not None:
                await asyncio.wait([before])
            await tell(link)

        task = self._reports[key] = asyncio.get_running_loop().create_task(work())
        task.add_done_callback(lambda done: self._reported(key, done))

    def _reported(self, key: Key, task: asyncio.Task[None]) -> None:
        if self._reports.get(key) is task:
            del self._reports[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("report_failed", error=repr(error), exc_info=error)

    async def _tell_opened(self, link: Link) -> None:
        self.events.link_opened(link.peer, link.is_sending)
        link.begin()

    async def _tell_closed(self, link: Link) -> None:
        await link.wait_over()
        await self.events.link_closed(link.peer, link.is_sending)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _endpoint_of(address: str, peer: PeerId) -> tuple[str, int]:
    """Read "ip:port"; only IP literals, so that nothing is looked up."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(port)
    except ValueError as error:
        raise TransferError(f"{address!r} is not of the form ip:port", reason="unreachable", peer=peer) from error
    return str(ip), int(port)

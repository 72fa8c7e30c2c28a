"""One link, from its preamble's end to its own: what both directions have in common, and the sending one."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from shardcast.http.bucket import TokenBucket
from shardcast_proto.bulk import CancelGet, ChunkHead, End, Get
from shardcast_proto.errors import InvariantViolated, RemoteProtocolError, ShardcastError, TransferError
from shardcast_proto.ids import Digest, PeerId

from .events import LinkEvents
from .inlet import Inlet
from .limits import LinkLimits
from .meter import LinkStats
from .orders import Push, RunSource
from .outlet import Outlet

#: A host that is gone without a word is noticed within about 25 s, also where nothing is sent.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkNeeds:
    """What every link of a node shares."""

    source: RunSource
    pool: Executor
    bucket: TokenBucket
    inbound: TokenBucket
    limits: LinkLimits
    events: LinkEvents
    #: Told (peer, chunk bytes) of each piece that the kernel took.
    on_sent: Callable[[str, int], None]


class Link(ABC):
    """What both directions have in common.

    Args:
        transport: The connection; its preamble is over.
        is_ours: Whether this node opened it.
        on_closed: Called once, when the link is of no use any more; what was under way on it may still be ending.
        on_gone: Called once, when the connection is closed.
    """

    is_sending: bool

    def __init__(
        self,
        peer: PeerId,
        transport: asyncio.Transport,
        needs: LinkNeeds,
        *,
        is_ours: bool,
        on_closed: Callable[[Link], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.peer: Final = peer
        self.is_ours: Final = is_ours
        self._loop = asyncio.get_running_loop()
        self.since_s = self._loop.time()
        self._transport = transport
        self._needs = needs
        self._on_closed, self._on_gone = on_closed, on_gone
        self.error: ShardcastError | None = None
        self.control_received_bytes = 0
        #: Calls of the owner that have not returned, and who waits for the last of them.
        self._calls = 0
        self._idle: asyncio.Future[None] | None = None
        self._inlet = Inlet(self, has_chunks=not self.is_sending, inbound=needs.inbound)
        # an owner is told that the link is up before it is told of anything that came by it
        self._inlet.pause("opening")
        _set_options(transport.get_extra_info("socket"), needs.limits)
        self._inlet.begin(transport)

    def begin(self) -> None:
        """Read from now on."""
        self._inlet.resume("opening")

    def close(self, error: ShardcastError) -> None:
        """End the link; everything under way on it ends with `error`."""
        if self.error is not None:
            return
        self.error = error
        self._inlet.stop()
        self._transport.abort()
        self._end(error)
        self._on_closed(self)

    async def wait_over(self) -> None:
        """Wait until every call that was under way has returned."""
        while self._calls:
            self._idle = self._idle or self._loop.create_future()
            await asyncio.wait([self._idle])

    @abstractmethod
    def message(self, payload: bytes) -> bool:
        """Queue a control message; returns whether there was room."""

    @abstractmethod
    def stats(self) -> LinkStats:
        """Return the counts of now."""

    @abstractmethod
    def _end(self, error: ShardcastError) -> None:
        """End everything that is under way."""

    @contextmanager
    def _call(self) -> Iterator[None]:
        if self.error is not None:
            raise TransferError(f"the link to {self.peer} is closed", reason="short", peer=self.peer)
        self._calls += 1
        try:
            yield
        finally:
            self._call_ended()

    def _call_ended(self) -> None:
        self._calls -= 1
        if not self._calls and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.set_result(None)

    # --- what came (Taker) ------------------------------------------------------------------------------------------

    def chunk_began(self, head: ChunkHead) -> bool:
        raise RemoteProtocolError("chunks do not come this way")

    def chunk_came(self, head: ChunkHead, data: memoryview) -> None:
        raise RemoteProtocolError("chunks do not come this way")

    @abstractmethod
    def head_came(self, head: End | Get | CancelGet) -> None:
        """End what a frame without a body ends or asks."""

    def message_came(self, payload: bytes) -> None:
        self.control_received_bytes += len(payload)
        if self.error is None:
            self._needs.events.frame_received(self.peer, payload)

    def gone(self) -> None:
        self._on_gone()


class SendingLink(Link):
    """A link whose chunks go from here to the peer."""

    is_sending = True

    def __init__(
        self,
        peer: PeerId,
        transport: asyncio.Transport,
        needs: LinkNeeds,
        *,
        is_ours: bool,
        on_closed: Callable[[Link], None],
        on_gone: Callable[[], None],
    ) -> None:
        super().__init__(peer, transport, needs, is_ours=is_ours, on_closed=on_closed, on_gone=on_gone)
        on_sent = needs.on_sent
        self.outlet = Outlet(
            transport.get_extra_info("socket").dup(),
            source=needs.source,
            pool=needs.pool,
            bucket=needs.bucket,
            limits=needs.limits,
            on_sent=lambda size_bytes: on_sent(peer, size_bytes),
            on_failed=self.close,
        )

    async def push(self, blob: Digest, stripe: int, index: int, *, deadline_s: float) -> None:
        """See `BulkLinks.push`."""
        with self._call():
            ended: asyncio.Future[None] = self._loop.create_future()
            self.outlet.push(Push(blob, stripe, index, ended))
            deadline = asyncio.timeout(deadline_s)
            try:
                async with deadline:
                    await ended
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise TransferError(
                    f"chunk {index} did not leave within {deadline_s:.1f} s", reason="deadline", peer=self.peer
                ) from error

    def message(self, payload: bytes) -> bool:
        return self.outlet.message(payload)

    def stats(self) -> LinkStats:
        outlet = self.outlet
        return LinkStats(
            peer=self.peer,
            is_sending=True,
            sent_bytes=outlet.chunks.total_bytes,
            received_bytes=0,
            rate_bytes_per_s=outlet.chunks.rate_bytes_per_s(self._loop.time()),
            control_sent_bytes=outlet.control_bytes,
            control_received_bytes=self.control_received_bytes,
        )

    def _end(self, error: ShardcastError) -> None:
        self.outlet.close(error)

    def head_came(self, head: End | Get | CancelGet) -> None:
        if isinstance(head, Get):
            self.outlet.answer(head)
        elif isinstance(head, CancelGet):
            self.outlet.cancel(head.request)
        else:
            raise InvariantViolated("an end came against the chunks")


def _set_options(sock: socket.socket, limits: LinkLimits) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_KEEPALIVE, ("TCP_NOTSENT_LOWAT", limits.not_sent_bytes)):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)

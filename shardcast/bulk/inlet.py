"""The inlet of a link: it reads frames, each chunk straight into the memory it stays in.

Heads are read into a small buffer. A chunk has a buffer of its own length and a head's more: what came of it with its head is copied, the
rest the kernel writes in place, and the next head comes with its last bytes, for no system call of its own. The buffer of a chunk is made
only after its head was accepted.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Protocol

from shardcast.http.bucket import TokenBucket
from shardcast_proto.bulk import HEAD_BYTES_MAX, CancelGet, ChunkHead, End, Get, MessageHead, read_head
from shardcast_proto.errors import RemoteProtocolError, ShardcastError, TransferError
from shardcast_proto.framing import NEED_DATA
from shardcast_proto.limits import KIB

#: Room for the heads and control messages that one read brings.
_SCRATCH_BYTES: Final = 4 * KIB
#: Where the bytes of chunks go that nobody wants.
_WASTE_BYTES: Final = 64 * KIB
#: In the middle of a chunk the kernel wakes us for no less: over a shaped link bytes come a few packets at a time, and six of ten wake-ups
#: were for those. More than half of the smallest receive buffer would have the kernel clamp the window.
_WAKE_BYTES: Final = 64 * KIB
#: So much comes within half a second at least, or each packet is looked at.
_FAST_BYTES_PER_S: Final = 256 * KIB


class Taker(Protocol):
    """What a link does with what it reads. Each method may raise `RemoteProtocolError`, which ends the link."""

    def chunk_began(self, head: ChunkHead) -> bool:
        """Judge the head of a chunk; False has its bytes thrown away."""

    def chunk_came(self, head: ChunkHead, data: memoryview) -> None:
        """Take a whole chunk that was wanted."""

    def message_came(self, payload: bytes) -> None:
        """Take a control message."""

    def head_came(self, head: End | Get | CancelGet) -> None:
        """Take a frame without a body."""

    def close(self, error: ShardcastError) -> None:
        """End the link: nothing comes any more."""

    def gone(self) -> None:
        """Note that the connection is closed."""


class Inlet(asyncio.BufferedProtocol):
    """Reads one link.

    Invariant: of `_body`, `_skip_bytes` and `_scratch`, the first that is set takes the next bytes.

    Args:
        has_chunks: Whether chunks come this way.
        inbound: Paces everything that this node receives.
    """

    def __init__(self, taker: Taker, *, has_chunks: bool, inbound: TokenBucket) -> None:
        self._taker = taker
        self._has_chunks = has_chunks
        self._inbound = inbound
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        #: Where in `_scratch` the unread bytes end; they begin at 0.
        self._end = 0
        self._is_stopped = False
        #: What is being read, its memory with room for one head behind it, and how much of that has come.
        self._head: ChunkHead | MessageHead | None = None
        self._body: memoryview | None = None
        self._body_bytes = 0
        self._skip_bytes = 0
        self._waste = memoryview(bytearray(_WASTE_BYTES)) if has_chunks else memoryview(b"")
        #: Why nothing is read just now.
        self._pauses: set[str] = set()
        #: So many bytes must have come before the kernel wakes us.
        self._wake_bytes = 1
        #: Whether the chunk before came so fast that waiting for `_WAKE_BYTES` is never taken for a stall; when this one began.
        self._is_fast = False
        self._began_s = 0.0
        #: When something came last, on the loop's clock.
        self.heard_s = self._loop.time()

    @property
    def is_paused(self) -> bool:
        """Whether it is we who do not read."""
        return bool(self._pauses)

    @property
    def broken(self) -> ChunkHead | None:
        """The head of a wanted chunk whose bytes have not all come."""
        return self._head if self._body is not None and isinstance(self._head, ChunkHead) else None

    def begin(self, transport: asyncio.Transport) -> None:
        """Read from a connection whose preamble is over."""
        self._transport = transport
        transport.set_protocol(self)
        if self._pauses:
            transport.pause_reading()

    def stop(self) -> None:
        """Take nothing of what has come already."""
        self._is_stopped = True

    def pause(self, reason: str) -> None:
        """Read nothing until every reason is withdrawn."""
        self._pauses.add(reason)
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self, reason: str) -> None:
        """Withdraw a reason."""
        self._pauses.discard(reason)
        if not self._pauses and self._transport is not None and not self._transport.is_closing():
            self.heard_s = self._loop.time()
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._body is not None:
            return self._body[self._body_bytes :]
        if self._skip_bytes:
            return self._waste[: self._skip_bytes]
        return self._scratch[self._end :]

    def _expect(self, size_bytes: int) -> None:
        """Have the kernel wake us when so much has come; never more than what must come before anything else can."""
        wake_bytes = min(max(size_bytes, 1), _WAKE_BYTES if self._is_fast else 1)
        if wake_bytes == self._wake_bytes or self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "SO_RCVLOWAT"):
            self._wake_bytes = wake_bytes
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake_bytes)

    def buffer_updated(self, nbytes: int) -> None:
        self.heard_s = self._loop.time()
        delay_s = self._inbound.reserve(nbytes) if self._has_chunks else 0.0
        if delay_s > 0:
            self.pause("pace")
            self._loop.call_later(delay_s, self.resume, "pace")
        try:
            self._take(nbytes)
        except RemoteProtocolError as error:
            self._taker.close(TransferError(error.message, reason="protocol"))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._taker.close(TransferError(f"the link broke: {exc or 'closed by the peer'}", reason="short"))
        self._taker.gone()

    def _take(self, nbytes: int) -> None:
        if self._body is not None and self._head is not None:
            self._body_bytes += nbytes
            surplus = self._body_bytes - self._head.length
            self._expect(-surplus)
            if surplus < 0:
                return
            body, self._body = self._body, None
            self._is_fast = self._head.length >= _FAST_BYTES_PER_S * (self.heard_s - self._began_s)
            self._scratch[:surplus] = body[self._head.length : self._body_bytes]
            self._end = surplus
            self._give(self._head, body[: self._head.length])
            if not self._is_stopped:
                self._parse()
        elif self._skip_bytes:
            self._skip_bytes -= nbytes
        else:
            self._end += nbytes
            self._parse()

    def _parse(self) -> None:
        """Take every frame that is whole in `_scratch`, and begin the one that is not."""
        at = 0
        while (read := read_head(self._scratch[at : self._end], has_chunks=self._has_chunks)) is not NEED_DATA:
            head, size = read
            at += size
            if isinstance(head, ChunkHead | MessageHead):
                at = self._begin(head, at)
                if self._body is not None or self._skip_bytes:
                    return
            else:
                self._taker.head_came(head)
            if self._is_stopped:
                return
        rest = bytes(self._scratch[at : self._end])
        self._scratch[: len(rest)] = rest
        self._end = len(rest)

    def _begin(self, head: ChunkHead | MessageHead, at: int) -> int:
        """Begin a body that starts at `at`; return where what follows it starts, if all of it is here."""
        is_wanted = isinstance(head, MessageHead) or self._taker.chunk_began(head)
        here = min(self._end - at, head.length)
        data = self._scratch[at : at + here]
        if not is_wanted:
            self._skip_bytes = head.length - here
        elif here == head.length:
            self._give(head, memoryview(bytes(data)))
        else:
            self._head, self._body_bytes, self._began_s = head, here, self.heard_s
            self._body = memoryview(bytearray(head.length + HEAD_BYTES_MAX))
            self._body[:here] = data
            self._expect(head.length - here)
        if self._body is not None or self._skip_bytes:
            self._end = 0
        return at + here

    def _give(self, head: ChunkHead | MessageHead, data: memoryview) -> None:
        if isinstance(head, ChunkHead):
            self._taker.chunk_came(head, data)
        else:
            self._taker.message_came(bytes(data))

"""The gate of a listening port: it bounds who may hold a connection, doing what, for how long.

Each connection has a door, a protocol that passes everything on to the HTTP protocol behind it. The door knows one
thing more: since when the peer owes something. A sweeper closes the connections whose peers owe too long.

    state       the peer owes                     until closed
    NEW         a complete request header         head_timeout_s from connecting
    IDLE        nothing (between two requests)    idle_timeout_s
    READING     the rest of a request header      head_timeout_s from its first byte
    BUSY        nothing (we are answering)        never: the upload has its own watch

A connection that does not begin as HTTP does may be a bulk link. Then the door hands it over with its first bytes and stays as the holder
of its place: NEW until its preamble is proved, then BUSY.

When all places are taken, a newcomer gets that of the connection that has owed its header for the longest: an honest peer's header
follows its handshake at once, so whoever holds places in silence loses them to those who speak. Where nobody owes one, it gets that of the
connection that has been idle for the longest and has taken what we had to say: HTTP lets either side close between two requests, and a
peer that wanted another one asks for it on a new connection. A request that is being answered keeps its place.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Self

from shardcast.descriptors import at_most
from shardcast_proto.bulk import MAGIC

#: Kept unsent in the kernel for one connection: what is "sent" beyond this waits here, where pacing and sharing still
#: work.
NOT_SENT_BYTES: Final = 256 * 1024
#: Connections that one port takes from the kernel's queue between two looks at everything else, and how many wait there.
ACCEPTED_AT_ONCE: Final = 8
QUEUED: Final = 256
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateLimits:
    """What one port puts up with."""

    #: A fifth of the open files that this process may have at most: two ports, the control network, files, what we open ourselves.
    connections_max: int = field(default_factory=lambda: at_most(512, share=0.2))
    #: One host behind one address needs a few connections per version; a NAT of a rack still fits.
    connections_per_address_max: int = 64
    #: A request header is one packet; 8 s forgive three losses of it (sent again after 1, 3 and 7 s), and with the sweep stay below 10.
    head_timeout_s: float = 8.0
    #: Longer than the pause between two requests of a transfer, short enough to free what a vanished peer holds.
    idle_timeout_s: float = 60.0
    #: How late a limit may be enforced.
    sweep_interval_s: float = 1.0


class DoorState(Enum):
    """Whose turn it is on a connection."""

    NEW = "new"
    IDLE = "idle"
    READING = "reading"
    BUSY = "busy"


class Gate:
    """Makes a door per accepted connection, and closes those of peers that keep it waiting.

    Use it as the protocol factory of `loop.create_server`, inside `async with` so that its sweeper runs.

    Args:
        behind: Makes the HTTP protocol of a connection.
        links: Makes what reads a connection that begins as a bulk link; without it such a one is bad HTTP.
    """

    def __init__(
        self,
        behind: Callable[[], asyncio.Protocol],
        limits: GateLimits,
        *,
        links: Callable[[Door], asyncio.BufferedProtocol] | None = None,
    ) -> None:
        self.limits = limits
        self.links = links
        self._behind = behind
        #: Open doors, in the order they opened.
        self._doors: dict[Door, None] = {}
        #: How many of them each address holds; no zero entries.
        self._per_address: Counter[str] = Counter()
        self._sweeper: asyncio.Task[None] | None = None
        self.refused_count = 0
        self.swept_count = 0

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._doors)

    def __call__(self) -> Door:
        """Return the door for a new connection."""
        return Door(self, self._behind())

    async def __aenter__(self) -> Self:
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_forever(), name="gate sweeper")
        return self

    async def __aexit__(self, *_: object) -> None:
        for door in list(self._doors):
            door.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    def admit(self, door: Door) -> bool:
        """Say whether a new connection may stay, and count it when it may."""
        is_full = len(self._doors) >= self.limits.connections_max
        is_crowded = self._per_address[door.address] >= self.limits.connections_per_address_max
        if (is_full or is_crowded) and not self._make_room(door.address if is_crowded else None):
            self.refused_count += 1
            self._drop_empty(door.address)
            return False
        self._doors[door] = None
        self._per_address[door.address] += 1
        return True

    def leave(self, door: Door) -> None:
        """Forget a closed connection; one that was never admitted is none."""
        if door in self._doors:
            del self._doors[door]
            self._per_address[door.address] -= 1
            self._drop_empty(door.address)

    def sweep(self, now_s: float) -> None:
        """Close every connection whose peer owes something past its time."""
        for door in list(self._doors):
            if door.is_overdue(now_s):
                self.swept_count += 1
                door.abort()

    def _make_room(self, address: str | None) -> bool:
        """Close the connection, of one address or of all, that does least with its place, if any can be spared.

        That is the one that has owed a request header for the longest, else the one that has been idle for the longest.
        """
        doors = [door for door in self._doors if address in (None, door.address)]
        spared = [door for door in doors if door.owes_header] or [door for door in doors if door.is_resting]
        latest = min(spared, key=lambda door: door.since_s, default=None)
        if latest is None:
            return False
        self.swept_count += 1
        self.leave(latest)
        latest.abort()
        return True

    async def _sweep_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.limits.sweep_interval_s)
            self.sweep(loop.time())

    def _drop_empty(self, address: str) -> None:
        if not self._per_address[address]:
            del self._per_address[address]


class Door(asyncio.Protocol):
    """One connection: passes events to the protocol behind it and knows whose turn it is."""

    def __init__(self, gate: Gate, behind: asyncio.Protocol) -> None:
        self.address = ""
        self.state = DoorState.NEW
        self._gate = gate
        self._behind = behind
        #: Whether the protocol behind has the connection; before its first byte it might be a link's.
        self._has_begun = False
        self._admitted = False
        self._transport: asyncio.Transport | None = None
        #: Loop time from which the peer owes what its state says.
        self.since_s = 0.0

    @property
    def owes_header(self) -> bool:
        """Whether the peer has begun, or is to begin, a request and not finished its header."""
        return self.state in (DoorState.NEW, DoorState.READING)

    @property
    def is_resting(self) -> bool:
        """Whether the connection is between two requests, and all of the last answer is on its way."""
        is_sent = self._transport is not None and self._transport.get_write_buffer_size() == 0
        return self.state is DoorState.IDLE and is_sent

    def is_overdue(self, now_s: float) -> bool:
        """Say whether the peer has kept us waiting too long."""
        if self.state is DoorState.BUSY:
            return False
        limits = self._gate.limits
        patience_s = limits.idle_timeout_s if self.state is DoorState.IDLE else limits.head_timeout_s
        return now_s - self.since_s > patience_s

    def request_started(self) -> None:
        """Note that a complete request header is being answered, or a link is up."""
        self._enter(DoorState.BUSY)

    def request_ended(self) -> None:
        """Note that the answer is done."""
        self._enter(DoorState.IDLE)

    def abort(self) -> None:
        """Close at once, dropping what is unsent."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"a listening port hands out stream transports, not {transport!r}")
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._enter(DoorState.NEW)
        self._admitted = self._gate.admit(self)
        if not self._admitted:
            transport.write(_REFUSAL)
            transport.close()
            return
        _keep_unsent_small(transport)

    def data_received(self, data: bytes) -> None:
        if not self._admitted or self._transport is None:
            return
        if not self._has_begun:
            if self._gate.links is not None and data[0] == MAGIC[0]:
                _hand_over(self._transport, self._gate.links(self), data)
                return
            self._has_begun = True
            self._behind.connection_made(self._transport)
        if self.state is DoorState.IDLE:
            self._enter(DoorState.READING)
        self._behind.data_received(data)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received() if self._has_begun else False

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.leave(self)
        if self._has_begun:
            self._behind.connection_lost(exc)

    def _enter(self, state: DoorState) -> None:
        self.state = state
        self.since_s = asyncio.get_running_loop().time()


async def listen(gate: Gate, host: str, port: int) -> asyncio.Server:
    """Listen with doors of `gate`.

    asyncio accepts as many connections at one go as it asks the kernel to queue, before the gate sees the first: with a long queue a
    burst takes every file descriptor that is left. So few are accepted at a go, and the queue is lengthened afterwards.

    Raises:
        OSError: The address cannot be bound.
    """
    server = await asyncio.get_running_loop().create_server(gate, host, port, backlog=ACCEPTED_AT_ONCE)
    for listener in server.sockets:
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            same.listen(QUEUED)
    return server


def _hand_over(transport: asyncio.Transport, link: asyncio.BufferedProtocol, data: bytes) -> None:
    """Let another protocol read a connection, from the bytes on that have come already; more than its first part are none of ours."""
    transport.set_protocol(link)
    link.connection_made(transport)
    buffer = memoryview(link.get_buffer(len(data)))
    if len(data) > len(buffer):
        transport.abort()
        return
    buffer[: len(data)] = data
    link.buffer_updated(len(data))


def _keep_unsent_small(transport: asyncio.Transport) -> None:
    """Bound what the kernel buffers before the network has taken it; what is in flight is not bounded by this."""
    sock = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if sock is not None and option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, NOT_SENT_BYTES)

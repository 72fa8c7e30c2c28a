"""The uplink of one host: its flows, which share it fairly, and the queue in front of each receiver's downlink.

What it approximates. The daemon's token bucket lets slices leave, link after link in turn. Here a grain (a quarter of a chunk, 256 KiB at
least) stands for the slices: every grain is one call of the clock, so a chunk costs four at most, and chunks that leave at once by seven
links end within two rounds of grains, nearly together, as they do slice by slice. A chunk never overtakes another of the same flow.

A flow may have a window of bytes on the way: what the kernel takes unsent, and a bandwidth-delay product of the slower end; never less
than two grains, so that the coarseness stalls nobody. A flow whose receiver is slow fills its window and is passed over; the others have
the uplink meanwhile. The downlink is a queue: the last byte of a grain is through when it has arrived and the grains before it are through.
Rates are payload bytes per second: what headers cost is not in here.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.host import Host

GRAIN_BYTES_MIN = 256 * 1024
GRAINS_PER_CHUNK = 4
#: What the kernel takes of a link beyond what is on the way.
UNSENT_BYTES = 256 * 1024


class Chunk:
    """One chunk to be sent over a flow. What becomes of it is told by the three calls below."""

    __slots__ = ("grain_bytes", "left_bytes", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = self.left_bytes = size_bytes
        self.grain_bytes = max(GRAIN_BYTES_MIN, -(-size_bytes // GRAINS_PER_CHUNK))

    def is_void(self) -> bool:
        """Whether nobody wants it any more; asked before its first byte leaves."""
        return False

    def starts(self, first_byte_s: float) -> None:
        """Its first byte leaves, and will arrive at a time."""

    def moves(self, arrives_s: float) -> None:
        """A part of it has left, and will have arrived at a time."""

    def has_left(self, arrives_s: float) -> None:
        """Its last byte has left, and will have arrived at a time."""


class Flow:
    """What goes from one host to another over one connection, first in, first out."""

    __slots__ = ("_unacked", "_unacked_bytes", "is_waiting", "queue", "receiver", "sender", "trip_s", "window_bytes")

    def __init__(self, sender: Host, receiver: Host) -> None:
        self.sender = sender
        self.receiver = receiver
        self.queue: deque[Chunk] = deque()
        #: Whether the uplink has it in its turn.
        self.is_waiting = False
        self.trip_s = sender.trip_s(receiver)
        rate = min(sender.link.up_bytes_per_s, receiver.link.down_bytes_per_s)
        self.window_bytes = UNSENT_BYTES + 2 * self.trip_s * rate
        #: Grains on the way: when their acknowledgement comes, how long they are.
        self._unacked: deque[tuple[float, int]] = deque()
        self._unacked_bytes = 0

    def head(self) -> Chunk | None:
        """Return the chunk whose turn it is."""
        queue = self.queue
        while queue:
            chunk = queue[0]
            if chunk.left_bytes != chunk.size_bytes or not chunk.is_void():
                return chunk
            queue.popleft()
        return None

    def free_s(self, now_s: float, grain_bytes: int) -> float:
        """Return when the window has room for a grain; never while nothing gets through."""
        if not self.sender.world.gets_through(self.sender, self.receiver):
            return inf
        unacked = self._unacked
        while unacked and unacked[0][0] <= now_s:
            self._unacked_bytes -= unacked.popleft()[1]
        if self._unacked_bytes + grain_bytes <= max(self.window_bytes, 2 * grain_bytes):
            return now_s
        return unacked[0][0]

    def grain_left(self, now_s: float, grain_bytes: int) -> float:
        """Put a grain on the wire; return when its last byte is through the receiver's downlink."""
        receiver = self.receiver
        queued_s = receiver.down_free_s + grain_bytes / receiver.link.down_bytes_per_s
        arrives_s = receiver.down_free_s = max(now_s + self.trip_s, queued_s)
        self._unacked.append((arrives_s + self.trip_s, grain_bytes))
        self._unacked_bytes += grain_bytes
        return arrives_s


class Uplink:
    """The flows of a host that have something to send, in turn."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._turn: deque[Flow] = deque()
        self._is_busy = False
        self._wake_s = inf
        self.sent_bytes = 0

    def offer(self, flow: Flow, chunk: Chunk) -> None:
        """Send a chunk over a flow, after those that wait there."""
        flow.queue.append(chunk)
        if not flow.is_waiting:
            flow.is_waiting = True
            self._turn.append(flow)
        if not self._is_busy:
            self.serve()

    def serve(self) -> None:
        """Let the next grain leave, unless one is leaving or every flow's window is full."""
        host, turn = self._host, self._turn
        if self._is_busy or not host.is_alive:
            return
        now_s = host.world.now_s
        retry_s = inf
        for _ in range(len(turn)):
            flow = turn.popleft()
            chunk = flow.head()
            if chunk is None:
                flow.is_waiting = False
                continue
            turn.append(flow)
            grain_bytes = min(chunk.grain_bytes, chunk.left_bytes)
            free_s = flow.free_s(now_s, grain_bytes)
            if free_s > now_s:
                retry_s = min(retry_s, free_s)
                continue
            if chunk.left_bytes == chunk.size_bytes:
                chunk.starts(max(now_s + flow.trip_s, flow.receiver.down_free_s))
            self._is_busy = True
            host.world.at(now_s + grain_bytes / host.link.up_bytes_per_s, self._grain_left, flow, chunk, grain_bytes)
            return
        if retry_s < self._wake_s:
            self._wake_s = retry_s
            host.world.at(retry_s, self._wake)

    def _wake(self) -> None:
        if self._host.world.now_s >= self._wake_s:
            self._wake_s = inf
        self.serve()

    def _grain_left(self, flow: Flow, chunk: Chunk, grain_bytes: int) -> None:
        self._is_busy = False
        if not self._host.is_alive:
            return
        self.sent_bytes += grain_bytes
        if not flow.queue or flow.queue[0] is not chunk:  # its link was lost under it
            self.serve()
            return
        arrives_s = flow.grain_left(self._host.world.now_s, grain_bytes)
        chunk.left_bytes -= grain_bytes
        chunk.moves(arrives_s)
        if chunk.left_bytes:
            self.serve()
            return
        flow.queue.popleft()
        self.serve()
        chunk.has_left(arrives_s)

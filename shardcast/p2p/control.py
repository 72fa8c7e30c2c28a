"""The control stream of one peer: frames in order, both ways, until either side ends it.

One libp2p stream of protocol `/shardcast/swarm/1` carries both directions; on it, frames as `shardcast_proto.framing`
defines them and nothing else. `ControlStream.run` reads and writes at the same time. Whatever ends one direction ends
both: frames that were on the way are lost, and both sides must know.

Reading never waits for work: a frame is posted and the next read follows (a reader that pauses for 5 s gets its writer
reset). Only when the asyncio side has not seen `receive_queue_bytes_max` yet does reading pause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio
from libp2p.custom_types import TProtocol

from shardcast_proto.framing import NEED_DATA, FrameReader, frame
from shardcast_proto.ids import PeerId

from .limits import STREAM_WINDOW_BYTES, WRITE_BYTES_MAX, P2pLimits
from .queues import Backlog, FrameQueue

PROTOCOL: Final = TProtocol("/shardcast/swarm/1")
#: What a waiting frame costs beside its bytes: a callback, a handle, a few objects. Tiny frames would be free otherwise.
FRAME_COST_BYTES: Final = 1024


class ControlStream:
    """One stream to one peer, and the queues at its ends."""

    def __init__(self, peer: PeerId, remote_ip: str, limits: P2pLimits) -> None:
        self.peer = peer
        self.remote_ip = remote_ip
        #: Frames to the peer; the asyncio side puts, then calls `wake` on the trio side.
        self.outgoing = FrameQueue(limits.send_queue_bytes_max, limits.send_queue_frames_max)
        #: Cost of what was posted to the asyncio side; that side calls `seen`, and `wake` on the trio side if it was full.
        self.incoming = Backlog(limits.receive_queue_bytes_max)
        self._something_new = trio.Event()

    def wake(self) -> None:
        """Let both directions look at their queues again."""
        self._something_new.set()
        self._something_new = trio.Event()

    def seen(self, payload: bytes) -> bool:
        """Count a frame as seen by the asyncio side; return whether the trio side must be woken."""
        was_full = self.incoming.is_full
        self.incoming.done(FRAME_COST_BYTES + len(payload))
        return was_full

    async def run(self, stream: Any, deliver: Callable[[ControlStream, bytes], None]) -> None:
        """Carry frames until the stream ends.

        Raises:
            RemoteProtocolError: The peer broke the framing.
            Exception: What libp2p raises when the stream or its connection ends, in an exception group.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, stream, deliver)
                nursery.start_soon(self._write, stream)
        finally:
            self.outgoing.close()

    async def _read(self, stream: Any, deliver: Callable[[ControlStream, bytes], None]) -> None:
        reader = FrameReader()
        while True:
            reader.receive_data(await stream.read(STREAM_WINDOW_BYTES))
            while (payload := reader.next_frame()) is not NEED_DATA:
                while self.incoming.is_full:
                    await self._something_new.wait()
                self.incoming.put(FRAME_COST_BYTES + len(payload))
                deliver(self, payload)

    async def _write(self, stream: Any) -> None:
        while True:
            something_new = self._something_new
            frames = self.outgoing.take(WRITE_BYTES_MAX)
            if not frames:
                await something_new.wait()
                continue
            data = b"".join(frame(payload) for payload in frames)
            for start in range(0, len(data), WRITE_BYTES_MAX):
                await stream.write(data[start : start + WRITE_BYTES_MAX])
            self.outgoing.done(frames)

"""The guards on libp2p's stream muxer.

Each is one shim round one trap of libp2p 0.8.1, applied to the classes once per process. `tests/shardcast/p2p` holds a
test for each that fails when the trapped code upstream changes.

| trap | without the guard | guard |
|---|---|---|
| the Noise nonce advances before the (cancellable) send | one cancelled write breaks the connection | each frame is shielded |
| every read, even of one byte, sends a window update | four times the CPU in gossip | one update per half window |
| the receive window grows to 16 MiB per stream | a stranger makes us hold gigabytes | it stays at 256 KiB |
| a peer that overruns its window is only logged | unbounded memory per stream | the buffer refuses, the stream dies |
"""

from __future__ import annotations

from typing import Any

import trio
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from .limits import STREAM_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES

_write_frame = Yamux._write_frame
_init = Yamux.__init__


async def _shielded_write_frame(self: Yamux, data: bytes) -> None:
    # A dead connection cannot hold us here for ever: its socket times out (`transport`) or is closed (`guards.sever`).
    with trio.CancelScope(shield=True):
        await _write_frame(self, data)
    await trio.lowlevel.checkpoint_if_cancelled()


async def _batched_window_update(self: YamuxStream, *, bytes_read: int = 0) -> None:
    self._pending_recv_release += bytes_read
    if self._pending_recv_release < STREAM_WINDOW_BYTES // 2:
        return
    increment, self._pending_recv_release = self._pending_recv_release, 0
    self.recv_window += increment
    await self.send_window_update(increment)


class _BoundedBuffer(bytearray):
    """The unread bytes of one stream."""

    def extend(self, data: Any) -> None:
        if len(self) + len(data) > STREAM_BUFFER_BYTES_MAX:
            raise BufferError(f"peer overran the receive window: {len(self) + len(data)} bytes unread")
        super().extend(data)


class _BoundedBuffers(dict[int, bytearray]):
    """The unread bytes of all streams; whatever buffer is put in is bounded from then on."""

    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        super().__setitem__(stream_id, _BoundedBuffer(buffer))


def _bounded_init(self: Yamux, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    self.stream_buffers = _BoundedBuffers()


def guard_muxer() -> None:
    """Apply the guards; calling again does no harm."""
    Yamux._write_frame = _shielded_write_frame  # type: ignore[method-assign]
    Yamux.__init__ = _bounded_init  # type: ignore[method-assign]
    YamuxStream._auto_tune_and_send_window_update = _batched_window_update  # type: ignore[method-assign]

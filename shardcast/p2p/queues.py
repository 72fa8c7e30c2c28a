"""The bounded queues between the two threads.

Each has one thread that puts and one that takes, and two counters that only rise, each written by one thread alone: the
difference is what waits. Neither lock nor await is needed, a stale counter only makes a queue look fuller than it is.
"""

from __future__ import annotations

from collections import deque


class FrameQueue:
    """Frames on their way to one peer: put on the asyncio side, taken on the trio side.

    A frame counts until it is written, not only until it is taken, so a peer that does not read fills the queue.
    """

    def __init__(self, bytes_max: int, frames_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames_max = frames_max
        self._frames: deque[bytes] = deque()
        #: Set once, when the peer is gone.
        self._closed = False
        #: Written by the asyncio side.
        self._put_bytes = 0
        self._put_frames = 0
        #: Written by the trio side.
        self._done_bytes = 0
        self._done_frames = 0

    def put(self, frame: bytes) -> bool:
        """Append a frame; return False when there is no room or nobody to send it to."""
        waiting_bytes = self._put_bytes - self._done_bytes
        waiting_frames = self._put_frames - self._done_frames
        if self._closed or waiting_frames >= self._frames_max or waiting_bytes + len(frame) > self._bytes_max:
            return False
        self._put_bytes += len(frame)
        self._put_frames += 1
        self._frames.append(frame)
        return True

    def take(self, bytes_aim: int) -> list[bytes]:
        """Remove and return frames from the front: as many as fit `bytes_aim`, but at least one when there is one."""
        taken: list[bytes] = []
        size = 0
        while self._frames and (not taken or size + len(self._frames[0]) <= bytes_aim):
            frame = self._frames.popleft()
            size += len(frame)
            taken.append(frame)
        return taken

    def done(self, frames: list[bytes]) -> None:
        """Make room: these frames are written."""
        self._done_bytes += sum(len(frame) for frame in frames)
        self._done_frames += len(frames)

    def close(self) -> None:
        """Refuse frames from now on."""
        self._closed = True


class Backlog:
    """What was posted to the asyncio side and not yet seen there: put on the trio side, taken on the asyncio side."""

    def __init__(self, amount_max: int) -> None:
        self._amount_max = amount_max
        #: Written by the trio side.
        self._put = 0
        #: Written by the asyncio side.
        self._done = 0
        #: The highest amount that ever waited.
        self.most_waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be posted now."""
        return self._put - self._done >= self._amount_max

    def put(self, amount: int) -> None:
        """Count something that is posted."""
        self._put += amount
        self.most_waiting = max(self.most_waiting, self._put - self._done)

    def done(self, amount: int) -> None:
        """Count something that was seen."""
        self._done += amount

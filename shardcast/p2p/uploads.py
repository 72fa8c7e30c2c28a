"""The carried uploads as the asyncio side sees them: a task for each stream that a peer has opened to be served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from shardcast_proto.carriage import Answer, Request, encode_answer
from shardcast_proto.errors import ShardcastError
from shardcast_proto.ids import PeerId

from .bridge import TrioThread
from .carriage import CarriedStream
from .limits import WRITE_BYTES_MAX, P2pLimits

log: Final = logging.getLogger("shardcast.p2p")

#: A cancelled upload ends within a millisecond, but for a write that its connection holds up.
CLOSE_GRACE_S: Final = 0.3


class Upload:
    """One request of a peer, to be answered once and then sent what the answer announced."""

    def __init__(self, stream: CarriedStream, bridge: TrioThread, limits: P2pLimits) -> None:
        self.peer: PeerId = stream.peer
        self.request: Request = stream.request
        self._stream = stream
        self._bridge = bridge
        self._stall_s = limits.carried_stall_s
        self._lacking_bytes: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the answer and everything that it announced were sent."""
        return self._lacking_bytes == 0

    async def answer(self, answer: Answer) -> None:
        """Send the answer.

        Raises:
            TransferError: The peer is gone, or does not read.
        """
        await self._write(encode_answer(answer))
        self._lacking_bytes = answer.length

    async def send(self, data: bytes) -> None:
        """Send the next part of the body, at most `WRITE_BYTES_MAX`.

        Raises:
            TransferError: The peer is gone, or does not read.
        Cancellation: the stream is of no use any more.
        """
        await self._write(data)
        self._lacking_bytes = (self._lacking_bytes or 0) - len(data)

    async def _write(self, data: bytes) -> None:
        await self._bridge.call(self._stream.write, data, self._stall_s)


#: Answers an upload; what it raises, or leaves unsent, resets the stream.
ServeFn = Callable[[Upload], Awaitable[None]]
#: How much `Upload.send` takes at a time.
PIECE_BYTES_MAX: Final = WRITE_BYTES_MAX


class Uploads:
    """The uploads under way."""

    def __init__(self, serve: ServeFn, bridge: TrioThread, limits: P2pLimits) -> None:
        self._serve = serve
        self._bridge = bridge
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, stream: CarriedStream) -> None:
        """Serve a stream."""
        if self._is_closed:
            self._bridge.poke(stream.end, False)
            return
        task = asyncio.get_running_loop().create_task(self._run(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End all uploads; one that writes to a peer which does not read ends with its connection."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_GRACE_S)

    async def _run(self, stream: CarriedStream) -> None:
        upload = Upload(stream, self._bridge, self._limits)
        try:
            await self._serve(upload)
        except ShardcastError as error:
            log.info("carrying to %s ended: %s", stream.peer, error.message)
        except Exception:
            # The shell's per-command task: a bug here costs one upload.
            log.exception("carrying to %s failed", stream.peer)
        finally:
            self._bridge.poke(stream.end, upload.is_whole)

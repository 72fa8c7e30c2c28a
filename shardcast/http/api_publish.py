"""The publishing answer of the API: a stream of progress lines that ends in one result.

    {"event":"waiting"}                        nothing is hashed yet: another publication may be before it
    {"event":"hashing","done":N,"total":N}     at most ten a second
    {"event":"published", …}                   the last line, or
    {"event":"error","problem":{…}}            the last line when it failed after the first

What fails before the first line, as a refusal does, is an ordinary problem document with its status. A publication that
has begun goes on when its caller leaves: a trainer that was killed after `publish` has a complete checkpoint on its disk,
and asking again for the same step answers with the version that exists.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

import structlog
from aiohttp import web

from shardcast.http.api_answers import FIELDS, json_bytes
from shardcast.http.facade import NodeFacade, PublishRequest, PublishView
from shardcast.http.problems import problem_document, problem_of_fault
from shardcast_proto.errors import ShardcastError, TransferError

#: Hashing one checkpoint keeps the cores busy; more at once finish none of them sooner.
RUNNING_MAX: Final = 4
PROGRESS_INTERVAL_S: Final = 0.1
#: A caller hears something this often, so that it can tell slow from dead. A refusal takes far less.
REPEAT_INTERVAL_S: Final = 5.0

_log = structlog.get_logger(__name__)


class Publishing:
    """Runs publications, and tells their callers how far they are.

    Args:
        stall_timeout_s: A caller that takes no line for so long is not told any more.
        repeat_interval_s: How often a caller hears something.
    """

    def __init__(
        self, facade: NodeFacade, *, stall_timeout_s: float, repeat_interval_s: float = REPEAT_INTERVAL_S
    ) -> None:
        self._facade = facade
        self._stall_timeout_s = stall_timeout_s
        self._repeat_interval_s = repeat_interval_s
        #: Publications that have not ended, in the order they began.
        self._running: dict[asyncio.Task[PublishView], None] = {}

    async def answer(self, request: web.BaseRequest, wanted: PublishRequest) -> web.StreamResponse:
        """Publish, and answer with the stream.

        Raises:
            ShardcastError: It failed before the first line.
            TransferError: Too many publications run.
        Cancellation: the publication goes on.
        """
        if len(self._running) >= RUNNING_MAX:
            raise TransferError(f"{len(self._running)} publications are running", reason="busy", running=RUNNING_MAX)
        progress = _Progress()
        task = asyncio.get_running_loop().create_task(
            self._facade.publish(wanted, progress.set), name=f"publish {wanted.channel}@{wanted.step}"
        )
        self._running[task] = None
        task.add_done_callback(self._ended)
        await self._until_begun(task, progress)
        if task.done():
            task.result()  # raises what it failed for: the status is still ours to choose
        response = web.StreamResponse(headers={**FIELDS, "Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            await self._tell(response, task, progress)
        except BaseException:
            # a stream that has begun can only be finished or cut
            if request.transport is not None:
                request.transport.abort()
            raise
        return response

    async def aclose(self) -> None:
        """Cancel what is running and wait for its end."""
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _until_begun(self, task: asyncio.Task[PublishView], progress: _Progress) -> None:
        """Wait for the first news, or until a caller must hear something."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._repeat_interval_s
        while not task.done() and progress.latest is None and loop.time() < end_s:
            await asyncio.wait([task], timeout=PROGRESS_INTERVAL_S)

    async def _tell(self, response: web.StreamResponse, task: asyncio.Task[PublishView], progress: _Progress) -> None:
        loop = asyncio.get_running_loop()
        told: dict[str, object] | None = None
        told_at_s = loop.time()
        while not task.done():
            line, now_s = progress.line, loop.time()
            if line != told or now_s - told_at_s >= self._repeat_interval_s:
                await self._write_line(response, line)
                told, told_at_s = line, now_s
            await asyncio.wait([task], timeout=PROGRESS_INTERVAL_S)
        await self._write_line(response, _last_line(task))
        await response.write_eof()

    async def _write_line(self, response: web.StreamResponse, line: object) -> None:
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await response.write(json_bytes(line) + b"\n")
        except TimeoutError as error:
            raise ConnectionResetError("the caller takes no lines") from error

    def _ended(self, task: asyncio.Task[PublishView]) -> None:
        del self._running[task]
        if task.cancelled():
            _log.info("publish_cancelled", publication=task.get_name())
        elif (error := task.exception()) is None:
            _log.info("publish_ended", publication=task.get_name())
        elif isinstance(error, ShardcastError):
            _log.warning("publish_failed", publication=task.get_name(), cause=error.describe())
        else:
            _log.error("publish_failed", publication=task.get_name(), exc_info=error)


class _Progress:
    """How far a publication is, set from any thread."""

    def __init__(self) -> None:
        #: (bytes done, bytes in total); replaced whole, so that no reader sees half of it.
        self.latest: tuple[int, int] | None = None

    def set(self, done_bytes: int, total_bytes: int) -> None:
        self.latest = (done_bytes, total_bytes)

    @property
    def line(self) -> dict[str, object]:
        """What a caller is told of it."""
        if self.latest is None:
            return {"event": "waiting"}
        done_bytes, total_bytes = self.latest
        return {"event": "hashing", "done": done_bytes, "total": total_bytes}


def _last_line(task: asyncio.Task[PublishView]) -> dict[str, object]:
    if task.cancelled():
        error: BaseException | None = TransferError("this node is stopping", reason="stopping")
    else:
        error = task.exception()
    if error is None:
        return {"event": "published", **task.result()}
    if isinstance(error, ShardcastError):
        return {"event": "error", "problem": problem_document(error)}
    return {"event": "error", "problem": json.loads(problem_of_fault().text or "{}")}

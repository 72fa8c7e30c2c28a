"""The long answers of the API: a stream of progress lines (`application/x-ndjson`) that ends in one result.

Publishing:

    {"event":"waiting"}                                nothing is hashed yet: another publication may be before it
    {"event":"waiting","marker":NAME}                  the marker is waited for
    {"event":"hashing","done":N,"total":N}             at most ten a second
    {"event":"spreading","seq":N,"complete_neighbours":N,"wait_neighbours":N}
    {"event":"published", …}                           the last line, or
    {"event":"error","problem":{…}}                    the last line when it failed after the first

Activating and rolling back: lines {"event":"waiting"}, then {"event":"activated", "engines":[…]} or "rolled_back", or the error. The
engine is not told when the caller leaves.

Verifying: lines {"event":"verifying","done":N,"total":N}, then {"event":"verified", …} or the error.

What fails before the first line, as a refusal does, is an ordinary problem document with its status. Of the work itself its owner
says what becomes of it when the caller leaves. A publication that is being hashed goes on: a trainer that was killed after `publish`
has a complete checkpoint on its disk, and asking again for the same step answers with the version that exists. One that only waits ends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import structlog
from aiohttp import web

from shardcast.http.api_answers import FIELDS, json_bytes
from shardcast.http.problems import problem_document, problem_of_fault
from shardcast_proto.errors import ShardcastError, TransferError

#: Streams at once. Publications are hashed one after another; those beyond the first few wait for files or for neighbours.
RUNNING_MAX: Final = 16
PROGRESS_INTERVAL_S: Final = 0.1
#: A caller hears something this often, so that it can tell slow from dead. A refusal takes far less.
REPEAT_INTERVAL_S: Final = 5.0

_log = structlog.get_logger(__name__)

Line: TypeAlias = Mapping[str, object]
#: Told the newest line; may be called from any thread.
TellFn: TypeAlias = Callable[[Line], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Something that takes a while."""

    #: For the log.
    name: str
    #: The event of its last line.
    last: str
    #: Does it; returns the last line's other members.
    run: Callable[[TellFn], Coroutine[Any, Any, Mapping[str, Any]]]
    #: Whether it goes on when its caller leaves, by its newest line (None: there is none yet).
    survives: Callable[[Line | None], bool] = lambda line: False


class Streams:
    """Runs long work, and tells its callers how far it is.

    Args:
        stall_timeout_s: A caller that takes no line for so long is not told any more.
        repeat_interval_s: How often a caller hears something.
    """

    def __init__(self, *, stall_timeout_s: float, repeat_interval_s: float = REPEAT_INTERVAL_S) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._repeat_interval_s = repeat_interval_s
        #: Work that has not ended, in the order it began.
        self._running: dict[asyncio.Task[Mapping[str, Any]], None] = {}

    async def answer(self, request: web.BaseRequest, work: Work) -> web.StreamResponse:
        """Do the work, and answer with the stream.

        Raises:
            ShardcastError: It failed before the first line.
            TransferError: Too much is running.
        Cancellation: the work goes on if it survives its caller.
        """
        if len(self._running) >= RUNNING_MAX:
            raise TransferError(
                f"{len(self._running)} publications and verifications are running", reason="busy", running=RUNNING_MAX
            )
        news = _News()
        task = asyncio.get_running_loop().create_task(_run(work, news), name=work.name)
        self._running[task] = None
        task.add_done_callback(self._ended)
        try:
            return await self._tell_all(request, task, work=work, news=news)
        finally:
            if not task.done() and not work.survives(news.latest):
                task.cancel()

    async def aclose(self) -> None:
        """Cancel what is running and wait for its end."""
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _tell_all(
        self, request: web.BaseRequest, task: asyncio.Task[Mapping[str, Any]], *, work: Work, news: _News
    ) -> web.StreamResponse:
        await self._until_begun(task, news)
        if task.done():
            task.result()  # raises what it failed for: the status is still ours to choose
        response = web.StreamResponse(headers={**FIELDS, "Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            await self._tell(response, task, news)
            await write_within(response, _line(_last_line(task, work.last)), self._stall_timeout_s)
            await response.write_eof()
        except BaseException:
            # a stream that has begun can only be finished or cut
            if request.transport is not None:
                request.transport.abort()
            raise
        return response

    async def _until_begun(self, task: asyncio.Task[Mapping[str, Any]], news: _News) -> None:
        """Wait for the first news, or until a caller must hear something."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._repeat_interval_s
        while not task.done() and news.latest is None and loop.time() < end_s:
            await asyncio.wait([task], timeout=PROGRESS_INTERVAL_S)

    async def _tell(self, response: web.StreamResponse, task: asyncio.Task[Mapping[str, Any]], news: _News) -> None:
        loop = asyncio.get_running_loop()
        told: Line | None = None
        told_at_s = loop.time()
        while not task.done():
            line, now_s = news.latest or {"event": "waiting"}, loop.time()
            if line != told or now_s - told_at_s >= self._repeat_interval_s:
                await write_within(response, _line(line), self._stall_timeout_s)
                told, told_at_s = line, now_s
            await asyncio.wait([task], timeout=PROGRESS_INTERVAL_S)

    def _ended(self, task: asyncio.Task[Mapping[str, Any]]) -> None:
        del self._running[task]
        if task.cancelled():
            _log.info("work_cancelled", work=task.get_name())
        elif (error := task.exception()) is None:
            _log.info("work_ended", work=task.get_name())
        elif isinstance(error, ShardcastError):
            _log.warning("work_failed", work=task.get_name(), cause=error.describe())
        else:
            _log.error("work_failed", work=task.get_name(), exc_info=error)


class _News:
    """The newest line of some work, set from any thread."""

    def __init__(self) -> None:
        #: Replaced whole, so that no reader sees half of it.
        self.latest: Line | None = None

    def set(self, line: Line) -> None:
        self.latest = line


async def write_within(response: web.StreamResponse, data: bytes, timeout_s: float) -> None:
    """Write to a reader that must take it in time.

    Raises:
        ConnectionError: It has not, or has left.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await response.write(data)
    except TimeoutError as error:
        raise ConnectionResetError("the caller takes no lines") from error


async def _run(work: Work, news: _News) -> Mapping[str, Any]:
    return await work.run(news.set)


def _line(value: object) -> bytes:
    return json_bytes(value) + b"\n"


def _last_line(task: asyncio.Task[Mapping[str, Any]], last: str) -> dict[str, object]:
    if task.cancelled():
        error: BaseException | None = TransferError("this node is stopping", reason="stopping")
    else:
        error = task.exception()
    if error is None:
        return {"event": last, **task.result()}
    if isinstance(error, ShardcastError):
        return {"event": "error", "problem": problem_document(error)}
    return {"event": "error", "problem": json.loads(problem_of_fault().text or "{}")}

"""The background tasks of one owner: started, logged when they fail, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

_log = structlog.get_logger("shardcast.shell")


class Tasks:
    """Tasks whose results nobody awaits.

    Args:
        on_failure: Told of an error that a vital task ended with: without it the owner can do its work no more.
    """

    def __init__(self, on_failure: Callable[[BaseException], None] = lambda error: None) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_failure = on_failure
        self._is_closed = False

    def spawn(self, work: Coroutine[Any, Any, None], *, is_vital: bool = False) -> None:
        """Start a task; after `aclose` nothing starts any more."""
        if self._is_closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._vital_ended if is_vital else self._ended)

    async def aclose(self) -> None:
        """Cancel all and wait for them."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", error=repr(error), exc_info=error)

    def _vital_ended(self, task: asyncio.Task[None]) -> None:
        self._ended(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

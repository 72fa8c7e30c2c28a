"""The thread that runs trio, with the only two crossings between it and asyncio.

Theory of operation. libp2p needs trio, everything else here runs on asyncio. Each loop has a thread, and nothing is
shared but this:

    asyncio side                                trio side
    ------------                                ---------
    await call(afn, *args)   ── runs ──▶        afn(*args)          cancelling the one cancels the other
    poke(fn, *args)          ── runs ──▶        fn(*args)           call without an answer
          fn(*args)          ◀── posts ──       post(fn, *args)     never waits

Neither direction queues without bound by itself: who calls `post` or `poke` for peers' bytes keeps a count (see
`links`, `gossip`).

The trio side is one function, `serve(started)`, which runs until it raises, or returns because `wait_stop` did. However
it ends, `closed` is settled: with None after `aclose`, else with the one error that ended it, dug out of its exception
groups.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, TypeVarTuple, cast

import trio

from shardcast_proto.errors import InvariantViolated, ShardcastError, TransferError

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

#: Groups nest as deep as services do in libp2p (4); deeper nesting is somebody's loop.
_GROUP_DEPTH_MAX: Final = 16


class TrioThread:
    """One trio run in one thread.

    All public methods but `post` belong to the asyncio loop that made the object; `post` belongs to the trio side.
    """

    #: Settled when the trio side has ended; nothing is posted after it.
    closed: asyncio.Future[None]

    def __init__(self, name: str = "p2p") -> None:
        self._loop = asyncio.get_running_loop()
        self.closed = self._loop.create_future()
        self._name = name
        #: Done when trio runs.
        self._running: asyncio.Future[None] = self._loop.create_future()
        self._is_started = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        #: Set by `aclose`: the trio side should come to its end.
        self._stop = trio.Event()
        #: Calls without an answer yet; when the trio side ends they all end.
        self._answers: set[asyncio.Future[Any]] = set()

    async def start(self, serve: Callable[[Callable[[_T], None]], Awaitable[None]]) -> _T:
        """Run `serve(started)` on the trio side; return what it passes to `started`.

        Raises:
            ShardcastError: `serve` ended before it started.
        """
        started: asyncio.Future[_T] = self._loop.create_future()

        def run() -> None:
            error: BaseException | None = None
            try:
                trio.run(self._main, serve, lambda value: self.post(_settle, started, value, None))
            except BaseException as caught:  # noqa: BLE001 - the bridge: whatever ended trio is reported, not swallowed
                error = caught
            self._report_end(started, error)

        self._is_started = True
        threading.Thread(target=run, name=self._name, daemon=True).start()
        return await started

    async def call(self, afn: Callable[[*_Ts], Awaitable[_T]], *args: *_Ts) -> _T:
        """Run `afn(*args)` on the trio side and return its result.

        Raises:
            TransferError: The trio side has ended.
            Exception: What `afn` raised, unchanged.

        Cancellation: cancels `afn`, and waits until it has ended, so nothing of it goes on behind the caller's back.
        """
        if self._token is None or self.closed.done():
            raise _ended()
        answer: asyncio.Future[_T] = self._loop.create_future()
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        scope = trio.CancelScope()

        async def run() -> None:
            value: _T | None = None
            error: BaseException | None = None
            with scope:
                try:
                    value = await afn(*args)
                except Exception as caught:  # noqa: BLE001 - the bridge: it is raised on the other side
                    error = caught
            if scope.cancelled_caught:
                error = asyncio.CancelledError()
            self.post(_settle, answer, cast(_T, value), error)

        def begin() -> None:
            if self._nursery is None:
                self.post(_settle, answer, cast(_T, None), _ended())
            else:
                self._nursery.start_soon(run)

        self.poke(begin)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self.poke(scope.cancel)
            await asyncio.wait({answer})
            raise

    def poke(self, fn: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Run `fn(*args)` soon on the trio side; do nothing when that has ended. It must not raise."""
        if self._token is None:
            return
        try:
            self._token.run_sync_soon(fn, *args)
        except trio.RunFinishedError:
            return

    def post(self, fn: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Run `fn(*args)` soon on the asyncio side; do nothing when that loop is closed."""
        try:
            self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            return

    async def wait_stop(self) -> None:
        """Wait, on the trio side, until `aclose` is called."""
        await self._stop.wait()

    async def aclose(self, *, grace_s: float) -> None:
        """End the trio side and wait for it; after `grace_s` cancel it. Why it ended is in `closed`, not raised here."""
        if not self._is_started:
            _settle(self.closed, None, None)
        else:
            await asyncio.wait({self._running, self.closed}, return_when=asyncio.FIRST_COMPLETED)
        self.poke(self._stop.set)
        _, running = await asyncio.wait({self.closed}, timeout=grace_s)
        if running:
            self.poke(self._scope.cancel)
            await asyncio.wait(running)

    async def _main(self, serve: Callable[[Any], Awaitable[None]], started: Callable[[Any], None]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.post(_settle, self._running, None, None)
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await serve(started)
                finally:
                    # Calls still running must not hold up the end.
                    self._nursery = None
                    nursery.cancel_scope.cancel()

    def _report_end(self, started: asyncio.Future[Any], error: BaseException | None) -> None:
        cause = None if error is None else _first_leaf(error)
        if isinstance(cause, ShardcastError):
            reported: ShardcastError | None = cause
        elif cause is not None:
            reported = InvariantViolated(f"the p2p side ended with {type(cause).__name__}: {cause}")
            reported.__cause__ = cause
        else:
            reported = None if self._stop.is_set() else _ended()

        def settle_all() -> None:
            for future in (started, *self._answers):
                _settle(future, None, reported or _ended())
            _settle(self.closed, None, reported)

        self.post(settle_all)


def _ended() -> TransferError:
    return TransferError("the p2p side has ended", reason="p2p_ended")


def _settle(future: asyncio.Future[_T], value: _T, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    elif error is not None:
        future.set_exception(error)
        # Nobody may be waiting (a caller that was cancelled, `closed` of a node that was dropped).
        future.exception()
    else:
        future.set_result(value)


def _first_leaf(error: BaseException) -> BaseException:
    """Return the first error inside nested exception groups that is not a cancellation."""
    for _ in range(_GROUP_DEPTH_MAX):
        if not isinstance(error, BaseExceptionGroup):
            return error
        error = next((part for part in error.exceptions if not isinstance(part, trio.Cancelled)), error.exceptions[0])
    return error

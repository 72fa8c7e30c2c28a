"""The two crossings between asyncio and trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from shardcast.p2p.bridge import TrioThread
from shardcast_proto.errors import ConfigError, InvariantViolated, StoreError, TransferError


@asynccontextmanager
async def bridge() -> AsyncIterator[TrioThread]:
    thread = TrioThread()

    async def serve(started: Callable[[str], None]) -> None:
        started("started")
        await thread.wait_stop()

    assert await thread.start(serve) == "started"
    try:
        yield thread
    finally:
        await thread.aclose(grace_s=1)


async def test_a_call_runs_on_the_trio_thread_and_returns_its_result() -> None:
    async def add(left: int, right: int) -> tuple[int, str]:
        await trio.lowlevel.checkpoint()
        return left + right, threading.current_thread().name

    async with bridge() as thread:
        assert await thread.call(add, 2, 3) == (5, "p2p")


async def test_an_error_of_a_call_is_raised_unchanged_and_ends_nothing() -> None:
    async def fail() -> None:
        raise ConfigError("wrong")

    async with bridge() as thread:
        with pytest.raises(ConfigError, match="wrong"):
            await thread.call(fail)
        assert not thread.closed.done()


async def test_cancelling_a_call_cancels_the_trio_task_and_waits_for_it() -> None:
    log: list[str] = []
    running = asyncio.Event()

    async with bridge() as thread:

        async def wait() -> None:
            thread.post(running.set)
            try:
                await trio.sleep_forever()
            finally:
                log.append("cleaned up")

        task = asyncio.create_task(thread.call(wait))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cleaned up"]
        assert not thread.closed.done()


async def test_what_is_posted_arrives_in_order_on_the_loop() -> None:
    arrived: list[int] = []
    done = asyncio.Event()

    async with bridge() as thread:

        async def post_all() -> None:
            for number in range(100):
                thread.post(arrived.append, number)
            thread.post(done.set)

        await thread.call(post_all)
        await done.wait()
    assert arrived == list(range(100))


async def test_an_error_inside_nested_groups_settles_closed_with_its_first_leaf() -> None:
    thread = TrioThread()

    async def serve(started: Callable[[None], None]) -> None:
        started(None)
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
                inner.start_soon(_fail)
            outer.cancel_scope.cancel()

    async def _fail() -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("the disk is gone")

    await thread.start(serve)
    with pytest.raises(InvariantViolated, match="OSError: the disk is gone") as caught:
        await thread.closed
    assert isinstance(caught.value.__cause__, OSError)


async def test_an_error_of_ours_settles_closed_as_it_is() -> None:
    thread = TrioThread()

    async def serve(started: Callable[[None], None]) -> None:
        raise StoreError("no room")

    with pytest.raises(StoreError, match="no room"):
        await thread.start(serve)
    with pytest.raises(StoreError, match="no room"):
        await thread.closed


async def test_calls_under_way_end_with_an_error_when_the_trio_side_ends() -> None:
    thread = TrioThread()
    stop = trio.Event()

    async def serve(started: Callable[[None], None]) -> None:
        started(None)
        await stop.wait()
        raise OSError("gone")

    await thread.start(serve)
    under_way = asyncio.create_task(thread.call(trio.sleep_forever))
    await asyncio.sleep(0)
    thread.poke(stop.set)
    with pytest.raises(InvariantViolated):
        await under_way
    with pytest.raises(TransferError):
        await thread.call(trio.lowlevel.checkpoint)
    thread.poke(stop.set)


async def test_a_trio_side_that_does_not_stop_is_cancelled_after_the_grace() -> None:
    thread = TrioThread()

    async def serve(started: Callable[[None], None]) -> None:
        started(None)
        await trio.sleep_forever()

    await thread.start(serve)
    await thread.aclose(grace_s=0.05)
    assert thread.closed.result() is None


async def test_closing_before_starting_and_closing_twice_do_no_harm() -> None:
    thread = TrioThread()
    await thread.aclose(grace_s=1)
    await thread.aclose(grace_s=1)
    with pytest.raises(TransferError):
        await thread.call(trio.lowlevel.checkpoint)


async def test_a_trio_side_that_returns_unasked_is_an_error() -> None:
    thread = TrioThread()

    async def serve(started: Callable[[None], None]) -> None:
        started(None)

    await thread.start(serve)
    with pytest.raises(TransferError):
        await thread.closed

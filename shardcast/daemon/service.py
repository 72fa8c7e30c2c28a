"""The service: one node that runs until it is told to stop, or is broken.

Stdout carries one line, the ready line; the log goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import structlog

from shardcast.allocator import keep_buffers
from shardcast.cli.main import EXIT_INTERRUPTED
from shardcast.cli.output import print_note, writing
from shardcast.config import NodeConfig
from shardcast.descriptors import raise_limit
from shardcast.systemd import keep_watchdog, notify
from shardcast_proto.errors import ShardcastError, StoreError

if TYPE_CHECKING:
    from shardcast.node import Node

_log = structlog.get_logger("shardcast.daemon")

#: A clean stop takes under two seconds; a disk that hangs must not keep a daemon from ending. With what the end itself takes it is 5 s.
STOP_TIMEOUT_S: Final = 4.5


def run_service(config: NodeConfig) -> int:
    """Run a node until a signal ends it, and return the exit code: 0, or 130 for a SIGINT before it has served.

    Raises:
        ShardcastError: It cannot start, or cannot go on.
    """
    config.check_publish_roots()
    configure_logging(config.log_level)
    raise_limit()
    keep_buffers()
    # before there is a loop, which holds signals back while this is imported, for over a second
    from shardcast.node import Node

    return asyncio.run(_serve(Node(config)))


async def _serve(node: Node) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def end(number: signal.Signals) -> None:
        if not stop.done():
            stop.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    ready = asyncio.Event()
    life = asyncio.ensure_future(_live(node, ready))
    ends: list[asyncio.Future[Any]] = [life, stop]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    stopped_s = loop.time()
    guard = _after(STOP_TIMEOUT_S, _end_now, life)
    if not life.done():
        _log.info("stopping")
        notify("STOPPING=1")
        life.cancel()
    await asyncio.wait([life])
    is_over = await node.aclose()
    if not life.cancelled():
        await life
    code = EXIT_INTERRUPTED if not ready.is_set() and stop.result() == signal.SIGINT else 0
    # the store is closed, so there is nothing to lose; Python would wait for every thread
    guard.cancel()
    if not is_over:
        os._exit(code)
    _after(STOP_TIMEOUT_S - (loop.time() - stopped_s), os._exit, code)
    return code


def _after(delay_s: float, act: Callable[..., object], *arguments: object) -> threading.Timer:
    """Do something later, in a thread: what hangs may be the loop, or what Python waits for after it."""
    timer = threading.Timer(delay_s, act, arguments)
    timer.daemon = True
    timer.start()
    return timer


async def _live(node: Node, ready: asyncio.Event) -> None:
    """Run a node until it is cancelled, or broken; tell when it serves."""
    line = json.dumps(await node.start())
    try:
        with writing():
            print(line, flush=True)
    except BrokenPipeError as error:
        raise StoreError("nobody reads the ready line: standard output is a pipe without a reader") from error
    ready.set()
    notify("READY=1", "STATUS=serving")
    watchdog = asyncio.ensure_future(keep_watchdog(node.pulse))
    try:
        await node.wait_broken()
    finally:
        watchdog.cancel()


def _end_now(life: asyncio.Future[None]) -> NoReturn:
    """End the process although a thread waits for the disk: Python would wait for it too. For the store this is like a kill."""
    error: BaseException = StoreError(f"not everything stopped within {STOP_TIMEOUT_S:g} s: the disk is slow, or hangs")
    if life.done() and not life.cancelled():
        error = life.exception() or error
    print_note(error.describe() if isinstance(error, ShardcastError) else str(error), program="shardcast-node")
    os._exit(error.exit_code if isinstance(error, ShardcastError) else 1)


def configure_logging(level: str) -> None:
    """Send the log to stderr, one line for each event. Call it before libp2p is imported, which takes the root logger."""
    number = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], sort_keys=False)
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("shardcast").setLevel(number)
    # a client that leaves or sends garbage is no error of ours, and aiohttp would log a traceback for each
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)

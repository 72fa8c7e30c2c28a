"""The `shardcast-node` command: reads the configuration, runs one node until it is told to stop.

Stdout carries one line, the ready line; the log goes to stderr. Exit codes are those of `shardcast_proto.errors`; a signal ends with 0.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import structlog
import typer

from shardcast.allocator import keep_buffers
from shardcast.descriptors import raise_limit
from shardcast.systemd import keep_watchdog, notify
from shardcast_proto.errors import ShardcastError, StoreError

if TYPE_CHECKING:
    from shardcast.config import NodeConfig
    from shardcast.node import Node

_log = structlog.get_logger("shardcast.daemon")

#: A clean stop takes under two seconds; a disk that hangs must not keep a daemon from ending.
STOP_TIMEOUT_S: Final = 5.0
#: Flags of the command that are not part of a node's configuration.
_OWN_FLAGS: Final = frozenset({"config", "print_config"})

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    """Run the command."""
    app(prog_name="shardcast-node")


@app.command()
def run(
    *,
    data: Annotated[Path | None, typer.Option(help="Data directory; created when missing.")] = None,
    channel: Annotated[
        list[Path] | None, typer.Option(help="Root file of a channel to follow; repeat for more.")
    ] = None,
    origin_key: Annotated[list[Path] | None, typer.Option(help="Key file that lets this node publish; repeat.")] = None,
    role: Annotated[str | None, typer.Option(help="relay or client (default client).")] = None,
    p2p: Annotated[str | None, typer.Option(help="IP:PORT of the control network (default 0.0.0.0:7481).")] = None,
    serve: Annotated[
        str | None, typer.Option(help="IP:PORT of the data plane (default 0.0.0.0:7482), or none.")
    ] = None,
    api: Annotated[str | None, typer.Option(help="IP:PORT of the local API (default 127.0.0.1:7480).")] = None,
    announce_p2p: Annotated[
        str | None, typer.Option(help="IP:PORT that others dial instead of --p2p, or none.")
    ] = None,
    announce_serve: Annotated[
        str | None, typer.Option(help="IP:PORT that others fetch from instead of --serve, or none.")
    ] = None,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a node to join at; repeat.")] = None,
    up_mbps: Annotated[float | None, typer.Option(help="Uplink in Mbit/s; uploads are paced just below it.")] = None,
    down_mbps: Annotated[
        float | None, typer.Option(help="Downlink in Mbit/s; downloads are paced just below it.")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Versions kept per channel (default 3).")] = None,
    quota: Annotated[int | None, typer.Option(help="Bytes that all versions together may take.")] = None,
    allow_private: Annotated[list[str] | None, typer.Option(help="CIDR of a private network to dial; repeat.")] = None,
    publish_root: Annotated[
        list[Path] | None, typer.Option(help="Directory that checkpoints may be published from; repeat for more.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the API's bearer token.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error (default info).")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys as the flags.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every value and where it came from, as TOML, and leave.")
    ] = False,
) -> None:
    """Run one node of a swarm: receive, verify and pass on the versions of its channels."""
    flags = {name: value for name, value in locals().items() if name not in _OWN_FLAGS and value not in (None, [])}
    raise SystemExit(_run(flags, config, prints_config=print_config))


def _run(flags: dict[str, object], config_file: Path | None, *, prints_config: bool) -> int:
    from shardcast.config import load

    try:
        config = load(flags, config_file=config_file)
        if prints_config:
            from shardcast.config_report import report

            # a path is bytes, and need not be text
            sys.stdout.buffer.write(report(config, flags, config_file).encode(errors="surrogateescape"))
            return 0
        configure_logging(config.log_level)
        raise_limit()
        keep_buffers()
        asyncio.run(_serve(config))
    except ShardcastError as error:
        print(f"shardcast-node: {error.describe()}", file=sys.stderr)
        return error.exit_code
    return 0


async def _serve(config: NodeConfig) -> None:
    from shardcast.node import Node

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = Node(config)
    life, stopped = asyncio.ensure_future(_live(node)), asyncio.ensure_future(stop.wait())
    await asyncio.wait([life, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not life.done():
        _log.info("stopping")
        notify("STOPPING=1")
        life.cancel()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await asyncio.wait([life])
            await node.aclose()
    except TimeoutError:
        _end_now(life)
    if not life.cancelled():
        await life


async def _live(node: Node) -> None:
    """Run a node until it is cancelled, or broken."""
    print(json.dumps(await node.start()), flush=True)
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
    print(f"shardcast-node: {error}", file=sys.stderr, flush=True)
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


if __name__ == "__main__":
    main()

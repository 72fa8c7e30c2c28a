"""The command line of `shardcast-node`: its flags, and what becomes of them.

Every complaint of the library that reads them becomes an error of ours. Exit codes are those of `shardcast_proto.errors`; a node that
serves ends with 0 when a signal ends it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from shardcast.cli.ending import finish
from shardcast.cli.output import writing
from shardcast.cli.usage import UsageError

_PROGRAM: Final = "shardcast-node"
#: Flags of the command that are not part of a node's configuration.
_OWN_FLAGS: Final = frozenset({"config", "print_config"})

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Given(NamedTuple):
    """What the command line says: the node's flags, a file with more, whether only to print what that makes."""

    flags: dict[str, object]
    config_file: Path | None
    prints_config: bool


def run_command() -> int:
    """Run the command with the arguments of the process, and return its exit code."""
    return finish(_PROGRAM, _run)


@app.command()
def read_flags(
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
    supersede: Annotated[
        str | None,
        typer.Option(
            help="An unfinished version when a newer one comes: newest (first), finish (it first) or drop (it)."
        ),
    ] = None,
    quota: Annotated[int | None, typer.Option(help="Bytes that all versions together may take.")] = None,
    allow_private: Annotated[list[str] | None, typer.Option(help="CIDR of a private network to dial; repeat.")] = None,
    publish_root: Annotated[
        list[Path] | None, typer.Option(help="Directory that checkpoints may be published from; repeat for more.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the API's bearer token.")] = None,
    activate: Annotated[
        list[str] | None,
        typer.Option(help="KIND=TARGET[,KEY=VALUE...]: an engine to keep at the newest version, as vllm=URL; repeat."),
    ] = None,
    max_lag: Annotated[int | None, typer.Option(help="Versions that an engine may be behind; then: not ready.")] = None,
    max_stale: Annotated[str | None, typer.Option(help="Time that an engine may be behind, such as 10m.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error (default info).")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys as the flags.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every value and where it came from, as TOML, and leave.")
    ] = False,
) -> Given:
    """Run one node of a swarm: receive, verify and pass on the versions of its channels."""
    flags = {name: value for name, value in locals().items() if name not in _OWN_FLAGS and value not in (None, [])}
    return Given(flags, config, print_config)


def _run() -> int:
    given = _read()
    if isinstance(given, int):
        return given
    from shardcast.config import load

    config = load(given.flags, config_file=given.config_file)
    if given.prints_config:
        from shardcast.config_report import report

        text = report(config, given.flags, given.config_file)
        with writing():
            # a path is bytes, and need not be text
            sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
        return 0
    from .service import run_service

    return run_service(config)


def _read() -> Given | int:
    """Return what the command line says, or the exit code when it asked for a page that has been printed, or was interrupted.

    Raises:
        UsageError: It makes no sense.
    """
    try:
        with writing():
            given: Given | int = app(prog_name=_PROGRAM, standalone_mode=False)
    except Exception as error:
        # the class has another home in each release of typer, which is not always the one of click
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        raise UsageError(str(explain()).rstrip("."), hint=f"see {_PROGRAM} --help") from error
    return given

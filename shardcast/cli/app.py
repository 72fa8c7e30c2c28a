"""The commands of `shardcast`, with their flags.

A command here only hands over what was given; the module that does its work is imported inside it. `--api` is taken in front of the
command's name and behind it, because people write both. It is `argparse` that reads them: the libraries with the nicer help pages
take as long to import as a whole command may.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, Final, NoReturn

from shardcast_proto.errors import ShardcastError

from .session import Session

_API_HELP: Final = "the node to ask [SHARDCAST_API; default http://127.0.0.1:7480]"
_VERSION_HELP: Final = "NAME for the newest version of a channel, or NAME@STEP, NAME#SEQ, NAME@b3:HEX"
#: Steps are carried in signed objects, as integers below this.
_STEP_LIMIT: Final = 2**63
_DEMO_BYTES: Final = 256 * 1024 * 1024
#: Below it the demo's model has no room for one layer.
_DEMO_BYTES_MIN: Final = 256 * 1024


class UsageError(ShardcastError):
    """The command line makes no sense."""

    exit_code, http_status, code = 2, 400, "usage"


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name, and return its exit code.

    Raises:
        UsageError: They name none, or not with these flags.
        ShardcastError: What became of the command.
    """
    parser = _build()
    given = parser.parse_args(arguments)
    if "run" not in given:
        given.page.print_help()
        return UsageError.exit_code
    given.run(given)
    return 0


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from shardcast import __version__

        print(f"shardcast {__version__}")
        parser.exit()


# --- the flags ---


def _build() -> _Parser:
    parser = _Parser(
        prog="shardcast", description="Publish model checkpoints to a fleet, and pull them, verified chunk by chunk."
    )
    parser.set_defaults(page=parser)
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and leave")
    _add_daemon(parser, default=None)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    _build_channel(commands)
    _build_publish(commands)
    _build_pull(commands)
    _build_wait(commands)
    _build_ls(commands)
    _build_status(commands)
    _build_demo(commands)
    return parser


def _build_channel(commands: Any) -> None:
    channel = commands.add_parser("channel", help="make channels", description="Make channels.")
    channel.set_defaults(page=channel)
    parser = _add_command(
        channel.add_subparsers(metavar="COMMAND", parser_class=_Parser),
        "create",
        "make a channel",
        "Make a channel: DIR/NAME.root for every node, DIR/NAME.root.key to keep offline, DIR/NAME.key for the origin.",
    )
    parser.add_argument("name", metavar="NAME", help="letters, digits and . _ -")
    parser.add_argument("--dir", metavar="DIR", type=Path, required=True, help="where the files go; made if need be")
    parser.set_defaults(run=_channel_create)


def _build_publish(commands: Any) -> None:
    parser = _add_command(
        commands,
        "publish",
        "publish a checkpoint",
        "Publish a checkpoint: the node hashes it in place, signs it, and announces it.",
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="the directory of the checkpoint")
    parser.add_argument("--channel", metavar="NAME", required=True, help="the channel to publish in")
    parser.add_argument("--step", metavar="N", type=_step, required=True, help="the trainer's step number")
    parser.add_argument("--rewind", action="store_true", help="the trainer went back: replace what this step said")
    parser.add_argument(
        "--link", choices=("auto", "reflink", "hardlink", "copy"), default="auto", help="how the node keeps the files"
    )
    parser.add_argument("--wait", choices=("announced",), default="announced", help="what to wait for")
    _add_daemon(parser)
    _add_progress(parser)
    parser.set_defaults(run=_publish)


def _build_pull(commands: Any) -> None:
    parser = _add_command(
        commands,
        "pull",
        "make a directory of a version",
        "Make a directory of a version that the node holds; it appears whole or not at all.",
    )
    parser.add_argument("version", metavar="VERSION", help=_VERSION_HELP)
    parser.add_argument("directory", metavar="DIR", type=Path, help="the directory to make")
    parser.add_argument("--wait", action="store_true", help="wait until the node holds the version complete")
    _add_timeout(parser)
    _add_daemon(parser)
    _add_progress(parser)
    parser.set_defaults(run=_pull)


def _build_wait(commands: Any) -> None:
    parser = _add_command(commands, "wait", "wait for a version", "Return when the node holds a version complete.")
    parser.add_argument("version", metavar="VERSION", help=_VERSION_HELP)
    _add_timeout(parser)
    _add_daemon(parser)
    _add_progress(parser)
    parser.set_defaults(run=_wait)


def _build_ls(commands: Any) -> None:
    parser = _add_command(
        commands, "ls", "list channels or versions", "List the channels of the node, or the versions of one."
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a channel")
    _add_daemon(parser)
    parser.set_defaults(run=_ls)


def _build_status(commands: Any) -> None:
    parser = _add_command(commands, "status", "show the node at one glance", "Show the node at one glance.")
    _add_daemon(parser)
    parser.set_defaults(run=_status)


def _build_demo(commands: Any) -> None:
    parser = _add_command(
        commands,
        "demo",
        "run six nodes here and compare every byte",
        "Publish two checkpoints through six nodes on this host, and compare every byte.",
    )
    parser.add_argument(
        "--bytes", metavar="BYTES", type=_demo_bytes, default=_DEMO_BYTES, help="size of a checkpoint [256 MiB]"
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="work in this directory, and leave everything there")
    _add_progress(parser)
    parser.set_defaults(run=_demo)


def _add_command(commands: Any, name: str, summary: str, description: str) -> _Parser:
    parser: _Parser = commands.add_parser(name, help=summary, description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object, also for an error")
    return parser


def _add_daemon(parser: _Parser, default: str | None = argparse.SUPPRESS) -> None:
    # what is not given behind the command's name must not hide what was given in front of it
    parser.add_argument("--api", metavar="URL", default=default, help=_API_HELP)
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        default=default,
        help="the bearer token of its API [SHARDCAST_TOKEN_FILE]",
    )


def _add_progress(parser: _Parser) -> None:
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show progress on stderr; by default when that is a terminal",
    )


def _add_timeout(parser: _Parser) -> None:
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, help="give up after so long, with exit code 7; implies waiting"
    )


def _step(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= _STEP_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a step: an integer from 0 to 2**63 - 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _demo_bytes(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < _DEMO_BYTES_MIN:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes from {_DEMO_BYTES_MIN} on")
    return int(text)


# --- the commands ---


def _channel_create(given: argparse.Namespace) -> None:
    from .channel import create

    create(given.name, given.dir, as_json=given.json)


def _publish(given: argparse.Namespace) -> None:
    from .publish import publish

    options = {"step": given.step, "rewind": given.rewind, "link": given.link}
    publish(_session(given), given.path, given.channel, options)


def _pull(given: argparse.Namespace) -> None:
    from .pull import pull

    wait = given.wait or given.timeout is not None
    pull(_session(given), given.version, given.directory, wait=wait, timeout_s=given.timeout)


def _wait(given: argparse.Namespace) -> None:
    from .wait import wait

    wait(_session(given), given.version, timeout_s=given.timeout)


def _ls(given: argparse.Namespace) -> None:
    from .ls import list_channels, list_versions

    if given.name is None:
        list_channels(_session(given))
    else:
        list_versions(_session(given), given.name)


def _status(given: argparse.Namespace) -> None:
    from .status import status

    status(_session(given))


def _demo(given: argparse.Namespace) -> None:
    from .demo import demo

    demo(size_bytes=given.bytes, keep=given.keep, as_json=given.json, progress=given.progress)


def _session(given: argparse.Namespace) -> Session:
    return Session(
        api=given.api, token_file=given.token_file, as_json=given.json, progress=getattr(given, "progress", None)
    )

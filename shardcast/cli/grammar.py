"""The grammar of the `shardcast` command: its commands, with their flags.

Each command sets `command` to its name, for `app` to run it. `--api` is taken in front of the command's name and behind it, because
people write both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from . import flags
from .usage import Parser, ShowVersion

#: The shells that `completion` writes for.
SHELLS: Final = ("bash", "zsh", "fish")

_DEMO_BYTES: Final = 256 * 1024 * 1024


def build() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="shardcast", description="Publish model checkpoints to a fleet, and pull them, verified chunk by chunk."
    )
    parser.set_defaults(page=parser, json=False)
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print the version and leave")
    flags.add_daemon(parser, default=None)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    _build_channel(commands)
    _build_publish(commands)
    _build_getting(commands)
    _build_activating(commands)
    _build_looking(commands)
    _build_keeping(commands)
    _build_demo(commands)
    _build_completion(commands)
    return parser


def _build_channel(commands: Any) -> None:
    channel = commands.add_parser("channel", help="make channels", description="Make channels.")
    flags.add_json(channel)
    channel.set_defaults(page=channel)
    parser = _add_command(
        channel.add_subparsers(metavar="COMMAND", parser_class=Parser),
        "create",
        "make a channel",
        "Make a channel: DIR/NAME.root for every node, DIR/NAME.root.key to keep offline, DIR/NAME.key for the origin.",
    )
    # given in front of `create` too, and must not be taken back here
    parser.set_defaults(json=argparse.SUPPRESS)
    parser.add_argument("name", metavar="NEW_NAME", help="letters, digits and . _ -")
    parser.add_argument("--dir", metavar="DIR", type=Path, required=True, help="where the files go; made if need be")
    parser.set_defaults(command="channel create")


def _build_publish(commands: Any) -> None:
    parser = _add_asking(
        commands,
        "publish",
        "publish a checkpoint",
        "Publish a checkpoint: the node hashes it in place, signs it, and announces it.",
    )
    parser.add_argument("path", metavar="PATH", help="the directory of the checkpoint")
    parser.add_argument("--channel", metavar="NAME", required=True, help="the channel to publish in")
    parser.add_argument("--step", metavar="N", type=flags.step, required=True, help="the trainer's step number")
    parser.add_argument("--rewind", action="store_true", help="the trainer went back: replace what this step said")
    parser.add_argument(
        "--link", choices=("auto", "reflink", "hardlink", "copy"), default="auto", help="how the node keeps the files"
    )
    parser.add_argument(
        "--wait",
        metavar="announced|K",
        type=flags.wait_target,
        default="announced",
        help="return when it is announced (default), or when K direct neighbours hold it complete",
    )
    parser.add_argument(
        "--wait-marker", metavar="FILE", type=flags.marker, help="first wait until the directory holds this file"
    )
    flags.add_timeout(
        parser, "how long --wait-marker and --wait K wait, then exit code 7 [600]; hashing is never cut short"
    )
    flags.add_progress(parser)


def _build_getting(commands: Any) -> None:
    parser = _add_asking(
        commands,
        "pull",
        "make a directory of a version",
        "Make a directory of a version that the node holds; it appears whole or not at all.",
    )
    flags.add_version(parser)
    parser.add_argument("directory", metavar="DIR", type=Path, help="the directory to make")
    parser.add_argument("--wait", action="store_true", help="wait until the node holds the version complete")
    flags.add_timeout(parser)
    flags.add_progress(parser)
    parser = _add_asking(
        commands,
        "wait",
        "wait for a version",
        "Return when the node holds a version complete, or when its engines serve it or a newer one.",
    )
    flags.add_version(parser)
    parser.add_argument("--activated", action="store_true", help="wait until the engines of the channel serve it")
    flags.add_engine(parser)
    flags.add_timeout(parser)
    flags.add_progress(parser)


def _build_activating(commands: Any) -> None:
    parser = _add_asking(
        commands,
        "activate",
        "have engines serve a version",
        "Have the engines of a channel serve a version; it stays until something newer comes than there is now.",
    )
    flags.add_version(parser)
    flags.add_engine(parser)
    flags.add_timeout(parser, "give up waiting after so long, with exit code 7 [3600]; the engine is not told")
    parser = _add_asking(
        commands,
        "rollback",
        "have engines serve what they served before",
        "Have the engines of a channel serve what they served before, until something newer comes than there is now.",
    )
    parser.add_argument("name", metavar="NAME", help="a channel")
    flags.add_engine(parser)
    parser.add_argument("--resume", action="store_true", help="take up the newest version again instead")
    flags.add_timeout(parser, "give up waiting after so long, with exit code 7 [3600]; the engine is not told")


def _build_looking(commands: Any) -> None:
    parser = _add_asking(
        commands, "ls", "list channels or versions", "List the channels of the node, or the versions of one."
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a channel")
    parser = _add_asking(
        commands, "show", "show a version with its files", "Show what the node knows of a version, with its files."
    )
    flags.add_version(parser)
    _add_asking(commands, "status", "show the node at one glance", "Show the node at one glance.")
    _add_asking(
        commands,
        "peers",
        "list the node's neighbours",
        "List the node's neighbours, and the peers that it refuses for a while.",
    )
    parser = _add_asking(
        commands,
        "tree",
        "show who feeds whom with a version",
        "Show who feeds the node with a version, and whom it feeds, with the rate of each link over the last second.",
    )
    flags.add_version(parser)
    parser = _add_asking(
        commands,
        "top",
        "watch the node at work",
        "Watch versions and neighbours as bytes flow. On a terminal until Ctrl-C, else one look.",
    )
    parser.add_argument(
        "--interval", metavar="SECONDS", type=flags.interval, default=1.0, help="the time between two looks [1]"
    )
    parser.add_argument("--frames", metavar="N", type=flags.count, help="leave after N looks")
    _add_asking(
        commands,
        "check",
        "say whether the node is ready",
        "Say whether the node is ready: exit code 0, or 1. This is what a container's health check runs.",
    )


def _build_keeping(commands: Any) -> None:
    parser = _add_asking(
        commands,
        "verify",
        "compare every byte with the manifest",
        "Have the node hash its files of a version again; or, given DIR, compare that directory with the version.",
    )
    flags.add_version(parser)
    parser.add_argument("directory", metavar="DIR", type=Path, nargs="?", help="a directory that a pull has made")
    flags.add_progress(parser)
    parser = _add_asking(commands, "pin", "keep a version", "Keep a version from being deleted, until it is unpinned.")
    flags.add_version(parser)
    parser = _add_asking(
        commands, "unpin", "give a version back", "Let a version be deleted again when its time comes."
    )
    flags.add_version(parser)
    parser = _add_asking(
        commands,
        "gc",
        "delete what is not kept",
        "Delete the versions that are neither among the newest, nor pinned, nor being read.",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")


def _build_demo(commands: Any) -> None:
    parser = _add_command(
        commands,
        "demo",
        "run six nodes here and compare every byte",
        "Publish two checkpoints through six nodes on this host, and compare every byte.",
    )
    parser.add_argument(
        "--bytes", metavar="BYTES", type=flags.demo_bytes, default=_DEMO_BYTES, help="size of a checkpoint [256 MiB]"
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="work in this directory, and leave everything there")
    flags.add_progress(parser)


def _build_completion(commands: Any) -> None:
    parser = commands.add_parser(
        "completion",
        help="print the completion of a shell",
        description="Print what makes a shell complete the commands, their flags, and the node's channels and versions.",
        epilog=(
            'bash: eval "$(shardcast completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc, after compinit;'
            " fish: shardcast completion fish > ~/.config/fish/completions/shardcast.fish"
        ),
    )
    flags.add_json(parser)
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(command="completion")


def _add_asking(commands: Any, name: str, summary: str, description: str) -> Parser:
    parser = _add_command(commands, name, summary, description)
    flags.add_daemon(parser)
    return parser


def _add_command(commands: Any, name: str, summary: str, description: str) -> Parser:
    parser: Parser = commands.add_parser(name, help=summary, description=description)
    flags.add_json(parser)
    parser.set_defaults(command=name)
    return parser

"""The flags that several commands share, with the values that flags take."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Final

from .usage import Parser

_API_HELP: Final = "the node to ask [SHARDCAST_API; default http://127.0.0.1:7480]"
_VERSION_HELP: Final = "NAME for the newest version of a channel, or NAME@STEP, NAME#SEQ, NAME@b3:HEX"
#: Steps are carried in signed objects, as integers below this.
_STEP_LIMIT: Final = 2**63
#: A node has at most 8 neighbours, so a larger K waits in vain; this one only keeps out what is no count.
_NEIGHBOURS_MAX: Final = 64
#: Below it the demo's model has no room for one layer.
_DEMO_BYTES_MIN: Final = 256 * 1024


def add_daemon(parser: Parser, default: str | None = argparse.SUPPRESS) -> None:
    """Add the flags that say which daemon is asked."""
    # what is not given behind the command's name must not hide what was given in front of it
    parser.add_argument("--api", metavar="URL", default=default, help=_API_HELP)
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        default=default,
        help="the bearer token of its API [SHARDCAST_TOKEN_FILE]",
    )


def add_json(parser: Parser) -> None:
    """Add the flag that asks for an object."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, also for an error")


def add_progress(parser: Parser) -> None:
    """Add the flag that shows or hides progress."""
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show progress on stderr; by default when that is a terminal",
    )


def add_timeout(parser: Parser, summary: str = "give up after so long, with exit code 7; implies waiting") -> None:
    """Add the flag that ends waiting."""
    parser.add_argument("--timeout", metavar="SECONDS", type=seconds, help=summary)


def add_engine(parser: Parser) -> None:
    """Add the flag that names one engine."""
    parser.add_argument("--engine", metavar="ENGINE", help="only this engine; by default all that follow the channel")


def add_version(parser: Parser) -> None:
    """Add the argument that names a version."""
    parser.add_argument("version", metavar="VERSION", help=_VERSION_HELP)


def step(text: str) -> int:
    """Read a trainer's step number."""
    if not text.isascii() or not text.isdecimal() or int(text) >= _STEP_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a step: an integer from 0 to 2**63 - 1")
    return int(text)


def seconds(text: str) -> float:
    """Read a time span; 0 is one."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def interval(text: str) -> float:
    """Read the pause between two looks."""
    value = seconds(text)
    if value < 0.1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval: at least 0.1 seconds")
    return value


def count(text: str) -> int:
    """Read a number of things, at least one."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def wait_target(text: str) -> str | int:
    """Read what `publish` waits for: `announced`, or how many neighbours hold the version complete."""
    if text == "announced":
        return text
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _NEIGHBOURS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'announced' nor a number of neighbours")
    return int(text)


def marker(text: str) -> str:
    """Read the name of a file that a directory holds when it is whole."""
    if not text or "/" in text or "\0" in text or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file in the checkpoint's directory")
    return text


def demo_bytes(text: str) -> int:
    """Read the size of the demo's checkpoints."""
    if not text.isascii() or not text.isdecimal() or int(text) < _DEMO_BYTES_MIN:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes from {_DEMO_BYTES_MIN} on")
    return int(text)

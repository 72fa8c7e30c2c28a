"""The output of a command: data on stdout, everything else on stderr.

With `--json` the data is one object, whatever happens. Texts that came from elsewhere (a daemon, another host's channel) are shown
with their control characters escaped: nobody may move our user's cursor.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Final, TextIO

from shardcast_proto.errors import ShardcastError, StoreError
from shardcast_proto.ids import format_digest
from shardcast_proto.limits import DIGEST_BYTES

_NUMBER: Final = re.compile(r"[0-9][0-9.]*(%| [A-Za-z/]+)?")


def print_result(document: Mapping[str, object], lines: Iterable[str], *, as_json: bool) -> None:
    """Print what a command found out: the object, or the lines for people.

    Raises:
        StoreError: Standard output takes nothing more.
    """
    with writing():
        if as_json:
            print(_json(document))
            return
        for line in lines:
            print(printable(line))


def print_error(error: ShardcastError, *, as_json: bool, program: str = "shardcast") -> None:
    """Print an error: one sentence on stderr, and with `as_json` an object on stdout, as far as these take it."""
    if as_json:
        facts = {"code": error.code, "message": error.message, "hint": error.hint, "facts": error.facts}
        try:
            print(_json({"error": facts}), flush=True)
        except OSError:  # the sentence will say what matters
            silence(sys.stdout)
    print_note(error.describe(), program=program)


def print_note(text: str, *, program: str = "shardcast") -> None:
    """Print something for people that is no data."""
    print_aside(f"{program}: {printable(text)}")


def print_aside(line: str) -> None:
    """Print a line to stderr, if there is somebody who takes it: no command fails for the want of a listener."""
    try:
        print(line, file=sys.stderr)
    except OSError:
        silence(sys.stderr)


@contextmanager
def writing() -> Iterator[None]:
    """Write to standard output inside.

    Raises:
        StoreError: It takes nothing more: a full disk.
        BrokenPipeError: Whoever read it has left.
    """
    try:
        yield
    except OSError as error:
        silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise StoreError(
            f"cannot write to standard output: {error.strerror or error}",
            hint="make room where it goes to, or send it elsewhere",
        ) from error


def silence(stream: TextIO) -> None:
    """Send what is left in a stream nowhere, or the interpreter would fail again when it flushes at the end."""
    with suppress(OSError, ValueError):  # a stream of a test has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def printable(text: str) -> str:
    """Return `text` with every character that a terminal would act upon escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def table(rows: Iterable[Sequence[object]], *, header: Sequence[str]) -> list[str]:
    """Return rows as lines with aligned columns; numbers, with or without a unit, stand to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        return []
    is_number = [_are_numbers([row[index] for row in cells]) for index in range(len(header))]
    widths = [max(len(row[index]) for row in [list(header), *cells]) for index in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return [line(header), *map(line, cells)]


def size_text(size_bytes: float) -> str:
    """Return a number of bytes for people: 268435456 is 256.0 MiB."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def time_text(unix_s: object) -> str:
    """Return a time by the daemon's clock for people; "-" for none."""
    if not isinstance(unix_s, int | float):
        return "-"
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def share_text(done: object, total: object) -> str:
    """Return a share in per cent, rounded down: 100 % is all of it."""
    if not isinstance(done, int) or not isinstance(total, int) or not total:
        return "-"
    return f"{100 * done // total}%"


def _are_numbers(column: Sequence[str]) -> bool:
    return any(cell != "-" for cell in column) and all(cell == "-" or _NUMBER.fullmatch(cell) for cell in column)


def _json(document: Mapping[str, object]) -> str:
    return json.dumps(document, default=_plain, indent=None)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return format_digest(value) if len(value) == DIGEST_BYTES else value.hex()
    if isinstance(value, PurePath):
        return str(value)
    return repr(value)

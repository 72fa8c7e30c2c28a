"""The candidates for the word that a user is typing: commands, flags, values, and what the daemon knows.

A shell asks with `shardcast --complete WORD…`, the last word being the one under the cursor, and gets a line for each candidate; behind
a tab stands its description. The line `:files` or `:directories` asks the shell for its own. Nothing that goes wrong is shown: an error
has no place in a line that is being typed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from shardcast_proto.errors import ShardcastError

from .output import printable, size_text, writing
from .session import Session

FILES: Final = ":files"
DIRECTORIES: Final = ":directories"

#: A shell waits for the answer, with the user before it.
_TIMEOUT_S: Final = 1.0
_SHELLS_OWN: Final = {"FILE": FILES, "DIR": DIRECTORIES, "PATH": DIRECTORIES}


class _Place(NamedTuple):
    """Where the words before the cursor lead to.

    Attributes:
        parser: Of the innermost command.
        given: What the flags so far have said.
        option: The flag whose value comes next.
        positionals: How many arguments of the parser are there already.
    """

    parser: argparse.ArgumentParser
    given: dict[str, str]
    option: argparse.Action | None
    positionals: int


def print_candidates(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Print the candidates for the last of the words that follow the program's name."""
    *before, current = words or [""]
    with writing():
        for candidate, summary in candidates(parser, before, current):
            print(f"{candidate}\t{printable(summary)}" if summary else candidate)


def candidates(parser: argparse.ArgumentParser, before: list[str], current: str) -> Iterator[tuple[str, str]]:
    """Yield what `current` may become, with a description."""
    place = _walk(parser, before)
    if place.option is not None:
        found = _values(place.option, place, current)
    elif current.startswith("-"):
        found = _flags(place.parser)
    else:
        found = _positional(place, current)
    for candidate, summary in found:
        if candidate.startswith((current, ":")):
            yield candidate, summary


def _walk(parser: argparse.ArgumentParser, words: list[str]) -> _Place:
    given: dict[str, str] = {}
    option: argparse.Action | None = None
    positionals = 0
    for word in words:
        if option is not None:
            given[option.dest], option = word, None
        elif word.startswith("-") and word != "-":
            name, equals, value = word.partition("=")
            action = parser._option_string_actions.get(name)
            if action is not None and equals:
                given[action.dest] = value
            elif action is not None and action.nargs is None:
                option = action
        elif (child := _commands(parser).get(word)) is not None:
            parser, positionals = child, 0
        else:
            positionals += 1
    return _Place(parser, given, option, positionals)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _positional(place: _Place, current: str) -> Iterator[tuple[str, str]]:
    actions = [action for action in place.parser._actions if not action.option_strings]
    if place.positionals >= len(actions):
        return
    action = actions[place.positionals]
    if isinstance(action, argparse._SubParsersAction):
        yield from ((choice.dest, choice.help or "") for choice in action._get_subactions())
    else:
        yield from _values(action, place, current)


def _flags(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        for name in action.option_strings:
            if name.startswith("--"):
                yield name, action.help or ""


def _values(action: argparse.Action, place: _Place, current: str) -> Iterator[tuple[str, str]]:
    if action.choices is not None:
        yield from ((str(choice), "") for choice in action.choices)
    elif action.metavar == "announced|K":
        yield "announced", "the default"
    elif action.metavar == "NAME":
        yield from _channels(place)
    elif action.metavar == "VERSION":
        yield from _versions(place, current)
    elif isinstance(action.metavar, str) and action.metavar in _SHELLS_OWN:
        yield _SHELLS_OWN[action.metavar], ""


# --- what the daemon knows ---


def _channels(place: _Place) -> Iterator[tuple[str, str]]:
    with suppress(ShardcastError):
        for view in _session(place).client().channels(timeout_s=_TIMEOUT_S):
            yield view["name"], f"{view['versions']} versions"


def _versions(place: _Place, current: str) -> Iterator[tuple[str, str]]:
    mark = "#" if "#" in current else "@"
    channel, is_marked, _ = current.partition(mark)
    if not is_marked:
        yield from _channels(place)
        return
    key = "seq" if mark == "#" else "step"
    offered: set[int] = set()
    with suppress(ShardcastError):
        for view in _session(place).client().versions(channel, timeout_s=_TIMEOUT_S):
            # of a step that was published again after a rewind, the newest version, which is what its name means
            if view[key] not in offered:
                offered.add(view[key])
                yield f"{channel}{mark}{view[key]}", f"{view['state']}, {size_text(view['bytes'])}"


def _session(place: _Place) -> Session:
    token_file = place.given.get("token_file")
    return Session(api=place.given.get("api"), token_file=Path(token_file).expanduser() if token_file else None)

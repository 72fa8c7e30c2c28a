"""The target of an API request: the segments of its path, decoded, with its query.

A path is cut at its slashes before it is decoded, so an encoded slash never makes a segment. A target that decodes to
no text, or has a query that the API does not know, is refused. Only the Hub's routes leave out what they do not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from shardcast_proto.errors import ConfigError, NotFound

#: The longest wait that a request may ask for: a proxy or a laptop's NAT keeps a silent connection about that long.
WAIT_S_MAX: Final = 60.0
WAIT: Final = "wait"
SINCE: Final = "since"
TIMEOUT: Final = "timeout"
RECURSIVE: Final = "recursive"
EXPAND: Final = "expand"

#: What the paths of the Hugging Face Hub's routes begin with.
_HUB: Final = ("api", "shardcast")

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SECONDS = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,20})?(?:e[-+]?[0-9]{1,3})?", re.ASCII | re.IGNORECASE)
_SHOWN_CHARACTERS: Final = 80


class Target(NamedTuple):
    """What a request names."""

    #: The path between its slashes, decoded.
    segments: tuple[str, ...]
    #: The parameters that it gives, by name, decoded.
    query: Mapping[str, str] = {}

    def seconds(self, name: str) -> float | None:
        """Return the value of a parameter that is a number of seconds; None when it is not given.

        Raises:
            ConfigError: It is none, or too large.
        """
        value = self.query.get(name)
        if value is None:
            return None
        seconds = float(value) if _SECONDS.fullmatch(value) else None
        if seconds is None or seconds > WAIT_S_MAX:
            raise ConfigError(
                f"{name}={_shown(value)} is not a number of seconds from 0 to {WAIT_S_MAX:g}",
                hint="ask again to wait longer",
                wait_s_max=WAIT_S_MAX,
            )
        return seconds

    def flag(self, name: str) -> bool:
        """Return the value of a parameter that is true or false; false when it is not given.

        Raises:
            ConfigError: It is neither.
        """
        value = self.query.get(name, "false")
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{name}={_shown(value)} is neither true nor false")
        return value.lower() == "true"


def parse_target(raw: str) -> Target:
    """Read the target of a request line, as it was sent.

    Raises:
        NotFound: It is no path.
        ConfigError: It is not UTF-8 text in proper %-encoding, or its query is not understood.
    """
    path, mark, query = raw.partition("?")
    if not path.startswith("/"):
        raise NotFound(f"{_shown(raw)} is not a path of this API")
    segments = tuple(_decoded(segment) for segment in path[1:].split("/"))
    if segments[0] in _HUB:
        return Target(segments, _hub_parameters(query))
    return Target(segments, _parameters(query) if mark else {})


def _decoded(segment: str) -> str:
    encoded = segment.encode("utf-8", "surrogateescape")  # the parser keeps bytes that are no UTF-8 as surrogates
    try:
        if _BAD_ESCAPE.search(encoded):
            raise ConfigError(f"{_shown(segment)} is not properly %-encoded")
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{_shown(segment)} does not decode to UTF-8 text") from error


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        name, mark, value = part.partition("=")
        if name not in (WAIT, SINCE, TIMEOUT) or not mark or name in parameters:
            raise ConfigError(
                f"query {_shown(query)} is not understood",
                hint=f"the parameters are {WAIT}=SECONDS of a version, {SINCE}=ID and {TIMEOUT}=SECONDS of events",
            )
        parameters[name] = _decoded(value)
    return parameters


def _hub_parameters(query: str) -> dict[str, str]:
    """Return what is understood of a query of the Hub's: its clients ask for much that a node has not got, more with each release."""
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name in (RECURSIVE, EXPAND):
            parameters.setdefault(name, _decoded(value))
    return parameters


def _shown(text: str) -> str:
    return ascii(text[:_SHOWN_CHARACTERS])

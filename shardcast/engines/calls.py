"""One HTTP call to an engine: what it takes, what comes back, what its failure says about the engine.

The client itself is `shardcast.http.engine_client`. It calls once: no redirect is followed, nothing is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

from .port import EngineFault

#: Answers are a few words; the description of an engine's routes is the longest.
ANSWER_BYTES_MAX: Final = 64 * 1024
ROUTES_BYTES_MAX: Final = 8 * 1024 * 1024
#: A question that no weights are moved for.
ASK_TIMEOUT_S: Final = 10.0
_QUOTED_CHARACTERS: Final = 300

Answer: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EngineReply:
    """What an engine has answered."""

    status: int
    body: bytes


class EngineHttp(Protocol):
    """The way to one engine."""

    #: Its base URL, for messages.
    url: str

    async def call(
        self,
        method: str,
        place: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> EngineReply:
        """Make one request and return its answer, whatever its status.

        Raises:
            EngineFault: No answer came; `may_have_acted` tells whether the request can have reached the engine.
        """

    async def aclose(self) -> None:
        """Close the connections."""


async def post(http: EngineHttp, place: str, document: object = None, *, timeout_s: float) -> Answer:
    """Have an engine do something, and return what it answers; an empty answer is an empty object.

    Raises:
        EngineFault: It did not answer, or not with a success, which `{"success": false}` with status 200 is not.
    """
    body = None if document is None else json.dumps(document).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    reply = await http.call("POST", place, body=body, headers=headers, timeout_s=timeout_s)
    if reply.status != 200:
        raise refusal(http.url, place, reply)
    answer = _object(http.url, place, reply) if reply.body.strip() else {}
    if answer.get("success") is False:
        raise without_success(http.url, place, answer)
    return answer


async def get(http: EngineHttp, place: str, *, bytes_max: int = ANSWER_BYTES_MAX) -> Answer:
    """Ask an engine something.

    Raises:
        EngineFault: It did not answer, or not with a success.
    """
    reply = await http.call("GET", place, timeout_s=ASK_TIMEOUT_S, bytes_max=bytes_max)
    if reply.status != 200:
        raise refusal(http.url, place, reply)
    return _object(http.url, place, reply)


async def routes_of(http: EngineHttp) -> frozenset[str]:
    """Return the paths that an engine describes; none when it describes nothing.

    Raises:
        EngineFault: It does not answer.
    """
    try:
        described = await get(http, "/openapi.json", bytes_max=ROUTES_BYTES_MAX)
    except EngineFault as fault:
        if fault.status is None and not fault.is_answer:
            raise
        return frozenset()
    paths = described.get("paths")
    return frozenset(map(str, paths)) if isinstance(paths, dict) else frozenset()


def refusal(url: str, place: str, reply: EngineReply) -> EngineFault:
    """Return the fault for an answer that is no success; with a status below 500 the engine has not acted."""
    said = quoted(reply.body)
    return EngineFault(
        f"{url}{place.partition('?')[0]} answered {reply.status}{f': {said}' if said else ''}",
        may_have_acted=reply.status >= 500 or reply.status < 300,
        status=reply.status,
        hint=_HINTS.get(reply.status),
    )


def without_success(url: str, place: str, answer: Answer) -> EngineFault:
    """Return the fault for an answer of status 200 that says that it failed; what the engine has done is open."""
    said = quoted(str(answer.get("message", "")).encode(errors="replace"))
    return EngineFault(
        f"{url}{place.partition('?')[0]} answered without success{f': {said}' if said else ''}",
        may_have_acted=True,
        status=200,
    )


def quoted(data: bytes) -> str:
    """Return the beginning of what an engine says, fit for a log."""
    text = data[: 4 * _QUOTED_CHARACTERS].decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text).strip()[:_QUOTED_CHARACTERS]


_HINTS: Final[Mapping[int, str]] = {
    401: "name the file with the engine's token with token-file=FILE",
    403: "name the file with the engine's token with token-file=FILE",
    404: "the engine has no such route: see how it must be started in the README, 'Into an engine'",
}


def _object(url: str, place: str, reply: EngineReply) -> Answer:
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EngineFault(
            f"{url}{place.partition('?')[0]} answered 200 with something that is no JSON object: {quoted(reply.body)}",
            may_have_acted=True,
            status=reply.status,
        )
    return cast("dict[str, Any]", value)

"""Problem documents (RFC 9457), the body of every HTTP error.

One `ShardcastError` becomes one document: its code names the type, its class gives the status, its message is the
detail, its facts are listed by name. A fault of ours that is no `ShardcastError` tells the outside nothing but that it
happened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import PurePath
from typing import Final

from aiohttp import web

from shardcast_proto.errors import ShardcastError

from .api_answers import FIELDS

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:shardcast:error:"
#: Texts of one fact; a longer one is somebody's input, cut here.
FACT_CHARACTERS_MAX: Final = 1000
FACT_ITEMS_MAX: Final = 100


def problem_document(error: ShardcastError, *, status: int | None = None) -> dict[str, object]:
    """Return the members of the problem document for `error`.

    Args:
        status: Overrides the status that the error's class stands for.
    """
    document: dict[str, object] = {
        "type": TYPE_PREFIX + error.code,
        "title": error.code.replace("_", " "),
        "status": error.http_status if status is None else status,
        "detail": error.message,
    }
    if error.hint:
        document["hint"] = error.hint
    if error.facts:
        document["facts"] = {name: _plain(value) for name, value in error.facts.items()}
    return document


def problem_response(
    error: ShardcastError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return the response that carries `error`."""
    document = problem_document(error, status=status)
    return _response(document, headers)


def problem_of_status(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the response for a refusal that is HTTP's own (a method, a length), not one of our errors."""
    title = HTTPStatus(status).phrase.lower()
    return _response({"type": "about:blank", "title": title, "status": status, "detail": detail}, headers)


def problem_of_fault() -> web.Response:
    """Return the response for a bug of ours: what happened is for our log, not for the caller."""
    document = {
        "type": TYPE_PREFIX + "internal",
        "title": "internal",
        "status": 500,
        "detail": "this node failed to answer; its log says why",
    }
    return _response(document, None)


def _response(document: Mapping[str, object], headers: Mapping[str, str] | None) -> web.Response:
    status = document["status"]
    if not isinstance(status, int):
        raise TypeError(f"a status is a number, not {status!r}")
    body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    return web.Response(status=status, body=body, content_type=CONTENT_TYPE, headers={**FIELDS, **(headers or {})})


def _plain(value: object) -> object:
    """Return `value` as JSON can carry it; bytes of a digest's length as the digest's text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if value - value == 0 else str(value)
        case bytes() | bytearray() | memoryview():
            prefix = "b3:" if len(value) == 32 else ""
            return (prefix + bytes(value).hex())[:FACT_CHARACTERS_MAX]
        case str() | PurePath():
            return str(value).encode("utf-8", "replace").decode()[:FACT_CHARACTERS_MAX]
        case Mapping():
            return {str(name): _plain(item) for name, item in list(value.items())[:FACT_ITEMS_MAX]}
        case list() | tuple():
            return [_plain(item) for item in value[:FACT_ITEMS_MAX]]
        case _:
            return str(value)[:FACT_CHARACTERS_MAX]

"""The plain answers of the API: JSON documents that fit in memory, with what an answer is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from aiohttp import web

Answer: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
#: Answers by method.
Resource: TypeAlias = Mapping[str, Answer]

#: Answers change from second to second, and none is for a browser to guess the type of.
FIELDS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "shardcast"}


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the response that carries `value`."""
    return web.Response(
        status=status,
        body=json_bytes(value),
        content_type="application/json",
        headers={**FIELDS, **(headers or {})},
    )


def json_bytes(value: object) -> bytes:
    """Return `value` as ASCII: a file name of this host need not be text that UTF-8 can carry."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()

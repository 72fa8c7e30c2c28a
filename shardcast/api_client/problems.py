"""The way back from a problem document to the error that it was made of.

The API answers every failure with a document (RFC 9457) whose type ends in the error's code; here it becomes an exception again, so
that a command ends with the same exit code and sentence as if it had run inside the daemon. A code of a newer daemon keeps its name,
and gets the family that its HTTP status stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from shardcast_proto.errors import (
    ConfigError,
    Conflict,
    IntegrityError,
    NotFound,
    ShardcastError,
    StoreError,
    TransferError,
    TrustError,
)

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:shardcast:error:"
#: Characters of a code that is taken over from a daemon.
_CODE_CHARS_MAX: Final = 64
_FAMILIES: Final[dict[int, type[ShardcastError]]] = {
    400: ConfigError,
    401: ConfigError,
    403: TrustError,
    404: NotFound,
    409: Conflict,
    413: ConfigError,
    502: IntegrityError,
    503: TransferError,
    507: StoreError,
}


def error_of_problem(document: object, status: int | None = None) -> ShardcastError:
    """Return the error that a problem document stands for.

    Args:
        document: The decoded body, of whatever shape.
        status: The HTTP status that it came with; by default the document's own.
    """
    problem = cast(dict[str, object], document) if isinstance(document, dict) else {}
    own = problem.get("status")
    status = status or (own if isinstance(own, int) else 500)
    error_class = _class_of(str(problem.get("type", "")).removeprefix(TYPE_PREFIX), status)
    message = str(problem.get("detail") or problem.get("title") or f"the daemon answered with HTTP status {status}")
    hint, facts = problem.get("hint"), problem.get("facts")
    error = error_class(message, hint=hint if isinstance(hint, str) else None)
    error.facts = dict(facts) if isinstance(facts, dict) else {}
    return error


def _class_of(code: str, status: int) -> type[ShardcastError]:
    for known in _family(ShardcastError):
        if known.code == code:
            return known
    family = _FAMILIES.get(status, ShardcastError)
    if not code.isidentifier() or len(code) > _CODE_CHARS_MAX:
        return family
    return type(family.__name__, (family,), {"code": code})


def _family(ancestor: type[ShardcastError]) -> Iterator[type[ShardcastError]]:
    yield ancestor
    for child in ancestor.__subclasses__():
        if child.__module__ != __name__:  # those are made above, for codes that nobody here knows
            yield from _family(child)

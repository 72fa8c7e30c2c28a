"""The conditions of a request for one file: which bytes of it are to be sent, if any.

Preconditions are judged in the order of RFC 9110 (13.2.2): `If-Match`, `If-None-Match`, then `Range` under `If-Range`.
There are no modification times here, so conditions on dates never hold, and an `If-Range` with a date means the whole
file.

    Range                      answer
    one satisfiable range      206 with these bytes
    one beyond the end, -0     416
    several, malformed,        200 with the whole file: RFC 9110 (14.2) lets a server ignore them, and nothing
      another unit               that a client can do with our files needs them
    any, of an empty file      200: there is no byte that a 206 could name
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_ONE_RANGE = re.compile(r"bytes=[ \t,]*([0-9]{0,40})-([0-9]{0,40})[ \t,]*", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_WEAK: Final = "W/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The answer: a status, with the bytes [offset, offset + length) when the status is 200 or 206."""

    status: int
    offset: int = 0
    length: int = 0


def select(headers: Mapping[str, str], *, size: int, etag: str, is_range_allowed: bool) -> Selection:
    """Judge the conditions of a GET or HEAD for a file of `size` bytes whose strong validator is `etag`.

    Args:
        headers: The request's fields, names in any case if the mapping allows it; repeated fields joined by commas.
        is_range_allowed: False for HEAD: a range is defined for GET only.
    """
    whole = Selection(status=200, length=size)
    if_match, if_none_match = headers.get("If-Match"), headers.get("If-None-Match")
    if if_match is not None and not _names(if_match, etag, is_weak_enough=False):
        return Selection(status=412)
    if if_none_match is not None and _names(if_none_match, etag, is_weak_enough=True):
        return Selection(status=304)
    wanted, if_range = headers.get("Range"), headers.get("If-Range")
    if wanted is None or not is_range_allowed or size == 0:
        return whole
    if if_range is not None and if_range.strip(" \t") != etag:
        return whole
    return _range(wanted.strip(" \t"), whole)


def content_range(selection: Selection, size: int) -> str:
    """Return the Content-Range field of a 206 or a 416."""
    if selection.status == 206:
        return f"bytes {selection.offset}-{selection.offset + selection.length - 1}/{size}"
    return f"bytes */{size}"


def _range(text: str, whole: Selection) -> Selection:
    match = _ONE_RANGE.fullmatch(text)
    if match is None:
        return whole
    first, last, size = match[1], match[2], whole.length
    if not first and not last:
        return whole
    if not first:
        length = min(int(last), size)
        return Selection(status=206, offset=size - length, length=length) if length else Selection(status=416)
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return whole
    return Selection(status=206, offset=start, length=end - start) if start < size else Selection(status=416)


def _names(condition: str, etag: str, *, is_weak_enough: bool) -> bool:
    """Say whether a list of entity tags, or `*`, covers `etag`."""
    if condition.strip(" \t") == "*":
        return True
    tags = _TAG.findall(condition)
    return etag in tags or (is_weak_enough and _WEAK + etag in tags)

"""The encoding of every object and message: msgpack arrays with a tag, or a number, in front.

Decoding is strict where msgpack is lax. The cap on the encoded length is checked before anything is decoded (16 MB of empty maps
become 1.2 GB of Python objects); maps are refused (msgpack accepts duplicate keys silently), as are extension types, floats, deep
nesting, long arrays and trailing bytes. Objects are hashed and signed as received and never re-encoded, so two encodings of one
value are two objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn

import msgpack

from .errors import RemoteProtocolError
from .limits import CODEC_ARRAY_MAX, CODEC_DEPTH_MAX, CODEC_LISTS_MAX

#: Numbers on the wire are unsigned and fit SQLite's signed 64 bits.
INT_MAX: Final = 2**63 - 1

#: One checked field; what it is follows from the kinds that the caller named, which no type can say.
Field = Any


def pack(value: object) -> bytes:
    """Encode lists, bytes, text, whole numbers, booleans and None."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes | memoryview, *, size_max: int, what: str) -> object:
    """Decode one value.

    Args:
        data: The encoded bytes, as received.
        size_max: Cap on their length, checked first.
        what: What the bytes are meant to be, for the message.

    Raises:
        RemoteProtocolError: The bytes are longer than `size_max` or not exactly one value of the allowed kinds.
    """
    if len(data) > size_max:
        raise RemoteProtocolError(f"{what} has {len(data)} bytes, the limit is {size_max}", what=what)
    try:
        value: object = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_refuse_map,
            ext_hook=_refuse_ext,
            list_hook=_ListCount(what),
            max_str_len=len(data),
            max_bin_len=len(data),
            max_array_len=min(CODEC_ARRAY_MAX, len(data)),
            max_map_len=0,
            max_ext_len=0,
        )
    except RemoteProtocolError:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(f"{what} is not valid: {type(error).__name__}", what=what) from error
    _check_kinds(value, what, CODEC_DEPTH_MAX)
    return value


def walk(data: bytes, *, what: str) -> Iterator[object]:
    """Yield the values that stand one behind the other in `data`, decoding one at a time.

    Raises:
        RemoteProtocolError: As `unpack`, when the walk reaches the bad value.
    """
    unpacker = msgpack.Unpacker(
        raw=False,
        list_hook=_ListCount(what),
        object_pairs_hook=_refuse_map,
        ext_hook=_refuse_ext,
        max_buffer_size=max(len(data), 1),
        max_array_len=CODEC_DEPTH_MAX,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(data)
    consumed = 0
    while consumed < len(data):
        try:
            value: object = unpacker.unpack()
        except RemoteProtocolError:
            raise
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            raise RemoteProtocolError(f"{what} is not valid: {type(error).__name__}", what=what) from error
        _check_kinds(value, what, CODEC_DEPTH_MAX)
        consumed = unpacker.tell()
        yield value


def fields(value: object, tag: str, version: int, kinds: Sequence[type]) -> tuple[Field, ...]:
    """Check that `value` is [tag, version, *fields] with exactly the fields of `kinds`, and return the fields.

    Raises:
        RemoteProtocolError: Another tag, version, number or kind of fields.
    """
    what = tag.rpartition("/")[2]
    if not isinstance(value, list) or len(value) < 2 or value[0] != tag:
        raise RemoteProtocolError(f"these bytes are not of kind {what}", what=what)
    if type(value[1]) is not int or value[1] != version:
        raise RemoteProtocolError(f"{what} has version {value[1]!r}, this program knows {version}", what=what)
    if len(value) != 2 + len(kinds):
        raise RemoteProtocolError(f"{what} has {len(value) - 2} fields, not {len(kinds)}", what=what)
    return check_fields(value[2:], kinds, what)


def check_fields(values: Sequence[object], kinds: Sequence[type], what: str) -> tuple[Field, ...]:
    """Check each of `values` against the kind beside it; numbers must be whole and from 0 to 2**63 - 1.

    Raises:
        RemoteProtocolError: A value is of another kind.
    """
    checked: list[Field] = []
    for position, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value <= INT_MAX):
            raise RemoteProtocolError(f"field {position} of {what} is not {kind.__name__}", what=what, field=position)
        checked.append(value)
    return tuple(checked)


def _check_kinds(value: object, what: str, depth: int) -> None:
    if isinstance(value, list):
        if depth == 0:
            raise RemoteProtocolError(f"{what} is nested deeper than {CODEC_DEPTH_MAX}", what=what)
        for element in value:
            if type(element) is not int:
                _check_kinds(element, what, depth - 1)
    elif not isinstance(value, int | bytes | str | type(None)):
        raise RemoteProtocolError(f"{what} holds a {type(value).__name__}", what=what)


class _ListCount:
    """Refuses a value with too many lists while it is decoded: an empty list is one byte on the wire and 64 in memory."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._left = CODEC_LISTS_MAX

    def __call__(self, value: list[object]) -> list[object]:
        self._left -= 1
        if self._left < 0:
            raise RemoteProtocolError(f"{self._what} holds more than {CODEC_LISTS_MAX} lists", what=self._what)
        return value


def _refuse_map(_pairs: object) -> NoReturn:
    raise RemoteProtocolError("a map is not allowed here")


def _refuse_ext(code: int, _data: bytes) -> NoReturn:
    raise RemoteProtocolError(f"an extension type ({code}) is not allowed here")

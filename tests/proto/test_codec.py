"""The codec: what it takes, and the many things that it refuses."""

from __future__ import annotations

import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.codec import INT_MAX, check_fields, fields, pack, unpack, walk
from shardcast_proto.errors import RemoteProtocolError
from shardcast_proto.limits import CODEC_DEPTH_MAX, MANIFEST_BYTES_MAX, MIB

scalars = st.none() | st.booleans() | st.integers(0, INT_MAX) | st.binary(max_size=20) | st.text(max_size=20)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=12).filter(
    lambda value: depth_of(value) <= CODEC_DEPTH_MAX
)


def depth_of(value: object) -> int:
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\x00"


def take(data: bytes, size_max: int = MIB) -> object:
    return unpack(data, size_max=size_max, what="thing")


@given(values)
def test_a_value_survives_its_encoding(value):
    assert take(pack(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_are_refused(data):
    try:
        take(data)
    except RemoteProtocolError:
        return


@given(st.lists(values, max_size=5))
def test_a_walk_yields_the_values_that_stand_behind_each_other(items):
    assert list(walk(b"".join(map(pack, items)), what="row")) == items


@given(st.binary(max_size=200))
def test_a_walk_over_any_bytes_ends_or_is_refused(data):
    try:
        assert len(list(walk(data, what="row"))) <= len(data)
    except RemoteProtocolError:
        return


REFUSED = {
    "nothing": b"",
    "an empty map": b"\x80",
    "a map": msgpack.packb({"a": 1}),
    "a map with a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "a map inside a list": msgpack.packb([{"a": 1}]),
    "a map that claims four billion pairs": b"\xdf\xff\xff\xff\xff",
    "a list that claims four billion elements": b"\xdd\xff\xff\xff\xff",
    "a list that claims one element more than it has": b"\x92\x01",
    "bytes that claim to be longer than they are": b"\xc6\xff\xff\xff\xff",
    "text that claims to be longer than it is": b"\xdb\xff\xff\xff\xff",
    "text that is not UTF-8": b"\xa1\xff",
    "text with half of a surrogate pair": b"\xa3\xed\xa0\x80",
    "an extension type": msgpack.packb(msgpack.ExtType(5, b"data")),
    "an extension type of four bytes": b"\xd6\x05abcd",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "a long extension type": b"\xc9\xff\xff\xff\xff\x05",
    "a float": msgpack.packb(1.5),
    "a float inside a list": msgpack.packb([1, [2.0]]),
    "not a number": msgpack.packb(float("nan")),
    "the byte that msgpack never uses": b"\xc1",
    "two values": b"\x01\x02",
    "a value and a stray byte": pack([1, 2]) + b"\x00",
    "half a number": b"\xcf\x00",
    "one level too deep": nested(CODEC_DEPTH_MAX + 1),
    "five hundred levels deep": nested(500),
    "a hundred thousand levels deep": nested(100_000),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_one_plain_value_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        take(data)


@pytest.mark.parametrize("data", [REFUSED[name] for name in ("an empty map", "an extension type", "a timestamp")])
def test_a_walk_refuses_what_unpack_refuses(data):
    with pytest.raises(RemoteProtocolError):
        list(walk(pack([1]) + data, what="row"))


@pytest.mark.parametrize("data", [b"\x92\x01", b"\xcf\x00", b"\xc6\x00\x00\x00\xff", pack([0] * (CODEC_DEPTH_MAX + 1))])
def test_a_walk_refuses_a_row_that_is_cut_off_or_too_long(data):
    with pytest.raises(RemoteProtocolError):
        list(walk(pack([1]) + data, what="row"))


def test_the_deepest_allowed_nesting_is_taken():
    assert depth_of(take(nested(CODEC_DEPTH_MAX))) == CODEC_DEPTH_MAX


def test_a_value_over_the_cap_is_refused_and_one_at_the_cap_is_taken():
    data = pack(b"x" * 100)
    assert take(data, len(data)) == b"x" * 100
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        take(data, len(data) - 1)


@pytest.mark.parametrize("size_max", [MIB, MANIFEST_BYTES_MAX])
def test_sixteen_megabytes_of_empty_maps_cost_no_memory(size_max):
    data = b"\xdd" + struct.pack(">I", 16 * MIB - 5) + b"\x80" * (16 * MIB - 5)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            take(data, size_max)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_the_fields_of_a_tagged_object_are_returned():
    assert fields(["tag", 1, 7, b"x", "y", [1]], "tag", 1, (int, bytes, str, list)) == (7, b"x", "y", [1])


@pytest.mark.parametrize(
    "value",
    [
        None,
        "tag",
        [],
        ["tag"],
        [b"tag", 1, 7],
        ["other", 1, 7],
        ["tag", 2, 7],
        ["tag", True, 7],
        ["tag", "1", 7],
        ["tag", 1],
        ["tag", 1, 7, 8],
        ["tag", 1, "7"],
        ["tag", 1, True],
        ["tag", 1, None],
        ["tag", 1, -1],
        ["tag", 1, INT_MAX + 1],
    ],
    ids=repr,
)
def test_another_tag_version_number_or_kind_of_fields_is_refused(value):
    with pytest.raises(RemoteProtocolError):
        fields(value, "tag", 1, (int,))


@pytest.mark.parametrize("number", [-1, -(2**63), 2**63, 2**64 - 1])
def test_a_number_that_is_negative_or_too_large_is_no_field(number):
    with pytest.raises(RemoteProtocolError):
        check_fields([take(pack([number]))[0]], [int], "thing")  # type: ignore[index]


@pytest.mark.parametrize("number", [0, 1, INT_MAX])
def test_a_number_in_range_is_a_field(number):
    assert check_fields([number], [int], "thing") == (number,)

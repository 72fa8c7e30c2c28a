"""The conditions of a file request, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.http.api_ranges import Selection, content_range, select

TAG = '"blake3:00ff"'
SIZE = 1000


def chosen(*, size: int = SIZE, is_range_allowed: bool = True, **headers: str) -> Selection:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return select(named, size=size, etag=TAG, is_range_allowed=is_range_allowed)


WHOLE = Selection(status=200, length=SIZE)
OUTSIDE = Selection(status=416)


def part(offset: int, length: int) -> Selection:
    return Selection(status=206, offset=offset, length=length)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", part(0, 1)),
        ("bytes=10-19", part(10, 10)),
        ("bytes=990-", part(990, 10)),
        ("bytes=0-", part(0, SIZE)),
        ("bytes=990-5000", part(990, 10)),
        ("bytes=-10", part(990, 10)),
        ("bytes=-5000", part(0, SIZE)),
        ("BYTES=1-2", part(1, 2)),
        ("  bytes=1-2 ", part(1, 2)),
        ("bytes=1-2,", part(1, 2)),
        ("bytes=0-99999999999999999999999999", part(0, SIZE)),
        ("bytes=999-999", part(999, 1)),
        ("bytes=1000-", OUTSIDE),
        ("bytes=1000-1001", OUTSIDE),
        ("bytes=99999999999999999999999999-", OUTSIDE),
        ("bytes=-0", OUTSIDE),
        ("bytes=20-10", WHOLE),
        ("bytes=2000-1999", WHOLE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=0-1, bytes=5-6", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=", WHOLE),
        ("bytes", WHOLE),
        ("bytes=1", WHOLE),
        ("bytes=--1", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("bytes=1-2-3", WHOLE),
        ("bytes=1_0-20", WHOLE),
        ("bytes=0x1-2", WHOLE),
        ("bytes=1.0-2", WHOLE),
        ("bytes=٠-٩", WHOLE),
        ("bytes=²-³", WHOLE),
        ("bytes=0-1\n", WHOLE),
        ("bytes=" + "9" * 5000 + "-", WHOLE),
        ("items=0-1", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_range_selects_these_bytes(value, expected):
    assert chosen(Range=value) == expected


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=-5", "bytes=0-0", "bytes=7-"])
def test_an_empty_file_is_answered_whole(value):
    assert chosen(size=0, Range=value) == Selection(status=200)


def test_a_range_means_nothing_where_none_is_allowed():
    assert chosen(is_range_allowed=False, Range="bytes=0-0") == WHOLE
    assert chosen(is_range_allowed=False, Range="bytes=5000-") == WHOLE


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (TAG, part(0, 1)),
        (f" {TAG} ", part(0, 1)),
        ('"blake3:other"', WHOLE),
        (f"W/{TAG}", WHOLE),
        (f"{TAG}, {TAG}", WHOLE),
        ("*", WHOLE),
        ("Wed, 21 Oct 2015 07:28:00 GMT", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_range_counts_only_for_the_file_that_if_range_names(if_range, expected):
    assert chosen(Range="bytes=0-0", If_Range=if_range) == expected


def test_a_range_of_another_file_is_not_even_judged():
    assert chosen(Range="bytes=5000-", If_Range='"other"') == WHOLE


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (TAG, 304),
        (f"W/{TAG}", 304),
        (f'"a", {TAG}', 304),
        ("*", 304),
        ('"a"', 200),
        ('"blake3:00ff', 200),
        ("blake3:00ff", 200),
        ("", 200),
    ],
)
def test_if_none_match_spares_a_reader_what_it_has(value, status):
    assert chosen(If_None_Match=value).status == status


@pytest.mark.parametrize(("value", "status"), [(TAG, 200), ("*", 200), (f"W/{TAG}", 412), ('"a"', 412), ("", 412)])
def test_if_match_wants_exactly_this_file(value, status):
    assert chosen(If_Match=value).status == status


def test_preconditions_come_before_ranges():
    assert chosen(If_Match='"a"', If_None_Match=TAG, Range="bytes=0-0").status == 412
    assert chosen(If_None_Match=TAG, Range="bytes=5000-").status == 304
    assert chosen(If_None_Match='"a"', Range="bytes=0-0").status == 206


@given(st.text(), st.integers(0, 50))
def test_any_text_selects_bytes_that_exist(text, size):
    selection = chosen(size=size, Range=f"bytes={text}")
    assert selection.status in (200, 206, 416)
    assert 0 <= selection.offset <= selection.offset + selection.length <= size
    if selection.status == 206:
        assert selection.length > 0


def test_content_range_names_the_bytes_or_the_size():
    assert content_range(part(10, 5), SIZE) == "bytes 10-14/1000"
    assert content_range(OUTSIDE, SIZE) == "bytes */1000"

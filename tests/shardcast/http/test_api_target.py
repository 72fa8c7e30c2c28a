"""Request targets, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.http.api_target import Target, parse_target
from shardcast_proto.errors import ConfigError, NotFound


@pytest.mark.parametrize(
    ("raw", "segments"),
    [
        ("/", ("",)),
        ("/v1/status", ("v1", "status")),
        ("/v1/", ("v1", "")),
        ("//v1", ("", "v1")),
        ("/a%20b/%C3%A9", ("a b", "é")),
        ("/b3:00/seq:1", ("b3:00", "seq:1")),
        ("/a%2Fb", ("a/b",)),
        ("/a+b", ("a+b",)),
        ("/%2e%2e/..", ("..", "..")),
        ("/%252F", ("%2F",)),
        ("/%00", ("\0",)),
        ("/é", ("é",)),
    ],
)
def test_a_path_is_cut_before_it_is_decoded(raw, segments):
    assert parse_target(raw) == Target(segments, {})


@pytest.mark.parametrize("raw", ["", "*", "v1/status", "http://127.0.0.1/v1/status", "127.0.0.1:80"])
def test_what_is_no_path_is_not_found(raw):
    with pytest.raises(NotFound):
        parse_target(raw)


@pytest.mark.parametrize("raw", ["/%", "/%zz", "/a%2", "/%FF", "/%C3", "/%ed%a0%80", "/\udcff"])
def test_what_decodes_to_no_text_is_refused(raw):
    with pytest.raises(ConfigError):
        parse_target(raw)


@pytest.mark.parametrize(
    ("query", "seconds"), [("wait=0", 0.0), ("wait=60", 60.0), ("wait=2.5", 2.5), ("wait=1e-05", 1e-05)]
)
def test_a_wait_is_a_number_of_seconds(query, seconds):
    assert parse_target(f"/v?{query}").seconds("wait") == seconds


@pytest.mark.parametrize(
    "query",
    [
        "",
        "wait",
        "wait=",
        "wait=61",
        "wait=-1",
        "wait=nan",
        "wait=1e2",
        "wait=1e",
        "wait=٣",
        "wait=1&wait=2",
        "since",
        "since=%zz",
        "unknown=1",
        "wait=1&",
        "wait=1 ",
    ],
)
def test_a_query_that_is_not_understood_is_refused(query):
    with pytest.raises(ConfigError):
        parse_target(f"/v?{query}").seconds("wait")


def test_a_query_is_decoded_after_it_is_cut():
    target = parse_target("/v?since=a%26b%3Dc&timeout=2")
    assert (target.query, target.seconds("timeout"), target.seconds("wait")) == (
        {"since": "a&b=c", "timeout": "2"},
        2.0,
        None,
    )


@given(st.text())
def test_any_text_is_a_target_or_refused(text):
    try:
        assert parse_target("/" + text).segments
    except (ConfigError, NotFound) as error:
        assert error.message.isprintable()

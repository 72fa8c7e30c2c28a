"""Request bodies, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.http.api_body import LeaseRequest, gc_request, lease_request, parse_object, publish_request
from shardcast.http.facade import PublishRequest
from shardcast_proto.errors import ConfigError

PUBLISH = {"path": "/ckpt", "step": 7}
LEASE = {"holder": "pull 1", "ttl_s": 60}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"\xff\xfe",
        b'\xef\xbb\xbf{"a": 1}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
        b"{} {}",
    ],
)
def test_what_is_no_plain_json_object_is_refused(data):
    with pytest.raises(ConfigError):
        parse_object(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(data):
    try:
        assert isinstance(parse_object(data), dict)
    except ConfigError as error:
        assert error.message


def test_a_publish_request_has_defaults():
    assert publish_request("c", PUBLISH) == PublishRequest(path="/ckpt", channel="c", step=7, rewind=False, link="auto")


def test_a_publish_request_keeps_a_path_that_is_no_text():
    path = parse_object(b'{"path": "/\\udcff", "step": 0, "rewind": true, "link": "copy"}')
    assert publish_request("c", path) == PublishRequest(path="/\udcff", channel="c", step=0, rewind=True, link="copy")


@pytest.mark.parametrize(
    "change",
    [
        {"path": ""},
        {"path": "ckpt"},
        {"path": "/a\0b"},
        {"path": "/\ud800"},
        {"path": 7},
        {"path": None},
        {"step": -1},
        {"step": 2**63},
        {"step": 1.5},
        {"step": float("inf")},
        {"step": True},
        {"step": "7"},
        {"rewind": 1},
        {"rewind": None},
        {"link": "symlink"},
        {"link": ["copy"]},
        {"wait": 0},
        {"wait": 11},
        {"wait": True},
        {"wait": "all"},
        {"wait": None},
        {"wait_marker": 7},
        {"timeout_s": -1},
        {"timeout_s": 86_401},
        {"timeout_s": "60"},
        {"timeout_s": None},
        {"is_own_user": True},
        {"surprise": 1},
        {"channel": "other"},
    ],
)
def test_a_wrong_publish_request_is_refused(change):
    with pytest.raises(ConfigError):
        publish_request("c", {**PUBLISH, **change})


def test_a_publish_request_says_what_is_waited_for():
    wanted = publish_request("c", {**PUBLISH, "step": 7.0, "wait": 2, "wait_marker": "STABLE", "timeout_s": 5})
    assert wanted == PublishRequest(
        path="/ckpt", channel="c", step=7, wait_neighbours=2, wait_marker="STABLE", timeout_s=5.0
    )
    assert publish_request("c", {**PUBLISH, "wait": "announced", "wait_marker": None}) == publish_request("c", PUBLISH)


def test_a_collection_may_be_a_rehearsal():
    assert (gc_request({}), gc_request({"dry_run": True})) == (False, True)
    for wrong in ({"dry_run": 1}, {"dry": True}):
        with pytest.raises(ConfigError):
            gc_request(wrong)


def test_a_request_that_lacks_a_member_says_which():
    with pytest.raises(ConfigError, match="lacks step"):
        publish_request("c", {"path": "/ckpt"})
    with pytest.raises(ConfigError, match="lacks holder, ttl_s"):
        lease_request({})


def test_a_lease_request_takes_whole_and_broken_seconds():
    assert lease_request(LEASE) == LeaseRequest("pull 1", 60.0)
    assert lease_request({**LEASE, "ttl_s": 0.5}) == LeaseRequest("pull 1", 0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"holder": ""},
        {"holder": "x" * 129},
        {"holder": "a\nb"},
        {"holder": 1},
        {"ttl_s": 0},
        {"ttl_s": -1},
        {"ttl_s": 86_401},
        {"ttl_s": 10**400},
        {"ttl_s": float("inf")},
        {"ttl_s": True},
        {"ttl_s": "60"},
        {"x": 1},
    ],
)
def test_a_wrong_lease_request_is_refused(change):
    with pytest.raises(ConfigError):
        lease_request({**LEASE, **change})

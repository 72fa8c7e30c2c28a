"""The names of this host, and the tokens that are none."""

from __future__ import annotations

import pytest

from shardcast.http.api_guard import Guard, is_loopback
from shardcast_proto.errors import ConfigError


@pytest.mark.parametrize("name", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "localhost."])
def test_these_names_mean_this_host(name):
    assert is_loopback(name)
    Guard(None).check_bind(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil",
        "2130706433",
        "127.1",
    ],
)
def test_these_names_do_not(name):
    assert not is_loopback(name)
    with pytest.raises(ConfigError):
        Guard(None).check_bind(name)
    Guard(b"0123456789abcdef").check_bind(name)


@pytest.mark.parametrize("token", [b"", b"short", b"with a space in it", b"0123456789abcdef\n", b"\xff" * 32])
def test_a_token_that_is_none_is_refused(token):
    with pytest.raises(ConfigError):
        Guard(token)

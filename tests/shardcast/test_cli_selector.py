"""The names of versions, as people write them."""

from __future__ import annotations

import pytest

from shardcast.cli.selector import parse_selector
from shardcast_proto.errors import ConfigError

DIGEST = "b3:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "channel", "selector"),
    [
        ("demo", "demo", "latest"),
        ("demo@1200", "demo", "1200"),
        ("demo@0001", "demo", "1"),
        ("demo#7", "demo", "seq:7"),
        (f"demo@{DIGEST}", "demo", DIGEST),
        ("qwen3-32b.rl_2@5", "qwen3-32b.rl_2", "5"),
        (DIGEST, DIGEST, "latest"),
        (f"{DIGEST}#3", DIGEST, "seq:3"),
    ],
)
def test_a_version_is_named_in_four_ways(text, channel, selector):
    assert parse_selector(text) == (channel, selector)


@pytest.mark.parametrize(
    "text", ["", "@1", "#1", "demo@", "demo#", "demo@x", "demo@-1", "demo@b3:12", "a/b", "demo@1#2", "demo 1", "demo@١"]
)
def test_what_names_no_version_is_refused(text):
    with pytest.raises(ConfigError, match="names no version"):
        parse_selector(text)

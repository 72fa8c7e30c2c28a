"""Which file paths a manifest may name."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.errors import RemoteProtocolError
from shardcast_proto.limits import PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX, PATH_LEVELS_MAX
from shardcast_proto.paths import check_path, check_paths

GOOD = [
    "a",
    "config.json",
    "model-00001-of-00004.safetensors",
    "sub/dir/file.bin",
    ".gitattributes",
    "..hidden",
    "...a",
    "a..b",
    "a b.txt",
    "tokenizer (1).json",
    "-rf",
    "~",
    "~user/file",
    "$HOME",
    "%2e%2e",
    "über/größe.txt",
    "模型/权重.bin",
    "🤗/model",
    "console.txt",
    "com10",
    "nullable",
    "/".join("a" * PATH_LEVELS_MAX),
    "x" * PATH_COMPONENT_BYTES_MAX,
    "ü" * (PATH_COMPONENT_BYTES_MAX // 2),
    "/".join(["x" * 204] * 5),
]

BAD = [
    "",
    "/",
    "/etc/passwd",
    "//host/share",
    "a//b",
    "a/",
    ".",
    "..",
    "./a",
    "a/./b",
    "../a",
    "a/../b",
    "a/..",
    "a\\b",
    "..\\a",
    "C:",
    "C:/a",
    "file:stream",
    "a\0b",
    "a\nb",
    "a\rb",
    "a\tb",
    "\x1b[2J",
    "\x7f",
    "a\u0085b",
    "a\u200bb",
    "a\u202eb",
    "\ufeffa",
    "a\u00adb",
    "a\ue000b",
    "\ud800",
    "a ",
    " a",
    "a.",
    "a /b",
    "a./b",
    "dir/ b",
    "...",
    "a*",
    "a?",
    'a"b',
    "a<b",
    "a>b",
    "a|b",
    "con",
    "CON",
    "nul.txt",
    "dir/Aux.json",
    "lpt9",
    "COM1.tar.gz",
    "u\u0308ber",  # not composed
    "\u212b",  # the Ångström sign, which normal form C replaces
    "/".join("a" * (PATH_LEVELS_MAX + 1)),
    "x" * (PATH_COMPONENT_BYTES_MAX + 1),
    "ü" * (PATH_COMPONENT_BYTES_MAX // 2 + 1),
    "/".join(["x" * 205] * 5),
]


@pytest.mark.parametrize("path", GOOD, ids=ascii)
def test_a_path_that_means_the_same_file_everywhere_is_taken(path):
    assert check_path(path) == path


@pytest.mark.parametrize("path", BAD, ids=ascii)
def test_a_path_that_does_not_is_refused(path):
    with pytest.raises(RemoteProtocolError):
        check_path(path)


def test_the_longest_path_is_as_long_as_the_limit_says():
    assert len("/".join(["x" * 204] * 5)) == PATH_BYTES_MAX


@given(st.text(max_size=40))
def test_a_path_that_is_taken_never_leaves_its_directory(path):
    try:
        check_path(path)
    except RemoteProtocolError:
        return
    components = path.split("/")
    assert not {"", ".", ".."} & set(components)
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co") for char in path)
    assert not any(char in path for char in '\0\n\r\\:*?"<>|')


COLLIDING = [
    ["a", "a"],
    ["a", "A"],
    ["straße", "STRASSE"],
    ["dir/a", "DIR/A"],
    ["a", "a/b"],
    ["a/b", "a"],
    ["A", "a/b"],
    ["a/b/c", "a/B"],
    ["a/b", "a/c", "A"],
    ["Ω", "ω"],
]


@pytest.mark.parametrize("paths", COLLIDING, ids=ascii)
def test_paths_that_are_one_file_or_a_file_and_its_directory_are_refused(paths):
    with pytest.raises(RemoteProtocolError):
        check_paths(paths)


@pytest.mark.parametrize(
    "paths", [[], ["a"], ["a", "b"], ["a/b", "a/c"], ["a", "ab/c"], ["a.b", "a/b"], ["x/a", "y/a"]]
)
def test_paths_that_are_distinct_are_taken(paths):
    check_paths(paths)


@given(st.lists(st.lists(st.sampled_from("aAbBß"), min_size=1, max_size=3).map("/".join), max_size=6))
def test_the_order_of_paths_does_not_matter(paths):
    assert collides(paths) == collides(paths[::-1]) == collides(sorted(paths))


def collides(paths: list[str]) -> bool:
    try:
        check_paths(paths)
    except RemoteProtocolError:
        return True
    return False

"""Which versions go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.store import UNNAMED, HeldVersion, plan_retention
from shardcast_proto.hashing import digest_of

NAMES = {letter: digest_of(letter.encode()) for letter in "abcdef"}
LETTERS = {digest: letter for letter, digest in NAMES.items()}


def versions(text):
    """Read versions from `a0:10 b1:10 …`: a letter, its rank (- for none), its bytes."""
    rows = []
    for word in text.split():
        place, _, size = word.partition(":")
        rows.append(HeldVersion(NAMES[place[0]], int(size), UNNAMED if place[1:] == "-" else int(place[1:])))
    return rows


@pytest.mark.parametrize(
    ("held", "rule", "doomed"),
    [
        ("", {}, ""),
        ("a0:1", {"keep": 1}, ""),
        ("a0:1 b1:1 c2:1", {"keep": 3}, ""),
        ("a0:1 b1:1 c2:1 d3:1", {"keep": 3}, "d"),
        ("a0:1 b1:1 c2:1 d3:1", {"keep": 1}, "dcb"),
        ("a0:1 b1:1 c2:1 d3:1", {"keep": 1, "leased": "c"}, "db"),
        ("a0:1 b1:1 c2:1 d3:1", {"keep": 1, "pinned": "db"}, "c"),
        ("a0:1 b1:1 c2:1", {"keep": 1, "newest": "b"}, "c"),
        ("a0:1 b-:1", {"keep": 3}, "b"),
        ("a0:1 b-:1", {"keep": 3, "pinned": "b"}, ""),
        ("a0:10 b1:10 c2:10", {"keep": 3, "quota_bytes": 30}, ""),
        ("a0:10 b1:10 c2:10", {"keep": 3, "quota_bytes": 29}, "c"),
        ("a0:10 b1:10 c2:10", {"keep": 3, "quota_bytes": 10}, "cb"),
        ("a0:10 b1:10 c2:10", {"keep": 3, "quota_bytes": 0}, "cb"),
        ("a0:10 b1:10 c2:10", {"keep": 3, "quota_bytes": 15, "leased": "c"}, "b"),
        ("a0:10 b0:10 c1:10 d1:10", {"keep": 1}, "cd"),
        ("a0:5 b1:50 c2:5", {"keep": 3, "quota_bytes": 56}, "c"),
    ],
)
def test_retention_deletes(held, rule, doomed):
    sets = {key: [NAMES[letter] for letter in value] for key, value in rule.items() if isinstance(value, str)}
    plan = plan_retention(versions(held), **{**rule, **sets})
    assert sorted(LETTERS[name] for name in plan) == sorted(doomed)
    if len(set(doomed)) == 2 and "c1" not in held:
        assert "".join(LETTERS[name] for name in plan) == doomed


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100)), max_size=12),
    st.integers(1, 4),
    st.none() | st.integers(0, 400),
    st.sets(st.integers(0, 11)),
)
def test_what_is_needed_always_stays_and_the_rest_obeys_keep_with_quota(rows, keep, quota_bytes, needed):
    held = [HeldVersion(digest_of(bytes([number])), size, rank) for number, (rank, size) in enumerate(rows)]
    leased = {digest_of(bytes([number])) for number in needed}
    doomed = set(plan_retention(held, keep=keep, quota_bytes=quota_bytes, leased=leased))
    kept = [version for version in held if version.manifest not in doomed]
    free = [version for version in kept if version.rank and version.manifest not in leased]
    assert not doomed & leased
    assert all(version.rank for version in held if version.manifest in doomed)
    assert all(version.rank < keep for version in free)
    if quota_bytes is not None and sum(version.bytes for version in kept) > quota_bytes:
        assert free == []

"""The demo's judge: it finds the one wrong byte, whatever the rest of the code thinks."""

from __future__ import annotations

import pytest

from shardcast.demo.compare import compare_trees
from shardcast_proto.errors import IntegrityError

SIZE = 5 * 1024 * 1024


@pytest.fixture
def trees(tmp_path):
    for name in ("published", "pulled"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "weights").write_bytes(bytes(SIZE))
        (tmp_path / name / "sub" / "config.json").write_bytes(b"{}")
    return tmp_path / "published", tmp_path / "pulled"


def test_equal_trees_are_counted_by_their_bytes(trees):
    assert compare_trees(*trees, name="pulled") == SIZE + 2


@pytest.mark.parametrize("place", [0, 4 * 1024 * 1024 - 1, 4 * 1024 * 1024, SIZE - 1])
def test_one_flipped_bit_is_found_where_it_is(trees, place):
    data = bytearray(SIZE)
    data[place] = 1
    (trees[1] / "weights").write_bytes(data)
    with pytest.raises(IntegrityError, match=f"weights of relay-1 differs from what was published, at byte {place}$"):
        compare_trees(*trees, name="relay-1")


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_a_file_of_another_size_is_found(trees, size):
    (trees[1] / "weights").write_bytes(bytes(size))
    with pytest.raises(IntegrityError, match=f"at byte {min(size, SIZE)}$"):
        compare_trees(*trees, name="relay-1")


def test_a_missing_file_is_found(trees):
    (trees[1] / "sub" / "config.json").unlink()
    with pytest.raises(IntegrityError, match=r"sub/config\.json is in one of them only"):
        compare_trees(*trees, name="relay-1")


def test_a_file_too_many_is_found(trees):
    (trees[1] / "more").write_bytes(b"")
    with pytest.raises(IntegrityError, match="more is in one of them only"):
        compare_trees(*trees, name="relay-1")

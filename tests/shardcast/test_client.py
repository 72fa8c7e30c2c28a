"""How a complete version becomes a directory of the user's."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from pathlib import Path

import pytest

from shardcast import client
from shardcast.client import LINK_BYTES_MIN, Difference, materialise, verify_tree
from shardcast.store import Store, disk
from shardcast_proto.errors import Conflict, StoreError
from tests.shardcast.store.trees import CHUNK, flipped, land_version, manifest_of, model, read_tree, write_tree

CONTENTS = model()
MANIFEST = manifest_of(CONTENTS)
LARGE = len(CONTENTS["a.weights"])
assert LARGE >= LINK_BYTES_MIN


@pytest.fixture
def version(tmp_path):
    with Store.open(tmp_path / "data") as store:
        yield land_version(store, CONTENTS).path


def temporaries(path):
    return list(path.glob(".tmp-*"))


def test_a_version_becomes_an_identical_directory(version, tmp_path):
    done = materialise(version, MANIFEST, tmp_path / "deep" / "out")
    assert read_tree(done.path) == CONTENTS
    assert verify_tree(done.path, MANIFEST) == []
    assert (done.was_there, done.linked_bytes, done.copied_bytes) == (
        False,
        2 * LARGE,
        MANIFEST.total_bytes - 2 * LARGE,
    )
    assert temporaries(tmp_path / "deep") == []


def test_large_files_are_read_only_links_and_small_ones_copies_that_may_be_edited(version, tmp_path):
    out = materialise(version, MANIFEST, tmp_path / "out").path
    assert (out / "a.weights").stat().st_ino == (version / "a.weights").stat().st_ino
    assert stat.S_IMODE((out / "a.weights").stat().st_mode) == 0o444
    assert (out / "conf/config.json").stat().st_ino != (version / "conf/config.json").stat().st_ino
    (out / "conf/config.json").write_bytes(b"edited")
    assert read_tree(version) == CONTENTS


def test_links_can_be_declined(version, tmp_path):
    done = materialise(version, MANIFEST, tmp_path / "out", link_bytes_min=None)
    assert (done.linked_bytes, done.copied_bytes) == (0, MANIFEST.total_bytes)
    assert read_tree(done.path) == CONTENTS


def test_another_file_system_gets_copies(version, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        done = materialise(version, MANIFEST, place / "out")
        assert done.linked_bytes == 0
        assert read_tree(done.path) == CONTENTS
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_an_identical_directory_is_left_as_it_is(version, tmp_path):
    out = write_tree(tmp_path / "out", CONTENTS)
    inodes = {path.stat().st_ino for path in out.rglob("*")}
    assert materialise(version, MANIFEST, out).was_there
    assert {path.stat().st_ino for path in out.rglob("*")} == inodes


def test_an_empty_directory_is_filled(version, tmp_path):
    (tmp_path / "out").mkdir()
    assert not materialise(version, MANIFEST, tmp_path / "out").was_there
    assert read_tree(tmp_path / "out") == CONTENTS


def test_a_directory_with_other_content_is_a_conflict_and_untouched(version, tmp_path):
    other = {**CONTENTS, "a.weights": flipped(CONTENTS["a.weights"]), "mine": b"mine"}
    out = write_tree(tmp_path / "out", other)
    with pytest.raises(Conflict, match="other content") as caught:
        materialise(version, MANIFEST, out)
    assert "mine" in caught.value.message
    assert caught.value.facts["differences"] == 2
    assert read_tree(out) == other


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"x"), lambda path: path.symlink_to("/tmp")])
def test_what_is_no_directory_is_a_conflict(version, tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(Conflict):
        materialise(version, MANIFEST, tmp_path / "out")


def test_nothing_half_done_is_visible_when_the_disk_fails(version, tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(client, "copy_bytes", fail)
    with pytest.raises(StoreError, match="disk full"):
        materialise(version, MANIFEST, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert temporaries(tmp_path) == []


def test_a_directory_that_appears_meanwhile_is_not_overwritten(version, tmp_path, monkeypatch):
    real = disk.sync_directories

    def race(path):
        write_tree(tmp_path / "out", {"theirs": b"x"})
        real(path)

    monkeypatch.setattr(client, "sync_directories", race)
    with pytest.raises(Conflict, match="meanwhile"):
        materialise(version, MANIFEST, tmp_path / "out")
    assert read_tree(tmp_path / "out") == {"theirs": b"x"}
    assert temporaries(tmp_path) == []


def test_what_a_killed_run_left_is_swept_and_what_a_live_one_fills_is_not(version, tmp_path):
    write_tree(tmp_path / ".tmp-out-dead", {"a": b"x"})
    live = write_tree(tmp_path / ".tmp-out-live", {"a": b"x"})
    other = write_tree(tmp_path / ".tmp-other-dead", {"a": b"x"})
    descriptor = os.open(live, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        materialise(version, MANIFEST, tmp_path / "out")
    finally:
        os.close(descriptor)
    assert sorted(temporaries(tmp_path)) == sorted([live, other])


def test_a_version_whose_file_was_cut_is_not_passed_on(version, tmp_path):
    path = version / "b.weights"
    path.chmod(0o600)
    os.truncate(path, CHUNK)
    with pytest.raises(StoreError, match="instead of"):
        materialise(version, MANIFEST, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_is_compared_file_by_file_and_byte_by_byte(tmp_path):
    other = dict(CONTENTS)
    del other["empty.txt"]
    other["conf/more.json"] = b"x"
    other["a.weights"] = other["a.weights"][: 2 * CHUNK] + flipped(other["a.weights"][2 * CHUNK :])
    other["conf/config.json"] = b"longer than it was"
    out = write_tree(tmp_path / "out", other)
    (out / "b.weights").unlink()
    (out / "b.weights").symlink_to("a.weights")
    assert sorted(verify_tree(out, MANIFEST)) == [
        Difference("a.weights", "content", f"has other bytes in the chunk at offset {2 * CHUNK}"),
        Difference("b.weights", "not_a_file", "is no plain file"),
        Difference("conf/config.json", "size", "has 18 bytes instead of 11"),
        Difference("conf/more.json", "extra", "does not belong to the version"),
        Difference("empty.txt", "missing", "is missing"),
    ]


def test_a_directory_that_is_not_there_cannot_be_compared(tmp_path):
    with pytest.raises(StoreError):
        verify_tree(tmp_path / "nowhere", MANIFEST)


def test_a_place_where_nothing_can_be_made_is_named_as_it_was_given(version):
    with pytest.raises(StoreError, match="while creating /proc/out: "):
        materialise(version, MANIFEST, Path("/proc/out"))

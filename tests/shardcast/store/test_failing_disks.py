"""What becomes of a version whose disk is full, or fails."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from shardcast.store import Store
from shardcast_proto.errors import StoreError
from tests.shardcast.store.trees import chunk_of, land_all, manifest_of, model, noise, read_tree, served


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "data") as store:
        yield store


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_a_state_that_ends_when_there_is_space(small_disk):
    contents = {"a": noise(1, 6 * 1024 * 1024)}
    manifest = manifest_of(contents)
    (small_disk / "ballast").write_bytes(bytes(4 * 1024 * 1024))
    with Store.open(small_disk / "data") as store:
        with pytest.raises(StoreError, match="disk full"):
            store.begin(manifest)
        assert "disk full" in store.version(manifest.digest).error
        (small_disk / "ballast").unlink()
        staged = store.begin(manifest)
        assert store.version(manifest.digest).error is None
        land_all(staged, contents)
        staged.complete()
        assert store.version(manifest.digest).state == "complete"


def test_a_failed_sync_gives_the_version_up_and_is_never_repeated(store, monkeypatch):
    contents = model()
    staged = store.begin(manifest_of(contents))
    staged.land(0, [chunk_of(contents, staged.manifest, 0)])
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(StoreError, match="EIO") as caught:
            staged.flush()
        assert "disk" in (caught.value.hint or "")
        with pytest.raises(StoreError, match="EIO"):
            staged.land(1, [chunk_of(contents, staged.manifest, 1)])
        with pytest.raises(StoreError, match="EIO"):
            staged.flush()
    assert len(calls) == 1
    row = store.version(staged.manifest.digest)
    assert (row.state, row.have_count) == ("failed", 0)
    assert "EIO" in row.error
    assert served(store, staged.manifest.blob.id, 0, 1) == []
    anew = store.begin(staged.manifest)
    assert anew.have_count == 0
    land_all(anew, contents)
    anew.complete()
    assert read_tree(store.version(staged.manifest.digest).path) == contents


def test_a_version_that_is_given_up_is_begun_anew_although_the_database_failed_too(store, monkeypatch):
    contents = model()
    staged = store.begin(manifest_of(contents))
    staged.land(0, [chunk_of(contents, staged.manifest, 0)])

    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refuse(*arguments):
        raise StoreError("disk I/O error while committing", reason="database")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        patched.setattr(store._table, "fail", refuse)
        with pytest.raises(StoreError, match="EIO"):
            staged.flush()
        with pytest.raises(StoreError, match="disk I/O error"):
            store.begin(staged.manifest)
    anew = store.begin(staged.manifest)
    assert anew is not staged and anew.have_count == 0
    land_all(anew, contents)
    anew.complete()
    assert read_tree(store.version(staged.manifest.digest).path) == contents


def test_a_version_is_noted_complete_at_the_second_try_when_the_database_was_full(store):
    contents = model()
    staged = store.begin(manifest_of(contents))
    land_all(staged, contents)
    (pages,) = store._database.row("PRAGMA page_count")
    store._database.rows(f"PRAGMA max_page_count = {pages}")
    store._database.write_many("INSERT INTO marks VALUES (?, 0)", [[f"{number}"] for number in range(5)])
    try:
        store._database.write("INSERT INTO beacons VALUES (x'00', zeroblob(1000000))")
    except StoreError as error:
        assert error.facts["reason"] == "disk_full"
    store._database.rows("PRAGMA max_page_count = 1000000")
    staged.complete()
    assert store.version(staged.manifest.digest).state == "complete"

"""The data directory: who may open it, what is found in it, what may be deleted."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from shardcast.store import HeadRow, Store
from shardcast.store.lock import DirectoryLock
from shardcast_proto.errors import Conflict, StoreError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from tests.shardcast.store.trees import kill, land_all, land_version, manifest_of, model, noise, read_tree, served

CHANNEL = digest_of(b"channel")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "data") as store:
        yield store


def head(manifest: Digest, seq: int, channel: Digest = CHANNEL) -> HeadRow:
    return HeadRow(channel, 1, seq, seq * 10, manifest, 100, 1000, b"envelope", 0, 0.0, False)


# --- opening ---


def test_a_second_daemon_is_refused_and_told_who_holds_the_directory(store):
    script = f"from pathlib import Path; from shardcast.store import Store; Store.open(Path({str(store.data_dir)!r}))"
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "in use by process" in done.stderr
    with pytest.raises(StoreError, match="in use by process") as caught:
        Store.open(store.data_dir)
    assert str(caught.value.facts["pid"]).isdigit()


@pytest.mark.parametrize("left", [b"", b"999999999\n"], ids=["none yet", "that of an earlier one"])
def test_a_holder_that_is_slow_to_say_who_it_is_is_named_all_the_same(tmp_path, left):
    path = tmp_path / "lock"
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(left)
        refused = pool.submit(DirectoryLock, path)
        with pytest.raises(TimeoutError):
            refused.result(0.1)
        os.pwrite(file.fileno(), f"{os.getpid()}\n".ljust(len(left)).encode(), 0)
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}$"):
            refused.result()


def test_a_closed_store_can_be_opened_again_and_refuses_calls(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.heads(CHANNEL)
    Store.open(store.data_dir).close()


def test_the_data_directory_is_private(store):
    for path in (store.data_dir, *(store.data_dir / name for name in ("objects", "staging", "versions"))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_directory_that_others_may_write_to_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    with pytest.raises(StoreError, match="other users") as caught:
        Store.open(tmp_path / "data")
    assert "chmod 700" in (caught.value.hint or "")


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreError):
        Store.open(tmp_path / "data")


def test_a_damaged_database_is_refused_and_the_lock_given_back(tmp_path):
    Store.open(tmp_path / "data").close()
    (tmp_path / "data" / "state.db").write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(StoreError, match="database"):
            Store.open(tmp_path / "data")


def test_a_database_of_a_later_release_is_refused(tmp_path):
    Store.open(tmp_path / "data").close()
    connection = sqlite3.connect(tmp_path / "data" / "state.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema 99"):
        Store.open(tmp_path / "data")


def test_a_store_knows_whether_the_run_before_was_killed(tmp_path):
    store = Store.open(tmp_path / "data")
    assert not store.was_killed
    kill(store)
    with Store.open(tmp_path / "data") as again:
        assert again.was_killed
    with Store.open(tmp_path / "data") as third:
        assert not third.was_killed


# --- reconciling ---


def test_a_version_that_a_kill_left_renamed_but_unnoted_is_complete(store, tmp_path):
    contents = model()
    staged = store.begin(manifest_of(contents))
    land_all(staged, contents)
    staged.flush()
    name = staged.manifest.digest
    kill(store)
    staged.root.rename(store._table.path_of(name, "complete"))
    with Store.open(tmp_path / "data") as again:
        row = again.version(name)
        assert row.state == "complete"
        assert read_tree(row.path) == contents
        assert len(served(again, row.blob, 0, row.chunk_count)) == row.chunk_count


def test_directories_that_no_version_owns_are_swept(store, tmp_path):
    land_version(store, model())
    orphans = [store.data_dir / "staging" / "seal-ab", store.data_dir / "versions" / ("00" * 32)]
    for path in orphans:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "file").write_bytes(b"x")
    (store.data_dir / "objects" / ".tmp-x").write_bytes(b"x")
    store.close()
    with Store.open(tmp_path / "data") as again:
        assert [path for path in orphans if path.exists()] == []
        assert len(list((again.data_dir / "objects").iterdir())) == 1
        assert [row.state for row in again.versions()] == ["complete"]


def test_a_version_whose_directory_is_gone_is_failed_and_can_be_fetched_again(store, tmp_path):
    contents = model()
    row = land_version(store, contents)
    store.close()
    shutil.rmtree(row.path)
    with Store.open(tmp_path / "data") as again:
        assert again.version(row.manifest).state == "failed"
        assert read_tree(land_version(again, contents).path) == contents


def test_a_version_whose_manifest_rotted_is_failed(store, tmp_path):
    row = land_version(store, model())
    store.close()
    (store.data_dir / "objects" / row.manifest.hex()).write_bytes(b"rot")
    with Store.open(tmp_path / "data") as again:
        with pytest.raises(StoreError, match="manifest"):
            again.locate_run(row.blob, 0, 1)
        assert again.version(row.manifest).state == "failed"
        assert again.locate_run(row.blob, 0, 1) == []


# --- objects ---


def test_an_object_is_found_by_its_digest(store):
    digest = store.put_object(b"an object")
    assert digest == store.put_object(b"an object") == digest_of(b"an object")
    assert store.object(digest) == b"an object"
    assert store.object(digest_of(b"another")) is None


def test_a_damaged_object_is_not_there_and_can_be_put_again(store):
    digest = store.put_object(b"an object")
    (store.data_dir / "objects" / digest.hex()).write_bytes(b"an 0bject")
    assert store.object(digest) is None
    store.put_object(b"an object")
    assert store.object(digest) == b"an object"


def test_a_manifest_is_read_back(store, tmp_path):
    manifest = manifest_of(model())
    store.begin(manifest)
    assert store.manifest(manifest.digest) == manifest
    store.close()
    with Store.open(tmp_path / "data") as again:
        assert again.manifest(manifest.digest) == manifest
        assert again.manifest(digest_of(b"another")) is None


# --- deleting ---


def test_a_leased_version_is_not_deleted_until_its_last_reader_is_done(store, tmp_path):
    row = land_version(store, model())
    first, second = store.lease(row.manifest, "engine"), store.lease(row.manifest, "pull")
    with pytest.raises(Conflict, match="engine, pull"):
        store.delete(row.manifest)
    store.release(first)
    store.release(first)
    store.close()
    with Store.open(tmp_path / "data") as again:  # a lease outlives the daemon
        with pytest.raises(Conflict, match="pull"):
            again.delete(row.manifest)
        again.release_holder("pull")
        assert second > first
        again.delete(row.manifest)
        assert again.version(row.manifest) is None
        assert not row.path.exists()
        assert again.object(row.manifest) is None
        again.delete(row.manifest)


def test_leases_are_given_back_together(store):
    row = land_version(store, model())
    given = [store.lease(row.manifest, "engine") for _ in range(3)]
    store.release_all([*given[:2], given[0], 12345])
    assert store.leased() == {row.manifest: ["engine"]}
    store.release_all([])
    store.release_all(given)
    assert not store.leased()


def test_a_pinned_version_is_not_deleted(store):
    row = land_version(store, model())
    store.pin(row.manifest)
    with pytest.raises(Conflict, match="pinned"):
        store.delete(row.manifest)
    assert store.pinned() == {row.manifest}
    store.unpin(row.manifest)
    store.delete(row.manifest)


def test_retention_keeps_the_newest_of_each_channel(store):
    other = digest_of(b"other")
    store.save_channel(CHANNEL, "a", b"root")
    store.save_channel(other, "b", b"root")
    rows = [land_version(store, {"w": noise(number, 1000)}) for number in range(6)]
    for seq, row in enumerate(rows[:5], 1):
        store.save_head(head(row.manifest, seq))
    store.save_head(head(rows[0].manifest, 1, other))
    store.save_head(head(digest_of(b"not here yet"), 9))
    ranks = {version.manifest: version.rank for version in store.held_versions()}
    assert [ranks[row.manifest] for row in rows[:5]] == [0, 3, 2, 1, 0]
    lease = store.lease(rows[1].manifest, "engine")
    assert store.retain(keep=2) == [rows[5].manifest, rows[2].manifest]
    store.release(lease)
    assert store.retain(keep=2) == [rows[1].manifest]
    assert store.retain(keep=2) == []
    assert store.retain(keep=2, quota_bytes=2000) == [rows[3].manifest]
    assert store.retain(keep=1, quota_bytes=0) == []  # the newest stay, whatever the quota


def test_methods_may_be_called_from_many_threads(store):
    def work(number: int) -> bool:
        row = land_version(store, {"w": noise(number, 300_000)})
        lease = store.lease(row.manifest, f"{number}")
        store.save_head(head(row.manifest, number))
        data = b"".join(served(store, row.blob, 0, 2))
        store.release(lease)
        store.delete(row.manifest)
        return data == noise(number, 300_000)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 25)))
    assert store.versions() == []
    assert len(store.heads(CHANNEL)) == 24

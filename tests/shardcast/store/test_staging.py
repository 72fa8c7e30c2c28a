"""How chunks land, become durable, become a version."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardcast.store import BATCH_BYTES_MAX, Store, close_all, staging
from shardcast.store.version_table import VersionTable
from shardcast_proto.errors import Conflict, IntegrityError, NotReady, StoreError
from shardcast_proto.limits import CHUNK_BYTES_MAX
from shardcast_proto.manifest import Manifest
from tests.shardcast.store.trees import (
    CHUNK,
    chunk_of,
    flipped,
    kill,
    land_all,
    land_version,
    manifest_of,
    model,
    noise,
    read_tree,
    served,
    wrong_bits,
)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "data") as store:
        yield store


def test_a_version_whose_chunks_have_all_landed_becomes_complete_as_it_was(store):
    contents = model()
    row = land_version(store, contents)
    assert (row.state, row.have_count, row.error) == ("complete", row.chunk_count, None)
    assert read_tree(row.path) == contents


def test_files_of_a_complete_version_are_read_only_and_its_directories_private(store):
    row = land_version(store, model())
    assert {stat.S_IMODE(path.stat().st_mode) for path in row.path.rglob("*") if path.is_file()} == {0o444}
    assert stat.S_IMODE((row.path / "conf").stat().st_mode) == 0o700


def test_a_chunk_may_come_in_many_segments(store):
    contents = {"a": noise(1, CHUNK)}
    staged = store.begin(manifest_of(contents))
    segments = [memoryview(contents["a"])[offset : offset + 100] for offset in range(0, CHUNK, 100)]
    assert len(segments) > 1024  # more than the kernel takes in one call
    assert staged.land(0, segments)
    staged.complete()
    assert read_tree(store.version(staged.manifest.digest).path) == contents


def test_a_chunk_that_landed_before_is_not_new(store):
    contents = model()
    staged = store.begin(manifest_of(contents))
    chunk = chunk_of(contents, staged.manifest, 0)
    assert [staged.land(0, [chunk]), staged.land(0, [chunk])] == [True, False]


@pytest.mark.parametrize(
    "spoil",
    [flipped, lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"", lambda data: bytes(len(data))],
    ids=["flipped bit", "short", "long", "nothing", "zeros"],
)
def test_a_chunk_with_other_bytes_never_lands(store, spoil):
    contents = model()
    staged = store.begin(manifest_of(contents))
    with pytest.raises(IntegrityError) as caught:
        staged.land(3, [spoil(chunk_of(contents, staged.manifest, 3))])
    assert caught.value.facts["chunk_index"] == 3
    assert caught.value.facts["expected"] != caught.value.facts["actual"]
    assert staged.have_count == 0
    assert served(store, staged.manifest.blob.id, 3, 1) == []
    assert (staged.root / "a.weights").read_bytes().count(0) == len(contents["a.weights"])


def test_the_bytes_of_another_chunk_do_not_land(store):
    contents = model()
    staged = store.begin(manifest_of(contents))
    with pytest.raises(IntegrityError):
        staged.land(0, [chunk_of(contents, staged.manifest, 1)])


def test_a_landed_chunk_is_served_before_the_version_is_complete(store):
    contents = model()
    manifest = manifest_of(contents)
    staged = store.begin(manifest)
    for index in (4, 5, 6, 8):
        staged.land(index, [chunk_of(contents, manifest, index)])
    assert served(store, manifest.blob.id, 4, 8) == [chunk_of(contents, manifest, index) for index in (4, 5, 6)]
    assert served(store, manifest.blob.id, 3, 8) == []


def test_an_open_location_outlives_completion_and_deletion(store):
    contents = model()
    manifest = manifest_of(contents)
    staged = store.begin(manifest)
    land_all(staged, contents)
    locations = store.locate_run(manifest.blob.id, 0, 2)
    staged.complete()
    store.delete(manifest.digest)
    place = locations[1]
    assert os.pread(place.file.fileno(), place.length, place.offset) == chunk_of(contents, manifest, 1)
    close_all(locations)


def test_a_version_with_missing_chunks_does_not_become_complete(store):
    contents = model()
    staged = store.begin(manifest_of(contents))
    staged.land(0, [chunk_of(contents, staged.manifest, 0)])
    with pytest.raises(NotReady) as caught:
        staged.complete()
    assert caught.value.facts["missing"] == staged.manifest.blob.chunk_count - 1
    assert store.version(staged.manifest.digest).state == "staging"


def test_a_version_of_empty_files_is_complete_at_once(store):
    staged = store.begin(manifest_of({"a": b"", "b/c": b""}))
    assert staged.is_full
    staged.complete()
    assert read_tree(store.version(staged.manifest.digest).path) == {"a": b"", "b/c": b""}


def test_many_threads_land_one_version(store):
    contents = {f"shard-{number}": noise(number, 3 * CHUNK + number) for number in range(40)}
    staged = store.begin(manifest_of(contents))
    manifest = staged.manifest
    indices = [*range(manifest.blob.chunk_count), *range(0, manifest.blob.chunk_count, 3)]  # some twice
    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda index: staged.land(index, [chunk_of(contents, manifest, index)]), indices))
    assert new.count(True) == manifest.blob.chunk_count
    staged.complete()
    assert read_tree(store.version(manifest.digest).path) == contents


def test_a_version_of_many_small_files_holds_few_of_them_open(store):
    contents = {f"{number:04d}": noise(number, 50) for number in range(600)}
    staged = store.begin(manifest_of(contents))
    most = 0
    for index in range(600):
        staged.land(index, [chunk_of(contents, staged.manifest, index)])
        most = max(most, staged._writers.open_count)
    assert most <= staging.FLUSH_FILES
    staged.complete()


# --- resuming ---


def test_a_closed_store_resumes_with_every_chunk(store, tmp_path):
    contents = model()
    manifest = manifest_of(contents)
    staged = store.begin(manifest)
    for index in (0, 2, 7):
        staged.land(index, [chunk_of(contents, manifest, index)])
    store.close()
    with Store.open(tmp_path / "data") as again:
        assert not again.was_killed
        assert again.version(manifest.digest).have_count == 3
        resumed = again.begin(manifest)
        assert list(resumed.have) == [0, 2, 7]
        land_all(resumed, contents)
        resumed.complete()
        assert read_tree(again.version(manifest.digest).path) == contents


def test_a_killed_store_resumes_with_what_was_flushed_and_checks_it(store, tmp_path):
    contents = model()
    manifest = manifest_of(contents)
    staged = store.begin(manifest)
    for index in (0, 2, 7):
        staged.land(index, [chunk_of(contents, manifest, index)])
    staged.flush()
    staged.land(8, [chunk_of(contents, manifest, 8)])
    kill(store)
    with (staged.root / "a.weights").open("r+b") as file:  # the disk lost what it had promised to keep
        file.seek(2 * CHUNK)
        file.write(b"\0" * 100)
    with Store.open(tmp_path / "data") as again:
        assert again.was_killed
        resumed = again.begin(manifest)
        assert list(resumed.have) == [0, 7]
        assert wrong_bits(manifest, resumed.root, resumed.have) == []
    with Store.open(tmp_path / "data") as third:  # the correction was durable
        assert list(third.begin(manifest).have) == [0, 7]


def test_chunks_of_a_staged_file_that_vanished_are_fetched_again(store, tmp_path):
    contents = model()
    manifest = manifest_of(contents)
    staged = store.begin(manifest)
    land_all(staged, contents)
    store.close()
    (staged.root / "a.weights").unlink()
    os.truncate(staged.root / "conf" / "config.json", 3)
    with Store.open(tmp_path / "data") as again:
        resumed = again.begin(manifest)
        assert [resumed.manifest.chunk_span(index).file_index for index in resumed.have] == [1] * 6
        land_all(resumed, contents)
        resumed.complete()
        assert read_tree(again.version(manifest.digest).path) == contents


def test_landing_never_leaves_more_than_one_batch_undurable(store):
    contents = {"a": noise(1, 100 * CHUNK)}
    staged = store.begin(manifest_of(contents))
    most = 0
    for index in range(100):
        staged.land(index, [chunk_of(contents, staged.manifest, index)])
        durable = store._table.have(staged.manifest.digest, 100)
        assert wrong_bits(staged.manifest, staged.root, [index]) == []
        most = max(most, (staged.have_count - durable.held) * CHUNK)
    assert CHUNK < most <= BATCH_BYTES_MAX


def test_a_chunk_that_waits_for_long_is_flushed(store, monkeypatch):
    contents = model()
    staged = store.begin(manifest_of(contents))
    staged.land(0, [chunk_of(contents, staged.manifest, 0)])
    store.flush()
    assert store._table.have(staged.manifest.digest, staged.manifest.blob.chunk_count).held == 0
    monkeypatch.setattr(staging, "FLUSH_AGE_S", 0.0)
    store.flush()
    assert store._table.have(staged.manifest.digest, staged.manifest.blob.chunk_count).held == 1


@pytest.fixture
def trace(monkeypatch):
    """Record the calls that durability is made of, in their order."""
    calls: list[str] = []

    def record(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (os, "pwritev"),
        (os, "fdatasync"),
        (os, "fsync"),
        (Path, "rename"),
        (VersionTable, "save_pages"),
        (VersionTable, "complete"),
    ):
        record(owner, name)
    return calls


def test_bits_are_committed_after_their_bytes_are_durable(store, trace):
    contents = {"a": noise(1, 2 * CHUNK)}
    staged = store.begin(manifest_of(contents))
    trace.clear()
    land_all(staged, contents)
    staged.flush()
    staged.flush()
    assert trace == ["pwritev", "pwritev", "fdatasync", "save_pages"]


def test_a_version_is_noted_complete_after_its_files_with_their_names_are_durable(store, trace):
    contents = {"a": noise(1, 10), "b/c": noise(2, 10)}
    staged = store.begin(manifest_of(contents))
    land_all(staged, contents)
    staged.flush()
    trace.clear()
    staged.complete()
    # two files, their two directories, the rename, both parents, the row
    assert trace == ["fsync"] * 4 + ["rename"] + ["fsync"] * 2 + ["complete"]


def test_a_version_is_begun_after_its_manifest_is_durable(store, trace):
    staged = store.begin(manifest_of({"a": b"x"}))
    assert trace[:4] == ["pwritev", "fsync", "rename", "fsync"]
    assert trace[-1] == "fsync"
    assert store.object(staged.manifest.digest) == staged.manifest.encoded


# --- files that are here already ---


def test_a_file_that_another_version_has_is_linked_in_at_once(store):
    old, new = model(1), {**model(1), "a.weights": noise(9, 3 * CHUNK), "moved/b": model(1)["b.weights"]}
    del new["b.weights"]
    first = land_version(store, old)
    staged = store.begin(manifest_of(new))
    held = {staged.manifest.files[staged.manifest.chunk_span(index).file_index].path for index in staged.have}
    assert held == {"moved/b", "conf/config.json"}
    assert (staged.root / "moved/b").stat().st_ino == (first.path / "b.weights").stat().st_ino
    land_all(staged, new)
    staged.complete()
    assert read_tree(store.version(staged.manifest.digest).path) == new
    assert read_tree(first.path) == old
    store.delete(first.manifest)
    assert read_tree(store.version(staged.manifest.digest).path) == new


def test_a_file_that_becomes_known_while_landing_is_adopted(store):
    old, new = model(1), {**model(2), "b.weights": model(1)["b.weights"]}
    staged = store.begin(manifest_of(new))
    staged.land(7, [chunk_of(new, staged.manifest, 7)])
    land_version(store, old)
    assert staged.adopt_known_files() == [(6, 1), (8, 4)]
    assert staged.adopt_known_files() == []
    land_all(staged, new)
    staged.complete()
    assert read_tree(store.version(staged.manifest.digest).path) == new


def test_a_damaged_file_is_not_adopted(store):
    old, new = model(1), {**model(2), "b.weights": model(1)["b.weights"]}
    row = land_version(store, old)
    target = row.path / "b.weights"
    target.chmod(0o600)
    target.write_bytes(flipped(old["b.weights"]))
    staged = store.begin(manifest_of(new))
    assert staged.have_count == 0
    assert store.version(row.manifest).state == "failed"


def test_a_link_that_a_kill_left_unnoted_is_never_written_to(store, tmp_path):
    old, new = model(1), {**model(2), "b.weights": model(1)["b.weights"]}
    row = land_version(store, old)
    staged = store.begin(manifest_of(new))
    linked = (staged.root / "b.weights").stat().st_ino
    store._database.write("DELETE FROM have_pages")  # the note of it was not made
    kill(store)
    with Store.open(tmp_path / "data") as again:
        again._database.write("DELETE FROM files")  # the other version is not known to have it any more
        resumed = again.begin(staged.manifest)
        assert resumed.have_count == 0
        assert (resumed.root / "b.weights").stat().st_ino != linked
        land_all(resumed, new)
        assert read_tree(row.path) == old


def test_a_sealed_file_that_was_damaged_before_the_rename_is_fetched_anew_as_a_whole(store, tmp_path):
    contents = model()
    staged = store.begin(manifest_of(contents))
    land_all(staged, contents)
    staged.flush()
    kill(store)
    target = staged.root / "a.weights"
    with target.open("r+b") as file:
        file.write(b"damage")
    target.chmod(0o444)  # the kill came while the files were being sealed
    with Store.open(tmp_path / "data") as again:
        resumed = again.begin(staged.manifest)
        assert {resumed.manifest.chunk_span(index).file_index for index in resumed.have} == {1, 2}
        assert wrong_bits(resumed.manifest, resumed.root, resumed.have) == []
        land_all(resumed, contents)
        resumed.complete()
        assert read_tree(again.version(staged.manifest.digest).path) == contents


# --- disks that are too small ---


def test_a_version_that_does_not_fit_is_refused_before_anything_is_reserved(store):
    count = 1 << 17
    huge = Manifest.build([("a", count * CHUNK_BYTES_MAX)], CHUNK_BYTES_MAX, bytes(32 * count))
    with pytest.raises(StoreError, match="disk full") as caught:
        store.begin(huge)
    assert caught.value.facts["needed_bytes"] == count * CHUNK_BYTES_MAX
    assert "--quota" in (caught.value.hint or "")
    row = store.version(huge.digest)
    assert (row.state, row.have_count) == ("staging", 0)
    assert "disk full" in row.error
    assert not row.path.exists()


# --- ends ---


def test_a_deleted_version_takes_no_chunk(store):
    contents = model()
    staged = store.begin(manifest_of(contents))
    staged.land(0, [chunk_of(contents, staged.manifest, 0)])
    store.delete(staged.manifest.digest)
    with pytest.raises(Conflict):
        staged.land(1, [chunk_of(contents, staged.manifest, 1)])
    assert store.version(staged.manifest.digest) is None
    assert store.object(staged.manifest.digest) is None
    assert not staged.root.exists()


def test_landing_into_a_complete_version_changes_nothing(store):
    contents = model()
    row = land_version(store, contents)
    with pytest.raises(Conflict):
        store.begin(manifest_of(contents))
    assert read_tree(row.path) == contents


def test_begin_returns_the_same_staging_while_it_lasts(store):
    manifest = manifest_of(model())
    assert store.begin(manifest) is store.begin(manifest)


def test_threads_that_begin_one_version_get_one_staging(store):
    manifest = manifest_of(model())
    gate = threading.Barrier(4)

    def begin(_):
        gate.wait()
        return store.begin(manifest)

    with ThreadPoolExecutor(4) as pool:
        assert len({id(staged) for staged in pool.map(begin, range(4))}) == 1

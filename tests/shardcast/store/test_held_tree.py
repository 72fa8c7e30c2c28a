"""What happens to a complete version whose files somebody changes."""

from __future__ import annotations

import os

import pytest

from shardcast.origin import seal
from shardcast.store import Store
from shardcast_proto.errors import NotFound, StoreError
from tests.shardcast.store.trees import (
    CHUNK,
    chunk_of,
    flipped,
    kill,
    land_version,
    manifest_of,
    model,
    served,
    write_tree,
)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "data") as store:
        yield store


def overwrite(path, data, *, times=None):
    with path.open("r+b") as file:
        file.write(data)
    if times:
        os.utime(path, ns=times)


@pytest.mark.parametrize("keeps_times", [False, True], ids=["plainly", "with its times put back"])
def test_a_published_file_that_is_overwritten_in_place_is_never_served(store, tmp_path, keeps_times):
    contents = model()
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store, link="hardlink")
    blob = sealed.manifest.blob.id
    assert served(store, blob, 0, 2) == [chunk_of(contents, sealed.manifest, index) for index in (0, 1)]
    path = tmp_path / "ckpt" / "a.weights"
    status = path.stat()
    times = (status.st_atime_ns, status.st_mtime_ns) if keeps_times else None
    overwrite(path, flipped(contents["a.weights"]), times=times)
    with pytest.raises(StoreError, match="changed after") as caught:
        store.locate_run(blob, 0, 2)
    assert "publish again" in (caught.value.hint or "")
    row = store.version(sealed.digest)
    assert (row.state, row.have_count) == ("failed", 0)
    assert "a.weights" in row.error
    assert served(store, blob, 0, 2) == []


def test_a_published_file_that_is_rewritten_with_the_same_bytes_is_served(store, tmp_path):
    contents = model()
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store, link="hardlink")
    overwrite(tmp_path / "ckpt" / "a.weights", contents["a.weights"])
    assert served(store, sealed.manifest.blob.id, 0, 1) == [chunk_of(contents, sealed.manifest, 0)]
    assert store.version(sealed.digest).state == "complete"


def test_a_published_file_that_is_cut_short_is_never_served(store, tmp_path):
    contents = model()
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store, link="hardlink")
    os.truncate(tmp_path / "ckpt" / "b.weights", CHUNK)
    assert len(served(store, sealed.manifest.blob.id, 0, 6)) == 6  # the other file is as it was
    with pytest.raises(StoreError, match="has 262144 bytes"):
        store.locate_run(sealed.manifest.blob.id, 6, 1)


def test_the_publishers_files_may_be_deleted(store, tmp_path):
    contents = model()
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store)
    for path in (tmp_path / "ckpt").glob("*.weights"):
        path.unlink()
    count = sealed.manifest.blob.chunk_count
    assert b"".join(served(store, sealed.manifest.blob.id, 0, count)) == b"".join(
        contents[row.path] for row in sealed.manifest.files
    )


def test_a_copied_version_does_not_follow_the_publishers_files(store, tmp_path):
    contents = model()
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store, link="copy")
    overwrite(tmp_path / "ckpt" / "a.weights", flipped(contents["a.weights"]))
    assert served(store, sealed.manifest.blob.id, 0, 1) == [chunk_of(contents, sealed.manifest, 0)]


def test_sealed_files_are_hashed_again_after_an_unclean_end(store, tmp_path):
    contents = model()
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store, link="copy")
    path = store.version(sealed.digest).path / "a.weights"
    kill(store)
    status = path.stat()
    path.chmod(0o600)
    # a power cut took bytes that never reached the disk, but not the file's times
    overwrite(path, bytes(10), times=(status.st_atime_ns, status.st_mtime_ns))
    with Store.open(tmp_path / "data") as again, pytest.raises(StoreError):
        again.locate_run(sealed.manifest.blob.id, 0, 1)


def test_another_version_with_the_same_blob_serves_when_one_was_changed(store, tmp_path):
    contents = model()
    renamed = {f"x{path}": data for path, data in contents.items()}
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store, link="hardlink")
    land_version(store, renamed)
    assert manifest_of(renamed).blob.id == sealed.manifest.blob.id
    served(store, sealed.manifest.blob.id, 0, 1)
    overwrite(tmp_path / "ckpt" / "a.weights", flipped(contents["a.weights"]))
    assert store._holders.tree(sealed.digest) is not None
    assert served(store, sealed.manifest.blob.id, 0, 1) == [chunk_of(contents, sealed.manifest, 0)]


def test_a_link_to_a_landed_file_does_not_make_it_suspect(store, tmp_path):
    contents = model()
    row = land_version(store, contents)
    path = row.path / "a.weights"
    (tmp_path / "pulled").hardlink_to(path)
    known = store._table.identity(row.manifest, 0)
    assert served(store, row.blob, 0, 1) == [contents["a.weights"][:CHUNK]]
    assert store._table.identity(row.manifest, 0) == known  # it was not hashed again


def test_a_landed_file_that_was_edited_through_a_link_is_never_served(store, tmp_path):
    contents = model()
    row = land_version(store, contents)
    (tmp_path / "pulled").hardlink_to(row.path / "a.weights")
    (tmp_path / "pulled").chmod(0o600)
    overwrite(tmp_path / "pulled", flipped(contents["a.weights"]))
    with pytest.raises(StoreError, match="other bytes") as caught:
        store.locate_run(row.blob, 0, 1)
    assert "fetch" in (caught.value.hint or "")


def test_a_file_that_is_gone_fails_the_version(store):
    row = land_version(store, model())
    (row.path / "b.weights").unlink()
    with pytest.raises(StoreError, match="is gone"):
        store.open_file(row.manifest, 1)
    assert store.version(row.manifest).state == "failed"


def test_a_symbolic_link_in_the_place_of_a_file_is_not_followed(store, tmp_path):
    row = land_version(store, model())
    path = row.path / "a.weights"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        store.locate_run(row.blob, 0, 1)


def test_one_file_can_be_opened_by_its_index(store):
    contents = model()
    row = land_version(store, contents)
    with store.open_file(row.manifest, 2) as file:
        assert file.read() == contents["conf/config.json"]
    with pytest.raises(NotFound):
        store.open_file(row.manifest, 4)

"""How a checkpoint becomes a version of the origin's store."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from shardcast import origin
from shardcast.checkpoint import CheckpointRefused
from shardcast.origin import seal
from shardcast.store import Store
from shardcast_proto.errors import ConfigError, Conflict, NotFound, StoreError
from tests.shardcast.store.trees import (
    CHUNK,
    land_all,
    land_version,
    manifest_of,
    model,
    noise,
    read_tree,
    write_tree,
)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "data") as store:
        yield store


def leftovers(store):
    return list((store.data_dir / "staging").iterdir())


@pytest.mark.parametrize("link", ["auto", "hardlink", "copy"])
def test_a_sealed_checkpoint_is_a_complete_version(store, tmp_path, link):
    contents = model()
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store, link=link)
    assert sealed.manifest == manifest_of(contents)
    assert sealed.bytes == sum(map(len, contents.values()))
    row = store.version(sealed.digest)
    assert (row.state, row.have_count) == ("complete", row.chunk_count)
    assert read_tree(row.path) == contents
    assert leftovers(store) == []


def test_sealing_by_hard_link_copies_no_byte_and_leaves_the_files_modes(store, tmp_path):
    root = write_tree(tmp_path / "ckpt", model())
    (root / "a.weights").chmod(0o640)
    sealed = seal(root, store, link="hardlink")
    assert sealed.linked == "hardlink"
    assert (store.version(sealed.digest).path / "a.weights").stat().st_ino == (root / "a.weights").stat().st_ino
    assert stat.S_IMODE((root / "a.weights").stat().st_mode) == 0o640


def test_sealing_by_copy_shares_nothing(store, tmp_path):
    root = write_tree(tmp_path / "ckpt", model())
    sealed = seal(root, store, link="copy")
    path = store.version(sealed.digest).path / "a.weights"
    assert path.stat().st_ino != (root / "a.weights").stat().st_ino
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_auto_copies_from_another_file_system_and_hardlink_says_why_it_cannot(store, tmp_path):
    root = tmp_path / "elsewhere"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        contents = model()
        write_tree(root, contents)
        with pytest.raises(ConfigError, match="cannot hardlink") as caught:
            seal(root, store, link="hardlink")
        assert "--link copy" in (caught.value.hint or "")
        sealed = seal(root, store)
        assert sealed.linked == "copy"
        assert read_tree(store.version(sealed.digest).path) == contents
        assert leftovers(store) == []
    finally:
        subprocess.run(["umount", "-l", root], check=True)


def test_progress_ends_at_all_bytes(store, tmp_path):
    contents = model()
    told = []
    sealed = seal(
        write_tree(tmp_path / "ckpt", contents), store, progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (sealed.bytes, sealed.bytes)
    assert told == sorted(told)
    assert len(told) == sealed.manifest.blob.chunk_count


def test_a_link_inside_the_checkpoint_is_sealed_as_a_file(store, tmp_path):
    root = write_tree(tmp_path / "ckpt", model())
    (root / "same").symlink_to("a.weights")
    sealed = seal(root, store, link="hardlink")
    path = store.version(sealed.digest).path / "same"
    assert not path.is_symlink()
    assert path.read_bytes() == model()["a.weights"]


@pytest.mark.parametrize(("first", "second"), [("copy", "hardlink"), ("copy", "copy"), ("hardlink", "hardlink")])
def test_the_same_content_again_is_the_same_version(store, tmp_path, first, second):
    digest = seal(write_tree(tmp_path / "1", model()), store, link=first).digest
    inode = (store.version(digest).path / "a.weights").stat().st_ino
    again = seal(write_tree(tmp_path / "2", model()), store, link=second)
    assert (again.digest, again.linked) == (digest, first)
    assert (store.version(digest).path / "a.weights").stat().st_ino == inode
    assert len(store.versions()) == 1
    assert leftovers(store) == []


def test_a_copy_takes_the_place_of_hard_links(store, tmp_path):
    contents, root = model(), tmp_path / "ckpt"
    before = store.version(seal(write_tree(root, contents), store, link="hardlink").digest)
    store.pin(before.manifest)
    sealed = seal(root, store, link="copy")
    row = store.version(sealed.digest)
    assert (sealed.digest, sealed.linked) == (before.manifest, "copy")
    assert row == before._replace(link="copy")
    assert stat.S_IMODE((row.path / "a.weights").stat().st_mode) == 0o444
    assert leftovers(store) == []
    with (root / "a.weights").open("r+b") as file:
        file.write(b"the next step")
    assert store.verify(sealed.digest, lambda done, total: None) == ([], 0)
    assert read_tree(row.path) == contents


def test_a_copy_heals_hard_links_whose_files_were_written_to(store, tmp_path):
    contents, root = model(), write_tree(tmp_path / "ckpt", model())
    seal(root, store, link="hardlink")
    (root / "b.weights").write_bytes(b"the next step")
    sealed = seal(write_tree(tmp_path / "again", contents), store, link="copy")
    assert store.version(sealed.digest).state == "complete"
    assert store.verify(sealed.digest, lambda done, total: None) == ([], 0)


def test_hard_links_that_are_half_replaced_by_copies_are_still_the_version(store, tmp_path, monkeypatch):
    contents, root = model(), write_tree(tmp_path / "ckpt", model())
    sealed = seal(root, store, link="hardlink")
    rename, renamed = Path.rename, dict[Path, Path]()

    def rename_one(self, target):
        if renamed and "staging" in str(self):
            raise OSError(errno.EIO, "Input/output error")
        renamed[self] = rename(self, target)
        return renamed[self]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_one)
        with pytest.raises(StoreError):
            seal(root, store, link="copy")
    assert renamed and leftovers(store) == []
    store.close()
    with Store.open(tmp_path / "data") as again:
        assert again.version(sealed.digest).link == "hardlink"
        again.check_files(sealed.digest)
        assert read_tree(again.version(sealed.digest).path) == contents


def test_a_version_that_was_being_landed_is_complete_once_sealed(store, tmp_path):
    contents = model()
    staged = store.begin(manifest_of(contents))
    sealed = seal(write_tree(tmp_path / "ckpt", contents), store)
    assert store.version(sealed.digest).state == "complete"
    with pytest.raises(Conflict):
        land_all(staged, contents)
    assert read_tree(store.version(sealed.digest).path) == contents


def test_a_failed_version_can_be_sealed_again(store, tmp_path):
    contents = model()
    row = land_version(store, contents)
    store._table.fail(row.manifest, "rotten")
    seal(write_tree(tmp_path / "ckpt", contents), store)
    assert store.version(row.manifest).state == "complete"


@pytest.mark.parametrize("link", ["hardlink", "copy"])
def test_a_file_that_is_written_to_meanwhile_is_a_conflict(store, tmp_path, link):
    root = write_tree(tmp_path / "ckpt", model())

    def write_once(done, total):
        if done == total:
            with (root / "a.weights").open("r+b") as file:
                file.write(b"new")

    with pytest.raises(Conflict, match="changed while") as caught:
        seal(root, store, link=link, progress=write_once)
    assert "finished" in (caught.value.hint or "")
    assert store.versions() == []
    assert leftovers(store) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "new").write_bytes(b"x"),
        lambda root: (root / "b.weights").unlink(),
        lambda root: os.truncate(root / "b.weights", 3),
        lambda root: (root / "conf" / "config.json").write_bytes(b"[]"),
    ],
    ids=["added", "removed", "cut", "rewritten"],
)
def test_a_checkpoint_that_changes_meanwhile_is_never_sealed(store, tmp_path, change):
    root = write_tree(tmp_path / "ckpt", model())
    changes = iter([change])
    with pytest.raises(Conflict, match="changed while"):
        seal(root, store, progress=lambda done, total: next(changes, lambda root: None)(root))
    assert store.versions() == []
    assert leftovers(store) == []


def test_a_checkpoint_that_is_refused_leaves_nothing(store, tmp_path):
    with pytest.raises(NotFound):
        seal(tmp_path / "nowhere", store)
    with pytest.raises(CheckpointRefused):
        seal(write_tree(tmp_path / "ckpt", {"model.bin": b"x"}), store)
    assert leftovers(store) == []


def test_the_chunk_size_may_be_chosen_within_the_limits(store, tmp_path):
    root = write_tree(tmp_path / "ckpt", {"a": noise(1, 3 * CHUNK)})
    assert seal(root, store, chunk_size=2 * CHUNK).manifest.blob.chunk_count == 2
    for size in (0, 1000, CHUNK + 1, 1 << 30):
        with pytest.raises(ConfigError, match="chunk size"):
            seal(root, store, chunk_size=size)


def test_too_many_chunks_are_refused_before_a_byte_is_read(store, tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "CHUNKS_MAX", 2)
    with pytest.raises(ConfigError, match="at most 2"):
        seal(write_tree(tmp_path / "ckpt", {"a": noise(1, 3 * CHUNK)}), store)

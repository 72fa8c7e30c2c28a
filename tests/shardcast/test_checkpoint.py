"""Which directories may be published, and what the demo writes."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from shardcast.checkpoint import JSON_BYTES_MAX, CheckpointRefused, scan
from shardcast.demo_data import BYTES_MIN, SHARDS, write_demo_checkpoint
from shardcast_proto.errors import ConfigError, NotFound, StoreError


def shard(header, data=b"", *, length=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data


def tensor(begin, end, *, dtype="BF16", shape=None):
    return {"dtype": dtype, "shape": [(end - begin) // 2] if shape is None else shape, "data_offsets": [begin, end]}


GOOD = shard({"__metadata__": {"format": "pt"}, "w": tensor(0, 8), "v": tensor(8, 12)}, bytes(12))
INDEX = {"metadata": {}, "weight_map": {"w": "model-1.safetensors"}}
GOOD_FILES = {
    "model-1.safetensors": GOOD,
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "config.json": b"{}",
    "tokenizer/vocab.txt": b"a b",
}


def torch_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


def write(root: Path, files) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_length_that_looks_like_a_pickle_is_none(tmp_path, length):
    header = json.dumps({"w": tensor(0, 8)}).encode().ljust(length)
    root = write(tmp_path / "c", {"x.safetensors": shard(header, bytes(8))})
    assert [name for name, _ in scan(root)] == ["x.safetensors"]


def test_a_file_name_that_is_no_text_is_refused(tmp_path):
    root = write(tmp_path / "c", GOOD_FILES)
    (root / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    with pytest.raises(CheckpointRefused, match="no valid UTF-8"):
        scan(root)


def test_a_whole_checkpoint_is_listed_as_a_manifest_sorts_it(tmp_path):
    root = write(tmp_path / "c", {**GOOD_FILES, "empty": b""})
    assert scan(root) == [
        ("config.json", 2),
        ("empty", 0),
        ("model-1.safetensors", len(GOOD)),
        ("model.safetensors.index.json", len(GOOD_FILES["model.safetensors.index.json"])),
        ("tokenizer/vocab.txt", 3),
    ]


def test_a_missing_path_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="does not exist"):
        scan(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(NotFound, match="does not exist"):
        scan(tmp_path / "file" / "below")


def test_a_path_that_leads_nowhere_is_refused_and_quoted_in_part(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path, why in ((tmp_path / ("x" * 5000), "File name too long"), (tmp_path / "loop", "Too many levels")):
        with pytest.raises(ConfigError, match=f"leads nowhere: {why}") as caught:
            scan(path)
        assert len(caught.value.message) < 300


@pytest.mark.parametrize("below", ["", "ckpt"])
def test_a_path_that_may_not_be_looked_at_is_refused_with_what_to_do(tmp_path, below):
    closed = tmp_path / "closed"
    (closed / "ckpt").mkdir(parents=True)
    closed.chmod(0)
    path, user = closed / below, os.geteuid()
    try:
        if user == 0:
            os.seteuid(65_534)
        with pytest.raises(StoreError, match=f"cannot read {path}: Permission denied") as caught:
            scan(path)
    finally:
        os.seteuid(user)
        closed.chmod(0o700)
    assert caught.value.hint and "right to read" in caught.value.hint


REFUSALS = {
    "an index that names a missing shard": (
        {"model.safetensors.index.json": json.dumps({"weight_map": {"w": "model-2.safetensors"}}).encode()},
        "missing_shard",
        "names model-2.safetensors, which is missing",
    ),
    "an index in a folder that names a shard above it": (
        {"sub/model.safetensors.index.json": json.dumps(INDEX).encode()},
        "missing_shard",
        "sub/model.safetensors.index.json",
    ),
    "an index without a map": ({"model.safetensors.index.json": b"[]"}, "index", "weight_map"),
    "an index cut short": ({"model.safetensors.index.json": b'{"weight_map": {"w": '}, "json", "valid JSON"),
    "a shard of no bytes": ({"x.safetensors": b""}, "safetensors", "0 bytes in all"),
    "a header longer than its file": ({"x.safetensors": shard(b"{}", length=1000)}, "safetensors", "1000 bytes"),
    "a header of 2^63 bytes": ({"x.safetensors": shard(b"{}", length=1 << 63)}, "safetensors", "header"),
    "data cut short": ({"x.safetensors": GOOD[:-1]}, "safetensors", "promises 12 bytes of tensors and has 11"),
    "data too long": ({"x.safetensors": GOOD + b"x"}, "safetensors", "promises 12 bytes of tensors and has 13"),
    "tensors that overlap": (
        {"x.safetensors": shard({"a": tensor(0, 8), "b": tensor(6, 12)}, bytes(12))},
        "safetensors",
        "overlap",
    ),
    "a hole": ({"x.safetensors": shard({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12))}, "safetensors", "belong"),
    "a first tensor that begins late": (
        {"x.safetensors": shard({"a": tensor(4, 12)}, bytes(12))},
        "safetensors",
        "belong to none",
    ),
    "a shape that does not fit": (
        {"x.safetensors": shard({"a": tensor(0, 12, shape=[5])}, bytes(12))},
        "safetensors",
        "tensor 'a'",
    ),
    "a shape that overflows": (
        {"x.safetensors": shard({"a": tensor(0, 12, dtype="?", shape=[1 << 40, 1 << 40])}, bytes(12))},
        "safetensors",
        "tensor 'a'",
    ),
    "a negative shape": (
        {"x.safetensors": shard({"a": tensor(0, 12, shape=[-2, -3])}, bytes(12))},
        "safetensors",
        "tensor 'a'",
    ),
    "offsets that go back": ({"x.safetensors": shard({"a": tensor(12, 0, shape=[1])})}, "safetensors", "tensor 'a'"),
    "a tensor that is no object": ({"x.safetensors": shard({"a": 5})}, "safetensors", "tensor 'a'"),
    "a header that is a list": ({"x.safetensors": shard([])}, "safetensors", "no object"),
    "a header that is no JSON": ({"x.safetensors": shard(b"{oops")}, "json", "valid JSON"),
    "a tensor that is there twice": ({"x.safetensors": shard(b'{"a": 1, "a": 2}')}, "json", "twice"),
    "a header nested too deep": ({"x.safetensors": shard(b"[" * 100_000)}, "json", "valid JSON"),
    "a pickle by its name": ({"pytorch_model.bin": b"x"}, "pickle", "pytorch_model.bin is a pickle by its name"),
    "a pickle by its name in capitals": ({"X.PT": b"x"}, "pickle", "X.PT"),
    "a pickle by its first bytes": ({"state.dat": pickle.dumps([1])}, "pickle", "first bytes"),
    "a pickle under a good name": ({"x.safetensors": pickle.dumps([1], 2)}, "pickle", "first bytes"),
    "a torch archive": ({"state.dat": torch_archive()}, "pickle", "archive"),
    "a .tmp file": ({"model.safetensors.tmp": b""}, "temporary", "is a temporary file"),
    "a .tmp- file": ({"sub/.tmp-x": b""}, "temporary", "sub/.tmp-x"),
    "an .incomplete file": ({"x.incomplete": b""}, "temporary", "x.incomplete"),
    "a folder of temporary files": ({".tmp-step/config.json": b""}, "temporary", ".tmp-step"),
    "a name that not every system has": ({"a:b": b""}, "name", "a:b"),
    "names that differ in case alone": ({"Config.json": b""}, "name", "collide"),
}


@pytest.mark.parametrize(("files", "reason", "text"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_checkpoint_is_refused_for(tmp_path, files, reason, text):
    root = write(tmp_path / "c", {**GOOD_FILES, **files})
    with pytest.raises(CheckpointRefused) as caught:
        scan(root)
    assert caught.value.facts["reason"] == reason
    assert text in caught.value.message
    assert caught.value.hint
    assert (caught.value.exit_code, caught.value.http_status) == (2, 400)


@pytest.mark.parametrize("files", [{}, {"empty": b""}], ids=["no file", "no byte"])
def test_an_empty_directory_is_refused(tmp_path, files):
    (tmp_path / "c").mkdir()
    with pytest.raises(CheckpointRefused) as caught:
        scan(write(tmp_path / "c", files))
    assert caught.value.facts["reason"] == "empty"


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(GOOD)
    with pytest.raises(CheckpointRefused, match="not a directory"):
        scan(tmp_path / "x.safetensors")


def test_links_inside_the_checkpoint_are_files(tmp_path):
    root = write(tmp_path / "c", GOOD_FILES)
    (root / "same.json").symlink_to("config.json")
    assert ("same.json", 2) in scan(root)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("../outside", "link_out"),
        ("/etc/hostname", "link_out"),
        ("nowhere", "broken_link"),
        ("tokenizer", "link_to_directory"),
        (".", "link_to_directory"),
    ],
)
def test_links_that_lead_elsewhere_are_refused(tmp_path, target, reason):
    root = write(tmp_path / "c", GOOD_FILES)
    (tmp_path / "outside").write_bytes(b"secret")
    (root / "link").symlink_to(target)
    with pytest.raises(CheckpointRefused) as caught:
        scan(root)
    assert caught.value.facts["reason"] == reason
    assert "link" in caught.value.message


def test_a_link_that_points_at_itself_is_refused(tmp_path):
    root = write(tmp_path / "c", GOOD_FILES)
    (root / "link").symlink_to("link")
    with pytest.raises(CheckpointRefused):
        scan(root)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_refused(tmp_path, monkeypatch, kind):
    root = write(tmp_path / "c", GOOD_FILES)
    monkeypatch.chdir(root)  # the path of a socket must be short
    if kind == "pipe":
        os.mkfifo("special")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("special")
    with pytest.raises(CheckpointRefused, match="special is no plain file"):
        scan(root)


def test_a_header_over_the_limit_is_not_parsed(tmp_path):
    path = tmp_path / "c" / "x.safetensors"
    path.parent.mkdir()
    length = JSON_BYTES_MAX + 1
    path.write_bytes(length.to_bytes(8, "little"))
    os.truncate(path, 8 + length)
    with pytest.raises(CheckpointRefused, match="at most"):
        scan(path.parent)


@given(st.binary(max_size=200))
def test_any_bytes_are_either_a_checkpoint_or_refused(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("c")
    (root / "x.safetensors").write_bytes(data)
    try:
        scan(root)
    except CheckpointRefused:
        return
    safetensors.deserialize(data)  # what we accept, the library reads


# --- the demo ---


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    roots = [tmp_path_factory.mktemp(f"step-{step}") for step in (1, 2)]
    sizes = [write_demo_checkpoint(root, 3 << 20, seed=7, step=step) for step, root in enumerate(roots, 1)]
    return roots, sizes


def test_the_demo_checkpoint_may_be_published_and_has_about_the_size_asked_for(demo):
    (root, _), (size, _) = demo
    files = scan(root)
    assert sum(file.size for file in files) == size
    assert abs(size - (3 << 20)) < 200_000
    assert sum(name.endswith(".safetensors") for name, _ in files) == SHARDS


def test_the_demo_checkpoint_is_read_by_safetensors(demo):
    root = demo[0][0]
    index = json.loads((root / "model.safetensors.index.json").read_text())
    names, size = {}, 0
    for path in root.glob("*.safetensors"):
        for name, entry in safetensors.deserialize(path.read_bytes()):
            assert entry["dtype"] == "BF16"
            assert len(entry["data"]) == 2 * int(np.prod(entry["shape"]))
            names[name] = path.name
            size += len(entry["data"])
    assert names == index["weight_map"]
    assert size == index["metadata"]["total_size"]


def test_the_demo_checkpoint_looks_like_trained_weights(demo):
    elements = np.concatenate([elements_of(path) for path in demo[0][0].glob("*.safetensors")])
    values = (elements.astype(np.uint32) << 16).view(np.float32)
    assert np.isfinite(values).all()
    assert abs(float(values.std()) - 0.02) < 0.002


def test_a_step_of_the_demo_changes_one_element_in_a_hundred(demo):
    first, second = demo[0]
    changed = total = 0
    for path in first.glob("*.safetensors"):
        before, after = elements_of(path), elements_of(second / path.name)
        changed += int((before != after).sum())
        total += len(before)
    assert 0.008 < changed / total < 0.012
    assert (first / "config.json").read_bytes() == (second / "config.json").read_bytes()


def test_the_demo_is_the_same_each_time_and_never_written_into(demo, tmp_path):
    write_demo_checkpoint(tmp_path, 3 << 20, seed=7, step=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert all((tmp_path / name).read_bytes() == (demo[0][0] / name).read_bytes() for name in names)
    inodes = {path.stat().st_ino for path in tmp_path.iterdir()}
    links = tmp_path.parent / "links"
    links.mkdir()
    for name in names:
        (links / name).hardlink_to(tmp_path / name)
    write_demo_checkpoint(tmp_path, 3 << 20, seed=7, step=2)
    assert not inodes & {path.stat().st_ino for path in tmp_path.iterdir()}


@pytest.mark.parametrize("size", [BYTES_MIN, 1 << 20, 10 << 20])
def test_the_demo_writes_every_size(tmp_path, size):
    written = write_demo_checkpoint(tmp_path, size, seed=1, step=0)
    assert len(scan(tmp_path)) == SHARDS + 2
    assert 0.9 < written / size < 1.25


def test_a_demo_too_small_for_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least"):
        write_demo_checkpoint(tmp_path, BYTES_MIN - 1, seed=1, step=0)


def elements_of(path):
    data = path.read_bytes()
    return np.frombuffer(data, np.uint16, offset=8 + int.from_bytes(data[:8], "little"))

"""Tensors of numpy, buffers and raw bytes, as files that safetensors reads back."""

from __future__ import annotations

import array
import json
import resource
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from shardcast.checkpoint import scan
from shardcast.tensor_files import HEADER_ROOM_BYTES, write_tensors
from shardcast.tensors import ELEMENT_BYTES, RawTensor, view_of
from shardcast_proto.errors import ConfigError, StoreError

NUMPY_TYPES = ["bool", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8", "c8"]


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])


def stored(path: Path, name: str) -> bytes:
    data = path.read_bytes()
    begin, end = header_of(path)[name]["data_offsets"]
    start = 8 + int.from_bytes(data[:8], "little")
    return data[start + begin : start + end]


def written(folder: Path, tensors, **more):
    folder.mkdir(exist_ok=True)
    result = write_tensors(folder, tensors, **more)
    # what is written is what publish accepts
    scan(folder)
    return result


@pytest.mark.parametrize("kind", NUMPY_TYPES)
def test_an_array_of_each_type_is_read_back_as_it_was(tmp_path, kind):
    values = np.arange(24).reshape(2, 3, 4).astype(kind)
    written(tmp_path, {"w": values})
    loaded = load_file(tmp_path / "model.safetensors")["w"]
    assert (loaded.dtype, loaded.shape) == (values.dtype, values.shape)
    assert loaded.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "values",
    [
        np.float32(3),
        np.zeros((0, 4), "f4"),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(10)[::3],
        np.arange(6, dtype=">i4"),
    ],
    ids=["scalar", "empty", "transposed", "strided", "big-endian"],
)
def test_an_array_that_lies_in_memory_in_another_way_is_written_row_by_row(tmp_path, values):
    written(tmp_path, {"w": values, "x": np.ones(2)})
    loaded = load_file(tmp_path / "model.safetensors")["w"]
    assert loaded.shape == values.shape
    assert np.array_equal(loaded, values)


@pytest.mark.parametrize("dtype", sorted(ELEMENT_BYTES))
def test_raw_bytes_of_every_type_are_written_as_they_are(tmp_path, dtype):
    data = bytes(range(6 * ELEMENT_BYTES[dtype]))
    written(tmp_path, {"w": RawTensor(dtype, (2, 3), data)})
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        found = file.get_slice("w")
        assert (found.get_dtype(), found.get_shape()) == (dtype, [2, 3])
    assert stored(tmp_path / "model.safetensors", "w") == data


@pytest.mark.parametrize(
    ("buffer", "dtype"),
    [
        (b"abc", "U8"),
        (array.array("f", [1, 2]), "F32"),
        (array.array("q", [1, 2]), "I64"),
        (memoryview(array.array("H", [1, 2, 3, 4]))[::2], "U16"),
    ],
)
def test_a_buffer_is_a_tensor(tmp_path, buffer, dtype):
    written(tmp_path, {"w": buffer})
    assert header_of(tmp_path / "model.safetensors")["w"]["dtype"] == dtype
    assert stored(tmp_path / "model.safetensors", "w") == memoryview(buffer).tobytes()


def test_what_says_that_it_is_an_array_becomes_one(tmp_path):
    class Foreign:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype="i4")

    written(tmp_path, {"w": Foreign()})
    assert load_file(tmp_path / "model.safetensors")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": object()},
        {"w": [1.0, 2.0]},
        {"w": np.array(["text"])},
        {"w": np.zeros(2, "c16")},
        {"w": RawTensor("F7", (1,), b"1")},
        {"w": RawTensor("F32", (2,), b"1234")},
        {"__metadata__": np.zeros(2)},
        {"": np.zeros(2)},
        {3: np.zeros(2)},
        {b"w": np.zeros(2)},
        {"a\ud800": np.zeros(2)},
        [("a\udfff", np.zeros(2))],
        {"x" * HEADER_ROOM_BYTES: np.zeros(2)},
        {},
        [("w", np.zeros(2)), ("w", np.ones(2))],
        ["w"],
        iter([]),
    ],
)
def test_what_is_no_tensor_or_no_name_is_refused(tmp_path, tensors):
    with pytest.raises(ConfigError):
        write_tensors(tmp_path, tensors)


@pytest.mark.parametrize("shard_bytes", [0, -1])
def test_a_shard_that_holds_nothing_is_refused(tmp_path, shard_bytes):
    with pytest.raises(ConfigError):
        write_tensors(tmp_path, {"w": np.zeros(2)}, shard_bytes=shard_bytes)


# --- ties ---


def test_two_names_of_one_array_are_one_tensor_and_a_tie(tmp_path):
    embedding = np.arange(8, dtype="f4").reshape(2, 4)
    result = written(tmp_path, {"embed": embedding, "other": embedding.copy(), "head": embedding})
    header = header_of(tmp_path / "model.safetensors")
    assert header["__metadata__"] == {"format": "pt", "head": "embed"}
    assert sorted(header) == ["__metadata__", "embed", "other"]
    assert result == (2, 64, {"head": "embed"})


@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[:1], lambda a: a.view("i4"), lambda a: a.reshape(-1)])
def test_another_look_at_the_same_memory_is_a_tensor_of_its_own(tmp_path, view):
    values = np.arange(9, dtype="f4").reshape(3, 3)
    result = written(tmp_path, {"a": values, "b": view(values)})
    assert result.ties == {}
    assert np.array_equal(load_file(tmp_path / "model.safetensors")["b"], view(values))


def test_memory_that_was_freed_and_given_to_the_next_tensor_is_no_tie(tmp_path):
    addresses = []

    def transient():
        for number in range(50):
            values = np.full(4096, number, "f4")
            addresses.append(values.__array_interface__["data"][0])
            yield f"t{number}", values
            del values

    result = written(tmp_path, transient())
    assert len(set(addresses)) < 50, "the memory was never used again, so nothing was tested"
    assert result.ties == {}
    loaded = load_file(tmp_path / "model.safetensors")
    assert all((loaded[f"t{number}"] == number).all() for number in range(50))


def test_a_tensor_of_an_iterator_is_let_go_of_once_it_is_written(tmp_path):
    alive = []

    def transient():
        for number in range(3):
            values = np.full(64, number, "f4")
            alive.append(weakref.ref(values))
            yield f"t{number}", values
            del values
        assert [reference() for reference in alive[:2]] == [None, None]

    written(tmp_path, transient())


def test_a_tie_to_a_tensor_of_an_earlier_shard_stands_in_that_shard(tmp_path):
    arrays = [np.full(1024, number, "f4") for number in range(3)]
    tensors = {"a": arrays[0], "b": arrays[1], "c": arrays[2], "again": arrays[0]}
    written(tmp_path, tensors, shard_bytes=4096)
    first = tmp_path / "model-00001-of-00003.safetensors"
    assert header_of(first)["__metadata__"] == {"format": "pt", "again": "a"}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {"a", "b", "c"}
    assert index["metadata"]["total_size"] == 3 * 4096


# --- shards ---


def test_shards_end_before_they_are_too_large(tmp_path):
    tensors = {f"t{number}": np.full(1000, number, "f4") for number in range(10)}
    written(tmp_path, iter(tensors.items()), shard_bytes=10_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name for path in shards] == [f"model-{n:05d}-of-00005.safetensors" for n in range(1, 6)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    for name, values in tensors.items():
        assert np.array_equal(load_file(tmp_path / index[name])[name], values)


def test_a_header_without_room_ends_the_shard(tmp_path):
    names = [f"{'x' * 1000}{number}" for number in range(600)]
    written(tmp_path, ((name, np.full(2, 1.0, "f4")) for name in names))
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 3
    assert sorted(name for path in shards for name in load_file(path)) == sorted(names)


def test_a_large_tensor_of_a_broken_size_gets_a_shard_of_its_own(tmp_path):
    tensors = {"a": np.ones(8, "f4"), "mask": np.ones((1 << 21) + 1, "bool"), "b": np.ones(8, "f8")}
    written(tmp_path, tensors)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len({index[name] for name in tensors}) == 3


def test_the_same_tensors_make_the_same_bytes(tmp_path):
    tensors = {f"t{n}": np.full(n + 1, n, kind) for n, kind in enumerate(NUMPY_TYPES)}
    for folder in ("a", "b"):
        written(tmp_path / folder, tensors)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(NUMPY_TYPES), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=12),
    st.integers(1, 400),
    st.booleans(),
)
def test_any_tensors_are_read_back_and_aligned(tmp_path_factory, kinds, shard_bytes, is_iterator):
    folder = tmp_path_factory.mktemp("any")
    tensors = {f"t{n}": np.full(shape, n % 2, kind) for n, (kind, shape) in enumerate(kinds)}
    write_tensors(folder, iter(tensors.items()) if is_iterator else tensors, shard_bytes=shard_bytes)
    loaded: dict[str, np.ndarray] = {}
    for path in folder.glob("*.safetensors"):
        loaded |= load_file(path)
        for name, entry in header_of(path).items():
            if name != "__metadata__":
                assert entry["data_offsets"][0] % ELEMENT_BYTES[entry["dtype"]] == 0
    assert sorted(loaded) == sorted(tensors)
    for name, values in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (values.dtype, values.shape)
        assert loaded[name].tobytes() == values.tobytes()


def test_a_disk_that_takes_no_more_is_said(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(StoreError, match="EFBIG while writing"):
            write_tensors(tmp_path, {"w": np.ones(1 << 16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_tensor_is_looked_at_without_being_read():
    class Lazy(np.ndarray):
        pass

    view = view_of("w", np.zeros((3, 5), "f2").view(Lazy))
    assert (view.dtype, view.shape, view.size_bytes) == ("F16", (3, 5), 30)

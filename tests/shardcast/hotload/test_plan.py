"""Which published tensor becomes which live one: names, shapes, types, ties, and headers that cannot be right."""

from __future__ import annotations

import json

import pytest

from shardcast.hotload import DoesNotFit, VersionOnDisk
from shardcast_proto.errors import HotLoadError
from shardcast_proto.hashing import digest_of
from shardcast_proto.manifest import Manifest, sort_by_path
from tests.shardcast.hotload.weights import CHUNK, Model, filled, loader_of, published, snapshot, torch

STAGINGS = ["device", "host", "inplace"]


def test_one_error_lists_all_that_does_not_fit(tmp_path):
    version = published(
        tmp_path / "v",
        {
            "more": torch.zeros(3),
            "shape": torch.zeros(1, 3),
            "type": torch.zeros(4, dtype=torch.float16),
            "same": torch.ones(2),
        },
    )
    live = {"less": torch.zeros(3), "shape": torch.zeros(3), "type": torch.zeros(4), "same": torch.zeros(2)}
    with loader_of(live) as loader, pytest.raises(DoesNotFit) as refused:
        loader.load(version)
    expected = {
        "missing": ["less"],
        "extra": ["more"],
        "shapes": ["shape is [3] here and [1, 3] there"],
        "dtypes": ["type is F32 here and F16 there"],
    }
    assert {key: refused.value.facts[key] for key in expected} == expected
    assert all(text in refused.value.message for texts in expected.values() for text in texts)
    assert "names=" in (refused.value.hint or "")
    assert snapshot(live) == {name: bytes(tensor.nbytes) for name, tensor in live.items()}


def test_names_are_renamed_and_left_out(tmp_path):
    version = published(tmp_path / "v", {"model.a": torch.ones(3), "model.b": torch.ones(2), "rotary": torch.ones(9)})
    live = {"a": torch.zeros(3), "b": torch.zeros(2)}
    names = {"model.a": "a", "model.b": "b", "rotary": None}
    with loader_of(live, names=names.get) as loader:
        loader.load(version)
        loader.commit()
    assert snapshot(live) == {"a": torch.ones(3).numpy().tobytes(), "b": torch.ones(2).numpy().tobytes()}


# --- ties ---


def test_weights_published_by_save_model_know_their_ties(tmp_path):
    safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    trained, engine = Model(), Model()
    (tmp_path / "v").mkdir()
    safetensors_torch.save_model(trained, str(tmp_path / "v" / "model.safetensors"))
    version = VersionOnDisk.sealed(tmp_path / "v", chunk_size=CHUNK)
    with loader_of(engine) as loader:
        loader.load(version)
        loader.commit()
    assert torch.equal(engine.head.weight, trained.head.weight)


def test_weights_tied_in_the_version_and_apart_here_are_both_written(tmp_path):
    weight = filled(1, torch.float32, 10, 10)
    version = published(tmp_path / "v", {"a": weight, "b": weight})
    live = {"a": torch.zeros(10, 10), "b": torch.zeros(10, 10)}
    with loader_of(live) as loader:
        loader.load(version)
        loader.commit()
    assert snapshot(live) == snapshot({"a": weight, "b": weight})


@pytest.mark.parametrize("staging", STAGINGS)
def test_weights_tied_here_and_apart_in_the_version_must_be_the_same(tmp_path, staging):
    weight = filled(1, torch.float32, 300, 400)
    other = weight.clone()
    other.view(-1)[-1] = 0
    tied = torch.zeros(300, 400)
    same = published(tmp_path / "same", {"a": weight, "b": weight.clone()})
    differs = published(tmp_path / "differs", {"a": weight, "b": other})
    live = {"a": tied, "b": tied}
    with loader_of(live, staging=staging) as loader:
        with pytest.raises(DoesNotFit, match="one tensor here and have different bytes"):
            loader.load(differs)
        assert not tied.any()
        loader.load(same)
        loader.commit()
    assert snapshot({"w": tied}) == snapshot({"w": weight})


# --- headers ---


def broken_file(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"config.json": b"{}"}, "has no .safetensors file"),
        ({"model.safetensors": b"abc"}, "too few for a header"),
        ({"model.safetensors": (99).to_bytes(8, "little")}, "its header has 99 bytes"),
        ({"model.safetensors": (2).to_bytes(8, "little") + b"[]"}, "holds no JSON object"),
        ({"model.safetensors": (2).to_bytes(8, "little") + b"{a"}, "does not hold valid JSON"),
        ({"model.safetensors": broken_file({"w": 1})}, "without a type, shape and offsets"),
        (
            {"model.safetensors": broken_file({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4))},
            "which its type and shape do not have",
        ),
        (
            {"model.safetensors": broken_file({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4))},
            "promises",
        ),
        (
            {
                "model.safetensors": broken_file(
                    {
                        "v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                        "w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
                    },
                    bytes(12),
                )
            },
            "overlap",
        ),
        ({"model.safetensors.index.json": b"{}"}, "has no weight_map"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"w": "gone.safetensors"}}'},
            "names gone.safetensors, which the version does not have",
        ),
        (
            {
                "a.safetensors": broken_file({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1"),
                "b.safetensors": broken_file({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1"),
            },
            "so has another file",
        ),
    ],
)
def test_headers_that_cannot_be_right_are_refused(tmp_path, files, match):
    sizes = [(name, len(data)) for name, data in files.items()]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    digests = b"".join(digest_of(files[name]) for name, _ in sort_by_path(sizes))
    version = VersionOnDisk(tmp_path, Manifest.build(sizes, CHUNK, digests))
    with loader_of({"w": torch.zeros(2)}) as loader, pytest.raises(HotLoadError, match=match):
        loader.load(version)

"""Tensors of torch, as files that safetensors gives back to torch."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest

from shardcast.checkpoint import scan
from shardcast.tensor_files import write_tensors
from shardcast_proto.errors import ConfigError

torch = pytest.importorskip("torch", reason="needs torch: make torch")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs safetensors")

KINDS = [
    "bfloat16",
    "float16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
    "complex64",
]


def written(folder, tensors, **more):
    result = write_tensors(folder, tensors, **more)
    scan(folder)
    return result


def metadata_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def as_bytes(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_each_type_comes_back_bit_for_bit(tmp_path, kind):
    dtype = getattr(torch, kind)
    bits = torch.arange(256, dtype=torch.uint8)
    tensor = (bits < 99) if kind == "bool" else bits.view(dtype)
    tensors = {"w": tensor.reshape(2, -1), "scalar": tensor[3].reshape(()), "empty": torch.zeros((0, 3), dtype=dtype)}
    written(tmp_path, tensors)
    loaded = safetensors_torch.load_file(tmp_path / "model.safetensors")
    for name, expected in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (dtype, expected.shape)
        assert as_bytes(loaded[name]) == as_bytes(expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda base: base.T,
        lambda base: base[::2, 1:],
        lambda base: base.expand(2, 4, 6),
        lambda base: torch.complex(base, base).conj(),
        lambda base: torch.nn.Parameter(base),
    ],
    ids=["transposed", "strided", "expanded", "conjugated", "parameter"],
)
def test_a_view_is_written_as_the_values_that_it_shows(tmp_path, make):
    tensor = make(torch.arange(24.0).reshape(4, 6))
    written(tmp_path, {"w": tensor, "x": torch.ones(2)})
    loaded = safetensors_torch.load_file(tmp_path / "model.safetensors")["w"]
    assert torch.equal(loaded, tensor.detach().resolve_conj())


class Tied(torch.nn.Module):  # type: ignore[name-defined, misc]
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)
        self.body = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_are_written_once_and_a_model_loads_them_tied(tmp_path):
    torch.manual_seed(1)
    model = Tied()
    result = written(tmp_path, model.state_dict())
    path = tmp_path / "model.safetensors"
    assert result.ties == {"head.weight": "embed.weight"}
    assert metadata_of(path) == {"format": "pt", "head.weight": "embed.weight"}
    assert sorted(safetensors_torch.load_file(path)) == ["body.bias", "body.weight", "embed.weight"]
    other = Tied()
    missing, unexpected = safetensors_torch.load_model(other, path)
    assert (missing, unexpected) == (set(), [])
    assert other.head.weight.data_ptr() == other.embed.weight.data_ptr()
    assert torch.equal(other.head.weight, model.head.weight)


def test_the_tie_metadata_is_that_of_safetensors_own_writer(tmp_path):
    model = Tied()
    (tmp_path / "ours").mkdir()
    written(tmp_path / "ours", model.state_dict())
    safetensors_torch.save_model(model, str(tmp_path / "theirs.safetensors"), metadata={"format": "pt"})
    assert metadata_of(tmp_path / "ours/model.safetensors") == metadata_of(tmp_path / "theirs.safetensors")


def test_views_made_anew_for_an_iterator_are_still_tied(tmp_path):
    model = Tied()
    pairs = ((name, weight.detach()) for name, weight in model.named_parameters(remove_duplicate=False))
    assert written(tmp_path, pairs).ties == {"head.weight": "embed.weight"}


def test_freed_memory_that_is_used_again_is_no_tie(tmp_path):
    addresses = set()
    memory = np.empty(1 << 14, np.float32)

    def gathered():
        for number in range(40):
            memory.fill(number)
            tensor = torch.from_numpy(
                memory
            )  # what an allocator does at times: the memory of the one before, which is gone
            addresses.add(tensor.data_ptr())
            yield f"t{number}", tensor
            del tensor
            gc.collect(0)

    result = written(tmp_path, gathered())
    assert len(addresses) == 1
    assert result.ties == {}
    loaded = safetensors_torch.load_file(tmp_path / "model.safetensors")
    assert all(bool((loaded[f"t{number}"] == number).all()) for number in range(40))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.zeros(3, dtype=torch.complex128),
        lambda: torch.zeros(3, dtype=torch.float8_e4m3fnuz),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ],
    ids=["meta", "sparse", "complex128", "fnuz", "quantised"],
)
def test_a_tensor_without_plain_bytes_is_refused(tmp_path, make):
    with pytest.raises(ConfigError):
        write_tensors(tmp_path, {"w": make()})


def test_a_sharded_tensor_is_refused_instead_of_waiting_for_the_other_ranks(tmp_path):
    class Sharded(torch.Tensor):  # type: ignore[name-defined, misc]
        def full_tensor(self):
            raise AssertionError("gathered on one rank alone")

    with pytest.raises(ConfigError, match="several ranks"):
        write_tensors(tmp_path, {"w": torch.ones(3).as_subclass(Sharded)})


def test_torch_and_numpy_make_the_same_bytes(tmp_path):
    values = np.arange(30, dtype="f4").reshape(5, 6)
    for name, tensor in (("a", values), ("b", torch.from_numpy(values))):
        (tmp_path / name).mkdir()
        written(tmp_path / name, {"w": tensor})
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.gpu
def test_a_tensor_on_a_device_is_copied_from_it(tmp_path):
    tensor = torch.arange(4096, dtype=torch.bfloat16, device="cuda")
    written(tmp_path, {"w": tensor, "again": tensor})
    loaded = safetensors_torch.load_file(tmp_path / "model.safetensors")
    assert torch.equal(loaded["w"], tensor.cpu())
    assert metadata_of(tmp_path / "model.safetensors")["again"] == "w"

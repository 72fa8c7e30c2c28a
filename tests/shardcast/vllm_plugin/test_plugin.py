"""The plugin inside a package that has vLLM's names and calls it as vLLM does."""

from __future__ import annotations

import importlib
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from shardcast.vllm_plugin import register
from shardcast.vllm_plugin.weights import layer_order
from shardcast.vllm_plugin.worker import WorkerExtension

torch = pytest.importorskip("torch", reason="needs torch: make torch")

ROOT = Path(__file__).resolve().parents[3]
#: A factory and base classes with the names and signatures of vLLM's, a reload that notes what it was called with.
FILES = {
    "vllm/__init__.py": "",
    "vllm/distributed/__init__.py": "",
    "vllm/distributed/weight_transfer/__init__.py": "",
    "vllm/distributed/weight_transfer/factory.py": """
import importlib

class WeightTransferEngineFactory:
    _registry = {}

    @classmethod
    def register_engine(cls, name, module_path_or_cls, class_name=None):
        if name in cls._registry:
            raise ValueError(f"Weight transfer engine '{name}' is already registered.")
        cls._registry[name] = lambda: getattr(importlib.import_module(module_path_or_cls), class_name)
""",
    "vllm/distributed/weight_transfer/base.py": """
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

A, B = TypeVar("A"), TypeVar("B")

@dataclass
class WeightTransferInitInfo(ABC):
    pass

@dataclass
class WeightTransferUpdateInfo(ABC):
    pass

class WeightTransferEngine(ABC, Generic[A, B]):
    def __init__(self, config, vllm_config, device, model):
        self.model, self.model_config = model, vllm_config.model_config

    def parse_init_info(self, values):
        try:
            return self.init_info_cls(**values)
        except TypeError as error:
            raise ValueError(f"Invalid init_info: {error}") from error

    def update_weights(self, values):
        self.receive_weights(self.update_info_cls(**values))

    @abstractmethod
    def init_transfer_engine(self, init_info): ...
    @abstractmethod
    def start_weight_update(self): ...
    @abstractmethod
    def finish_weight_update(self): ...
    @abstractmethod
    def receive_weights(self, update_info): ...
    @abstractmethod
    def shutdown(self): ...
    @staticmethod
    @abstractmethod
    def trainer_send_weights(iterator, trainer_args): ...
""",
    "vllm/model_executor/__init__.py": "",
    "vllm/model_executor/model_loader/__init__.py": "",
    "vllm/model_executor/model_loader/reload.py": """
calls = []

def initialize_layerwise_reload(model):
    calls.append(("initialize", model))

def finalize_layerwise_reload(model, model_config):
    calls.append(("finalize", model, model_config))
""",
}


class Model:
    """Takes weights as a vLLM model does."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def load_weights(self, weights: Any) -> set[str]:
        for name, tensor in weights:
            self.loaded[name] = tensor.clone()
        return set(self.loaded)


class Config:
    model_config = "the model's configuration"


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, text in FILES.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield importlib.import_module("vllm.distributed.weight_transfer.factory").WeightTransferEngineFactory
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]
    sys.modules.pop("shardcast.vllm_plugin.transfer", None)


def checkpoint(home: Path) -> Path:
    from safetensors.torch import save_file

    path = home / "v1"
    path.mkdir()
    save_file(
        {"model.layers.10.w": torch.full((2,), 10.0), "model.layers.9.w": torch.full((2,), 9.0)}, path / "b.safetensors"
    )
    save_file(
        {"model.layers.0.w": torch.arange(3, dtype=torch.bfloat16), "lm_head.w": torch.ones(1)}, path / "a.safetensors"
    )
    return path


def test_vllm_finds_the_plugin_by_its_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["vllm.general_plugins"]["shardcast"]
    assert EntryPoint("shardcast", named, "vllm.general_plugins").load() is register


def test_a_vllm_without_backends_is_left_as_it_is():
    assert "vllm" not in sys.modules
    register()


def test_an_update_loads_the_directory_layer_by_layer(vllm: Any, tmp_path: Path):
    register()
    register()
    engine_class = vllm._registry["shardcast"]()
    model = Model()
    engine = engine_class(None, Config, None, model)
    engine.init_transfer_engine(engine.parse_init_info({"shardcast": 1}))
    engine.start_weight_update()
    path = checkpoint(tmp_path)
    engine.update_weights({"path": str(path), "version": "1@b3:00", "manifest": "b3:00"})
    engine.finish_weight_update()
    assert list(model.loaded) == ["lm_head.w", "model.layers.0.w", "model.layers.9.w", "model.layers.10.w"]
    assert model.loaded["model.layers.0.w"].dtype == torch.bfloat16 and model.loaded["model.layers.10.w"].tolist() == [
        10.0,
        10.0,
    ]
    calls = importlib.import_module("vllm.model_executor.model_loader.reload").calls
    assert calls == [("initialize", model), ("finalize", model, Config.model_config)]
    engine.shutdown()


def test_an_older_vllm_hands_over_its_own_loader(vllm: Any, tmp_path: Path):
    register()
    engine = vllm._registry["shardcast"]()(None, Config, None, Model())
    other = Model()
    info = engine.update_info_cls(str(checkpoint(tmp_path)), "1", "b3:00")
    engine.receive_weights(info, load_weights=other.load_weights)
    assert len(other.loaded) == 4 and not engine.model.loaded


@pytest.mark.parametrize("greeting", [{}, {"shardcast": 2}, {"master_address": "127.0.0.1"}])
def test_another_greeting_is_refused(vllm: Any, greeting: dict[str, Any]):
    register()
    engine = vllm._registry["shardcast"]()(None, Config, None, Model())
    with pytest.raises(ValueError):
        engine.parse_init_info(greeting)


def test_a_directory_that_is_no_version_is_refused_before_a_tensor_is_loaded(vllm: Any, tmp_path: Path):
    from safetensors.torch import save_file

    register()
    model = Model()
    engine = vllm._registry["shardcast"]()(None, Config, None, model)
    (tmp_path / "empty").mkdir()
    info = {"version": "1", "manifest": "b3:00"}
    with pytest.raises(ValueError, match="no tensors"):
        engine.update_weights({"path": str(tmp_path / "empty"), **info})
    path = checkpoint(tmp_path)
    save_file({"lm_head.w": torch.zeros(1)}, path / "c.safetensors")
    with pytest.raises(ValueError, match="second tensor"):
        engine.update_weights({"path": str(path), **info})
    assert not model.loaded


def test_the_worker_extension_loads_into_the_workers_model(vllm: Any, tmp_path: Path):
    class Runner:
        model = Model()
        vllm_config = Config

    worker = type("Worker", (WorkerExtension,), {"model_runner": Runner, "device": torch.device("cpu")})()
    assert worker.shardcast_load(str(checkpoint(tmp_path)), "b3:00") == "b3:00"
    assert len(Runner.model.loaded) == 4
    assert len(importlib.import_module("vllm.model_executor.model_loader.reload").calls) == 2


def test_layers_are_ordered_by_number():
    names = ["layers.10.a", "layers.9.b", "layers.9.a", "embed", "norm"]
    assert sorted(names, key=layer_order) == ["embed", "layers.9.a", "layers.9.b", "layers.10.a", "norm"]

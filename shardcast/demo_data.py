"""A demo checkpoint: a made-up language model in the layout that Hugging Face uses.

Several shards of bfloat16 tensors in safetensors files, their index, a config. The weights are normally distributed, as trained ones
nearly are; each step after the first moves about 1 % of them by a little, as a step of reinforcement learning does. The same
seed with the same step gives the same bytes. Needs numpy alone: neither torch nor safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Elements that a step changes, as a share: what has been reported for steps of reinforcement learning in bfloat16.
CHANGED_SHARE: Final = 0.01
SHARDS: Final = 5
#: Smaller than this there is no room for one layer.
BYTES_MIN: Final = 256 * 1024

_ELEMENT_BYTES: Final = 2
_LAYERS_MAX: Final = 24
_HIDDEN_MIN: Final = 64
_HIDDEN_MAX: Final = 4096
#: The layers take this share of the model at most; the vocabulary takes the rest.
_LAYERS_SHARE: Final = 0.85


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return self.shape[0] * (self.shape[1] if len(self.shape) > 1 else 1)


class _Model(NamedTuple):
    hidden: int
    layers: int
    vocabulary: int


def write_demo_checkpoint(path: Path, total_bytes: int, seed: int, step: int) -> int:
    """Write a checkpoint of about `total_bytes` below `path`, and return the bytes that it really has.

    Files that are there already are replaced, never written into: they may be linked to published ones.

    Raises:
        ValueError: `total_bytes` is below `BYTES_MIN`, or `step` below 0.
    """
    if total_bytes < BYTES_MIN or step < 0:
        raise ValueError(f"a demo checkpoint has at least {BYTES_MIN} bytes, its step is not negative")
    path.mkdir(parents=True, exist_ok=True)
    model = _size_model(total_bytes)
    weight_map: dict[str, str] = {}
    written = weights = number = 0
    for count, shard in enumerate(_shards(model), 1):
        name = f"model-{count:05d}-of-{SHARDS:05d}.safetensors"
        weight_map.update((tensor.name, name) for tensor in shard)
        written += _write_shard(path / name, shard, (seed, step, number))
        weights += sum(tensor.elements for tensor in shard) * _ELEMENT_BYTES
        number += len(shard)
    index = {"metadata": {"total_size": weights}, "weight_map": weight_map}
    written += _write(path / "model.safetensors.index.json", _json(index))
    return written + _write(path / "config.json", _json(_config(model)))


def _size_model(total_bytes: int) -> _Model:
    elements = total_bytes // _ELEMENT_BYTES
    hidden = _HIDDEN_MAX
    while hidden > _HIDDEN_MIN and _layer_elements(hidden) * _LAYERS_MAX > elements * _LAYERS_SHARE:
        hidden -= _HIDDEN_MIN
    layers = max(1, min(_LAYERS_MAX, int(elements * _LAYERS_SHARE) // _layer_elements(hidden)))
    vocabulary = (elements - layers * _layer_elements(hidden) - hidden) // hidden
    return _Model(hidden, layers, max(vocabulary, 1))


def _layer_elements(hidden: int) -> int:
    return sum(tensor.elements for tensor in _layer(0, hidden))


def _layer(layer: int, hidden: int) -> list[_Tensor]:
    square, wide = (hidden, hidden), 3 * hidden
    shapes = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, wide),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "post_attention_layernorm": (hidden,),
        **{f"self_attn.{part}_proj": square for part in "kqvo"},
    }
    return [_Tensor(f"model.layers.{layer}.{name}.weight", shape) for name, shape in shapes.items()]


def _shards(model: _Model) -> Iterator[list[_Tensor]]:
    tensors = [_Tensor("model.embed_tokens.weight", (model.vocabulary, model.hidden))]
    for layer in range(model.layers):
        tensors += _layer(layer, model.hidden)
    tensors.append(_Tensor("model.norm.weight", (model.hidden,)))
    share = sum(tensor.elements for tensor in tensors) / SHARDS
    shards: list[list[_Tensor]] = [[] for _ in range(SHARDS)]
    before = 0
    for place, tensor in enumerate(tensors):
        # every shard gets at least one tensor, each begins near its share of the whole
        room = len(tensors) - place - 1
        current = min(int(before / share), SHARDS - 1)
        first_empty = next((number for number, shard in enumerate(shards) if not shard), SHARDS - 1)
        current = min(current, first_empty)
        if SHARDS - first_empty > room:
            current = first_empty
        shards[current].append(tensor)
        before += tensor.elements
    yield from shards


def _write_shard(path: Path, tensors: list[_Tensor], source: tuple[int, int, int]) -> int:
    seed, step, first_number = source
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.elements * _ELEMENT_BYTES
        header[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for number, tensor in enumerate(tensors, first_number):
            file.write(_weights(tensor, seed, step, number).data)
    temporary.replace(path)
    return 8 + len(encoded) + offset


def _weights(tensor: _Tensor, seed: int, step: int, number: int) -> NDArray[np.uint16]:
    """Return a tensor's bfloat16 elements: the upper halves of float32 ones."""
    import numpy as np

    generator = np.random.Generator(np.random.SFC64([seed, number, 0]))
    # drawing from 65,536 normal values is ten times as fast as drawing normal values
    values = (generator.standard_normal(1 << 16, dtype=np.float32) * 0.02).view(np.uint32)
    elements = (values >> 16).astype(np.uint16)[generator.integers(0, 1 << 16, tensor.elements, dtype=np.uint16)]
    changed = max(1, int(tensor.elements * CHANGED_SHARE))
    for moved in range(1, step + 1):
        generator = np.random.Generator(np.random.SFC64([seed, number, moved]))
        # one place for each hundredth of the tensor, so that none is hit twice
        places = np.arange(changed) * (tensor.elements // changed)
        places += generator.integers(0, tensor.elements // changed, changed)
        elements[places] ^= generator.integers(1, 4, changed, dtype=np.uint16)
    return elements


def _config(model: _Model) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model.hidden,
        "intermediate_size": 3 * model.hidden,
        "num_attention_heads": model.hidden // 64,
        "num_key_value_heads": model.hidden // 64,
        "num_hidden_layers": model.layers,
        "vocab_size": model.vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _write(path: Path, data: bytes) -> int:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_bytes(data)
    temporary.replace(path)
    return len(data)

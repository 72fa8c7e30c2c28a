"""The weights that the hot-load bench loads: models of some size and type, published as versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from shardcast.hotload import VersionOnDisk
from shardcast.tensor_files import SHARD_BYTES, write_tensors

CHUNK_BYTES = 256 * 1024
_VOCABULARY, _WIDTH = 4096, 1024
_MIXED = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
)
Tensors = dict[str, Any]


def model(size_bytes: int, dtype: Any, *, seed: int, width: int = _WIDTH) -> Tensors:
    """Return the tensors of a small transformer with tied embeddings, of at least so many bytes, random."""
    generator = torch.Generator().manual_seed(seed)

    def fresh(*shape: int) -> Any:
        count = torch.empty(shape, dtype=dtype).nbytes
        return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)

    embed = fresh(_VOCABULARY, width)
    tensors = {"embed.weight": embed}
    size, layer = embed.nbytes, 0
    while size < size_bytes:
        parts = {
            "norm.weight": fresh(width),
            "attn.qkv.weight": fresh(3 * width, width),
            "attn.out.weight": fresh(width, width),
            "mlp.up.weight": fresh(4 * width, width),
            "mlp.down.weight": fresh(width, 4 * width),
        }
        tensors.update({f"layers.{layer}.{name}": tensor for name, tensor in parts.items()})
        size += sum(tensor.nbytes for tensor in parts.values())
        layer += 1
    tensors["lm_head.weight"] = embed
    return tensors


def mixed(seed: int) -> Tensors:
    """Return small tensors of every type, tied ones, a scalar, one without elements."""
    tensors: Tensors = {}
    for number, dtype in enumerate(_MIXED):
        each = model(0, dtype, seed=seed + number, width=16 + number)
        tensors[f"{number}.weight"] = each["embed.weight"][: 200 + number].clone()
    large = model(0, torch.bfloat16, seed=seed + 100, width=100)["embed.weight"]
    return {
        **tensors,
        "embed.weight": large,
        "lm_head.weight": large,
        "flags": torch.arange(999) % (seed + 1) == 0,
        "scale": torch.tensor(float(seed)),
        "nothing": torch.empty(0, 3),
    }


def mixed_bytes() -> int:
    """Return the size of `mixed`."""
    return sum(int(tensor.nbytes) for tensor in unique(mixed(0)))


def publish(directory: Path, tensors: Tensors, *, shard_bytes: int = SHARD_BYTES) -> VersionOnDisk:
    """Write a version, in chunks of the smallest size."""
    directory.mkdir(parents=True)
    write_tensors(directory, tensors, shard_bytes=shard_bytes)
    return VersionOnDisk.sealed(directory, chunk_size=CHUNK_BYTES)


def publish_two(home: Path, size_bytes: int) -> list[VersionOnDisk]:
    """Write two versions of one bf16 model, in chunks of the size that a publisher chooses."""
    versions = []
    for seed in (1, 2):
        directory = home / str(seed)
        directory.mkdir(parents=True)
        write_tensors(directory, model(size_bytes, torch.bfloat16, seed=seed), shard_bytes=512 * 2**20)
        versions.append(sealed(directory))
    return versions


def sealed(directory: Path) -> VersionOnDisk:
    """Return the version that a directory holds."""
    return VersionOnDisk.sealed(directory)


def read(version: VersionOnDisk, device: str) -> Tensors:
    """Read a version's tensors by the library of its format, with the ties of `model`."""
    from safetensors.torch import load_file

    tensors: Tensors = {}
    for path in sorted(version.path.glob("*.safetensors")):
        # a copy: what the library gives is a view of one large memory
        tensors.update({name: tensor.clone() for name, tensor in load_file(path, device=device).items()})
    tensors["lm_head.weight"] = tensors["embed.weight"]
    return tensors


def blank(tensors: Tensors, device: str) -> Tensors:
    """Return zeros of the same shapes and types, tied in the same way."""
    made: dict[int, Any] = {}
    for tensor in tensors.values():
        made.setdefault(id(tensor), torch.zeros(tensor.shape, dtype=tensor.dtype, device=device))
    return {name: made[id(tensor)] for name, tensor in tensors.items()}


def unique(tensors: Tensors) -> list[Any]:
    """Return each memory once, in the order of the names."""
    return list(_unique(tensors))


def same(tensor: Any, other: Any) -> bool:
    """Return whether two tensors have the same bytes."""
    left, right = (each.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for each in (tensor, other))
    return bool(torch.equal(left, right))


def _unique(tensors: Tensors) -> Iterator[Any]:
    seen: set[int] = set()
    for name in sorted(tensors):
        if id(tensors[name]) not in seen:
            seen.add(id(tensors[name]))
            yield tensors[name]

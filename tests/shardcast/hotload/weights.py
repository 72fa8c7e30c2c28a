"""Weights of every kind, published as a version, with what a test wants to know of live tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: make torch")

from shardcast.hotload import CpuBackend, HotLoader, VersionOnDisk  # noqa: E402
from shardcast.hotload.recording import RecordingBackend  # noqa: E402
from shardcast.tensor_files import write_tensors  # noqa: E402

CHUNK = 256 * 1024
DTYPES = [
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
    torch.bool,
]
Tensors = dict[str, Any]


def filled(seed: int, dtype: Any, *shape: int) -> Any:
    """Return a tensor of random bytes; a `bool` is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).to(torch.bool)
    count = torch.empty(shape, dtype=dtype).nbytes
    data = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def every_kind(seed: int) -> Tensors:
    """Return tensors of every type, one larger than a slab of one chunk, tied ones, a scalar, one without elements."""
    tensors = {f"layers.{n}.weight": filled(seed + n, dtype, 37, 5 + n) for n, dtype in enumerate(DTYPES)}
    tensors["embed.weight"] = filled(seed + 50, torch.bfloat16, 331, 517)
    tensors["lm_head.weight"] = tensors["embed.weight"]
    tensors["scale"] = filled(seed + 51, torch.float32)
    tensors["nothing"] = torch.empty(0, 3)
    return tensors


def few_kinds(seed: int) -> Tensors:
    """Return what makes a load have all of its steps, and few of each."""
    tensors = every_kind(seed)
    return {name: tensors[name] for name in ("layers.0.weight", "layers.4.weight", *list(tensors)[-4:])}


def live_of(tensors: Mapping[str, Any], seed: int = 900, device: str = "cpu") -> Tensors:
    """Return other values in the same shapes, tied in the same way, on a device."""
    made: dict[int, Any] = {}
    live: Tensors = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        key = id(tensor)
        if key not in made:
            made[key] = filled(seed + number, tensor.dtype, *tensor.shape).to(device)
        live[name] = made[key]
    return live


def published(directory: Path, tensors: Mapping[str, Any], *, shard_bytes: int = 200_000) -> VersionOnDisk:
    """Write a checkpoint of several shards, and seal it."""
    directory.mkdir(parents=True)
    write_tensors(directory, dict(tensors), shard_bytes=shard_bytes)
    return VersionOnDisk.sealed(directory, chunk_size=CHUNK)


def raw(tensor: Any) -> bytes:
    """Return a tensor's bytes."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def snapshot(tensors: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the bytes of all tensors."""
    return {name: raw(tensor) for name, tensor in tensors.items()}


def pointers(tensors: Mapping[str, Any]) -> list[int]:
    """Return the addresses of all tensors."""
    return [tensor.data_ptr() for tensor in tensors.values()]


def recorder(live: Mapping[str, Any]) -> RecordingBackend:
    """Return a backend that watches these tensors."""
    return RecordingBackend(CpuBackend(), live=list(live.values()))


def loader_of(live: Mapping[str, Any], **options: Any) -> HotLoader:
    """Return a loader whose slabs are as small as they may be."""
    return HotLoader(live, **{"slab_bytes": CHUNK, **options})


def open_files() -> int:
    """Return how many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

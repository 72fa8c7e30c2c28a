"""One tensor of whatever library, as safetensors knows it: a type, a shape, bytes.

No library is imported for it: whoever hands over a torch tensor has imported torch. What a tensor *is* can be told without its bytes; they
are copied from a device only when `read` is called. Two names of the same weights have the same `place`.

    torch.Tensor        of any device; sharded, sparse, quantised and meta tensors are refused
    numpy.ndarray       also the types of ml_dtypes; what has `__array__`, as arrays of jax have, becomes one
    RawTensor           bytes with a type and a shape, for what no library here can express
    buffers             bytes, array.array, memoryview
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple, Protocol

from shardcast_proto.errors import ConfigError

#: The type of safetensors, with the bytes of an element, by the name that torch, numpy and ml_dtypes give it.
_TYPES: Final[dict[str, tuple[str, int]]] = {
    "bool": ("BOOL", 1),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
    "int16": ("I16", 2),
    "uint16": ("U16", 2),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int32": ("I32", 4),
    "uint32": ("U32", 4),
    "float32": ("F32", 4),
    "int64": ("I64", 8),
    "uint64": ("U64", 8),
    "float64": ("F64", 8),
    "complex64": ("C64", 8),
}
ELEMENT_BYTES: Final[dict[str, int]] = dict(_TYPES.values())
_BUFFER_KINDS: Final = {"?": "bool", "e": "float", "f": "float", "d": "float"}


class RawTensor(NamedTuple):
    """Bytes with the type of safetensors (`BF16`, `F8_E4M3`, …) and the shape that they have, little-endian, row by row."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


@dataclass(frozen=True, kw_only=True)
class TensorView:
    """A tensor before it is read.

    Attributes:
        dtype: The type's name in safetensors.
        shape: The extents; empty for a scalar.
        place: Names the memory that it lies in, and how it lies there; None when nobody can say.
        is_alive: Whether that memory still belongs to the tensor: a freed one's is given to the next.
        read: Returns the bytes; a copy, or the memory itself.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], memoryview]
    place: Hashable = None
    is_alive: Callable[[], bool] = lambda: False

    @property
    def size_bytes(self) -> int:
        """How many bytes `read` returns."""
        return prod(self.shape) * ELEMENT_BYTES[self.dtype]


class _HasArray(Protocol):
    def __array__(self) -> Any: ...


def view_of(name: str, tensor: object) -> TensorView:
    """Look at a tensor without reading it.

    Args:
        name: What to call it in an error.
        tensor: One of the kinds above.

    Raises:
        ConfigError: It is none of them, or cannot be written as it is.
    """
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if isinstance(tensor, RawTensor):
        return _of_raw(name, tensor)
    if torch is not None and isinstance(tensor, torch.Tensor):
        return _of_torch(name, tensor, torch)
    if numpy is not None and isinstance(tensor, numpy.ndarray):
        return _of_numpy(name, tensor)
    if hasattr(tensor, "__array__"):
        return _of_array(name, tensor)
    try:
        return _of_buffer(name, memoryview(tensor))  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(
            f"{name[:200]!r} is no tensor: {type(tensor).__name__}", hint="give tensors of torch or numpy", tensor=name
        ) from error


# --- kinds ---


def _of_raw(name: str, tensor: RawTensor) -> TensorView:
    data = memoryview(tensor.data).cast("B")
    if tensor.dtype not in ELEMENT_BYTES:
        raise _unknown_type(name, tensor.dtype)
    view = TensorView(dtype=tensor.dtype, shape=tuple(tensor.shape), read=lambda: data)
    if view.size_bytes != len(data):
        raise ConfigError(
            f"{name[:200]!r} has {len(data)} bytes, its type and shape need {view.size_bytes}", tensor=name
        )
    return view


def _of_torch(name: str, tensor: Any, torch: Any) -> TensorView:
    if hasattr(tensor, "full_tensor"):
        # gathering it takes all ranks: from one alone it would wait for ever
        raise ConfigError(
            f"{name[:200]!r} is sharded over several ranks",
            hint="call full_tensor() on every rank, and publish from one",
            tensor=name,
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "on the meta device" if tensor.is_meta else "sparse or quantised"
        raise ConfigError(f"{name[:200]!r} has no plain bytes: it is {kind}", tensor=name)

    def read() -> memoryview:
        flat = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().data  # type: ignore[no-any-return]

    # a weak reference keeps the storage's address, not its bytes, from being given to another
    owner = torch.multiprocessing.reductions.StorageWeakRef(tensor.untyped_storage())
    shape = tuple(tensor.shape)
    flags = (tensor.is_conj(), tensor.is_neg())
    return TensorView(
        dtype=_dtype(name, str(tensor.dtype).removeprefix("torch.")),
        shape=shape,
        read=read,
        place=("torch", owner.cdata, tensor.storage_offset(), shape, tensor.stride(), str(tensor.dtype), flags),
        is_alive=lambda: not owner.expired(),
    )


def _of_numpy(name: str, array: Any) -> TensorView:
    import numpy

    def read() -> memoryview:
        plain = numpy.ascontiguousarray(array)
        if plain.dtype.byteorder == ">" or (plain.dtype.byteorder == "=" and sys.byteorder == "big"):
            plain = plain.astype(plain.dtype.newbyteorder("<"))
        return plain.reshape(-1).view(numpy.uint8).data

    root = array
    while isinstance(root.base, numpy.ndarray):
        root = root.base
    owner = weakref.ref(root)
    address = array.__array_interface__["data"][0]
    return TensorView(
        dtype=_dtype(name, array.dtype.name),
        shape=tuple(array.shape),
        read=read,
        place=("numpy", id(root), address, array.shape, array.strides, array.dtype.str, array.dtype.name),
        is_alive=lambda: owner() is not None,
    )


def _of_array(name: str, tensor: _HasArray) -> TensorView:
    import numpy

    return _of_numpy(name, numpy.asarray(tensor))


def _of_buffer(name: str, data: memoryview) -> TensorView:
    code = data.format.lstrip("@=<" if sys.byteorder == "little" else "<")
    bits = data.itemsize * 8
    if code in _BUFFER_KINDS:
        kind = _BUFFER_KINDS[code] + ("" if code == "?" else str(bits))
    else:
        kind = f"int{bits}" if code in "bhilqn" else f"uint{bits}" if code in "BHILQN" else data.format
    return TensorView(
        dtype=_dtype(name, kind),
        shape=tuple(data.shape or ()),
        # only a plain one can be looked at as bytes where it is
        read=lambda: data.cast("B") if data.c_contiguous and data.format == code and data.nbytes else _copied(data),
    )


def _copied(data: memoryview) -> memoryview:
    return memoryview(data.tobytes())


def _dtype(name: str, kind: str) -> str:
    if kind not in _TYPES:
        raise _unknown_type(name, kind)
    return _TYPES[kind][0]


def _unknown_type(name: str, kind: str) -> ConfigError:
    return ConfigError(
        f"{name[:200]!r} has the type {kind[:40]!r}, for which safetensors has none that engines read",
        hint=f"convert it to one of {', '.join(sorted(ELEMENT_BYTES))}",
        tensor=name,
    )

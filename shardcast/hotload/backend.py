"""The seam to a device: everything that a hot-load asks of CUDA, so that it runs, and is tested, without it.

A copy is *issued* on a stream and happens some time later; an event says when. Only `wait`, `drain` and `quiesce` make the caller wait.
`CpuBackend` does everything at once, `CudaBackend` (`shardcast.hotload.cuda`) really later, and `RecordingBackend`
(`shardcast.hotload.recording`) as late as the rules allow, and complains when they are broken.
"""

from __future__ import annotations

import mmap
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from shardcast_proto.errors import ConfigError

from .memory import host_free_bytes
from .verified import read_plainly


class Backend(Protocol):
    """One device. Memory is a flat `uint8` tensor; streams and events are the backend's own."""

    @property
    def device(self) -> Any:
        """The `torch.device` that the live tensors are on."""

    @property
    def shares_memory(self) -> bool:
        """Whether the device's memory is the host's."""

    def free_bytes(self) -> tuple[int, int]:
        """Return what may still be taken of the device's memory, and of the host's."""

    def host_memory(self, size_bytes: int) -> Any:
        """Return memory of the host that the device can copy from and to by itself."""

    def device_memory(self, size_bytes: int) -> Any:
        """Return memory of the device."""

    def release(self, memory: Any) -> None:
        """Give memory back; nothing that was issued uses it any more."""

    def stream(self) -> Any:
        """Return a new stream beside those that the engine uses."""

    def event(self) -> Any:
        """Return a new event."""

    def issuing(self, stream: Any) -> AbstractContextManager[object]:
        """Make a block in which copies are issued on a stream, and inference tensors may be written."""

    def copy(self, target: Any, source: Any) -> None:
        """Issue a copy between tensors of one shape and type, inside `issuing`."""

    def record(self, event: Any, stream: Any) -> None:
        """Make an event stand for all that was issued on a stream so far."""

    def wait(self, event: Any) -> None:
        """Return when what an event stands for has happened."""

    def drain(self, stream: Any) -> None:
        """Return when everything that was issued on a stream has happened."""

    def quiesce(self) -> None:
        """Return when nothing on the device uses the live tensors any more: the beginning of a pause."""

    def read(self, descriptor: int, into: memoryview, offset: int) -> int:
        """Read a file into host memory, as `os.preadv` does; from several threads."""


class CpuBackend:
    """The live tensors are in host memory. What is issued has happened when the call returns."""

    shares_memory = True

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def free_bytes(self) -> tuple[int, int]:
        """Return the host's free memory, twice."""
        free = host_free_bytes()
        return free, free

    def host_memory(self, size_bytes: int) -> Any:
        """Return plain memory, given back to the system when it is released."""
        return mapped_memory(size_bytes)

    def device_memory(self, size_bytes: int) -> Any:
        """Return plain memory, as above."""
        return mapped_memory(size_bytes)

    def release(self, memory: Any) -> None:
        """Do nothing: the memory goes with its last reference."""

    def stream(self) -> Any:
        """Return a stream that does not exist."""
        return torch.cpu.Stream()

    def event(self) -> Any:
        """Return an event that has happened."""
        return torch.cpu.Event()

    def issuing(self, stream: Any) -> AbstractContextManager[object]:
        """Allow inference tensors to be written."""
        return torch.inference_mode()  # type: ignore[no-any-return]

    def copy(self, target: Any, source: Any) -> None:
        """Copy."""
        target.copy_(source)

    def record(self, event: Any, stream: Any) -> None:
        """Do nothing: it has happened."""

    def wait(self, event: Any) -> None:
        """Return at once."""

    def drain(self, stream: Any) -> None:
        """Return at once."""

    def quiesce(self) -> None:
        """Return at once: who computes on the CPU does it in `serving`."""

    def read(self, descriptor: int, into: memoryview, offset: int) -> int:
        """Read."""
        return read_plainly(descriptor, into, offset)


def mapped_memory(size_bytes: int) -> Any:
    """Return host memory in pages of its own, which go back to the system with the last reference to it."""
    if size_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # a process that the engine forks does not get them: copying on write would move locked pages away from the device
    pages.madvise(mmap.MADV_DONTFORK)
    return torch.frombuffer(pages, dtype=torch.uint8)


def backend_for(device: Any) -> Backend:
    """Return the backend of a device.

    Raises:
        ConfigError: There is none for it.
    """
    if device.type == "cpu":
        return CpuBackend()
    if device.type == "cuda":
        from .cuda import CudaBackend

        return CudaBackend(device)
    raise ConfigError(
        f"tensors on {device.type!r} cannot be loaded into",
        hint="move them to cpu or cuda, or give a backend of your own",
        device=str(device),
    )

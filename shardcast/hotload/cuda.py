"""The backend of an NVIDIA GPU (or what PyTorch calls `cuda` on others).

Host memory is locked page by page with `cudaHostRegister`: PyTorch's own allocator of locked memory rounds up to the next power of two,
which for an image of a model's weights may be another third of the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from .backend import mapped_memory
from .memory import host_free_bytes
from .verified import read_plainly


class CudaBackend:
    """One GPU. Copies from and to page-locked memory run beside what the engine computes."""

    shares_memory = False

    def __init__(self, device: Any = None) -> None:
        """Hold the device; by default the current one."""
        chosen = torch.device(device if device is not None else "cuda")
        index = torch.cuda.current_device() if chosen.index is None else chosen.index
        self.device = torch.device("cuda", index)
        #: The addresses that are locked, by which they are unlocked.
        self._locked: set[int] = set()

    def free_bytes(self) -> tuple[int, int]:
        """Return what the driver, and what PyTorch's allocator holds unused; and what the host has."""
        free, _ = torch.cuda.mem_get_info(self.device)
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(free) + int(cached), host_free_bytes()

    def host_memory(self, size_bytes: int) -> Any:
        """Return page-locked memory."""
        memory = mapped_memory(size_bytes)
        if size_bytes:
            with torch.cuda.device(self.device):
                torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size_bytes, 0))
            self._locked.add(memory.data_ptr())
        return memory

    def device_memory(self, size_bytes: int) -> Any:
        """Return memory of PyTorch's allocator."""
        memory = torch.empty(size_bytes, dtype=torch.uint8, device=self.device)
        # the allocator may give what kernels of the engine still use, because they come before whatever else that stream is given
        torch.cuda.current_stream(self.device).synchronize()
        return memory

    def release(self, memory: Any) -> None:
        """Unlock host memory; a device's goes back to the allocator with its last reference."""
        if memory.data_ptr() in self._locked:
            self._locked.discard(memory.data_ptr())
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))

    def stream(self) -> Any:
        """Return a side stream."""
        return torch.cuda.Stream(self.device)

    def event(self) -> Any:
        """Return an event without timing; waiting for it does not spin."""
        return torch.cuda.Event(blocking=True)

    def issuing(self, stream: Any) -> AbstractContextManager[object]:
        """Make the stream the current one."""
        return _issuing(stream)

    def copy(self, target: Any, source: Any) -> None:
        """Issue a copy on the current stream."""
        target.copy_(source, non_blocking=True)

    def record(self, event: Any, stream: Any) -> None:
        """Record the event behind what the stream was given."""
        event.record(stream)

    def wait(self, event: Any) -> None:
        """Wait for the event."""
        event.synchronize()

    def drain(self, stream: Any) -> None:
        """Wait for the stream."""
        stream.synchronize()

    def quiesce(self) -> None:
        """Wait for all streams of the device: kernels that were launched before the pause still read the old weights."""
        torch.cuda.synchronize(self.device)

    def read(self, descriptor: int, into: memoryview, offset: int) -> int:
        """Read."""
        return read_plainly(descriptor, into, offset)


@contextmanager
def _issuing(stream: Any) -> Iterator[None]:
    with torch.inference_mode(), torch.cuda.stream(stream):
        yield

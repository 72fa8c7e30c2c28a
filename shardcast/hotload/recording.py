"""A backend that does what another one does as late as it may, says when a rule of the seam is broken, and fails on demand.

**Lateness.** A copy out of a slab happens only when somebody waits for it, as on a device that is slow: a slab that is read into too early
shows as wrong bytes, not only as a complaint.

**Rules**, each a `RuleBroken`:

    slabs     no slab is read into while copies out of it are under way;
    events    a wait is for an event that was recorded;
    streams   copies are issued inside `issuing`;
    live      live tensors are written only between `quiesce` and the next `drain`, and when `quiesce` is called nothing is under way;
    memory    what is released was taken, once.

**Failing.** Every call counts. The call with the number `fail_at` raises `InjectedFault`, and so do those after it, `fail_for` in all.
A copy that fails has been half done. Numbers are given in the order of the calls; reads come from several threads, so which of them has
which may change from run to run.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from .backend import Backend


class RuleBroken(AssertionError):
    """The caller used the backend in an order that would corrupt memory on a real device."""


class InjectedFault(RuntimeError):
    """What a test asked for."""


@dataclass(eq=False)
class _Event:
    """How many copies had been issued when it was recorded; -1 before."""

    inner: Any
    after: int = -1


@dataclass(frozen=True)
class _Copy:
    target: Any
    source: Any


@dataclass
class RecordingBackend:
    """Wraps a backend whose copies happen at once.

    Attributes:
        inner: What does the work.
        live: The live tensors, whose memory is watched.
        fail_at: The number of the call that fails, from 1; 0 for none.
        fail_for: How many calls fail from there on.
        calls: How often each method was called.
        total: How many calls there were.
        taken: The memory that was taken and not released, in bytes, by kind.
    """

    inner: Backend
    live: Iterable[Any] = ()
    fail_at: int = 0
    fail_for: int = 1
    calls: Counter[str] = field(default_factory=Counter)
    total: int = 0
    taken: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.device = self.inner.device
        self.shares_memory = self.inner.shares_memory
        self._spans = [_span(tensor) for tensor in self.live]
        self._lock = threading.Lock()
        self._memory: dict[int, tuple[str, int]] = {}
        self._pending: list[_Copy] = []
        self._issued = 0
        self._is_issuing = False
        self._is_paused = False

    def arm(self, fail_at: int, fail_for: int = 1) -> None:
        """Count from 1 again, and fail as said."""
        self.total, self.fail_at, self.fail_for = 0, fail_at, fail_for

    def free_bytes(self) -> tuple[int, int]:
        """Return what the inner one has."""
        self._count("free_bytes")
        return self.inner.free_bytes()

    def host_memory(self, size_bytes: int) -> Any:
        """Take memory, and note it."""
        self._count("host_memory")
        return self._take("host", self.inner.host_memory(size_bytes), size_bytes)

    def device_memory(self, size_bytes: int) -> Any:
        """Take memory, and note it."""
        self._count("device_memory")
        return self._take("device", self.inner.device_memory(size_bytes), size_bytes)

    def release(self, memory: Any) -> None:
        """Release memory that nothing under way uses. Never made to fail: who gives up must be able to."""
        span = _span(memory)
        if memory.data_ptr() not in self._memory:
            raise RuleBroken("memory is released that was not taken")
        if any(_overlap(span, _span(tensor)) for copy in self._pending for tensor in (copy.target, copy.source)):
            raise RuleBroken("memory is released that copies under way use")
        kind, size = self._memory.pop(memory.data_ptr())
        self.taken[kind] -= size
        self.inner.release(memory)

    def stream(self) -> Any:
        """Make a stream."""
        self._count("stream")
        return self.inner.stream()

    def event(self) -> Any:
        """Make an event."""
        self._count("event")
        return _Event(self.inner.event())

    def issuing(self, stream: Any) -> AbstractContextManager[object]:
        """Open the block that copies are issued in."""
        return self._issuing(stream)

    def copy(self, target: Any, source: Any) -> None:
        """Note a copy; one into live tensors is refused outside a pause."""
        if not self._is_issuing:
            raise RuleBroken("a copy outside issuing")
        span = _span(target)
        if not self._is_paused and any(_overlap(span, live) for live in self._spans):
            raise RuleBroken("a live tensor is written outside a pause")
        if self._is_due("copy"):
            self._happen(len(self._pending))
            _copy_half(target, source)
            raise InjectedFault(f"copy, call {self.total}")
        self._pending.append(_Copy(target, source))
        self._issued += 1

    def record(self, event: Any, stream: Any) -> None:
        """Note what an event stands for."""
        self._count("record")
        event.after = self._issued
        self.inner.record(event.inner, stream)

    def wait(self, event: Any) -> None:
        """Let happen what the event stands for."""
        self._count("wait")
        if event.after < 0:
            raise RuleBroken("a wait for an event that was never recorded")
        self._happen(event.after - (self._issued - len(self._pending)))
        self.inner.wait(event.inner)

    def drain(self, stream: Any) -> None:
        """Let everything happen; the pause, if there is one, is over."""
        try:
            self._count("drain")
        finally:
            # a device that reports a fault has come to rest as well
            self._happen(len(self._pending))
            self._is_paused = False
        self.inner.drain(stream)

    def quiesce(self) -> None:
        """Begin a pause."""
        self._count("quiesce")
        if self._pending:
            raise RuleBroken(f"a pause begins while {len(self._pending)} copies are under way")
        self.inner.quiesce()
        self._is_paused = True

    def read(self, descriptor: int, into: memoryview, offset: int) -> int:
        """Read into a slab from which nothing is copied any more."""
        self._count("read")
        with self._lock:
            span = _span_of_buffer(into)
            if any(_overlap(span, _span(copy.source)) for copy in self._pending):
                raise RuleBroken("a slab is read into while copies out of it are under way")
        return self.inner.read(descriptor, into, offset)

    # --- how ---

    @contextmanager
    def _issuing(self, stream: Any) -> Iterator[None]:
        self._count("issuing")
        with self.inner.issuing(stream):
            self._is_issuing = True
            try:
                yield
            finally:
                self._is_issuing = False

    def _count(self, call: str) -> None:
        if self._is_due(call):
            raise InjectedFault(f"{call}, call {self.total}")

    def _is_due(self, call: str) -> bool:
        with self._lock:
            self.calls[call] += 1
            self.total += 1
            return 0 < self.fail_at <= self.total < self.fail_at + self.fail_for

    def _take(self, kind: str, memory: Any, size_bytes: int) -> Any:
        self._memory[memory.data_ptr()] = (kind, size_bytes)
        self.taken[kind] += size_bytes
        return memory

    def _happen(self, count: int) -> None:
        """Do the oldest copies under way."""
        with self._lock:
            due, self._pending = self._pending[: max(count, 0)], self._pending[max(count, 0) :]
        with self.inner.issuing(None):
            for copy in due:
                self.inner.copy(copy.target, copy.source)


def _copy_half(target: Any, source: Any) -> None:
    """Leave what a copy leaves that is broken off."""
    if target.numel() > 1 and target.is_contiguous():
        half = target.numel() // 2
        target.view(-1)[:half].copy_(source.view(-1)[:half])


def _span(tensor: Any) -> tuple[int, int]:
    if not tensor.numel():
        return 0, 0
    last = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _span_of_buffer(buffer: memoryview) -> tuple[int, int]:
    return _span(torch.frombuffer(buffer, dtype=torch.uint8))


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]

"""The virtual clock: a heap of calls, each at its time; of two at one time the earlier ordered goes first."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Time that passes only as calls come due."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._calls = 0

    def at(self, time_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call at a time."""
        self._calls += 1
        heapq.heappush(self._heap, (time_s, self._calls, call, args))

    def later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call after a delay."""
        self.at(self.now_s + delay_s, call, *args)

    def run(self, until_s: float, stop: Callable[[], bool] | None = None) -> None:
        """Advance the clock until a time, or until `stop` holds (looked at now and then)."""
        heap, pop = self._heap, heapq.heappop
        count = 0
        while heap and heap[0][0] <= until_s:
            self.now_s, _, call, args = pop(heap)
            call(*args)
            count += 1
            if stop is not None and count % 64 == 0 and stop():
                return
        self.now_s = max(self.now_s, until_s) if stop is None else self.now_s

"""The signals that end the demo, held back where they would leave a process behind.

SIGINT, SIGTERM and SIGHUP all raise `KeyboardInterrupt` in the main thread, once. Inside `held` they wait for the end of the block: so
no process is started without being written down, and nothing stops the stopping of the others.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Takes over the three signals for the length of a block. Works in the main thread only, as signals do."""

    def __init__(self) -> None:
        #: How many `held` blocks are open.
        self._holds = 0
        self._is_pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the signals back until the end of the block; what came meanwhile is raised there."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        self._raise_pending()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._is_pending = True
        self._raise_pending()

    def _raise_pending(self) -> None:
        if self._is_pending and not self._holds:
            self._is_pending = False
            raise KeyboardInterrupt

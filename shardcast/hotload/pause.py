"""The pause: who reads the live tensors shares it, who writes them has it alone.

An engine in this process holds `HotLoader.serving()` round each batch; a commit waits until no batch is under way, and new ones wait for
the commit. An engine in another process is paused by its own means, and nobody serves here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shardcast_proto.errors import HotLoadError


class Pause:
    """A lock for many readers or one writer; a writer that waits goes before new readers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: How often each thread reads.
        self._readers: dict[int, int] = {}
        self._writer = 0
        self._waiting = 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Keep the weights as they are for the length of a block. Blocks may be nested in one thread."""
        me = threading.get_ident()
        with self._changed:
            if me not in self._readers:
                self._changed.wait_for(lambda: self._writer == 0 and self._waiting == 0)
            self._readers[me] = self._readers.get(me, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._readers[me] -= 1
                if self._readers[me] == 0:
                    del self._readers[me]
                    self._changed.notify_all()

    @contextmanager
    def alone(self, timeout_s: float | None) -> Iterator[float]:
        """Wait until nobody reads, keep new readers out for the length of a block, and give the seconds that the wait took.

        Raises:
            HotLoadError: Somebody still reads after `timeout_s`; or this very thread does, which would wait for itself.
        """
        began_s = time.monotonic()
        self._enter(timeout_s)
        try:
            yield time.monotonic() - began_s
        finally:
            with self._changed:
                self._writer = 0
                self._changed.notify_all()

    def _enter(self, timeout_s: float | None) -> None:
        with self._changed:
            if threading.get_ident() in self._readers:
                raise HotLoadError("a commit inside serving() would wait for itself", hint="end the batch first")
            self._waiting += 1
            try:
                if not self._changed.wait_for(lambda: not self._readers and self._writer == 0, timeout_s):
                    raise HotLoadError(
                        f"a batch was still under way after {timeout_s} s, nothing was written",
                        hint="commit again, with more time",
                        reason="timeout",
                    )
                self._writer = threading.get_ident()
            finally:
                self._waiting -= 1
                self._changed.notify_all()

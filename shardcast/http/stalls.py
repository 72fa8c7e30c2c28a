"""The watch over uploads: which of them has a reader that takes nothing.

Nobody is cut for being slow. A reader is stalled when bytes have waited for it and its host has acknowledged none of them for
`patience_s`; that is looked at only when somebody else needs the place, so it costs nothing while there are places.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Where `tcpi_bytes_acked` stands in Linux's `struct tcp_info`: 8 bytes of small fields, 24 numbers of 4 bytes, two of 8.
_ACKED_OFFSET: Final = 120
_ACKED_END: Final = _ACKED_OFFSET + 8


class StallWatch:
    """The uploads that wait for their readers, by their connections: each carries one at a time.

    Args:
        patience_s: How long a reader may take nothing before its place may go to another.
        clock: Monotonic seconds.
    """

    def __init__(self, patience_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        #: What each had taken when it was looked at, and since when that is so; None before the first look.
        self._waiting: dict[asyncio.Transport, tuple[int, float] | None] = {}

    @contextmanager
    def waiting(self, transport: asyncio.Transport) -> Iterator[None]:
        """Mark an upload as waiting for its reader, for the length of a block."""
        self._waiting[transport] = None
        try:
            yield
        finally:
            del self._waiting[transport]

    def longest_stalled(self) -> asyncio.Transport | None:
        """Return the connection whose reader has taken nothing for the longest, if any has for `patience_s`."""
        now_s = self._clock()
        for transport, seen in self._waiting.items():
            taken = taken_bytes(transport)
            if seen is None or seen[0] != taken:
                self._waiting[transport] = (taken, now_s)
        since = {transport: seen[1] for transport, seen in self._waiting.items() if seen is not None}
        longest = min(since, key=lambda transport: since[transport], default=None)
        return longest if longest is not None and now_s - since[longest] >= self._patience_s else None


def taken_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes that the host at the other end has acknowledged; 0 where the system does not tell."""
    sock, option = transport.get_extra_info("socket"), getattr(socket, "TCP_INFO", None)
    if sock is None or option is None:
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _ACKED_END)
    except OSError:
        return 0
    return int.from_bytes(info[_ACKED_OFFSET:_ACKED_END], "little") if len(info) >= _ACKED_END else 0

"""The watch over the uplink of a node that was not told its rate: it asks the kernel, and sets the pace of all uploads.

`shardcast.bulk.uplink` decides; here are the clock, the sockets and the bucket.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import structlog

from shardcast.bulk.tcp_info import LinkSample, read_tcp_info
from shardcast.bulk.uplink import UplinkFinder
from shardcast.http.bucket import TokenBucket
from shardcast_proto.ids import PeerId

#: A queue of 100 ms is noticed before it hurts; a look costs a quarter of a millisecond with 16 links.
LOOK_S: Final = 0.1
#: A change of this share is worth telling others.
_NEWS_SHARE: Final = 0.1

_log = structlog.get_logger("shardcast.uplink")


class SendingLinks(Protocol):
    """The bulk links of a node."""

    def sending_sockets(self) -> list[tuple[PeerId, socket.socket]]:
        """Return the connections that chunks go out by."""


class UplinkWatch:
    """Keeps a bucket at the rate that the uplink turns out to have.

    Args:
        on_found: Told the rate in bytes/s, when it is first known and when it has changed by a tenth.
    """

    def __init__(self, links: SendingLinks, bucket: TokenBucket, *, on_found: Callable[[int], None]) -> None:
        self._links, self._bucket, self._on_found = links, bucket, on_found
        self._finder = UplinkFinder()
        self._numbers: WeakKeyDictionary[socket.socket, int] = WeakKeyDictionary()
        self._next_number = itertools.count(1)
        self._told = 0.0

    async def run(self) -> None:
        """Look, again and again."""
        loop = asyncio.get_running_loop()
        while True:
            self.look(loop.time())
            await asyncio.sleep(LOOK_S)

    def look(self, now_s: float) -> None:
        """Look once."""
        pace = self._finder.observe([self._sample(sock) for _, sock in self._links.sending_sockets()], now_s)
        if pace != self._bucket.rate_bytes_per_s:
            self._bucket.set_rate(pace)
        rate = self._finder.rate_bytes_per_s
        if rate is not None and abs(rate - self._told) > _NEWS_SHARE * self._told:
            self._told = rate
            _log.info("uplink_found", mbps=round(rate * 8 / 1e6, 1))
            self._on_found(int(rate))

    def _sample(self, sock: socket.socket) -> LinkSample | None:
        number = self._numbers.get(sock)
        if number is None:
            number = self._numbers[sock] = next(self._next_number)
        return LinkSample.of(number, read_tcp_info(sock))

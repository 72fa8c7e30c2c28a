"""The events of a channel over HTTP: a stream of server-sent events, or one list at a time by long poll.

Both go on after the event that the field `Last-Event-ID` names, or else `?since=`. A stream (`Accept: text/event-stream`) sends each
event with its id. A comment now and then keeps the connection from looking dead. A reader that is too slow does not hold the node up:
it reads from the channel's ring, and is sent a snapshot when what it has not read has left the ring.

A long poll (`?since=ID&timeout=S`) answers {"events": […], "next": ID} at once when there is something to tell, else when there is, or with
an empty list after the timeout.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from shardcast.http.api_answers import FIELDS, json_bytes, json_response
from shardcast.http.api_streams import write_within
from shardcast.http.facade import EventView, NodeFacade
from shardcast_proto.errors import ConfigError, TransferError

#: A quarter of the connections that the API takes.
STREAMS_MAX: Final = 64
#: Proxies call a connection dead after 30 s of silence or more.
ALIVE_INTERVAL_S: Final = 15.0
#: What a reader is told to wait before it connects again.
_RETRY_MS: Final = 1000
_EVENT_ID: Final = re.compile(r"[!-~]{1,64}")


class Events:
    """Tells callers what happens to a channel's versions.

    Args:
        stall_timeout_s: A reader that takes nothing for so long is cut off.
        alive_interval_s: How often a reader hears something.
    """

    def __init__(
        self, facade: NodeFacade, *, stall_timeout_s: float, alive_interval_s: float = ALIVE_INTERVAL_S
    ) -> None:
        self._facade = facade
        self._stall_timeout_s = stall_timeout_s
        self._alive_interval_s = alive_interval_s
        self._stream_count = 0

    async def answer(
        self, request: web.BaseRequest, channel: str, *, since: str | None, timeout_s: float | None
    ) -> web.StreamResponse:
        """Answer with a stream, or with what there is within `timeout_s`.

        Raises:
            NotFound: The channel is not followed here.
            ConfigError: A stream was asked for with a timeout, or the id cannot be one.
            TransferError: Too many streams are open.
        """
        since = _checked(since)
        # a reader that has seen no event yet may send the field empty
        last = _checked(request.headers.get("Last-Event-ID") or None) or since
        if not _wants_stream(request):
            return json_response(await self._facade.events(channel, last, timeout_s or 0.0))
        if timeout_s is not None:
            raise ConfigError("a stream of events takes no timeout", hint="leave it out, or do not ask for a stream")
        if self._stream_count >= STREAMS_MAX:
            raise TransferError(f"{STREAMS_MAX} streams of events are open", reason="busy", streams_max=STREAMS_MAX)
        self._stream_count += 1
        try:
            return await self._stream(request, channel, last)
        finally:
            self._stream_count -= 1

    async def _stream(self, request: web.BaseRequest, channel: str, since: str | None) -> web.StreamResponse:
        first = await self._facade.events(channel, since, 0.0)  # what is wrong is still ours to say with a status
        response = web.StreamResponse(headers={**FIELDS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            await self._write(response, f"retry: {_RETRY_MS}\n\n".encode() + b"".join(map(_encoded, first["events"])))
            while True:
                news = await self._facade.events(channel, first["next"], self._alive_interval_s)
                await self._write(response, b"".join(map(_encoded, news["events"])) or b": alive\n\n")
                first = news
        except BaseException:
            # a stream without an end can only be cut
            if request.transport is not None:
                request.transport.abort()
            raise

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        await write_within(response, data, self._stall_timeout_s)


def _wants_stream(request: web.BaseRequest) -> bool:
    kinds = ",".join(request.headers.getall("Accept", [])).split(",")
    return any(kind.partition(";")[0].strip().lower() == "text/event-stream" for kind in kinds)


def _checked(since: str | None) -> str | None:
    """Refuse what no event ever had as its id; one that is only unknown is answered with a snapshot."""
    if since is not None and not _EVENT_ID.fullmatch(since):
        raise ConfigError("the id to read on from is none that this API gave")
    return since


def _encoded(event: EventView) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event["id"].encode(), event["event"].encode(), json_bytes(event))

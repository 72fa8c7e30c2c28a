"""The carriage of chunks: `/shardcast/chunk/1` streams over connections that are there already, both ends of them.

`Carrying` is the trio side. Asking: one stream per request, read without a pause (a reader that pauses for 5 s gets its
writer reset) and posted piece by piece; how much may wait is bounded by the answer, which the asker judges before a byte
of the body is taken. Serving: a stream is taken only when its peer has none and a place is free, and becomes an `Upload`
for the asyncio side, which sends at the pace that it decides and then ends it.

Nothing here dials, and nothing here knows what the bytes are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from shardcast_proto.carriage import (
    PROTOCOL_ID,
    Answer,
    AnswerReader,
    Request,
    RequestReader,
    Status,
    encode_answer,
    encode_request,
)
from shardcast_proto.errors import RemoteProtocolError, ShardcastError, TransferError
from shardcast_proto.framing import NEED_DATA
from shardcast_proto.ids import PeerId

from .events import CarriedReceiver
from .guards import reset_quietly
from .limits import STREAM_WINDOW_BYTES, WRITE_BYTES_MAX, P2pLimits

log: Final = logging.getLogger("shardcast.p2p")

PROTOCOL: Final = TProtocol(PROTOCOL_ID)


@dataclass(slots=True)
class CarriedStream:
    """One stream that a peer opened, with what it asks for. Touched on the trio side only, but for its fields."""

    peer: PeerId
    request: Request
    stream: Any
    #: Set by `end`; the handler closes the stream then.
    ended: trio.Event = field(default_factory=trio.Event)
    is_whole: bool = False

    async def write(self, data: bytes, stall_s: float) -> None:
        """Send one piece of at most `WRITE_BYTES_MAX`.

        Raises:
            TransferError: The stream is gone, or the peer takes nothing for too long.
        """
        if len(data) > WRITE_BYTES_MAX:
            raise ValueError(f"a piece of {len(data)} bytes, allowed are {WRITE_BYTES_MAX}")
        try:
            with trio.fail_after(stall_s):
                await self.stream.write(data)
        except Exception as error:
            raise TransferError(
                f"carrying to {self.peer} broke off: {error!r}", peer=self.peer, reason="short"
            ) from error

    def end(self, is_whole: bool) -> None:
        """Let the handler close the stream, or reset it when what was announced was not all sent."""
        self.is_whole = is_whole
        self.ended.set()


class Carrying:
    """Both ends of carriage for one host, on the trio side.

    Args:
        offer: Given each stream that is to be served; None serves nobody.
        post: Calls a function on the asyncio loop, in order.
    """

    def __init__(
        self,
        host: Any,
        nursery: trio.Nursery,
        limits: P2pLimits,
        *,
        offer: Callable[[CarriedStream], None] | None,
        post: Callable[..., None],
    ) -> None:
        self._host = host
        self._network: Any = host.get_network()
        self._nursery = nursery
        self._limits = limits
        self._offer = offer
        self._post = post
        #: Peers that something is carried to.
        self._serving: dict[PeerId, None] = {}
        #: Streams that found no place.
        self.refused_busy_count = 0
        if offer is not None:
            host.set_stream_handler(PROTOCOL, self._serve)

    async def fetch(self, peer: PeerId, request: Request, receiver: CarriedReceiver, idle_timeout_s: float) -> Answer:
        """Ask a connected peer, and return its answer when the whole body has been posted.

        Raises:
            TransferError: With `reason` "unreachable", "stalled", "short" or "protocol".

        Cancellation: the stream is reset.
        """
        stream = await self._open(peer)
        is_whole = False
        try:
            with trio.fail_after(idle_timeout_s):
                await stream.write(encode_request(request))
            answer = await self._receive(stream, receiver, idle_timeout_s)
            is_whole = True
            return answer
        except trio.TooSlowError as error:
            raise _failure("stalled", peer, f"nothing came for {idle_timeout_s:g} s") from error
        except RemoteProtocolError as error:
            raise _failure("protocol", peer, error.message) from error
        except ShardcastError:
            raise
        except Exception as error:
            raise _failure("short", peer, f"the stream ended early: {error!r}") from error
        finally:
            self._let_go(stream, is_whole)

    async def _open(self, peer: PeerId) -> Any:
        peer_id = ID.from_base58(peer)
        if not any(not connection.is_closed for connection in self._network.get_connections(peer_id)):
            raise _failure("unreachable", peer, "not connected")
        try:
            with trio.fail_after(self._limits.carried_request_s):
                return await self._host.new_stream(peer_id, [PROTOCOL])
        except Exception as error:
            raise _failure("unreachable", peer, f"no stream: {error!r}") from error

    async def _receive(self, stream: Any, receiver: CarriedReceiver, idle_timeout_s: float) -> Answer:
        reader = AnswerReader()
        is_begun = False
        while not reader.is_whole:
            with trio.fail_after(idle_timeout_s):
                data = await stream.read(STREAM_WINDOW_BYTES)
            body = reader.feed(data)
            if reader.answer is not None and not is_begun:
                is_begun = True
                if reader.answer.status is Status.OK:
                    receiver.judge(reader.answer)
                    self._post(receiver.began, reader.answer)
            if body:
                self._post(receiver.received, body)
        if reader.answer is None:
            raise RemoteProtocolError("a carried body ended before its answer")
        return reader.answer

    def _let_go(self, stream: Any, is_whole: bool) -> None:
        """Close or reset a stream. Not awaited: that writes to a connection which may take its time."""
        try:
            self._nursery.start_soon(_close_quietly if is_whole else reset_quietly, stream)
        except RuntimeError:
            log.debug("a stream is left to the host, which is closing")

    async def _serve(self, stream: Any) -> None:
        """Handle a stream that a peer opened; stay until what it asked for is sent, or refused."""
        peer = PeerId(str(stream.muxed_conn.peer_id))
        if peer in self._serving or len(self._serving) >= self._limits.carried_uploads_max or self._offer is None:
            self.refused_busy_count += 1
            with trio.move_on_after(self._limits.carried_request_s):
                await stream.write(encode_answer(Answer(Status.BUSY)))
                await _close_quietly(stream)
            return
        self._serving[peer] = None
        upload: CarriedStream | None = None
        try:
            with trio.fail_after(self._limits.carried_request_s):
                request = await _read_request(stream)
            upload = CarriedStream(peer, request, stream)
            self._offer(upload)
            await upload.ended.wait()
        except (RemoteProtocolError, trio.TooSlowError) as error:
            log.debug("peer %s asks for nothing that can be carried: %r", peer, error)
        finally:
            del self._serving[peer]
            self._let_go(stream, upload is not None and upload.is_whole)


async def _read_request(stream: Any) -> Request:
    reader = RequestReader()
    while True:
        request = reader.feed(await stream.read(STREAM_WINDOW_BYTES))
        if request is not NEED_DATA:
            return request


async def _close_quietly(stream: Any) -> None:
    """Close our half of a stream whose connection may be gone."""
    try:
        await stream.close()
    except Exception:
        log.debug("closing a stream failed", exc_info=True)


def _failure(reason: str, peer: PeerId, what: str) -> TransferError:
    return TransferError(
        f"fetching over the connection to {peer} failed ({reason}): {what[:200]}", reason=reason, peer=peer
    )

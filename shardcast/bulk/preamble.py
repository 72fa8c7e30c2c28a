"""The preamble of a link, on a connection: either end of it, up to the last byte before the frames."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import structlog

from shardcast.http.gate import Door
from shardcast_proto.bulk import ANSWER_BYTES, HELLO_BYTES, PROOF_BYTES, Accepting, Opening
from shardcast_proto.errors import RemoteProtocolError, TransferError
from shardcast_proto.ids import PeerId
from shardcast_proto.limits import LINK_NONCE_BYTES
from shardcast_proto.trust import SigningKey

_log = structlog.get_logger("shardcast.bulk")


class _Parts(asyncio.BufferedProtocol, ABC):
    """Reads parts of known lengths, never a byte more: what follows the last one belongs to the link."""

    def __init__(self, first_bytes: int) -> None:
        self._part = memoryview(bytearray(first_bytes))
        self._part_bytes = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"a link runs over a stream transport, not {transport!r}")
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._part[self._part_bytes :]

    def buffer_updated(self, nbytes: int) -> None:
        self._part_bytes += nbytes
        if self._part_bytes == len(self._part) and self._transport is not None:
            self._came(bytes(self._part), self._transport)

    def eof_received(self) -> bool:
        return False

    def _expect(self, size_bytes: int) -> None:
        self._part, self._part_bytes = memoryview(bytearray(size_bytes)), 0

    @abstractmethod
    def _came(self, part: bytes, transport: asyncio.Transport) -> None:
        """Take a part that is whole."""


class Acceptor(_Parts):
    """The accepting end, behind a door that closes it when it takes too long.

    Args:
        on_proved: Called with the preamble and the connection, when the opener has proved who it is; takes the connection over.
    """

    def __init__(
        self,
        key: SigningKey,
        door: Door,
        *,
        may_link: Callable[[PeerId], bool],
        on_proved: Callable[[Accepting, asyncio.Transport, Door], None],
    ) -> None:
        super().__init__(HELLO_BYTES)
        self._key, self._door = key, door
        self._may_link, self._on_proved = may_link, on_proved
        self._accepting: Accepting | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connection_lost(exc)

    def _came(self, part: bytes, transport: asyncio.Transport) -> None:
        try:
            if self._accepting is None:
                accepting = Accepting(self._key, part, secrets.token_bytes(LINK_NONCE_BYTES))
                if not self._may_link(accepting.peer):
                    raise RemoteProtocolError(f"{accepting.peer} is no neighbour", peer=accepting.peer)
                self._accepting = accepting
                self._expect(PROOF_BYTES)
                transport.write(accepting.answer)
                return
            self._accepting.check(part)
        except RemoteProtocolError as error:
            _log.info("link_refused", remote=self._door.address, error=error.message)
            transport.abort()
            return
        self._on_proved(self._accepting, transport, self._door)


class Opener(_Parts):
    """The opening end; `proved` is done when the connection is a link, or is none."""

    def __init__(self, opening: Opening, peer: PeerId) -> None:
        super().__init__(ANSWER_BYTES)
        self._opening, self._peer = opening, peer
        self.proved: Final[asyncio.Future[asyncio.Transport]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._transport is not None:
            self._transport.write(self._opening.hello)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("busy", "it closes the connection")

    def abort(self) -> None:
        """Give the connection up."""
        if self._transport is not None:
            self._transport.abort()

    def _came(self, part: bytes, transport: asyncio.Transport) -> None:
        try:
            proof = self._opening.prove(part)
        except RemoteProtocolError as error:
            self._fail("protocol", error.message)
            transport.abort()
            return
        transport.write(proof)
        # nothing more may be read before the link takes over, and that happens in another turn of the loop
        transport.pause_reading()
        if not self.proved.done():
            self.proved.set_result(transport)

    def _fail(self, reason: str, what: str) -> None:
        if not self.proved.done():
            self.proved.set_exception(
                TransferError(f"no link to {self._peer} ({reason}): {what}", reason=reason, peer=self._peer)
            )
            self.proved.exception()  # whoever gave up does not ask

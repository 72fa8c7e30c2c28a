"""The linked peers: the bulk links as the machine orders them and hears of them.

Each `OpenLink` ends in one `LinkOpened` or `LinkFailed`. Both ends may open the same link at once; the first that comes up ends the order.
A link that is gone is told of when everything that was under way on it has had its ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from shardcast.http.chunk_stream import Segments
from shardcast_proto import messages
from shardcast_proto.errors import RemoteProtocolError, ShardcastError, TransferError
from shardcast_proto.ids import Digest, PeerId
from shardcast_relay.commands import CloseLink, OpenLink, PushChunk
from shardcast_relay.events import Event, LinkClosed, LinkFailed, LinkOpened, MessageReceived, Outcome

from .fetcher import Fetcher
from .pushes import Pushes
from .tasks import Tasks
from .wires import LinkWire

#: What goes over a link while one is up. Everything else is said rarely, or to strangers.
LINKED_MESSAGES: Final = (
    messages.Have,
    messages.Want,
    messages.Done,
    messages.Skip,
    messages.Omit,
    messages.Cancel,
    messages.Attach,
    messages.Redirect,
    messages.Detach,
    messages.Adopt,
    messages.Trees,
    messages.Rate,
)

_log = structlog.get_logger("shardcast.links")


class Linked:
    """The owner of the bulk links (`LinkEvents`).

    Args:
        tell: Hands the machine a fact.
        tasks: Where orders run.
        on_nonsense: Called with a peer that said what no honest one says.
        is_welcome: Whether what comes from a peer is listened to.
    """

    def __init__(
        self,
        *,
        fetcher: Fetcher,
        pushes: Pushes,
        tell: Callable[[Event], None],
        tasks: Tasks,
        on_nonsense: Callable[[PeerId], None],
        is_welcome: Callable[[PeerId], bool],
    ) -> None:
        self._fetcher, self._pushes = fetcher, pushes
        self._tell, self._tasks = tell, tasks
        self._on_nonsense, self._is_welcome = on_nonsense, is_welcome
        self._links: LinkWire | None = None
        #: Orders without an ending yet.
        self._opening: set[tuple[PeerId, bool]] = set()

    def use(self, links: LinkWire) -> None:
        """Have links from now on."""
        self._links = self._fetcher.links = links
        links.events = self

    def carry_out(self, command: OpenLink | CloseLink | PushChunk) -> None:
        """Do what the machine orders."""
        if isinstance(command, OpenLink):
            self._opening.add((command.peer, command.is_sending))
            self._tasks.spawn(self._open(command))
        elif isinstance(command, PushChunk):
            self._tasks.spawn(self._pushes.push(self._links, command))
        elif self._links is not None:
            self._links.close(command.peer, is_sending=command.is_sending)

    def send(self, peer: PeerId, message: messages.Message, payload: bytes) -> bool:
        """Queue a message over a link, if it is one of those and there is a link with room."""
        return self._links is not None and isinstance(message, LINKED_MESSAGES) and self._links.send(peer, payload)

    def drop(self, peer: PeerId) -> None:
        """Close the links of a peer."""
        if self._links is not None:
            for is_sending in (False, True):
                self._links.close(peer, is_sending=is_sending)

    async def _open(self, command: OpenLink) -> None:
        peer, is_sending = command.peer, command.is_sending
        timeout_s = max(command.deadline_s - asyncio.get_running_loop().time(), 0.1)
        outcome = Outcome.UNREACHABLE
        try:
            if self._links is not None:
                await self._links.open(peer, command.addresses, is_sending=is_sending, timeout_s=timeout_s)
                outcome = Outcome.DONE
        except TransferError as error:
            _log.info("link_failed", peer=peer, is_sending=is_sending, error=error.message)
            outcome = Outcome(str(error.facts.get("reason", "unreachable")))
        if (peer, is_sending) in self._opening:  # else the peer's came up meanwhile
            self._opening.discard((peer, is_sending))
            is_up = outcome is Outcome.DONE
            self._tell(LinkOpened(peer, is_sending) if is_up else LinkFailed(peer, is_sending, outcome))

    # --- LinkEvents -------------------------------------------------------------------------------------------------

    def link_opened(self, peer: PeerId, is_sending: bool) -> None:
        """A link is up, whoever opened it."""
        self._opening.discard((peer, is_sending))
        self._tell(LinkOpened(peer, is_sending))

    async def link_closed(self, peer: PeerId, is_sending: bool) -> None:
        """A link is gone."""
        if not is_sending:
            await self._pushes.settle(peer)
            await self._fetcher.wait_linked(peer)
        self._tell(LinkClosed(peer, is_sending))

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        """A control message came by a link; nonsense costs the peer its connections."""
        if not self._is_welcome(peer):
            return
        try:
            message = messages.decode(payload)
            if isinstance(message, LINKED_MESSAGES):
                self._tell(MessageReceived(peer, message))
            elif not isinstance(message, messages.Unknown):
                raise RemoteProtocolError(f"{type(message).__name__} came by a link")
        except ShardcastError as error:
            _log.warning("message_refused", peer=peer, error=error.message)
            self._on_nonsense(peer)

    def push_length(self, peer: PeerId, blob: Digest, stripe: int, index: int) -> int | None:
        """A pushed chunk begins."""
        return self._pushes.length_of(peer, blob, stripe, index) if self._is_welcome(peer) else None

    async def push_arrived(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, segments: Segments) -> None:
        """A pushed chunk has come whole."""
        await self._pushes.take(peer, blob, stripe, index, segments=segments)

    def push_broken(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, reason: str) -> None:
        """A pushed chunk does not come whole."""
        self._pushes.broken(peer, blob, stripe, index, outcome=Outcome(reason))

"""The events of the bulk links, as their owner is told of them."""

from __future__ import annotations

from typing import Protocol

from shardcast.http.chunk_stream import Segments
from shardcast_proto.ids import Digest, PeerId


class LinkEvents(Protocol):
    """Who owns the links; the shell. All of it is called on the loop."""

    def link_opened(self, peer: PeerId, is_sending: bool) -> None:
        """A link is up, whoever opened it."""

    async def link_closed(self, peer: PeerId, is_sending: bool) -> None:
        """A link that was up is gone, and every call that was under way on it has returned. A next one is told of after this returns."""

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        """A control message came by a link."""

    def push_length(self, peer: PeerId, blob: Digest, stripe: int, index: int) -> int | None:
        """Return how long a pushed chunk must be; None has it thrown away. Each one that is not None is ended by one of the two below."""

    async def push_arrived(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, segments: Segments) -> None:
        """Take a pushed chunk, not verified yet. While this waits, the next one of the link does too."""

    def push_broken(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, reason: str) -> None:
        """A pushed chunk will not come whole."""

"""The wires of the shell: what it needs of the control network and of the data plane.

`shardcast.p2p.P2pNode` and `shardcast.http.data_client.DataClient` are the real ones; tests have others that live in one process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from shardcast.http.chunk_stream import Segments
from shardcast.p2p import CarriedReceiver
from shardcast_proto.carriage import Answer, Request
from shardcast_proto.ids import Digest, PeerId


class ControlWire(Protocol):
    """The control network; see `P2pNode` for what each method promises."""

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The linked peers."""

    async def dial(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        """Make sure that `peer` is linked."""

    async def hangup(self, peer: PeerId) -> None:
        """Close all connections to `peer`."""

    def send(self, peer: PeerId, payload: bytes) -> bool:
        """Queue one control frame."""

    async def subscribe(self, topic: str) -> None:
        """Join a topic."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Give a message to the neighbours of a topic."""

    async def carry(
        self, peer: PeerId, request: Request, receiver: CarriedReceiver, *, idle_timeout_s: float
    ) -> Answer:
        """Ask a linked peer for content over its connection."""


class DataWire(Protocol):
    """The fetching end of the data plane; see `DataClient` for what each method promises.

    `CarriedClient` is one too, with a peer id for `base`.
    """

    async def fetch_object(self, base: str, digest: Digest, *, size_max: int, deadline_s: float) -> bytes:
        """Fetch an object from the peer at `base`."""

    async def fetch_run(
        self,
        base: str,
        blob: Digest,
        first: int,
        lengths: Sequence[int],
        *,
        on_chunk: Callable[[int, Segments], Awaitable[None]],
        on_began: Callable[[], None] = lambda: None,
        deadline_s: float,
        idle_timeout_s: float,
    ) -> int:
        """Fetch chunks of a blob in a row; return how many came."""

"""The wires of the shell: what it needs of the control network, of the data plane and of the bulk links.

`shardcast.p2p.P2pNode`, `shardcast.http.data_client.DataClient` and `shardcast.bulk.BulkLinks` are the real ones; tests have others that
live in one process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from shardcast.bulk import LinkEvents
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


class RunWire(Protocol):
    """What fetches chunks; see `DataClient.fetch_run`."""

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


class DataWire(RunWire, Protocol):
    """The fetching end of the data plane; see `DataClient` for what each method promises.

    `CarriedClient` is one too, with a peer id for `base`.
    """

    async def fetch_object(self, base: str, digest: Digest, *, size_max: int, deadline_s: float) -> bytes:
        """Fetch an object from the peer at `base`."""


class LinkWire(RunWire, Protocol):
    """The bulk links, a `RunWire` with a peer id for `base`; see `BulkLinks` for what each method promises."""

    events: LinkEvents

    async def open(self, peer: PeerId, addresses: Sequence[str], *, is_sending: bool, timeout_s: float) -> None:
        """Open a link; returns when it was told of."""

    def close(self, peer: PeerId, *, is_sending: bool) -> None:
        """Close a link, if it is up."""

    def has(self, peer: PeerId, *, is_sending: bool) -> bool:
        """Whether a link is up."""

    async def push(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, deadline_s: float) -> None:
        """Send a chunk unasked."""

    def send(self, peer: PeerId, payload: bytes) -> bool:
        """Queue a control message over whichever link is up."""

"""The orders that the machine gives: imperatives, one class each.

A command that starts work has a deadline, and exactly one event ends it (`ENDINGS`). Every command names the event that caused it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.messages import Message

from .events import DialFailed, FetchEnded, LinkFailed, LinkOpened, PeerConnected, PushEnded


@dataclass(frozen=True)
class Send:
    """Queue a control message for a connected peer; losing it is allowed."""

    cause: int
    peer: PeerId
    message: Message


@dataclass(frozen=True)
class Dial:
    """Open a control connection to one of `addresses`."""

    cause: int
    peer: PeerId
    addresses: tuple[str, ...]
    deadline_s: float


@dataclass(frozen=True)
class Hangup:
    """Close the control connection."""

    cause: int
    peer: PeerId
    reason: str


@dataclass(frozen=True)
class FetchObject:
    """Fetch the object `digest` of exactly `size_bytes` from a peer, check its digest, keep it.

    `addresses` are the peer's data plane; none means over the control connection.
    """

    cause: int
    fetch_id: int
    peer: PeerId
    addresses: tuple[str, ...]
    digest: Digest
    size_bytes: int
    deadline_s: float


@dataclass(frozen=True)
class FetchChunks:
    """Fetch `count` chunks from `first` on; verify and store each, reporting it by `ChunkVerified`, as it arrives.

    `addresses` as in `FetchObject`.
    """

    cause: int
    fetch_id: int
    peer: PeerId
    addresses: tuple[str, ...]
    blob: Digest
    first: int
    count: int
    deadline_s: float
    idle_timeout_s: float


@dataclass(frozen=True)
class CancelFetch:
    """Stop a fetch whose chunks have all arrived from elsewhere. It ends as CANCELLED, or as it ends."""

    cause: int
    fetch_id: int


@dataclass(frozen=True)
class OpenLink:
    """Open the bulk link to a peer in one direction: `is_sending` for bytes from here to there."""

    cause: int
    peer: PeerId
    addresses: tuple[str, ...]
    is_sending: bool
    deadline_s: float


@dataclass(frozen=True)
class CloseLink:
    """Close the bulk link in one direction. What is under way on it ends as it ends."""

    cause: int
    peer: PeerId
    is_sending: bool


@dataclass(frozen=True)
class PushChunk:
    """Send chunk `index` unasked over the sending link to `peer`, as part of `stripe`; at most a few at a time for each peer."""

    cause: int
    push_id: int
    peer: PeerId
    blob: Digest
    stripe: int
    index: int
    deadline_s: float


Command = Send | Dial | Hangup | FetchObject | FetchChunks | CancelFetch | OpenLink | CloseLink | PushChunk

#: Which events end the work that a command starts.
ENDINGS: Final[dict[type[Command], tuple[type, ...]]] = {
    Dial: (PeerConnected, DialFailed),
    FetchObject: (FetchEnded,),
    FetchChunks: (FetchEnded,),
    OpenLink: (LinkOpened, LinkFailed),
    PushChunk: (PushEnded,),
}

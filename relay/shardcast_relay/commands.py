"""The orders that the machine gives: imperatives, one class each.

A command that starts work has a deadline, and exactly one event ends it (`ENDINGS`). Every command names the event that caused it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.messages import Message

from .events import DialFailed, FetchEnded, PeerConnected


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


Command = Send | Dial | Hangup | FetchObject | FetchChunks | CancelFetch

#: Which events end the work that a command starts.
ENDINGS: Final[dict[type[Command], tuple[type, ...]]] = {
    Dial: (PeerConnected, DialFailed),
    FetchObject: (FetchEnded,),
    FetchChunks: (FetchEnded,),
}

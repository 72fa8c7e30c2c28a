"""The facts that the machine is told: past tense, one class each.

| event | the shell saw |
|---|---|
| `Started` | the node is up; these are its own record and its bootstrap contacts |
| `Ticked` | the time that `Machine.next_wake_s` named has come |
| `UplinkMeasured` | how fast the uplink is, when nobody has said so |
| `ChannelJoined` | a channel is followed from now on |
| `PeerConnected` / `DialFailed` / `PeerDisconnected` | a control connection came up, did not come up, ended |
| `HelloReceived` / `PeersReceived` / `GoodbyeReceived` | these messages, with their records verified |
| `MessageReceived` | any other control message |
| `HeadAccepted` | a head passed the trust check and is on disk |
| `BlobOpened` / `BlobClosed` | the store holds a place for a blob and these chunks of it; it no longer does |
| `ChunkVerified` | a chunk arrived, has the right digest and lies in the store |
| `FetchEnded` | a `FetchObject` or `FetchChunks` is over, the one ending that each of them has |
| `LinkOpened` / `LinkFailed` / `LinkClosed` | a bulk link came up (whoever opened it), did not come up, ended |
| `PushEnded` | a `PushChunk` is over |
| `PushBegan` / `PushArrived` | a pushed chunk is coming in; it is here, verified or not: each `PushBegan` has one `PushArrived` |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.messages import Message


@dataclass(frozen=True)
class Contact:
    """A peer that may be dialled. `record` is its signed record, to pass on.

    `dial` lists control addresses and `serve` data-plane addresses ("ip:port") that this node may dial, best first.
    """

    peer: PeerId
    record: bytes
    dial: tuple[str, ...]
    serve: tuple[str, ...]
    up_bytes_per_s: int = 0
    issued_s: int = 0


class Outcome(Enum):
    """How a fetch ended."""

    DONE = "done"
    #: The peer holds only the first chunks of the run; these came.
    PARTIAL = "partial"
    #: The peer does not have what it said, or what we assumed, it had.
    MISSING = "missing"
    #: The peer serves as many others as it wants to.
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    STALLED = "stalled"
    DEADLINE = "deadline"
    SHORT = "short"
    PROTOCOL = "protocol"
    #: Bytes with another digest than the manifest names.
    CORRUPT = "corrupt"
    #: Our own disk refused: not the peer's fault.
    STORE = "store"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Started:
    """The node is up."""

    record: bytes
    bootstrap: tuple[Contact, ...] = ()
    up_bytes_per_s: int = 0
    #: What proves to others that this node acts for an origin key.
    bindings: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Ticked:
    """The wake-up time has come."""


@dataclass(frozen=True)
class UplinkMeasured:
    """Nobody has told the node its uplink; this is what it was found to be, payload bytes per second."""

    up_bytes_per_s: int


@dataclass(frozen=True)
class ChannelJoined:
    """A channel is followed."""

    channel: Digest


@dataclass(frozen=True)
class PeerConnected:
    """Control messages can be sent to this peer. Ends a `Dial`."""

    peer: PeerId


@dataclass(frozen=True)
class DialFailed:
    """No control connection came up. Ends a `Dial`."""

    peer: PeerId
    reason: str


@dataclass(frozen=True)
class PeerDisconnected:
    """The control connection is gone."""

    peer: PeerId


@dataclass(frozen=True)
class HelloReceived:
    """A peer presented itself. `is_origin`: it has proved to act for an origin key of a channel that is followed here."""

    peer: PeerId
    contact: Contact
    channels: tuple[Digest, ...]
    is_urgent: bool = False
    is_origin: bool = False


@dataclass(frozen=True)
class PeersReceived:
    """A peer named others."""

    peer: PeerId
    contacts: tuple[Contact, ...]
    walk: int = 0


@dataclass(frozen=True)
class GoodbyeReceived:
    """A peer ended the neighbourship."""

    peer: PeerId
    reason: str
    contacts: tuple[Contact, ...] = ()


@dataclass(frozen=True)
class MessageReceived:
    """Any other control message."""

    peer: PeerId
    message: Message


@dataclass(frozen=True)
class HeadAccepted:
    """A head was accepted and is durable. `source` is the peer that sent it, None for our own."""

    channel: Digest
    seq: int
    manifest: Digest
    manifest_bytes: int
    source: PeerId | None = None


@dataclass(frozen=True)
class BlobOpened:
    """The store has a place for `blob` and holds the chunks of `mask`, verified."""

    blob: Digest
    chunk_count: int
    chunk_bytes: int
    mask: int
    #: Of several open blobs the one with the highest priority is fetched first.
    priority: int = 0
    manifest: Digest | None = None
    #: The node publishes it: others have their first copies from here.
    is_source: bool = False


@dataclass(frozen=True)
class BlobClosed:
    """The blob is neither fetched nor served any more."""

    blob: Digest


@dataclass(frozen=True)
class ChunkVerified:
    """Chunk `index` arrived from a fetch, verified. `is_new` is False when it was already held."""

    fetch_id: int
    index: int
    size_bytes: int
    is_new: bool = True


@dataclass(frozen=True)
class FetchEnded:
    """A fetch is over. `rtt_s` is the time to its first response byte, None when none came."""

    fetch_id: int
    outcome: Outcome
    rtt_s: float | None = None


@dataclass(frozen=True)
class LinkOpened:
    """A bulk link is up; `is_sending`: its bytes go from here to the peer. Ends an `OpenLink`."""

    peer: PeerId
    is_sending: bool


@dataclass(frozen=True)
class LinkFailed:
    """No bulk link came up. Ends an `OpenLink`."""

    peer: PeerId
    is_sending: bool
    outcome: Outcome


@dataclass(frozen=True)
class LinkClosed:
    """A bulk link that was up is gone. What was under way on it has had its endings before."""

    peer: PeerId
    is_sending: bool


@dataclass(frozen=True)
class PushEnded:
    """A push is over: DONE when the kernel took all of it, else why not."""

    push_id: int
    outcome: Outcome


@dataclass(frozen=True)
class PushBegan:
    """The header of a pushed chunk arrived; its bytes follow."""

    peer: PeerId
    blob: Digest
    stripe: int
    index: int


@dataclass(frozen=True)
class PushArrived:
    """A pushed chunk is over: DONE when it is verified and lies in the store, else why not."""

    peer: PeerId
    blob: Digest
    stripe: int
    index: int
    outcome: Outcome
    size_bytes: int = 0
    is_new: bool = True


Event = (
    Started
    | Ticked
    | UplinkMeasured
    | ChannelJoined
    | PeerConnected
    | DialFailed
    | PeerDisconnected
    | HelloReceived
    | PeersReceived
    | GoodbyeReceived
    | MessageReceived
    | HeadAccepted
    | BlobOpened
    | BlobClosed
    | ChunkVerified
    | FetchEnded
    | LinkOpened
    | LinkFailed
    | LinkClosed
    | PushEnded
    | PushBegan
    | PushArrived
)

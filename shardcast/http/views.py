"""The views of a node: the values that its API is asked with, or answers.

They are plain dicts that JSON can carry: digests as `b3:HEX`, times as unix seconds by the node's clock. `facade` says which question
has which answer; `api_schemas` makes JSON schemas of these classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Required, TypedDict

#: `gone`: superseded before it was whole here, or deleted by retention.
VersionState = Literal["announced", "staging", "complete", "failed", "gone"]
Freshness = Literal["fresh", "stale", "clock"]
#: What happened to a version; `snapshot` says what there is, to a reader that has missed events or begins to read.
EventKind = Literal[
    "snapshot", "announced", "complete", "failed", "gone", "activated", "activation_failed", "lagging", "caught_up"
]
#: `waiting`: no version was there yet. `activating`. `active`. `failed`: the last activation failed, what served before serves.
#: `paused`: it may be paused by us, and is told to go on. `unknown`: nobody can say what it holds. `unreachable`: it does not answer as
#: one does that works.
EngineState = Literal["waiting", "activating", "active", "failed", "paused", "unknown", "unreachable"]
#: Told (bytes done, bytes in total); may be called from any thread, as often as it likes.
ProgressFn = Callable[[int, int], None]


class _VersionFields(TypedDict):
    """What every view of a version says."""

    #: The channel's local name.
    channel: str
    #: The channel's id, `b3:HEX`.
    channel_id: str
    seq: int
    step: int
    epoch: int
    #: The manifest's digest, `b3:HEX`.
    manifest: str
    #: Bytes of all files together.
    bytes: int
    #: Chunks of the version, and how many of them are held verified; both 0 while the manifest is not here.
    chunks: int
    have_chunks: int
    chunk_size: int
    #: How many files; 0 while the manifest is not here.
    files: int
    state: VersionState
    #: When this node accepted the head.
    received_at: float
    #: When this node held the version complete; None until then.
    completed_at: float | None
    #: When the head was signed; known to the origin only.
    signed_at: float | None
    #: One sentence: what the version waits for, or what became of it.
    explain: str
    #: Why `state` is `failed`.
    error: str | None
    bytes_from_origin: int
    bytes_from_peers: int
    chunks_verified: int
    duplicate_chunks: int
    #: When the first of its chunks was verified here, since the node has started; None until then.
    first_chunk_at: float | None
    #: Whether the operator keeps it from retention.
    pinned: bool
    #: The engines that serve it, as far as is known.
    active_in: list[str]


class VersionView(_VersionFields):
    """One version as this node sees it."""

    #: The local directory of a complete version, else None.
    path: str | None


class LeaseView(_VersionFields):
    """A leased version: it stays until the lease is released or runs out."""

    lease: int
    #: The local directory; a lease is given for complete versions only.
    path: str


class ChannelView(TypedDict):
    """One channel that this node follows."""

    name: str
    #: The channel's id, `b3:HEX`.
    channel: str
    epoch: int
    freshness: Freshness
    is_origin: bool
    #: How many versions are known.
    versions: int


class ChannelStatus(TypedDict):
    """One channel as `status` shows it."""

    name: str
    channel: str
    epoch: int
    freshness: Freshness
    is_origin: bool
    #: The newest version.
    head: VersionView | None
    #: The versions whose chunks are on their way, newest first.
    fetching: list[VersionView]


class EngineVersion(TypedDict):
    """A version in an engine."""

    step: int
    seq: int
    epoch: int
    #: The manifest's digest, `b3:HEX`.
    manifest: str


class EngineView(TypedDict):
    """One engine that is kept at the newest version."""

    name: str
    #: vllm, sglang, prime-rl, hook, webhook or symlink.
    kind: str
    #: Its URL or path.
    target: str
    channel: str
    channel_id: str
    state: EngineState
    #: One sentence: what it does, or what is wrong and what to do.
    explain: str
    #: What is known of its weights: none, confirmed, assumed, unsettled or lost.
    knowledge: str
    #: What it was last given with success; with `knowledge` confirmed or assumed it serves that.
    active: EngineVersion | None
    #: What `rollback` goes back to.
    previous: EngineVersion | None
    activating: EngineVersion | None
    #: Nothing that is not newer than this is taken up unasked.
    hold: EngineVersion | None
    #: How many newer versions the channel has, complete here or not, and for how long.
    lag_versions: int
    lag_seconds: float
    #: Whether that is more than --max-lag or --max-stale allow.
    is_behind: bool
    #: Why the last activation failed, or None.
    error: str | None
    #: Of the last activation since the node has started.
    activated_at: float | None
    activation_seconds: float | None
    pause_seconds: float | None
    #: How many there were since, and how many have failed.
    activations: int
    failures: int


class EnginesView(TypedDict):
    """What was done with engines."""

    engines: list[EngineView]


class StatusView(TypedDict):
    """The node at one glance."""

    #: The software's version.
    version: str
    peer_id: str
    started_at: float
    #: Multiaddrs that end in /p2p/PEER_ID.
    p2p: list[str]
    #: IP:PORT of the data plane.
    serve: str
    #: URL of the API.
    api: str
    #: The data directory.
    data: str
    roles: list[str]
    channels: list[ChannelStatus]
    neighbours: int
    uploads_running: int
    sent_bytes: int
    received_bytes: int
    refused_heads: int
    #: Why the store cannot be written to, or None.
    store_error: str | None
    engines: list[EngineView]


class PeerView(TypedDict):
    """One neighbour."""

    peer: str
    roles: list[str]
    #: IP:PORT of its data plane, None while it has told none.
    serve: str | None
    #: Measured; None before the first sample.
    rate_bytes_per_s: float | None
    received_bytes: int
    sent_bytes: int
    #: Of the requests to it, from 0 to 1.
    success_rate: float
    #: Seconds that it is still refused for; 0 when it is not.
    quarantined_for_s: float
    in_flight_bytes: int


class StripeView(TypedDict):
    """The place of a node in one stripe: a share of a version's chunks, which has its own tree."""

    stripe: int
    #: Who feeds this node; None while nobody does, and at a source.
    parent: str | None
    #: Below the source, whose own is 0; None without a parent.
    depth: int | None
    #: Who is fed from here.
    children: list[str]
    #: At a source with a root in this stripe: chunks handed out and not yet seen passed on, and how many may be; else None.
    chunks_out: int | None
    credit: int | None


class ChildView(TypedDict):
    """A peer that a node feeds, whatever stripes it is fed in."""

    peer: str
    stripes: list[int]
    #: Chunks of this version that wait for it.
    waiting_chunks: int
    #: Pushes on their way to it, of all versions; chunks that found no room to wait and are left to the mesh.
    pushes_on_way: int
    overflow_chunks: int


class LinkView(TypedDict):
    """A neighbour, with the bulk links to it. Rates are over all versions, of the last second or so."""

    peer: str
    roles: list[str]
    #: Whether the link is up by which chunks come, and the one by which they go.
    is_receiving: bool
    is_sending: bool
    received_bytes_per_s: float
    sent_bytes_per_s: float


class HandingOutView(TypedDict):
    """How far a source is with the first copies of a version."""

    #: Chunks that nobody was given yet; chunks that were, and that no third node has yet.
    chunks_left: int
    chunks_out: int
    #: How often a chunk was given a second time.
    repeated_chunks: int


class TreeView(TypedDict):
    """Who feeds whom with a version, as one node sees it."""

    peer_id: str
    channel: str
    channel_id: str
    seq: int
    step: int
    manifest: str
    state: VersionState
    chunks: int
    have_chunks: int
    explain: str
    #: Whether the first copies come from this node, and how far that is.
    is_source: bool
    handing_out: HandingOutView | None
    #: All of them, also those without a parent; empty while the version is not open here.
    stripes: list[StripeView]
    children: list[ChildView]
    #: The neighbours, linked or not.
    links: list[LinkView]
    #: How many links are up by which chunks come, and by which they go.
    links_receiving: int
    links_sending: int


class PublishView(TypedDict):
    """What `publish` has done."""

    channel: str
    seq: int
    step: int
    manifest: str
    bytes: int
    signed_at: float
    hash_seconds: float
    #: The step was published before with the same content; nothing was signed.
    existing: bool
    #: How the files came into the store: reflink, hardlink or copy.
    link: str
    #: How many direct neighbours had reported that they hold every chunk of it when the answer was given.
    complete_neighbours: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishRequest:
    """What to publish."""

    #: An absolute path on the node's host.
    path: str
    #: Name or id.
    channel: str
    step: int
    rewind: bool = False
    #: auto, reflink, hardlink or copy.
    link: str = "auto"
    #: How many direct neighbours must have reported that they hold every chunk before the answer; 0: it is only announced.
    wait_neighbours: int = 0
    #: The name of a file that must exist in `path` before the directory is taken; it is published like any other.
    wait_marker: str | None = None
    #: How long, from the request on, the marker and the neighbours are waited for. Hashing is never cut short.
    timeout_s: float = 600.0
    #: Whether this node's own user asks, over the loopback API: then `path` may lie anywhere if no --publish-root is given.
    is_own_user: bool = False


class PublishNews(TypedDict, total=False):
    """How far a publication is: one line of the stream of `POST …/versions`, below its member `event`."""

    #: `waiting`: nothing is hashed yet. `hashing`. `spreading`: signed and announced, neighbours are waited for.
    event: Required[Literal["waiting", "hashing", "spreading"]]
    #: Of `waiting`, when it is a marker that is waited for: the file's name.
    marker: str
    #: Of `hashing`: bytes hashed, and bytes in total.
    done: int
    total: int
    #: Of `spreading`: the version's seq, how many neighbours are complete, how many are wanted.
    seq: int
    complete_neighbours: int
    wait_neighbours: int


#: Told how far a publication is; may be called from any thread, as often as it likes.
PublishNewsFn = Callable[[PublishNews], None]


class EventView(TypedDict):
    """Something that happened to a version of a channel."""

    #: Opaque; events of one channel are read on from it.
    id: str
    event: EventKind
    #: When this node noticed it.
    at: float
    #: The one version that it is about, as it was then; of a `snapshot` all that are listed, newest first.
    versions: list[VersionView]
    #: Of `activated`, `activation_failed`, `lagging`, `caught_up`: the engine, and more in one sentence.
    engine: str | None
    detail: str | None


class EventsView(TypedDict):
    """Events of one channel, oldest first."""

    events: list[EventView]
    #: What to give as `since` the next time.
    next: str


class SpoolView(TypedDict):
    """A directory that this node lends to a publisher of the same user; swept once published, or at the next start."""

    spool: str
    #: Absolute, mode 0700, empty, on the file system of the data directory. It may be published whatever --publish-root says.
    path: str


class VerifyView(TypedDict):
    """A complete version whose chunks have been read and hashed again, and are all right."""

    channel: str
    seq: int
    step: int
    manifest: str
    bytes: int
    chunks: int
    seconds: float


class GcView(TypedDict):
    """What retention has deleted (or would)."""

    #: Manifests, `b3:HEX`.
    deleted: list[str]
    #: Bytes of their files, as far as they were held.
    bytes: int
    #: Whether nothing was deleted in fact.
    dry_run: bool


def _keep_nothing() -> None:
    """Release nothing: the default of a file that needs no lease."""


@dataclass(kw_only=True, slots=True)
class OpenFile:
    """One file of a complete version, open to be sent; the version is leased until `close`."""

    #: A real file, as `loop.sendfile` needs it.
    file: io.FileIO
    size: int
    #: A strong validator in its quotes, `"blake3:HEX"`: equal for equal bytes, different for different ones.
    etag: str
    #: Releases the lease; called once, by `close`.
    on_close: Callable[[], None] = _keep_nothing

    def close(self) -> None:
        """Close the file, then give the lease back. Closing again does nothing."""
        if not self.file.closed:
            self.file.close()
            self.on_close()

"""The facade of a node: everything its HTTP API may ask of it.

`shardcast.node.Node` implements it; `shardcast.http.api` calls it. All methods, sync or async, are called on the asyncio
loop, and a sync one returns without waiting for a disk or a peer. Views are plain dicts that JSON can carry: digests as
`b3:HEX`, times as unix seconds by this node's clock.

A channel is named by its local name or by its id `b3:HEX`. A selector picks one version of it:

    latest    the version of the newest head
    1200      the newest version with step 1200 (a rewound trainer gives a step twice)
    seq:7     exactly the head with seq 7
    b3:HEX    exactly the manifest with this digest

Errors are those of `shardcast_proto.errors`: `NotFound` for an unknown channel, version, file or lease, `NotReady` for a
version that is not complete here, `ConfigError` for what cannot mean anything (a selector of none of the forms above).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

#: `gone`: superseded before it was whole here, or deleted by retention.
VersionState = Literal["announced", "staging", "complete", "failed", "gone"]
Freshness = Literal["fresh", "stale", "clock"]
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


class NodeFacade(Protocol):
    """A running node, as its API sees it."""

    def status(self) -> StatusView:
        """Return the node at one glance."""

    def peers(self) -> list[PeerView]:
        """Return the neighbours."""

    def channels(self) -> list[ChannelView]:
        """Return the channels that this node follows."""

    def versions(self, channel: str) -> list[VersionView]:
        """Return the versions of a channel, newest first.

        Raises:
            NotFound: The channel is not followed here.
        """

    def version(self, channel: str, selector: str) -> VersionView:
        """Return one version.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel or version.
        """

    async def wait(self, channel: str, selector: str, timeout_s: float) -> VersionView:
        """Return a version once it is complete or failed here, or after `timeout_s` as it is then.

        A version that is not known yet is waited for, and `latest` means the newest at the moment of return.

        Raises:
            ConfigError: The selector is none.
            NotFound: The channel is not followed here.
            NotReady: Nothing that the selector names has appeared in time.
        Cancellation: nothing is left behind.
        """

    def manifest_bytes(self, channel: str, selector: str) -> bytes:
        """Return the encoded manifest of a version, complete or not.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel or version.
            NotReady: The manifest is not here yet.
        """

    async def open_file(self, channel: str, selector: str, path: str) -> OpenFile:
        """Open one file of a complete version. `path` is compared with the manifest's, never walked.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel, version or file.
            NotReady: The version is not complete here.
            StoreError: The file was changed or is gone.
        Cancellation: the file is closed and the lease given back.
        """

    async def publish(self, request: PublishRequest, progress: ProgressFn) -> PublishView:
        """Seal a directory as a version of a channel, sign its head and announce it.

        What can be refused without hashing (paths, keys, steps) is refused before `progress` is called first.

        Raises:
            ConfigError: An argument is wrong, or the path holds no checkpoint.
            TrustError: This node is not an origin of the channel.
            NotFound: No such channel or path.
            Conflict: The step exists with other content, or the files changed while they were hashed.
            StoreError: The disk.
        Cancellation: before the head is signed nothing becomes visible; after that it is announced all the same.
        """

    async def lease(self, channel: str, selector: str, *, holder: str, ttl_s: float) -> LeaseView:
        """Keep a complete version from being deleted until the lease is released, or `ttl_s` has passed.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel or version.
            NotReady: The version is not complete here.
        """

    def release_lease(self, lease: int) -> None:
        """Give a lease back.

        Raises:
            NotFound: There is no such lease (any more).
        """

    def is_ready(self) -> tuple[bool, str]:
        """Say whether the node can do its work, and why (not) in one sentence."""

"""The facade of a node: everything its HTTP API may ask of it.

`shardcast.node.Node` implements it; `shardcast.http.api` calls it. All methods, sync or async, are called on the asyncio
loop, and a sync one returns without waiting for a disk or a peer. Views are plain dicts that JSON can carry: digests as
`b3:HEX`, times as unix seconds by this node's clock.

A channel is named by its local name or by its id `b3:HEX`. A selector picks one version of it:

    latest    the version of the newest head
    1200      the newest version with step 1200 (a rewound trainer gives a step twice)
    seq:7     exactly the head with seq 7
    b3:HEX    exactly the manifest with this digest, or with one that begins with these 40 hex digits

Errors are those of `shardcast_proto.errors`: `NotFound` for an unknown channel, version, file or lease, `NotReady` for a
version that is not complete here, `ConfigError` for what cannot mean anything (a selector of none of the forms above).
"""

from __future__ import annotations

from typing import Protocol

from shardcast.http.views import (
    ChannelStatus,
    ChannelView,
    ChildView,
    EngineState,
    EnginesView,
    EngineVersion,
    EngineView,
    EventKind,
    EventsView,
    EventView,
    Freshness,
    GcView,
    HandingOutView,
    LeaseView,
    LinkView,
    OpenFile,
    PeerView,
    ProgressFn,
    PublishNews,
    PublishNewsFn,
    PublishRequest,
    PublishView,
    SpoolView,
    StatusView,
    StripeView,
    TreeView,
    VerifyView,
    VersionState,
    VersionView,
)

__all__ = [
    "NodeFacade",
    "ChannelStatus",
    "ChannelView",
    "ChildView",
    "EngineState",
    "EngineVersion",
    "EngineView",
    "EnginesView",
    "EventKind",
    "EventView",
    "EventsView",
    "Freshness",
    "GcView",
    "HandingOutView",
    "LeaseView",
    "LinkView",
    "OpenFile",
    "PeerView",
    "ProgressFn",
    "PublishNews",
    "PublishNewsFn",
    "PublishRequest",
    "PublishView",
    "SpoolView",
    "StatusView",
    "StripeView",
    "TreeView",
    "VerifyView",
    "VersionState",
    "VersionView",
]


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

    def tree(self, channel: str, selector: str) -> TreeView:
        """Return who feeds whom with a version, as this node sees it.

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

    async def publish(self, request: PublishRequest, tell: PublishNewsFn) -> PublishView:
        """Seal a directory as a version of a channel, sign its head, announce it, and wait as the request says.

        What can be refused without hashing (paths, keys, steps) is refused before `tell` is called first.

        Raises:
            ConfigError: An argument is wrong, or the path holds no checkpoint.
            TrustError: This node is not an origin of the channel, or the path may not be read for this caller.
            NotFound: No such channel or path.
            Conflict: The step exists with other content, or the files changed while they were hashed.
            TransferError: The marker did not appear in time, or fewer neighbours than wanted were complete in time; the facts
                have `seq` when the version is published all the same. Asking again goes on waiting.
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

    async def events(self, channel: str, since: str | None, timeout_s: float) -> EventsView:
        """Return what happened to a channel's versions after the event `since`, at once or as soon as something does.

        Without `since`, or with one that this node does not remember (it was started anew, or too much has happened),
        the first event is a `snapshot`. After `timeout_s` the list may be empty.

        Raises:
            NotFound: The channel is not followed here.
        Cancellation: nothing is left behind.
        """

    async def pin(self, channel: str, selector: str) -> VersionView:
        """Keep a version from retention until it is unpinned.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel or version, or it is not held here any more.
            StoreError: The disk.
        """

    async def unpin(self, channel: str, selector: str) -> VersionView:
        """Let retention decide over a version again. Unpinning one that is not pinned does nothing.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel or version.
            StoreError: The disk.
        """

    async def verify(self, channel: str, selector: str, progress: ProgressFn) -> VerifyView:
        """Read and hash every chunk of a complete version again. One that is not right is given up, and fetched anew if it was fetched.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel or version.
            NotReady: The version is not complete here.
            IntegrityError: Chunks are wrong; the facts have `files` and `wrong_chunks`.
            StoreError: The disk.
        Cancellation: the threads end soon, and nothing was changed.
        """

    async def gc(self, *, dry_run: bool) -> GcView:
        """Delete now what retention gives up, or only say what that is.

        Raises:
            StoreError: The disk.
        """

    async def spool(self, channel: str) -> SpoolView:
        """Lend an empty directory to a publisher.

        Raises:
            NotFound: The channel is not followed here.
            TrustError: This node is not an origin of the channel.
            Conflict: Too many are lent.
            StoreError: The disk.
        """

    async def drop_spool(self, spool: str) -> None:
        """Delete a lent directory with all that is in it.

        Raises:
            NotFound: There is no such spool (any more).
            Conflict: It is being published.
            StoreError: The disk.
        """

    def engines(self) -> list[EngineView]:
        """Return the engines that are kept at the newest version."""

    async def activate(self, channel: str, selector: str, *, engine: str | None, timeout_s: float) -> EnginesView:
        """Have the engines of a channel, or one of them, serve a complete version; it stays until something newer comes than there is.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such channel or version, or no such engine.
            NotReady: The version is not complete here.
            HotLoadError: An engine did not take it; the facts have its `effect`.
            Conflict: Something else was asked of an engine meanwhile.
            TransferError: It has not ended in time, and goes on.
        Cancellation: it goes on.
        """

    async def roll_back(self, channel: str, *, engine: str | None, timeout_s: float) -> EnginesView:
        """Have the engines of a channel, or one of them, serve what they served before, until something newer comes.

        Raises:
            NotFound: No such channel or engine, or one has nothing to go back to.
            HotLoadError: An engine did not take it.
            Conflict: An activation is under way, or something else was asked of an engine meanwhile.
            TransferError: It has not ended in time, and goes on.
        Cancellation: it goes on.
        """

    async def follow(self, channel: str, *, engine: str | None) -> EnginesView:
        """Have the engines of a channel, or one of them, take up the newest version again, whatever was chosen or refused.

        Raises:
            NotFound: No such channel or engine.
            StoreError: The disk.
        """

    def metrics(self) -> bytes:
        """Return the node's metrics in the text format of Prometheus."""

"""The desk of a node: what its API may ask, answered from the shell, the store and the catalog."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from shardcast import __version__
from shardcast.http.data_server import DataServer
from shardcast.http.facade import (
    ChannelView,
    EnginesView,
    EngineView,
    EventKind,
    EventsView,
    GcView,
    LeaseView,
    OpenFile,
    PeerView,
    ProgressFn,
    PublishNewsFn,
    PublishRequest,
    PublishView,
    SpoolView,
    StatusView,
    TreeView,
    VerifyView,
    VersionView,
)
from shardcast.metrics import Metrics
from shardcast.shell.shell import Shell
from shardcast.shell.versions import Versions
from shardcast.store import Store
from shardcast_proto.errors import NotFound, NotReady, ShardcastError, StoreError
from shardcast_proto.ids import PeerId, parse_digest

from .activations import Activations, EngineNews
from .catalog import Catalog, selector_key
from .checkup import verify
from .engine_runner import Ended
from .figures import FigureReader
from .housekeeping import Housekeeping
from .journal import Journals
from .places import tree_view
from .publications import Publications
from .publishable import Publishable
from .publisher import Publisher
from .spools import Spools
from .traffic import Traffic

#: A waiter looks again so often even when nobody told it of a change.
LOOK_AGAIN_S: Final = 1.0

_log = structlog.get_logger("shardcast.node")


@dataclass
class Identity:
    """What a node says about itself."""

    peer: PeerId
    data: str
    roles: tuple[str, ...]
    #: Multiaddrs, the data plane's IP:PORT, the API's URL; the last is known once it listens.
    p2p: list[str]
    serve: str
    api: str = ""


class Desk:
    """Implements `shardcast.http.facade.NodeFacade`.

    Args:
        roles_of: Returns the roles that a peer claims.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        shell: Shell,
        store: Store,
        data_server: DataServer,
        traffic: Traffic,
        roles_of: Callable[[PeerId], tuple[str, ...]],
        housekeeping: Housekeeping,
        spools: Spools,
        publishable: Publishable,
        activations: Activations,
    ) -> None:
        self._identity = identity
        self._shell = shell
        self._store = store
        self._data_server = data_server
        self._traffic = traffic
        self._roles_of = roles_of
        self._versions: Versions = shell.versions
        self._catalog = Catalog(shell, store, roles_of=roles_of, clock=time.time)
        self._housekeeping = housekeeping
        self._leases = housekeeping.leases
        self._spools = spools
        self._metrics = Metrics(
            FigureReader(shell, store, data_server, traffic=traffic, engines=activations.views).read
        )
        self._publications = Publications(
            shell,
            Publisher(shell, store),
            spools=spools,
            publishable=publishable,
            on_published=lambda view: self._metrics.version_published(view["hash_seconds"]),
        )
        self._started_at = time.time()
        #: What happened to the versions; the node keeps it running.
        self.journals = Journals(
            list(shell.channels.values()), self._catalog, self._versions, on_event=self._count_event
        )
        self._activations = activations
        activations.on_news = self._tell_of_engine
        activations.on_ended = self._activation_ended
        self._catalog.active_in = activations.active_in
        #: Work that goes on when its caller leaves.
        self._chores: set[asyncio.Future[GcView]] = set()

    def status(self) -> StatusView:
        """Return the node at one glance."""
        identity = self._identity
        channels = self._shell.channels.values()
        return {
            "version": __version__,
            "peer_id": identity.peer,
            "started_at": self._started_at,
            "p2p": identity.p2p,
            "serve": identity.serve,
            "api": identity.api,
            "data": identity.data,
            "roles": list(identity.roles),
            "channels": [self._catalog.channel_status(channel) for channel in channels],
            "neighbours": len(self._shell.machine.membership.active),
            "uploads_running": self._data_server.uploads_running,
            "sent_bytes": self._traffic.sent_bytes,
            "received_bytes": self._versions.received_bytes,
            "refused_heads": self._shell.heads.refused.total(),
            "store_error": self._versions.store_error,
            "engines": self._activations.views(),
        }

    def peers(self) -> list[PeerView]:
        """Return the neighbours, and the peers in quarantine."""
        downloads = self._shell.machine.downloads
        now_s = asyncio.get_running_loop().time()
        quarantined = [peer for peer, record in downloads.reputations.items() if record.is_quarantined(now_s)]
        names = dict.fromkeys([*self._shell.machine.membership.active, *quarantined])
        return [self._peer_view(peer, now_s) for peer in names]

    def _peer_view(self, peer: PeerId, now_s: float) -> PeerView:
        downloads = self._shell.machine.downloads
        contact, rate = downloads.neighbours.get(peer), downloads.rates.get(peer)
        record = downloads.reputations.get(peer)
        received = sum(version.bytes_by_peer.get(peer, 0) for version in self._versions.all())
        return {
            "peer": peer,
            "roles": list(self._roles_of(peer)),
            "serve": contact.serve[0] if contact and contact.serve else None,
            "rate_bytes_per_s": rate.mean if rate else None,
            "received_bytes": received,
            "sent_bytes": self._traffic.sent_to(peer),
            "success_rate": record.success_rate if record else 0.5,
            "quarantined_for_s": max(record.quarantined_until_s - now_s, 0.0) if record else 0.0,
            "in_flight_bytes": downloads.fetches.in_flight(peer),
        }

    def channels(self) -> list[ChannelView]:
        """Return the channels that this node follows."""
        return [self._catalog.channel_view(channel) for channel in self._shell.channels.values()]

    def versions(self, channel: str) -> list[VersionView]:
        """Return the versions of a channel, newest first."""
        return self._catalog.versions(self._catalog.channel(channel))

    def version(self, channel: str, selector: str) -> VersionView:
        """Return one version."""
        followed = self._catalog.channel(channel)
        return self._catalog.view(followed, self._catalog.head(followed, selector))

    def tree(self, channel: str, selector: str) -> TreeView:
        """Return who feeds whom with a version."""
        return tree_view(self._shell, self.version(channel, selector), roles_of=self._roles_of)

    async def wait(self, channel: str, selector: str, timeout_s: float) -> VersionView:
        """Return a version once it is complete or failed here, or after `timeout_s` as it is then."""
        followed = self._catalog.channel(channel)
        selector_key(selector)
        deadline_s = time.monotonic() + timeout_s
        while True:
            view: VersionView | None = None
            try:
                view = self._catalog.view(followed, self._catalog.head(followed, selector))
            except NotFound:
                view = None
            left_s = deadline_s - time.monotonic()
            if view is not None and view["state"] == "gone":
                raise _gone(view, selector)
            if view is not None and (view["state"] in ("complete", "failed") or left_s <= 0):
                return view
            if left_s <= 0:
                raise NotReady(f"channel {followed.name} has no version {selector} yet", channel=followed.name)
            await self._versions.wait_changed(min(left_s, LOOK_AGAIN_S))

    def manifest_bytes(self, channel: str, selector: str) -> bytes:
        """Return the encoded manifest of a version."""
        followed = self._catalog.channel(channel)
        row = self._catalog.head(followed, selector)
        data = self._store.object(row.manifest)
        if data is None:
            raise NotReady(f"the manifest of {followed.name} {selector} is not here", channel=followed.name)
        return data

    async def open_file(self, channel: str, selector: str, path: str) -> OpenFile:
        """Open one file of a complete version."""
        followed = self._catalog.channel(channel)
        return await self._leases.open_file(self._complete_view(channel, selector), path, holder=followed.name)

    async def publish(self, request: PublishRequest, tell: PublishNewsFn) -> PublishView:
        """Seal a directory as a version of a channel, sign its head, announce it, and wait as the request says."""
        return await self._publications.publish(self._catalog.channel(request.channel), request, tell)

    async def events(self, channel: str, since: str | None, timeout_s: float) -> EventsView:
        """Return what happened to a channel's versions after an event."""
        return await self.journals.read(self._catalog.channel(channel), since, timeout_s)

    async def pin(self, channel: str, selector: str) -> VersionView:
        """Keep a version from retention."""
        view = self.version(channel, selector)
        if view["state"] == "gone":
            raise _gone(view, selector)
        await asyncio.to_thread(self._store.pin, parse_digest(view["manifest"]))
        return self.version(channel, f"seq:{view['seq']}")

    async def unpin(self, channel: str, selector: str) -> VersionView:
        """Let retention decide over a version again."""
        view = self.version(channel, selector)
        await asyncio.to_thread(self._store.unpin, parse_digest(view["manifest"]))
        return self.version(channel, f"seq:{view['seq']}")

    async def verify(self, channel: str, selector: str, progress: ProgressFn) -> VerifyView:
        """Hash every chunk of a complete version again."""
        view = self._complete_view(channel, selector)
        lease = await self._leases.hold(view, "verify", math.inf)
        try:
            return await verify(view, progress, self._store)
        finally:
            self._leases.release(lease)

    async def gc(self, *, dry_run: bool) -> GcView:
        """Delete now what retention gives up, or only say what that is."""
        work = self._housekeeping.doomed() if dry_run else self._housekeeping.collect()
        chore = asyncio.ensure_future(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return await asyncio.shield(chore)

    async def spool(self, channel: str) -> SpoolView:
        """Lend an empty directory to a publisher."""
        return await self._publications.lend(self._catalog.channel(channel))

    async def drop_spool(self, spool: str) -> None:
        """Delete a lent directory."""
        await asyncio.to_thread(self._spools.drop, spool)

    def engines(self) -> list[EngineView]:
        """Return the engines that are kept at the newest version."""
        return self._activations.views()

    async def activate(self, channel: str, selector: str, *, engine: str | None, timeout_s: float) -> EnginesView:
        """Have the engines of a channel, or one of them, serve a complete version."""
        view = self._complete_view(channel, selector)
        followed = self._catalog.channel(channel)
        head = self._catalog.head(followed, f"seq:{view['seq']}")
        return {"engines": await self._activations.activate(followed, head, engine=engine, timeout_s=timeout_s)}

    async def roll_back(self, channel: str, *, engine: str | None, timeout_s: float) -> EnginesView:
        """Have the engines of a channel, or one of them, serve what they served before."""
        followed = self._catalog.channel(channel)
        return {"engines": await self._activations.roll_back(followed, engine=engine, timeout_s=timeout_s)}

    async def follow(self, channel: str, *, engine: str | None) -> EnginesView:
        """Have the engines of a channel, or one of them, take up the newest version again."""
        return {"engines": await self._activations.follow(self._catalog.channel(channel), engine=engine)}

    def _activation_ended(self, ended: Ended) -> None:
        self._metrics.activation_ended(ended)
        self._housekeeping.expect_release()

    def _tell_of_engine(self, news: EngineNews) -> None:
        try:
            view = self._catalog.view(news.channel, self._catalog.head(news.channel, f"seq:{news.mark.seq}"))
        except ShardcastError as error:
            _log.warning("event_not_noted", kind=news.kind, engine=news.engine, error=error.describe())
            return
        self.journals.tell(news.channel, news.kind, view, engine=news.engine, detail=news.detail)

    def metrics(self) -> bytes:
        """Return the node's metrics."""
        return self._metrics.render()

    async def lease(self, channel: str, selector: str, *, holder: str, ttl_s: float) -> LeaseView:
        """Keep a complete version from being deleted for a while."""
        return await self._leases.lease(self._complete_view(channel, selector), holder=holder, ttl_s=ttl_s)

    def release_lease(self, lease: int) -> None:
        """Give a lease back."""
        self._leases.release(lease)

    def is_ready(self) -> tuple[bool, str]:
        """Say whether the node can do its work."""
        error = self._versions.store_error
        if error:
            return False, f"the store fails: {error}"
        trouble = self._activations.trouble()
        return (True, "ready") if trouble is None else (False, trouble)

    def _count_event(self, kind: EventKind, view: VersionView) -> None:
        if kind == "complete" and view["completed_at"] is not None and view["signed_at"] is None:
            self._metrics.version_completed(view["completed_at"] - view["received_at"])

    def _complete_view(self, channel: str, selector: str) -> VersionView:
        view = self.version(channel, selector)
        if view["state"] == "gone":
            raise _gone(view, selector)
        if view["state"] == "failed":
            raise StoreError(
                f"version {selector} of channel {view['channel']} is given up here: {view['error']}",
                hint="publish it again" if view["signed_at"] is not None else "see the node's log",
                channel=view["channel"],
                seq=view["seq"],
            )
        if view["state"] != "complete":
            raise NotReady(
                f"version {selector} of channel {view['channel']} is {view['state']} here: {view['explain']}",
                hint="wait for it with: shardcast wait",
                have_chunks=view["have_chunks"],
                chunks=view["chunks"],
            )
        return view


def _gone(view: VersionView, selector: str) -> NotFound:
    return NotFound(
        f"version {selector} of channel {view['channel']} is not held here: it was superseded or deleted",
        hint=f"shardcast ls {view['channel']} shows what is held; keep more with --keep",
        channel=view["channel"],
        seq=view["seq"],
    )

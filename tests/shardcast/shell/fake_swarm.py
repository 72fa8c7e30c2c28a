"""Whole nodes but for their sockets: store, trust, machine, shell, publisher, chores, on a fake wire."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shardcast.http.bucket import TokenBucket
from shardcast.http.facade import PublishRequest, PublishView
from shardcast.node.housekeeping import Housekeeping
from shardcast.node.leases import Leases
from shardcast.node.publisher import Publisher
from shardcast.shell.carried import CarriedServer
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.contacts import Contacts, OwnAddresses, endpoint_of
from shardcast.shell.shell import Shell
from shardcast.shell.tasks import Tasks
from shardcast.shell.versions import Versions
from shardcast.store import EquivocationRow, HeadRow, Staging, Store
from shardcast.store.database import Database
from shardcast.store.lock import DirectoryLock
from shardcast_proto.errors import StoreError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, parse_digest
from shardcast_proto.manifest import Manifest
from shardcast_proto.trust import Root, SigningKey, sign_root
from shardcast_relay import RelayConfig
from tests.proto.trust.actors import ORIGIN_KEY, ROOT_KEY, key, make_root
from tests.shardcast.shell.fake_wire import FakeDataClient, FakeNetwork, FakeP2p
from tests.shardcast.store.trees import CHUNK, Contents, model, read_tree, write_tree

#: Everything that waits for company waits shortly.
QUICK = RelayConfig(have_interval_s=0.01, reconcile_interval_s=0.1, store_pause_s=0.05, retry_backoff_s=0.05)


class FaultyStore(Store):
    """A store whose disk refuses what a test names, so many times."""

    def __init__(self, data_dir: Path, lock: DirectoryLock, database: Database) -> None:
        super().__init__(data_dir, lock, database)
        #: How many calls of a method still fail.
        self.faults: Counter[str] = Counter()
        #: What happens just before a method does its work.
        self.before: dict[str, Callable[[], object]] = {}

    @classmethod
    def at(cls, data_dir: Path) -> FaultyStore:
        store = cls.open(data_dir)
        assert isinstance(store, FaultyStore)
        return store

    def begin(self, manifest: Manifest) -> Staging:
        self._may("begin")
        return super().begin(manifest)

    def save_head(self, head: HeadRow) -> None:
        self._may("save_head")
        super().save_head(head)

    def save_channel(self, channel: Digest, name: str, root_envelope: bytes) -> None:
        self._may("save_channel")
        super().save_channel(channel, name, root_envelope)

    def save_equivocation(self, proof: EquivocationRow) -> None:
        self._may("save_equivocation")
        super().save_equivocation(proof)

    def heads(self, channel: Digest, *, stream: bytes = b"", limit: int = -1) -> list[HeadRow]:
        self._may("heads")
        return super().heads(channel, stream=stream, limit=limit)

    def release_all(self, lease_ids: Iterable[int]) -> None:
        self._may("release_all")
        super().release_all(lease_ids)

    def _may(self, name: str) -> None:
        self.before.get(name, int)()
        if self.faults[name] > 0:
            self.faults[name] -= 1
            raise StoreError(f"disk full while {name}", reason="disk_full")


class FakeNode:
    """One node of a swarm."""

    def __init__(self, network: FakeNetwork, home: Path, name: str, root: Root, keys: tuple[SigningKey, ...]) -> None:
        self.network, self.name, self.key = network, name, key(name)
        self.store = FaultyStore.at(home / name)
        self.channel = FollowedChannel.open(sign_root(root, [ROOT_KEY]), self.store, keys, now_s=time.time())
        self.versions = Versions(self.store)
        self.shell = Shell(
            peer_id=self.key.peer,
            channels=[self.channel],
            versions=self.versions,
            client=FakeDataClient(network),
            config=QUICK,
            revive_after_s=0.02,
        )
        self.p2p = FakeP2p(network, digest_of(name.encode()), self.shell, self.shell.validate)
        self.p2p.serve = CarriedServer(self.store, bucket=TokenBucket(None)).serve
        self.publisher = Publisher(self.shell, self.store)
        self.leases = Leases(self.store)
        self.housekeeping = Housekeeping(self.shell, self.store, leases=self.leases, keep=2, quota_bytes=None)
        self.tasks = Tasks(self.shell.break_down)
        self.serve = f"127.0.0.1:{network.port()}"
        self.multiaddr = ""
        #: Whether it announces no address.
        self.is_hidden = False

    async def start(self, *doors: FakeNode) -> FakeNode:
        (self.multiaddr,) = await self.p2p.start()
        self.network.stores[self.serve] = self.store
        contacts = Contacts(self.p2p.policy, self.key, clock=time.time)
        roles = ("origin",) if self.channel.keys else ("relay",)
        own = OwnAddresses((endpoint_of(self.multiaddr),), (self.serve,), roles, 0)
        if self.is_hidden:
            own = OwnAddresses((), (), roles, 0)
        record = contacts.own_record(own)
        self.shell.opener.on_complete = lambda version: self.tasks.spawn(self.housekeeping.retain())
        await self.shell.start(
            self.p2p, contacts, record=record, bootstrap=[door.multiaddr for door in doors], up_bytes_per_s=0
        )
        return self

    async def publish(self, path: Path, step: int, **more: Any) -> PublishView:
        request = PublishRequest(path=str(path), channel="demo", step=step, link="copy", **more)
        return await self.publisher.publish(self.channel, request, lambda done, total: None)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():
                self.raise_if_broken()
                await self.versions.wait_changed(0.02)

    def raise_if_broken(self) -> None:
        if self.shell.broken.done():
            self.shell.broken.result()

    def is_complete(self, manifest: str) -> bool:
        row = self.store.version(parse_digest(manifest))
        return row is not None and row.state == "complete"

    async def complete(self, manifest: str) -> dict[str, bytes]:
        """Return the tree of a version once it is whole here."""
        await self.until(lambda: self.is_complete(manifest))
        row = self.store.version(parse_digest(manifest))
        assert row is not None
        return read_tree(row.path)

    async def joined(self) -> FakeNode:
        await self.until(lambda: bool(self.shell.machine.membership.active))
        return self

    async def stop(self) -> None:
        """End it as a daemon does."""
        self.network.stores.pop(self.serve, None)
        await self.tasks.aclose()
        await self.shell.aclose()
        await self.p2p.aclose()
        self.raise_if_broken()
        self.shell.machine.check()
        await asyncio.to_thread(self.store.close)


class FakeSwarm:
    """Nodes of one channel, the origin first."""

    def __init__(self, home: Path, root: Root | None = None) -> None:
        self.home, self.network, self.root = home, FakeNetwork(), root or make_root()
        self.nodes: list[FakeNode] = []

    def node(self, name: str, *keys: SigningKey, root: Root | None = None) -> FakeNode:
        """Make a node that is not started."""
        made = FakeNode(self.network, self.home, name, root or self.root, keys)
        self.nodes.append(made)
        return made

    async def origin(self) -> FakeNode:
        return await self.node("origin", ORIGIN_KEY).start()

    async def other(self, name: str, *doors: FakeNode) -> FakeNode:
        return await (await self.node(name).start(*doors)).joined()

    async def stop(self, node: FakeNode) -> None:
        self.nodes.remove(node)
        await node.stop()

    def checkpoint(self, seed: int, chunks: int = 6) -> tuple[Path, Contents]:
        """Write a checkpoint of two shards."""
        contents = model(seed, shard_bytes=chunks * CHUNK + 17)
        return write_tree(self.home / f"checkpoint-{seed}", contents), contents


@asynccontextmanager
async def fake_swarm(home: Path, root: Root | None = None) -> AsyncIterator[FakeSwarm]:
    """Run a swarm, end every node of it, and let each machine recount itself."""
    made = FakeSwarm(home, root)
    try:
        yield made
    finally:
        for node in made.nodes:
            await node.stop()

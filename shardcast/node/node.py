"""The life of one daemon: what is opened in which order, what runs in the background, how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from shardcast.config import NodeConfig, split_endpoint
from shardcast.http.api import ApiServer
from shardcast.http.bucket import TokenBucket
from shardcast.http.data_client import DataClient
from shardcast.http.data_server import DataServer
from shardcast.keyfiles import load_key
from shardcast.p2p import P2pNode, load_or_create_seed
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.contacts import Contacts, OwnAddresses, endpoint_of
from shardcast.shell.shell import Shell
from shardcast.shell.tasks import Tasks
from shardcast.shell.versions import Versions
from shardcast.store import Store
from shardcast_proto.errors import ConfigError, InvariantViolated, ShardcastError, TransferError
from shardcast_proto.limits import ROOT_BYTES_MAX
from shardcast_proto.trust import SigningKey

from .desk import Desk, Identity
from .housekeeping import Housekeeping
from .traffic import Traffic

_log = structlog.get_logger("shardcast.node")


class Node:
    """A node, from `start` to `aclose`."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        #: What to close, in the order in which it was opened.
        self._opened: list[Callable[[], Awaitable[None]]] = []
        self._tasks = Tasks(self._break_down)
        self._shell: Shell | None = None
        self._p2p: P2pNode | None = None

    async def start(self) -> dict[str, object]:
        """Open the store, listen everywhere, take up the channels; return the ready line's fields.

        Raises:
            ShardcastError: Something is wrong with the configuration, the disk or the network; nothing stays open.
        """
        try:
            return await self._start()
        except BaseException:
            await self.aclose()
            raise

    async def _start(self) -> dict[str, object]:
        config = self._config
        token = config.read_token()
        keys = [load_key(path) for path in config.origin_key]
        roots = [_read_root(path) for path in config.channel]
        store = await asyncio.to_thread(Store.open, config.data)
        self._opened.append(lambda: asyncio.to_thread(store.close))
        seed = load_or_create_seed(config.data / "node.key")
        key = SigningKey(seed)
        channels = _follow(roots, store, keys)
        client = DataClient(peer_id=key.peer)
        self._opened.append(client.aclose)
        shell = self._shell = Shell(peer_id=key.peer, channels=channels, versions=Versions(store), client=client)
        p2p = self._p2p = self._make_p2p(seed, shell)
        self._opened.append(p2p.aclose)
        # closed before p2p is: a node that hangs up on everybody must not look for new neighbours
        self._opened.append(shell.aclose)
        p2p_addresses = await p2p.start()
        traffic = Traffic()
        bucket = TokenBucket.for_uplink(config.up_mbps)
        data_server = DataServer(store, bucket=bucket, on_sent=traffic.sent)
        self._opened.append(data_server.aclose)
        bound = _join(*await data_server.start(*split_endpoint(config.serve)))
        serve = config.announce_serve or _reachable(bound, p2p_addresses[0])
        roles = (*(("origin",) if any(channel.keys for channel in channels) else ()), config.role)
        contacts = Contacts(p2p.policy, key, clock=time.time)
        identity = Identity(key.peer, str(config.data), roles, p2p_addresses, serve)
        desk = Desk(
            identity, shell=shell, store=store, data_server=data_server, traffic=traffic, roles_of=contacts.roles_of
        )
        housekeeping = Housekeeping(shell, store, leases=desk.leases, keep=config.keep, quota_bytes=config.quota)
        shell.opener.on_complete = lambda version: self._tasks.spawn(housekeeping.retain())
        up_bytes_per_s = int((config.up_mbps or 0) * 1e6 / 8)
        own = OwnAddresses(tuple(map(endpoint_of, p2p_addresses)), (serve,), roles, up_bytes_per_s)
        record = contacts.own_record(own)
        await shell.start(p2p, contacts, record=record, bootstrap=config.bootstrap, up_bytes_per_s=up_bytes_per_s)
        api = ApiServer(desk, token=token)
        self._opened.append(api.aclose)
        identity.api = f"http://{_join(*await api.start(*split_endpoint(config.api)))}"
        self._opened.append(self._tasks.aclose)
        self._tasks.spawn(housekeeping.run(), is_vital=True)
        self._tasks.spawn(housekeeping.renew_beacons(), is_vital=True)
        self._tasks.spawn(housekeeping.retain())
        return {"ready": True, "peer_id": key.peer, "p2p": p2p_addresses[0], "serve": serve, "api": identity.api}

    def _make_p2p(self, seed: bytes, shell: Shell) -> P2pNode:
        config = self._config
        return P2pNode(
            seed,
            split_endpoint(config.p2p),
            announce=config.announce_p2p,
            events=shell,
            validate=shell.validate,
            allow_private=config.allow_private,
        )

    def _break_down(self, error: BaseException) -> None:
        if self._shell is not None:
            self._shell.break_down(error)

    async def wait_broken(self) -> None:
        """Return never, but raise when a started node cannot go on.

        Raises:
            InvariantViolated: A bug of ours.
            ShardcastError: The control network ended.
        """
        if self._shell is None or self._p2p is None:
            raise InvariantViolated("a node that was not started cannot break")
        ends = [asyncio.ensure_future(self._shell.broken), asyncio.ensure_future(self._p2p.closed)]
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in done:
            await end
        raise TransferError("the control network ended", reason="p2p_ended")

    async def aclose(self) -> None:
        """Stop; what is staged is flushed and goes on at the next start."""
        while self._opened:
            close = self._opened.pop()
            try:
                await close()
            except ShardcastError as error:
                _log.error("close_failed", error=error.describe())


def _read_root(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(ROOT_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the root file {path}: {error.strerror}", path=str(path)) from error


def _follow(roots: Sequence[bytes], store: Store, keys: Sequence[SigningKey]) -> list[FollowedChannel]:
    channels: list[FollowedChannel] = []
    for root in roots:
        channel = FollowedChannel.open(root, store, keys, now_s=time.time())
        if any(channel.name == other.name for other in channels):
            raise ConfigError(f"two root files are for a channel called {channel.name!r}", hint="see --channel")
        channels.append(channel)
    unused = [key for key in keys if not any(_lists(channel, key) for channel in channels)]
    if unused:
        raise ConfigError(
            f"{len(unused)} of the {len(keys)} origin keys can sign for none of the channels",
            hint="the root of a channel lists its keys: see --channel and --origin-key",
        )
    return channels


def _lists(channel: FollowedChannel, key: SigningKey) -> bool:
    return any(own.key_id == key.key_id for own in channel.keys)


def _reachable(serve: str, p2p_multiaddr: str) -> str:
    """Return where others reach the data plane: the bound address, or for a bind to all, the one that p2p announces."""
    host, port = split_endpoint(serve)
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return serve
    return f"{endpoint_of(p2p_multiaddr).rpartition(':')[0]}:{port}"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""The life of one daemon: what is opened in which order, what runs in the background, how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from shardcast.bulk import BulkLinks
from shardcast.config import NO_ADDRESS, NodeConfig, split_endpoint
from shardcast.http.api import ApiServer
from shardcast.http.bucket import TokenBucket
from shardcast.http.data_client import DataClient
from shardcast.http.data_server import DataServer
from shardcast.keyfiles import load_key
from shardcast.p2p import P2pNode, load_or_create_seed
from shardcast.plain_files import read_plain
from shardcast.shell.carried import CarriedServer
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.contacts import Contacts, OwnAddresses, endpoint_of
from shardcast.shell.shell import Shell
from shardcast.shell.tasks import Tasks
from shardcast.shell.versions import Versions
from shardcast.store import Link, Store
from shardcast_proto.errors import (
    ConfigError,
    InvariantViolated,
    RemoteProtocolError,
    ShardcastError,
    TransferError,
    TrustError,
)
from shardcast_proto.ids import Digest
from shardcast_proto.limits import ROOT_BYTES_MAX
from shardcast_proto.trust import SigningKey, open_root
from shardcast_relay import RelayConfig
from shardcast_relay.events import UplinkMeasured

from .activations import Activations
from .desk import Desk, Identity
from .engines import open_engines
from .housekeeping import Housekeeping
from .leases import Leases
from .publishable import Publishable
from .spools import Spools
from .traffic import Traffic
from .uplink_watch import UplinkWatch

_log = structlog.get_logger("shardcast.node")

#: Everything but the store is closed within this time together, or left to the end of the process: what is staged has to become durable
#: in what is left of `daemon.service.STOP_TIMEOUT_S`. It takes 0.2 s; the control network gives up on its peers after 1.8 s.
OTHERS_CLOSE_S: Final = 2.0
#: Each of them gets so long even when another has taken all of that.
CLOSE_S: Final = 0.1

#: With `--down-mbps`, so much of it may be under way: a fetch that waits for our own downlink must not run into its deadline.
RECEIVE_BUDGET_S: Final = 2.0


class Node:
    """A node, from `start` to `aclose`."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        #: What to close, in the order in which it was opened; the store is the first.
        self._opened: list[Callable[[], Awaitable[None]]] = []
        self._is_over = True
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
        keys = {path: load_key(path) for path in config.origin_key}
        roots = [_read_root(path) for path in config.channel]
        store = await asyncio.to_thread(Store.open, config.data)
        self._opened.append(lambda: asyncio.to_thread(store.close))
        seed = load_or_create_seed(config.data / "node.key")
        key = SigningKey(seed)
        channels = _follow(roots, store, keys)
        traffic = Traffic()
        inbound, bucket = TokenBucket.for_uplink(config.down_mbps), TokenBucket.for_uplink(config.up_mbps)
        client = DataClient(peer_id=key.peer, inbound=inbound)
        self._opened.append(client.aclose)
        shell = self._shell = Shell(
            peer_id=key.peer,
            channels=channels,
            versions=Versions(store, supersede=config.supersede),
            client=client,
            inbound=inbound,
            config=_relay_config(inbound),
        )
        links = BulkLinks(
            key, source=store, bucket=bucket, inbound=inbound, may_link=shell.may_link, on_sent=traffic.sent
        )
        shell.linked.use(links)
        carried = CarriedServer(store, bucket=bucket, on_sent=traffic.sent)
        p2p = self._p2p = self._make_p2p(seed, shell, carried)
        # the shell is closed before p2p and links are: a node that hangs up on everybody must not look for new neighbours
        self._opened += [p2p.aclose, links.aclose, shell.aclose]
        p2p_addresses = await p2p.start()
        data_server = DataServer(store, bucket=bucket, on_sent=traffic.sent, links=links.accept)
        self._opened.append(data_server.aclose)
        serve = await self._open_data_plane(data_server, p2p_addresses[0])
        roles = (*(("origin",) if any(channel.keys for channel in channels) else ()), config.role)
        contacts = Contacts(p2p.policy, key, clock=time.time)
        identity = Identity(key.peer, str(config.data), roles, p2p_addresses, serve or "")
        housekeeping = Housekeeping(shell, store, leases=Leases(store), keep=config.keep, quota_bytes=config.quota)
        spools = Spools(config.data)
        await asyncio.to_thread(spools.open)
        activations = self._open_engines(store, shell)
        desk = Desk(
            identity,
            shell=shell,
            store=store,
            data_server=data_server,
            traffic=traffic,
            roles_of=contacts.roles_of,
            housekeeping=housekeeping,
            spools=spools,
            publishable=Publishable(config.publish_root, spools),
            activations=activations,
        )
        shell.opener.on_complete = lambda version: self._tasks.spawn(housekeeping.retain())
        _hook_up(store, shell, contacts)
        own = self._own_addresses(p2p_addresses, serve, roles)
        record = contacts.own_record(own)
        await shell.start(p2p, contacts, record=record, bootstrap=config.bootstrap, up_bytes_per_s=own.up_bytes_per_s)
        api = ApiServer(desk, token=token)
        self._opened.append(api.aclose)
        identity.api = f"http://{_join(*await api.start(*split_endpoint(config.api)))}"
        self._opened.append(self._tasks.aclose)
        chores = [housekeeping.run(), desk.journals.run(), housekeeping.renew_beacons()]
        chores += [runner.run() for runner in activations.runners]
        if config.up_mbps is None:
            chores.append(UplinkWatch(links, bucket, on_found=lambda rate: shell.tell(UplinkMeasured(rate))).run())
        for chore in chores:
            self._tasks.spawn(chore, is_vital=True)
        self._tasks.spawn(housekeeping.retain())
        return {"ready": True, "peer_id": key.peer, "p2p": p2p_addresses[0], "serve": serve, "api": identity.api}

    def _open_engines(self, store: Store, shell: Shell) -> Activations:
        activations = open_engines(self._config, store, shell)
        self._opened.append(activations.aclose)
        return activations

    def _own_addresses(self, p2p_addresses: list[str], serve: str | None, roles: tuple[str, ...]) -> OwnAddresses:
        config = self._config
        return OwnAddresses(
            () if config.announce_p2p == NO_ADDRESS else tuple(map(endpoint_of, p2p_addresses)),
            () if serve is None or config.announce_serve == NO_ADDRESS else (serve,),
            roles,
            int((config.up_mbps or 0) * 1e6 / 8),
        )

    async def _open_data_plane(self, server: DataServer, p2p_multiaddr: str) -> str | None:
        """Listen, unless told not to; return where others reach it from, or this node's own address when that is not announced."""
        config = self._config
        if config.serve == NO_ADDRESS:
            return None
        bound = _join(*await server.start(*split_endpoint(config.serve)))
        announced = None if config.announce_serve == NO_ADDRESS else config.announce_serve
        return announced or _reachable(bound, p2p_multiaddr)

    def _make_p2p(self, seed: bytes, shell: Shell, carried: CarriedServer) -> P2pNode:
        config = self._config
        return P2pNode(
            seed,
            split_endpoint(config.p2p),
            announce=None if config.announce_p2p == NO_ADDRESS else config.announce_p2p,
            events=shell,
            validate=shell.validate,
            allow_private=config.allow_private,
            serve=carried.serve,
        )

    def _break_down(self, error: BaseException) -> None:
        if self._shell is not None:
            self._shell.break_down(error)

    async def pulse(self) -> None:
        """Return once both loops of a started node have answered: this one, and that of the control network.

        Raises:
            TransferError: The control network has ended.
        """
        if self._p2p is not None:
            await self._p2p.pulse()

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

    async def aclose(self) -> bool:
        """Stop; what is staged is flushed and goes on at the next start.

        Returns:
            Whether all of it is over; what hangs is cancelled, and not waited for.

        Cancellation: what was not closed yet stays open.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + OTHERS_CLOSE_S
        while self._opened:
            close = self._opened.pop()
            closing = asyncio.ensure_future(close())
            limit_s = max(deadline_s - loop.time(), CLOSE_S) if self._opened else None
            await asyncio.wait([closing], timeout=limit_s)
            try:
                if closing.done():
                    closing.result()
                else:
                    self._is_over = False
                    closing.cancel()
                    _log.error("close_hangs", what=getattr(close, "__qualname__", ""))
            except ShardcastError as error:
                _log.error("close_failed", error=error.describe())
        return self._is_over


def _read_root(path: Path) -> bytes:
    data = read_plain(path, "root file", bytes_max=ROOT_BYTES_MAX).data
    hint = "name the NAME.root that the channel's owner gives out: see shardcast channel create --help"
    try:
        open_root(data)
    except (RemoteProtocolError, TrustError) as error:
        raise TrustError(f"{path} is no root file: {error.message}", hint=hint, path=str(path)) from error
    return data


def _hook_up(store: Store, shell: Shell, contacts: Contacts) -> None:
    """Have the shell told, on its loop, of versions whose bytes the store found changed or gone; and who claims to be an origin."""
    shell.versions.source_of = lambda peer: "origin" if "origin" in contacts.roles_of(peer) else "peers"
    loop = asyncio.get_running_loop()

    def given_up(manifest: Digest, link: Link) -> None:
        loop.call_soon_threadsafe(lambda: shell.opener.give_up(manifest, is_published=link != "landed"))

    store.on_given_up(given_up)


def _follow(roots: Sequence[bytes], store: Store, keys: Mapping[Path, SigningKey]) -> list[FollowedChannel]:
    channels: list[FollowedChannel] = []
    for root in roots:
        channel = FollowedChannel.open(root, store, list(keys.values()), now_s=time.time())
        if any(channel.name == other.name for other in channels):
            raise ConfigError(f"two root files are for a channel called {channel.name!r}", hint="see --channel")
        channels.append(channel)
    unused = [path for path, key in keys.items() if not any(_lists(channel, key) for channel in channels)]
    if unused:
        raise ConfigError(
            f"origin keys that can sign for none of the channels: {', '.join(map(str, unused))}",
            hint="the root of a channel lists its keys: see --channel and --origin-key",
            paths=list(map(str, unused)),
        )
    return channels


def _lists(channel: FollowedChannel, key: SigningKey) -> bool:
    return any(own.key_id == key.key_id for own in channel.keys)


def _relay_config(inbound: TokenBucket) -> RelayConfig:
    """Return the machine's knobs: with a known downlink no more is asked for than arrives before anybody takes it for a stall."""
    config = RelayConfig()
    if inbound.rate_bytes_per_s is None:
        return config
    budget_bytes = int(inbound.rate_bytes_per_s * RECEIVE_BUDGET_S)
    return replace(config, receive_budget_bytes=min(config.receive_budget_bytes, budget_bytes))


def _reachable(serve: str, p2p_multiaddr: str) -> str:
    """Return where others reach the data plane: the bound address, or for a bind to all, the one that p2p announces."""
    host, port = split_endpoint(serve)
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return serve
    return f"{endpoint_of(p2p_multiaddr).rpartition(':')[0]}:{port}"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""The opening of a node's engines: from what the operator has named to runners of channels."""

from __future__ import annotations

from shardcast.config import NodeConfig
from shardcast.engine_specs import EngineSpec
from shardcast.engines import make_engine
from shardcast.engines.follower import Limits
from shardcast.http.engine_client import EngineClient
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.shell import Shell
from shardcast.store import Store
from shardcast_proto.errors import ConfigError, NotFound
from shardcast_proto.ids import format_digest, parse_digest
from shardcast_proto.manifest import Manifest

from .activations import Activations
from .engine_runner import EngineRunner


def open_engines(config: NodeConfig, store: Store, shell: Shell) -> Activations:
    """Return the engines of a node; nothing is asked of them yet.

    Raises:
        ConfigError: An engine names no channel of this node, or the file with its secret cannot be used.
        StoreError: The disk fails.
    """

    def manifest_of(digest: str) -> Manifest:
        manifest = store.manifest(parse_digest(digest))
        if manifest is None:
            raise NotFound(f"the manifest {digest} is not here", manifest=digest)
        return manifest

    activations = Activations()
    limits = Limits(config.max_lag, config.max_stale)
    channels = list(shell.channels.values())
    activations.runners = [
        EngineRunner(
            spec,
            make_engine(spec, connect=EngineClient, manifest_of=manifest_of),
            _channel_of(spec, channels),
            store=store,
            versions=shell.versions,
            limits=limits,
            on_ended=activations.ended,
            on_behind=activations.behind,
        )
        for spec in config.engines
    ]
    store.forget_engines([spec.name for spec in config.engines])
    return activations


def _channel_of(spec: EngineSpec, channels: list[FollowedChannel]) -> FollowedChannel:
    named = [channel for channel in channels if spec.channel in (None, channel.name, format_digest(channel.id))]
    if len(named) == 1:
        return named[0]
    known = ", ".join(channel.name for channel in channels)
    if named:
        raise ConfigError(f"engine {spec.name} must say which channel: {known}", hint="add channel=NAME to --activate")
    raise ConfigError(f"engine {spec.name} names channel {spec.channel!r}, which is not followed here: {known}")

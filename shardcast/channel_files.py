"""A new channel: the three files that its owner starts with.

`NAME.root` is the public statement that every node pins, `NAME.root.key` the key that can replace it (to be kept offline), `NAME.key`
the key that signs versions. Nothing that is there is ever written over, and a failure leaves none of the three.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardcast_proto.errors import ConfigError, Conflict, RemoteProtocolError, StoreError
from shardcast_proto.ids import Digest
from shardcast_proto.limits import BEACON_TTL_S, CHUNK_BYTES_MAX, CHUNKS_MAX, FILES_MAX
from shardcast_proto.trust import (
    ROLE_ORIGIN,
    ROLE_ROOT,
    SEED_BYTES,
    Limits,
    Role,
    Root,
    SigningKey,
    open_root,
    sign_root,
)

from .keyfiles import save_key, write_new

#: The largest version there can be: an owner who wants less says so in a later root.
LIMITS: Final = Limits(max_version_bytes=CHUNKS_MAX * CHUNK_BYTES_MAX, max_files=FILES_MAX, beacon_ttl_s=BEACON_TTL_S)
ROOT_FILE_MODE: Final = 0o644


@dataclass(frozen=True)
class ChannelFiles:
    """Where the files of a new channel lie.

    Attributes:
        name: The channel's name.
        channel: Its id.
        root: The public root, for `shardcast-node --channel`.
        root_key: The key that signs roots.
        origin_key: The key that signs versions, for `shardcast-node --origin-key`.
    """

    name: str
    channel: Digest
    root: Path
    root_key: Path
    origin_key: Path


def create_channel(name: str, directory: Path) -> ChannelFiles:
    """Make a channel with one root key and one origin key, each of which signs alone.

    Raises:
        ConfigError: `name` is no name of a channel.
        Conflict: One of the files exists.
        StoreError: They cannot be written.
    """
    files = [directory / f"{name}{suffix}" for suffix in (".root.key", ".key", ".root")]
    seeds = [secrets.token_bytes(SEED_BYTES) for _ in range(2)]
    envelope = _first_root(name, *(SigningKey(seed) for seed in seeds))
    channel = open_root(envelope).channel
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = [path for path in files if path.exists()]
    except OSError as error:
        raise StoreError(f"cannot create {error.filename}: {error.strerror}", path=str(directory)) from error
    if taken:
        raise Conflict(
            f"{taken[0]} exists already",
            hint="a channel is created once; choose another name or directory",
            path=str(taken[0]),
        )
    root_key, origin_key, root = files
    with ExitStack() as undo:
        for path, seed in zip((root_key, origin_key), seeds, strict=True):
            save_key(path, seed)
            undo.callback(path.unlink, missing_ok=True)
        write_new(root, envelope, mode=ROOT_FILE_MODE)
        undo.pop_all()
    return ChannelFiles(name, channel, root, root_key, origin_key)


def _first_root(name: str, root_key: SigningKey, origin_key: SigningKey) -> bytes:
    roles = (Role.of(ROLE_ROOT, [root_key.verify_key]), Role.of(ROLE_ORIGIN, [origin_key.verify_key]))
    try:
        root = Root(version=1, epoch=1, name=name, channel=b"", expires_s=0, limits=LIMITS, roles=roles)
    except RemoteProtocolError as error:
        raise ConfigError(error.message, hint="choose another name", name=name) from error
    return sign_root(root, [root_key])

"""The node's identity: a 32-byte Ed25519 seed in a file of its own.

The peer id that everybody knows a node by is its public key, so the file is the node. It is created once, readable by
its owner alone, and refused when others can read it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey

from shardcast_proto.errors import ConfigError, StoreError
from shardcast_proto.ids import PeerId, peer_id_of_key
from shardcast_proto.limits import KEY_BYTES

KEY_FILE_MODE: Final = 0o600


def load_or_create_seed(path: Path) -> bytes:
    """Return the seed in `path`; create the file when it does not exist.

    Raises:
        ConfigError: Others may read the file, it is no regular file, or it does not hold exactly 32 bytes.
        StoreError: The file can be neither read nor written.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return _load(path)
        _create(path)
        return _load(path)
    except OSError as error:
        raise StoreError(f"cannot use the identity file {path}: {error.strerror}", path=str(path)) from error


def peer_id_of_seed(seed: bytes) -> PeerId:
    """Return the peer id that belongs to a seed.

    Raises:
        ConfigError: The seed is not 32 bytes long.
    """
    if len(seed) != KEY_BYTES:
        raise ConfigError(f"an identity seed has {KEY_BYTES} bytes, not {len(seed)}")
    return peer_id_of_key(bytes(SigningKey(seed).verify_key))


def _load(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"the identity file {path} is not a regular file", path=str(path))
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(
                f"the identity file {path} has mode {mode:04o}: others can read or write it",
                hint=f"chmod 600 {path}, or delete it to get a new identity",
                path=str(path),
            )
        seed = os.read(handle, KEY_BYTES + 1)
    finally:
        os.close(handle)
    if len(seed) != KEY_BYTES:
        raise ConfigError(
            f"the identity file {path} holds {status.st_size} bytes, not {KEY_BYTES}",
            hint="delete it to get a new identity",
            path=str(path),
        )
    return seed


def _create(path: Path) -> None:
    """Write a new seed under a temporary name and link it in, so that a half-written identity never has the real name."""
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, KEY_FILE_MODE)
    try:
        try:
            os.write(handle, secrets.token_bytes(KEY_BYTES))
            os.fsync(handle)
        finally:
            os.close(handle)
        # Another process may have been first: then its identity is ours too.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

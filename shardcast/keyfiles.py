"""A key file: one private key of a channel on the disk.

One line of text, `shardcast-key-1` with the 64 hexadecimal digits of an Ed25519 seed behind it. It is created once, never
written over, readable by its owner alone, and refused when anybody else may read or write it. The node's own identity is no such
file: see `shardcast.p2p.identity`.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from shardcast_proto.errors import ConfigError, Conflict, NotFound, StoreError
from shardcast_proto.trust import SigningKey

#: The first word of the line names the format, so that a later one can be told apart.
FORMAT: Final = "shardcast-key-1"
KEY_FILE_MODE: Final = 0o600

_LINE: Final = re.compile(rb"shardcast-key-1 ([0-9a-f]{64})\n?")
#: More than the one line has; what is longer is something else, and is not read.
_BYTES_MAX: Final = 128


def load_key(path: Path) -> SigningKey:
    """Read the private key in a file.

    Raises:
        NotFound: There is no such file.
        ConfigError: Others may read or write it, it is no regular file, or it does not hold a key.
        StoreError: It cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"the key file {path} does not exist", path=str(path)) from error
    except OSError as error:
        raise StoreError(f"cannot read the key file {path}: {error.strerror}", path=str(path)) from error
    try:
        _check_status(path, os.fstat(descriptor))
        line = _LINE.fullmatch(os.read(descriptor, _BYTES_MAX))
    except OSError as error:
        raise StoreError(f"cannot read the key file {path}: {error.strerror}", path=str(path)) from error
    finally:
        os.close(descriptor)
    if line is None:
        raise ConfigError(
            f"{path} is not a key file", hint=f"one holds a line '{FORMAT} <64 hexadecimal digits>'", path=str(path)
        )
    return SigningKey(bytes.fromhex(line[1].decode()))


def save_key(path: Path, seed: bytes) -> None:
    """Write the seed of a private key to a file that must not exist.

    Raises:
        Conflict: Something is at `path` already; it is not touched.
        ConfigError: The seed is not 32 bytes long.
        StoreError: It cannot be written.
    """
    SigningKey(seed)
    write_new(path, f"{FORMAT} {seed.hex()}\n".encode(), mode=KEY_FILE_MODE)


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Create a file with all of its bytes, durably, or not at all.

    Raises:
        Conflict: Something is at `path` already; it is not touched.
        StoreError: It cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            # a link, unlike a rename, never replaces what is there
            path.hardlink_to(temporary)
        finally:
            temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already", hint="choose another name or directory", path=str(path)) from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the key file {path} is no regular file", path=str(path))
    if status.st_mode & 0o077:
        raise ConfigError(
            f"the key file {path} has mode {stat.S_IMODE(status.st_mode):04o}: others can read or write it",
            hint=f"chmod 600 {path}",
            path=str(path),
        )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

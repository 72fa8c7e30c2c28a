"""A small file that an operator names (a token, a setting, a root), read without trusting what it is.

What is named may be a pipe that nobody writes to, or a device that never ends: only a regular file is read, and no more of it than it
may have.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from shardcast_proto.errors import ConfigError

#: More than any token has; what is longer is something else.
TOKEN_BYTES_MAX: Final = 4096


class PlainFile(NamedTuple):
    """What was in a file: its bytes, and the bits of its mode that say who may read and write it."""

    data: bytes
    mode: int


def read_plain(path: Path, what: str, *, bytes_max: int) -> PlainFile:
    """Read a regular file.

    Args:
        what: What the file is for, as an error calls it: "token file".

    Raises:
        ConfigError: It cannot be read, is no regular file, or has more than `bytes_max` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"the {what} {path} is {_kind(mode)}", hint="name a regular file", path=str(path))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(bytes_max + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}", path=str(path)) from error
    except ValueError as error:  # a zero byte in the name
        raise ConfigError(f"cannot read the {what} {str(path)!r}: {error}", path=str(path)) from error
    if len(data) > bytes_max:
        raise ConfigError(f"the {what} {path} has more than {bytes_max} bytes", path=str(path), bytes_max=bytes_max)
    return PlainFile(data, stat.S_IMODE(mode))


def _kind(mode: int) -> str:
    return "a directory" if stat.S_ISDIR(mode) else "no regular file"

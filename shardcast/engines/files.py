"""The files of a version, looked at before an engine is paused for them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from shardcast.store.faults import disk_errors
from shardcast_proto.errors import ConfigError


async def check_checkpoint(path: Path) -> None:
    """Make sure that a directory holds weights that an engine can read.

    Raises:
        ConfigError: It holds none.
        StoreError: It cannot be read.
    """
    await asyncio.to_thread(_check, path)


def _check(path: Path) -> None:
    with disk_errors("reading", path):
        weights = [entry for entry in os.scandir(path) if entry.name.endswith(".safetensors")]
        if not weights:
            raise ConfigError(f"{path} holds no *.safetensors, which is what engines load", path=str(path))
        for entry in weights:
            os.close(os.open(entry.path, os.O_RDONLY))

"""The directories that a node reads checkpoints from: who may name which path.

A caller of the API has the node read, link and give to everybody what it names. So a path must lie below a `--publish-root`, or in a
spool that this node has lent. Without any `--publish-root` the node's own user may name what it likes, over a loopback API without a
token: that user can read those files anyhow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shardcast.http.facade import PublishRequest
from shardcast_proto.errors import ConfigError, TrustError

from .spools import Spools


class Publishable:
    """Judges paths as the file system calls them, after every symbolic link on the way. Blocks on the disk.

    Args:
        roots: The directories of --publish-root.
    """

    def __init__(self, roots: Sequence[Path], spools: Spools) -> None:
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)
        self._spools = spools

    def resolve(self, request: PublishRequest) -> Path:
        """Return the real path of what a request names, whether there is something or not.

        Raises:
            ConfigError: The path is not absolute, or cannot be one.
            TrustError: The caller may not name it.
        """
        if not Path(request.path).is_absolute() or "\0" in request.path:
            raise ConfigError(f"the path {request.path[:200]!r} is not absolute")
        try:
            path = Path(os.path.realpath(request.path))
        except OSError as error:  # too long, or a loop of links
            raise ConfigError(f"the path {request.path[:200]!r} leads nowhere: {error.strerror}") from error
        if self._spools.holds(path) or any(path.is_relative_to(root) for root in self._roots):
            return path
        if self._roots:
            allowed = ", ".join(map(str, self._roots))
            raise TrustError(
                f"{path} is in none of the directories that this node publishes from",
                hint=f"it publishes from {allowed}; the node's --publish-root adds others",
                reason="publish_root",
            )
        if not request.is_own_user:
            raise TrustError(
                f"this node publishes {path} only for its own user, over a loopback API without a token",
                hint="start the node with --publish-root for the directory that checkpoints are written to",
                reason="publish_root",
            )
        return path

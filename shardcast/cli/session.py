"""The setting of one command: which daemon it asks, how it speaks."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shardcast.plain_files import TOKEN_BYTES_MAX, read_plain
from shardcast_proto.errors import ConfigError

if TYPE_CHECKING:
    from shardcast.api_client import ApiClient


@dataclass(frozen=True)
class Session:
    """What the flags that every command has say.

    Attributes:
        api: The daemon's address; by default `SHARDCAST_API`, else the one that a daemon opens by itself.
        token_file: Where its token is; by default `SHARDCAST_TOKEN_FILE`, else it needs none.
        as_json: Whether the result is one JSON object.
        progress: Whether progress is shown; by default when stderr is a terminal.
    """

    api: str | None = None
    token_file: Path | None = None
    as_json: bool = False
    progress: bool | None = None

    @property
    def shows_progress(self) -> bool:
        """Whether to show progress on stderr."""
        return sys.stderr.isatty() if self.progress is None else self.progress

    def client(self) -> ApiClient:
        """Return the client of the daemon.

        Raises:
            ConfigError: The address is none, or the token cannot be read.
        """
        from shardcast.api_client import ApiClient

        return ApiClient(self.api, token=self._token())

    def _token(self) -> str | None:
        named = self.token_file or os.environ.get("SHARDCAST_TOKEN_FILE")
        if not named:
            return None
        try:
            token = read_plain(Path(named), "token file", bytes_max=TOKEN_BYTES_MAX).data.strip().decode("ascii")
        except UnicodeDecodeError as error:
            raise ConfigError(f"the token file {named} holds no text in ASCII", path=str(named)) from error
        if not token.isprintable() or " " in token or not token:
            raise ConfigError(f"the token file {named} holds no token", path=str(named))
        return token


def absolute(path: Path) -> Path:
    """Return a path as the daemon, which works elsewhere, can find it.

    Raises:
        ConfigError: It starts at the working directory, which is gone.
    """
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigError(
            f"cannot say where {path} is: the working directory is gone", hint="cd to one that exists", path=str(path)
        ) from error

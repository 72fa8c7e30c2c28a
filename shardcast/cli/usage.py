"""The reader of command lines: `argparse`, whose complaints become errors of ours.

It is `argparse` because the libraries with the nicer help pages take as long to import as a whole command may.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from shardcast_proto.errors import ShardcastError

from .output import writing


class UsageError(ShardcastError):
    """The command line makes no sense."""

    exit_code, http_status, code = 2, 400, "usage"


class Parser(argparse.ArgumentParser):
    """A parser that raises what it would have printed, and takes no abbreviated flags: a new one would change their meaning."""

    def __init__(self, **options: Any) -> None:
        """Hold the options of `argparse`."""
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse a line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(message, hint=f"see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        """Print the page of help; `argparse` would not say when nobody can take it.

        Raises:
            StoreError: Standard output takes nothing more.
        """
        with writing():
            print(self.format_help(), end="", file=file)


class ShowVersion(argparse.Action):
    """The flag `--version`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print the version and leave."""
        from shardcast import __version__

        with writing():
            print(f"shardcast {__version__}")
        parser.exit()

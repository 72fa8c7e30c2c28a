"""The entry of the `shardcast` command, as small as can be: a Ctrl-C while the rest is imported ends it without a word."""

from __future__ import annotations

import sys

#: What shells report for a command that was ended by SIGINT.
EXIT_INTERRUPTED = 130


def main(arguments: list[str] | tuple[str, ...] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Without the program's name; by default those of the process.
    """
    try:
        from .app import run
        from .ending import finish
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    given = list(sys.argv[1:] if arguments is None else arguments)
    return finish("shardcast", lambda: run(given), as_json="--json" in given)

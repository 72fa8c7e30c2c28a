"""The `shardcast-node` command.

`command` declares its flags, `service` runs one node until it is told to stop. Here is only its entry, as small as can be: a Ctrl-C
while the rest is imported ends it without a word.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, and leave with its exit code."""
    try:
        from .command import run_command
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run_command())

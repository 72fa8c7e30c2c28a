"""The main function of the `shardcast` command: errors become one sentence with an exit code.

The sentence goes to stderr. With `--json` the same error is one object on stdout, so that a script reads one stream. What is no
`ShardcastError` is a bug of ours: it ends with a traceback and exit code 70.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from shardcast_proto.errors import InvariantViolated, ShardcastError

from .app import run
from .output import print_error

#: What shells report for a command that was ended by SIGINT, by SIGPIPE.
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE: Final = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Without the program's name; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        code = run(given)
        sys.stdout.flush()
    except ShardcastError as error:
        return _end(error, as_json)
    except SystemExit as leaving:  # a help page was asked for
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        print("shardcast: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has left; the interpreter must not fail again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception as error:  # noqa: BLE001 - the CLI's main: a bug ends here, with everything we know about it
        import traceback

        traceback.print_exc()
        return _end(
            InvariantViolated(f"{type(error).__name__}: {error}", hint="this is a bug; please report it"), as_json
        )
    return code


def _end(error: ShardcastError, as_json: bool) -> int:
    with contextlib.suppress(BrokenPipeError):
        print_error(error, as_json=as_json)
    return error.exit_code

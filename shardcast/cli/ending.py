"""The end of a program of ours: every error becomes one sentence on stderr with an exit code.

With `--json` the same error is also one object on stdout, so that a script reads one stream. What is no `ShardcastError` is a bug of
ours, exit code 70; its traceback is shown to who asks for it with SHARDCAST_DEBUG.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import ClassVar, Final

from shardcast_proto.errors import InvariantViolated, ShardcastError

from .main import EXIT_INTERRUPTED
from .output import print_error, silence, writing

#: What shells report for a command that was ended by SIGPIPE.
EXIT_PIPE: Final = 141
DEBUG_ENV: Final = "SHARDCAST_DEBUG"


class Interrupted(ShardcastError):
    """Somebody has pressed Ctrl-C."""

    exit_code: ClassVar[int] = EXIT_INTERRUPTED
    http_status: ClassVar[int] = 503
    code: ClassVar[str] = "interrupted"


def finish(program: str, act: Callable[[], int], *, as_json: bool = False) -> int:
    """Run the work of a program, and return the exit code of what became of it.

    Args:
        program: Its name, in front of every sentence.
        act: The work; returns an exit code, or raises.
        as_json: Whether an error is also an object on stdout.
    """
    _open_streams()
    try:
        return _flushed(act)
    except BrokenPipeError:  # whoever read our output has left
        silence(sys.stdout)
        return EXIT_PIPE
    except KeyboardInterrupt:
        error: ShardcastError = Interrupted("interrupted")
    except ShardcastError as known:
        error = known
    except Exception as bug:  # noqa: BLE001 - the main of our programs: a bug ends here
        error = InvariantViolated(
            f"a bug of ours: {type(bug).__name__}: {bug}", hint=f"run again with {DEBUG_ENV}=1 and report it"
        )
        error.__cause__ = bug
    if error.exit_code == InvariantViolated.exit_code and os.environ.get(DEBUG_ENV):
        _print_trace(error)
    print_error(error, as_json=as_json, program=program)
    return error.exit_code


def _flushed(act: Callable[[], int]) -> int:
    try:
        code = act()
    except SystemExit as leaving:  # a help page was asked for
        code = leaving.code if isinstance(leaving.code, int) else 0
    with writing():
        sys.stdout.flush()
    return code


def _open_streams() -> None:
    """Put something in the place of streams that whoever started us has closed: they wanted to hear nothing."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the rest of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123


def _print_trace(error: ShardcastError) -> None:
    import traceback

    traceback.print_exception(error.__cause__ or error)

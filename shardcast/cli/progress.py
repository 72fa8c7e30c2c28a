"""The progress bar of a command, on stderr.

Rich draws it on a terminal, and is imported only then; into a file or a pipe goes a line for every tenth of the way. Nothing is drawn
before the first news, so that an error known at once stands alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .output import print_aside, size_text

#: Told (bytes done, bytes in total); knows no news from old ones.
UpdateFn = Callable[[int, int], None]


@contextmanager
def progress_bar(what: str, *, shown: bool) -> Iterator[UpdateFn]:
    """Show how far something is for the length of a block."""
    if not shown:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        yield from _drawn(what)
    else:
        yield _Lines(what).update


def _drawn(what: str) -> Iterator[UpdateFn]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    task = progress.add_task(what, total=None)

    def update(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=min(done, total), total=total)

    try:
        yield update
    finally:
        progress.stop()


class _Lines:
    """A line for every tenth of the way."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._tenth = -1

    def update(self, done: int, total: int) -> None:
        tenth = 10 * min(done, total) // total if total else 10
        if tenth != self._tenth:
            self._tenth = tenth
            print_aside(f"{self._what} {10 * tenth}% of {size_text(total)}")

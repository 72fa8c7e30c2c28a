"""The screen of the demo, on stderr: what happens now, and how far each node is.

On a terminal a table is drawn again several times a second; into a file or a pipe goes a line for each thing that has happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .watch import Glance

Mode = Literal["live", "plain", "quiet"]
ShowFn = Callable[[Sequence[Glance]], None]

_COLOURS = {"origin": "magenta", "relay": "cyan", "client": "green"}
_MB = 1e6


class Screen:
    """Where the demo tells what it does."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._console = Console(stderr=True, quiet=mode == "quiet", highlight=False, soft_wrap=mode == "plain")

    @contextmanager
    def phase(self, text: str) -> Iterator[None]:
        """Say that something is being done, then how long it took."""
        began_s = time.monotonic()
        if self._mode == "live":
            with self._console.status(f"{text} …"):
                yield
        else:
            yield
        self._console.print(f"[green]✓[/] {text}  [dim]{time.monotonic() - began_s:.1f} s[/]")

    @contextmanager
    def transfer(self, title: str) -> Iterator[ShowFn]:
        """Show the nodes while a version goes out; yields what is told how they are."""
        began_s = time.monotonic()
        if self._mode != "live":
            yield _Lines(self._console).show
            self._console.print(f"✓ {title}  {time.monotonic() - began_s:.1f} s")
            return
        with Live(console=self._console, auto_refresh=False, transient=False) as live:

            def show(glances: Sequence[Glance]) -> None:
                live.update(_table(title, glances, time.monotonic() - began_s), refresh=True)

            yield show

    def trouble(self, lines: Sequence[str]) -> None:
        """Print the end of a log, under the error that will be printed."""
        for line in lines:
            self._console.print(Text(f"  | {line}", style="dim"))


def _table(title: str, glances: Sequence[Glance], seconds: float) -> RenderableType:
    table = Table(
        title=f"{title}  [dim]{seconds:.1f} s[/]", title_justify="left", title_style="bold", box=None, expand=True
    )
    table.add_column("", no_wrap=True)
    table.add_column("", ratio=1, min_width=10)
    # wide enough from the beginning, so that nothing moves while the numbers grow
    for heading, width in (("", 4), ("MB/s", 5), ("from origin", 11), ("from peers", 10), ("sent", 9)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for glance in glances:
        table.add_row(*_cells(glance))
    return table


def _cells(glance: Glance) -> list[RenderableType]:
    colour = _COLOURS[glance.role]
    is_origin = glance.role == "origin"
    rate = "↑" if is_origin else "↓"
    is_moving = glance.rate_bytes_per_s > _MB / 2 and (is_origin or not glance.is_complete)
    moving = f"{rate} {glance.rate_bytes_per_s / _MB:.0f}" if is_moving else "[dim]·[/]"
    return [
        f"[{colour}]{glance.name}[/]",
        ProgressBar(total=1.0, completed=glance.share, complete_style=colour, finished_style=colour),
        "[green]✓[/]" if glance.is_complete else f"{100 * glance.share:.0f}%",
        moving,
        "[dim]–[/]" if is_origin else megabytes(glance.from_origin_bytes),
        "[dim]–[/]" if is_origin else megabytes(glance.from_peers_bytes),
        megabytes(glance.sent_bytes),
    ]


class _Lines:
    """A line for each node that becomes complete."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def show(self, glances: Sequence[Glance]) -> None:
        for glance in glances:
            if glance.is_complete and glance.role != "origin" and glance.name not in self._told:
                self._told.add(glance.name)
                self._console.print(
                    f"  {glance.name} is complete: {megabytes(glance.from_origin_bytes)} from the origin,"
                    f" {megabytes(glance.from_peers_bytes)} from peers"
                )


def megabytes(size_bytes: int) -> str:
    """Return a number of bytes in the unit of the whole demo, MB."""
    return f"{size_bytes / _MB:.1f} MB"

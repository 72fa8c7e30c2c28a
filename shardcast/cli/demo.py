"""The command `demo`."""

from __future__ import annotations

import sys
from pathlib import Path

from .output import print_result, writing
from .session import absolute


def demo(*, size_bytes: int, keep: Path | None, as_json: bool, progress: bool | None) -> None:
    """Run the demo, and print its table.

    Raises:
        ShardcastError: A node failed, or a byte is not as it was published.
    """
    from shardcast.demo import DemoOptions, run_demo
    from shardcast.demo.screen import Mode

    mode: Mode = "live" if sys.stderr.isatty() else "plain"
    if progress is False or (as_json and progress is None and mode == "plain"):
        mode = "quiet"
    home = None if keep is None else absolute(keep)
    report = run_demo(DemoOptions(size_bytes=size_bytes, keep=home, mode=mode))
    if as_json:
        print_result(report.document(), [], as_json=True)
        return
    from rich.console import Console

    console = Console(highlight=False)
    with writing():
        for drawn in report.tables():
            console.print(drawn, soft_wrap=isinstance(drawn, str))

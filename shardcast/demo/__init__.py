"""The demo: six real nodes on this host, two published checkpoints, every byte compared.

`scenario` is the story from the first file to the last comparison. `fleet` starts and ends the processes, `watch` asks them how far
they are, `screen` shows it, `compare` trusts nobody, `report` is the table at the end.
"""

from .report import DemoReport
from .scenario import DemoOptions, run_demo

__all__ = ["DemoOptions", "DemoReport", "run_demo"]

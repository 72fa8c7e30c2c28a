"""The `shardcast` command.

`app` declares the commands with their flags; each does its work in a module of its own name, imported when it runs, so that a command
starts fast. `ending` is the one place that turns an error into a sentence with an exit code.
"""

from .main import main

__all__ = ["main"]

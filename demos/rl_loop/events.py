"""What the processes of the loop tell whoever started them: one JSON object a line, on stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import NoReturn

_LOCK = threading.Lock()


def tell(event: str, **facts: object) -> None:
    """Write one line; threads may."""
    with _LOCK:
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()


def end_with_stdin() -> None:
    """Let this process end when whoever started it closes its stdin, or is gone."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def wait_for_the_end() -> NoReturn:
    """Do nothing until `end_with_stdin` ends the process."""
    while True:
        threading.Event().wait()


def _end_with_stdin() -> NoReturn:
    sys.stdin.read()
    os._exit(0)

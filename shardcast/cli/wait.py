"""The command `wait`."""

from __future__ import annotations

from typing import Final

from shardcast.api_client import ApiClient, View

from .output import print_result, size_text
from .progress import progress_bar
from .selector import parse_selector
from .session import Session

#: How often somebody who watches is told.
_WATCHED_POLL_S: Final = 0.25
_POLL_S: Final = 30.0


def wait(session: Session, version: str, *, timeout_s: float | None) -> None:
    """Wait until the daemon holds a version complete, and print it.

    Raises:
        NotReady: It does not in time.
    """
    view = wait_for(session, session.client(), version, timeout_s=timeout_s)
    line = f"{view['channel']}@{view['step']} is complete: seq {view['seq']}, {view['manifest']}, {size_text(view['bytes'])}"
    print_result(view, [line], as_json=session.as_json)


def wait_for(session: Session, api: ApiClient, version: str, *, timeout_s: float | None) -> View:
    """Return a version once the daemon holds it complete, with a bar meanwhile for who watches.

    Raises:
        NotReady: It does not in time.
    """
    channel, selector = parse_selector(version)
    with progress_bar("fetching", shown=session.shows_progress) as update:

        def show(view: View) -> None:
            update(int(view["have_chunks"]) * int(view["chunk_size"]), int(view["bytes"]))

        poll_s = _WATCHED_POLL_S if session.shows_progress else _POLL_S
        return api.wait(channel, selector, timeout_s=timeout_s, poll_s=poll_s, on_view=show)

"""The command `top`.

On a terminal the view is drawn again and again until Ctrl-C, on the terminal's second screen; a daemon that is being restarted is waited
for. Elsewhere, and with `--json`, it is one look: two samples, one interval apart, because a rate needs two.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress

from shardcast.api_client import View
from shardcast_proto.errors import DaemonUnreachable

from .look import Look, Sample, compare, take_sample
from .output import print_result, writing
from .session import Session


def top(session: Session, *, interval_s: float, frames: int | None) -> None:
    """Show versions and neighbours while bytes flow.

    Raises:
        DaemonUnreachable: It does not answer the first time.
    """
    api = session.client()
    sample = take_sample(api)
    if session.as_json or not sys.stdout.isatty():
        from .top_view import lines

        for number in range(frames or 1):
            if number and not session.as_json:
                print()
            time.sleep(interval_s)
            before, sample = sample, take_sample(api)
            if not session.as_json:
                print_result({}, lines(compare(before, sample)), as_json=False)
                with writing():
                    sys.stdout.flush()
        if session.as_json:
            print_result(_document(compare(before, sample)), [], as_json=True)
        return
    with suppress(KeyboardInterrupt):
        _watch(lambda: take_sample(api), sample, interval_s, frames)


def _watch(take: Callable[[], Sample], sample: Sample, interval_s: float, frames: int | None) -> None:
    from rich.console import Console
    from rich.live import Live

    from .top_view import picture

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        look, shown = compare(sample, sample), 0
        while True:
            live.update(picture(look), refresh=True)
            shown += 1
            if shown == frames:
                return
            time.sleep(interval_s)
            try:
                before, sample = sample, take()
                look = compare(before, sample)
            except DaemonUnreachable as error:
                look = compare(sample, sample, error.message)


def _document(look: Look) -> View:
    return {
        "status": look.now.status,
        "peers": look.now.peers,
        "received_bytes_per_s": look.received_bytes_per_s,
        "sent_bytes_per_s": look.sent_bytes_per_s,
        "peer_rates": {
            peer: {"received_bytes_per_s": received, "sent_bytes_per_s": sent}
            for peer, (received, sent) in look.peer_rates.items()
        },
    }

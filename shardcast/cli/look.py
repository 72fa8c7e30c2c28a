"""A look at a running daemon: what it is doing, with the rates between two samples."""

from __future__ import annotations

import time
from typing import NamedTuple

from shardcast.api_client import ApiClient, View


class Sample(NamedTuple):
    """The daemon at one moment.

    Attributes:
        at_s: When it was asked, by our monotonic clock.
        status: `/v1/status`.
        peers: `/v1/peers`.
    """

    at_s: float
    status: View
    peers: list[View]


class Look(NamedTuple):
    """What two samples show.

    Attributes:
        now: The later one.
        received_bytes_per_s: Between the two.
        sent_bytes_per_s: Between the two.
        peer_rates: For each peer, bytes per second from it and to it.
        trouble: Why the daemon cannot be asked any more, or None.
    """

    now: Sample
    received_bytes_per_s: float
    sent_bytes_per_s: float
    peer_rates: dict[str, tuple[float, float]]
    trouble: str | None = None


def take_sample(api: ApiClient) -> Sample:
    """Ask the daemon how it is."""
    return Sample(time.monotonic(), api.status(), api.peers())


def compare(before: Sample, now: Sample, trouble: str | None = None) -> Look:
    """Return what has happened between two samples; a daemon that was started anew counts from zero."""
    seconds = max(now.at_s - before.at_s, 1e-3)

    def rate(was: View, now: View, key: str) -> float:
        return max(float(now[key]) - float(was[key]), 0.0) / seconds

    was = {view["peer"]: view for view in before.peers}
    return Look(
        now,
        rate(before.status, now.status, "received_bytes"),
        rate(before.status, now.status, "sent_bytes"),
        {
            view["peer"]: (
                rate(was.get(view["peer"], view), view, "received_bytes"),
                rate(was.get(view["peer"], view), view, "sent_bytes"),
            )
            for view in now.peers
        },
        trouble,
    )

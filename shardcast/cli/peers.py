"""The command `peers`."""

from __future__ import annotations

from typing import Final

from shardcast.api_client import View

from .output import print_note, print_result, size_text, table
from .session import Session

#: Characters of a peer id that are shown where there is little room.
_PEER_CHARS: Final = 10
_HEADER = ("PEER", "ROLES", "SERVES AT", "RATE", "RECEIVED", "SENT", "SUCCESS", "STATE")


def peers(session: Session) -> None:
    """Print the daemon's neighbours, and the peers that it refuses for a while."""
    views = session.client().peers()
    print_result({"peers": views}, table(map(_row, views), header=_HEADER), as_json=session.as_json)
    if not views:
        print_note("no neighbours; a node joins a swarm at the address given with shardcast-node --bootstrap")


def rate_text(rate_bytes_per_s: float | None) -> str:
    """Return a rate for people; "-" for one that is not known."""
    return "-" if rate_bytes_per_s is None else f"{size_text(rate_bytes_per_s)}/s"


def short_peer(peer: str) -> str:
    """Return the end of a peer id: they begin alike."""
    return f"…{peer[-_PEER_CHARS:]}"


def success_text(view: View) -> str:
    """Return the share of good answers of a peer; "-" while it was not asked, which the daemon rates as one half."""
    if view["rate_bytes_per_s"] is None and view["success_rate"] == 0.5:
        return "-"
    return f"{100 * view['success_rate']:.0f}%"


def peer_state(view: View) -> str:
    """Return what the daemon does with a peer at this moment."""
    if view["quarantined_for_s"] > 0:
        return f"refused for {view['quarantined_for_s']:.0f} s"
    if view["in_flight_bytes"]:
        return f"sends {size_text(view['in_flight_bytes'])}"
    return "idle"


def _row(view: View) -> tuple[str, ...]:
    return (
        view["peer"],
        ",".join(view["roles"]) or "-",
        view["serve"] or "-",
        rate_text(view["rate_bytes_per_s"]),
        size_text(view["received_bytes"]),
        size_text(view["sent_bytes"]),
        success_text(view),
        peer_state(view),
    )

"""The command `ls`."""

from __future__ import annotations

from .output import print_note, print_result, share_text, size_text, table, time_text
from .session import Session


def list_channels(session: Session) -> None:
    """Print the channels that the daemon follows."""
    channels = session.client().channels()
    rows = [
        (view["name"], view["versions"], view["freshness"], "origin" if view["is_origin"] else "-", view["channel"])
        for view in channels
    ]
    lines = table(rows, header=("CHANNEL", "VERSIONS", "STATE", "ROLE", "ID"))
    print_result({"channels": channels}, lines, as_json=session.as_json)


def list_versions(session: Session, channel: str) -> None:
    """Print the versions of a channel, newest first.

    Raises:
        NotFound: The daemon does not follow it.
    """
    versions = session.client().versions(channel)
    rows = [
        (
            view["step"],
            view["seq"],
            view["state"],
            "100%" if view["state"] == "complete" else share_text(view["have_chunks"], view["chunks"]),
            size_text(view["bytes"]),
            time_text(view["received_at"]),
            view["manifest"],
        )
        for view in versions
    ]
    lines = table(rows, header=("STEP", "SEQ", "STATE", "HERE", "SIZE", "RECEIVED", "MANIFEST"))
    print_result({"channel": channel, "versions": versions}, lines, as_json=session.as_json)
    if not versions:
        print_note(f"{channel} has no versions yet")

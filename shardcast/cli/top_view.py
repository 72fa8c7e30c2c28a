"""The picture that `top` draws: as rich tables for a terminal, as lines for a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from shardcast.api_client import View

from .look import Look
from .output import printable, share_text, size_text, table
from .peers import peer_state, rate_text, short_peer, success_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_VERSIONS: Final = ("VERSION", "SEQ", "SIZE", "HERE", "STATE", "WAITS FOR")
_PEERS: Final = ("PEER", "ROLES", "SERVES AT", "DOWN", "UP", "RECEIVED", "SENT", "SUCCESS", "STATE")


def lines(look: Look) -> Iterator[str]:
    """Yield one look as lines."""
    yield _headline(look)
    yield ""
    versions = [_version_cells(view) for view in _versions(look)]
    yield from table(versions, header=_VERSIONS) or ["no versions yet"]
    yield ""
    yield from table(_peer_rows(look), header=_PEERS) or ["no neighbours"]


def picture(look: Look) -> RenderableType:
    """Return one look for a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    versions = Table(box=None, expand=True, header_style="bold")
    for heading in (*_VERSIONS[:3], "", *_VERSIONS[3:]):
        versions.add_column(heading, no_wrap=True, ratio=1 if heading in ("", "WAITS FOR") else None)
    for view in _versions(look):
        # no chunk count yet: the manifest is on its way
        bar = ProgressBar(total=max(view["chunks"], 1), completed=view["have_chunks"])
        name, seq, size, *rest = (Text(printable(cell)) for cell in _version_cells(view))
        versions.add_row(name, seq, size, bar, *rest)
    peers = Table(box=None, expand=True, header_style="bold")
    for heading in _PEERS:
        right = heading in ("DOWN", "UP", "RECEIVED", "SENT", "SUCCESS")
        peers.add_column(heading, no_wrap=True, justify="right" if right else "left")
    for row in _peer_rows(look):
        peers.add_row(*(Text(printable(cell)) for cell in row), style="yellow" if "refused" in row[-1] else "")
    trouble = [Text(printable(look.trouble), style="bold red")] if look.trouble else []
    return Group(Text(printable(_headline(look)), style="reverse"), *trouble, Text(), versions, Text(), peers)


def _headline(look: Look) -> str:
    status = look.now.status
    store = f"; STORE: {status['store_error']}" if status["store_error"] else ""
    return (
        f"{','.join(status['roles'])} {short_peer(status['peer_id'])} at {status['serve']}:"
        f" down {rate_text(look.received_bytes_per_s)}, up {rate_text(look.sent_bytes_per_s)};"
        f" {status['neighbours']} neighbours, {status['uploads_running']} uploads{store}"
    )


def _versions(look: Look) -> Iterator[View]:
    """Yield the newest version of each channel, and those that are being fetched."""
    for channel in look.now.status["channels"]:
        head = channel["head"]
        if head is None:
            continue
        yield head
        yield from (view for view in channel["fetching"] if view["manifest"] != head["manifest"])


def _version_cells(view: View) -> tuple[str, ...]:
    is_complete = view["state"] == "complete"
    return (
        f"{view['channel']}@{view['step']}",
        str(view["seq"]),
        size_text(view["bytes"]),
        "100%" if is_complete else share_text(view["have_chunks"], view["chunks"]),
        view["state"],
        "-" if is_complete else str(view["error"] or view["explain"]),
    )


def _peer_rows(look: Look) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for view in look.now.peers:
        down, up = look.peer_rates[view["peer"]]
        received, sent = size_text(view["received_bytes"]), size_text(view["sent_bytes"])
        names = (short_peer(view["peer"]), ",".join(view["roles"]) or "-", view["serve"] or "-")
        rows.append((*names, rate_text(down), rate_text(up), received, sent, success_text(view), peer_state(view)))
    return rows

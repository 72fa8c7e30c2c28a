"""The command `tree`: who feeds whom with a version, from the view of one node.

On a terminal the tables are drawn, elsewhere they are plain lines; with `--json` the API's object is printed as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from shardcast.api_client import View

from .output import print_result, printable, share_text, table, writing
from .peers import short_peer
from .selector import parse_selector
from .session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

_NUMBERS: Final = frozenset(
    {"DEPTH", "STRIPE", "MBIT/S", "FROM IT", "TO IT", "WAITING", "ON WAY", "OVERFLOW", "OUT", "CREDIT"}
)


class _Section(NamedTuple):
    """A table; its first heading says what its rows are."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tree(session: Session, version: str) -> None:
    """Print who feeds the daemon with a version, and whom it feeds.

    Raises:
        NotFound: No such channel or version.
    """
    view = session.client().tree(*parse_selector(version))
    if session.as_json or not sys.stdout.isatty():
        print_result(view, lines(view), as_json=session.as_json)
        return
    from rich.console import Console

    with writing():
        Console().print(picture(view))


def lines(view: View) -> Iterator[str]:
    """Yield the view as lines."""
    yield from _heading(view)
    for section in _sections(view):
        yield ""
        yield from table(section.rows, header=section.header)


def picture(view: View) -> RenderableType:
    """Return the view for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    first, *rest = (Text(printable(line)) for line in _heading(view))
    first.stylize("bold")
    parts: list[RenderableType] = [first, *rest]
    for section in _sections(view):
        drawn = Table(box=None, header_style="bold")
        for heading in section.header:
            drawn.add_column(heading, justify="right" if heading in _NUMBERS else "left")
        for row in section.rows:
            drawn.add_row(*(Text(printable(cell)) for cell in row))
        parts += [Text(), drawn]
    return Group(*parts)


def _heading(view: View) -> Iterator[str]:
    here = "" if view["state"] == "complete" else f", {share_text(view['have_chunks'], view['chunks'])} here"
    yield f"{view['channel']}@{view['step']}, seq {view['seq']}: {view['state']}{here}; {view['explain']}"
    fed, feeding = len(_parents(view)), len(view["children"])
    role = "the source" if view["is_source"] else f"fed by {fed} of {len(view['links'])} neighbours"
    ways = f"links: {view['links_receiving']} to receive by, {view['links_sending']} to send by"
    yield f"node {short_peer(view['peer_id'])}: {role}, feeds {feeding}; {ways}"
    handing_out = view["handing_out"]
    if handing_out is not None and handing_out["repeated_chunks"]:
        yield (
            f"first copies: {handing_out['chunks_left']} chunks to hand out, {handing_out['chunks_out']} to be passed on,"
            f" {handing_out['repeated_chunks']} given twice"
        )


def _sections(view: View) -> Iterator[_Section]:
    links = {link["peer"]: link for link in view["links"]}
    parents = _parents(view)
    if parents:
        rows = [
            (*_names(peer, links), _numbers(fed), _depths(depths), _mbit(links, peer, "received_bytes_per_s"))
            for peer, (fed, depths) in parents.items()
        ]
        yield _Section(("FEEDS US", "ROLES", "STRIPES", "DEPTH", "MBIT/S"), rows)
    if view["children"]:
        yield _children(view, links)
    others = [
        peer for peer in links if peer not in parents and peer not in {child["peer"] for child in view["children"]}
    ]
    if others:
        rates = ("received_bytes_per_s", "sent_bytes_per_s")
        mesh = [
            (*_names(peer, links), *(_mbit(links, peer, rate) for rate in rates), _ways(links[peer])) for peer in others
        ]
        yield _Section(("IN THE MESH", "ROLES", "FROM IT", "TO IT", "LINKS"), mesh)


def _children(view: View, links: dict[str, View]) -> _Section:
    shares = {stripe["stripe"]: stripe for stripe in view["stripes"]}
    rows: list[tuple[str, ...]] = []
    for child in view["children"]:
        peer = child["peer"]
        row = (*_names(peer, links), _numbers(child["stripes"]), _mbit(links, peer, "sent_bytes_per_s"))
        if view["is_source"]:
            fed = [shares[stripe] for stripe in child["stripes"] if stripe in shares]
            counts = (str(sum(stripe[name] or 0 for stripe in fed)) for name in ("chunks_out", "credit"))
        else:
            counts = (str(child[name]) for name in ("waiting_chunks", "pushes_on_way", "overflow_chunks"))
        rows.append((*row, *counts))
    ends = ("OUT", "CREDIT") if view["is_source"] else ("WAITING", "ON WAY", "OVERFLOW")
    return _Section(("FED BY US", "ROLES", "STRIPES", "MBIT/S", *ends), rows)


def _parents(view: View) -> dict[str, tuple[list[int], list[int]]]:
    """Return the stripes, with the depths there, that each parent feeds us in."""
    parents: dict[str, tuple[list[int], list[int]]] = {}
    for stripe in view["stripes"]:
        if stripe["parent"] is not None:
            fed, depths = parents.setdefault(stripe["parent"], ([], []))
            fed.append(stripe["stripe"])
            depths.append(stripe["depth"])
    return parents


def _names(peer: str, links: dict[str, View]) -> tuple[str, str]:
    link = links.get(peer)
    return short_peer(peer), ",".join(link["roles"]) or "-" if link is not None else "-"


def _mbit(links: dict[str, View], peer: str, rate: str) -> str:
    link = links.get(peer)
    return "-" if link is None else f"{link[rate] * 8 / 1e6:.1f}"


def _numbers(stripes: Sequence[int]) -> str:
    return " ".join(map(str, stripes))


def _depths(depths: Sequence[int]) -> str:
    least, most = min(depths), max(depths)
    return str(least) if least == most else f"{least}-{most}"


def _ways(link: View) -> str:
    ways = [name for name in ("receiving", "sending") if link[f"is_{name}"]]
    return " and ".join(ways) or "none"

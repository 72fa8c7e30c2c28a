"""The text of `tree`, without a daemon."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from shardcast.cli.tree import lines, picture

PARENT, CHILD, OTHER, SELF = (f"12D3KooW{name}" for name in ("xxxparent1", "xxxxchild1", "xxxxother1", "xxxxxself1"))


def stripe(number: int, parent: str | None = None, depth: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "stripe": number,
        "parent": parent,
        "depth": depth,
        "children": [],
        "chunks_out": None,
        "credit": None,
        **more,
    }


def child(*stripes: int, **more: Any) -> dict[str, Any]:
    counts = {"waiting_chunks": 3, "pushes_on_way": 2, "overflow_chunks": 1}
    return {"peer": CHILD, "stripes": list(stripes), **counts, **more}


def link(peer: str, received: float = 0.0, sent: float = 0.0, roles: tuple[str, ...] = ("relay",)) -> dict[str, Any]:
    rates = {"received_bytes_per_s": received, "sent_bytes_per_s": sent}
    return {"peer": peer, "roles": list(roles), "is_receiving": True, "is_sending": peer != OTHER, **rates}


def tree(**more: Any) -> dict[str, Any]:
    return {
        "peer_id": SELF,
        "channel": "demo",
        "channel_id": "b3:" + "00" * 32,
        "seq": 1,
        "step": 7,
        "manifest": "b3:" + "11" * 32,
        "state": "staging",
        "chunks": 100,
        "have_chunks": 37,
        "explain": "fed by 1 parent",
        "is_source": False,
        "handing_out": None,
        "stripes": [],
        "children": [],
        "links": [],
        "links_receiving": 3,
        "links_sending": 2,
        **more,
    }


RELAY = tree(
    stripes=[stripe(0, PARENT, 1), stripe(1), stripe(2, PARENT, 3)],
    children=[child(0)],
    links=[link(PARENT, received=1_250_000.0), link(CHILD, sent=500_000.0), link(OTHER)],
)
SOURCE = tree(
    state="complete",
    is_source=True,
    handing_out={"chunks_left": 60, "chunks_out": 5, "repeated_chunks": 2},
    stripes=[stripe(0, depth=0, children=[CHILD], chunks_out=5, credit=6), stripe(1, depth=0)],
    children=[child(0)],
    links=[link(CHILD, sent=500_000.0)],
)


def test_a_relay_shows_who_feeds_it_and_whom_it_feeds():
    assert list(lines(RELAY)) == [
        "demo@7, seq 1: staging, 37% here; fed by 1 parent",
        "node …xxxxxself1: fed by 1 of 3 neighbours, feeds 1; links: 3 to receive by, 2 to send by",
        "",
        "FEEDS US     ROLES  STRIPES  DEPTH  MBIT/S",
        "…xxxparent1  relay  0 2      1-3      10.0",
        "",
        "FED BY US    ROLES  STRIPES  MBIT/S  WAITING  ON WAY  OVERFLOW",
        "…xxxxchild1  relay        0     4.0        3       2         1",
        "",
        "IN THE MESH  ROLES  FROM IT  TO IT  LINKS",
        "…xxxxother1  relay      0.0    0.0  receiving",
    ]


def test_a_source_shows_what_is_out_and_what_may_be():
    text = list(lines(SOURCE))
    assert text[:3] == [
        "demo@7, seq 1: complete; fed by 1 parent",
        "node …xxxxxself1: the source, feeds 1; links: 3 to receive by, 2 to send by",
        "first copies: 60 chunks to hand out, 5 to be passed on, 2 given twice",
    ]
    assert text[4:] == [
        "FED BY US    ROLES  STRIPES  MBIT/S  OUT  CREDIT",
        "…xxxxchild1  relay        0     4.0    5       6",
    ]


def test_a_parent_and_a_child_whose_links_are_gone_have_no_rate():
    text = list(lines(tree(stripes=[stripe(0, PARENT, 1)], children=[child(0)])))
    assert text[4].split() == ["…xxxparent1", "-", "0", "1", "-"] and text[7].split()[1:4] == ["-", "0", "-"]


def test_a_version_that_is_not_open_here_is_two_lines():
    text = list(lines(tree(state="announced", chunks=0, have_chunks=0, explain="its manifest is on its way")))
    assert text[0] == "demo@7, seq 1: announced, - here; its manifest is on its way" and len(text) == 2


def test_the_picture_says_what_the_lines_say_and_moves_no_cursor():
    for view in (RELAY, SOURCE):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(picture({**view, "explain": "\x1b[2J"}))
        text = console.export_text()
        for line in list(lines(view))[1:]:
            assert all(word in text for word in line.split())
        assert "\x1b[2J" not in text

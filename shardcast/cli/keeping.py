"""The commands that say what a node keeps: `pin`, `unpin`, `gc`."""

from __future__ import annotations

from collections.abc import Iterator

from shardcast.api_client import View

from .output import print_result, size_text
from .selector import parse_selector
from .session import Session


def pin(session: Session, version: str) -> None:
    """Keep a version from being deleted.

    Raises:
        NotFound: No such channel or version, or the daemon does not hold it any more.
    """
    view = session.client().pin(*parse_selector(version))
    print_result(view, [f"{_name(view)} is pinned: it is kept until it is unpinned"], as_json=session.as_json)


def unpin(session: Session, version: str) -> None:
    """Let a version be deleted again when its time comes.

    Raises:
        NotFound: No such channel or version.
    """
    view = session.client().unpin(*parse_selector(version))
    print_result(view, [f"{_name(view)} is not pinned"], as_json=session.as_json)


def collect(session: Session, *, dry_run: bool) -> None:
    """Have the daemon delete what it does not have to keep, or say what that is.

    Raises:
        StoreError: Its disk.
    """
    view = session.client().collect(dry_run=dry_run)
    print_result(view, _collected(view), as_json=session.as_json)


def _name(view: View) -> str:
    return f"{view['channel']}@{view['step']} (seq {view['seq']})"


def _collected(view: View) -> Iterator[str]:
    would = "would be deleted" if view["dry_run"] else "deleted"
    for manifest in view["deleted"]:
        yield f"{manifest} {would}"
    count = len(view["deleted"])
    yield f"{count} {'version' if count == 1 else 'versions'} {would}, {size_text(view['bytes'])}"

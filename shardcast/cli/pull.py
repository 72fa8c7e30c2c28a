"""The command `pull`."""

from __future__ import annotations

from pathlib import Path

from shardcast.pull import Pulled
from shardcast.pull import pull as pull_version

from .output import print_result, size_text
from .progress import progress_bar
from .selector import parse_selector
from .session import Session, absolute
from .wait import wait_for


def pull(session: Session, version: str, directory: Path, *, wait: bool, timeout_s: float | None) -> None:
    """Make a directory of a version, and print what it took.

    Raises:
        NotReady: The version is not complete, or not in time.
        Conflict: Something else is at `directory`.
    """
    place = absolute(directory)
    api = session.client()
    view = wait_for(session, api, version, timeout_s=timeout_s) if wait else api.version(*parse_selector(version))
    with progress_bar("pulling", shown=session.shows_progress) as update:
        pulled = pull_version(api, view, directory, on_progress=update)
    document = {
        **view,
        "directory": str(place),
        "was_there": pulled.was_there,
        "linked_bytes": pulled.linked_bytes,
        "copied_bytes": pulled.copied_bytes,
        "downloaded_bytes": pulled.downloaded_bytes,
    }
    print_result(document, [_sentence(pulled)], as_json=session.as_json)


def _sentence(pulled: Pulled) -> str:
    view = pulled.view
    version = f"{view['channel']}@{view['step']} (seq {view['seq']}, {size_text(view['bytes'])})"
    if pulled.was_there:
        return f"{version} is in {pulled.directory} already"
    ways = {"linked": pulled.linked_bytes, "copied": pulled.copied_bytes, "downloaded": pulled.downloaded_bytes}
    how = ", ".join(f"{size_text(count)} {way}" for way, count in ways.items() if count)
    return f"{version} is in {pulled.directory}: {how or 'only empty files'}"

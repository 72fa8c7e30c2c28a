"""The command `status`."""

from __future__ import annotations

from collections.abc import Iterator

from shardcast.api_client import View

from .activate import engine_lines
from .output import print_result, share_text, size_text, time_text
from .session import Session


def status(session: Session) -> None:
    """Print the daemon at one glance."""
    view = session.client().status()
    print_result(view, _lines(view), as_json=session.as_json)


def _lines(view: View) -> Iterator[str]:
    yield f"node       {view['peer_id']} ({', '.join(view['roles'])}), version {view['version']}"
    yield f"since      {time_text(view['started_at'])}, data in {view['data']}"
    for address in view["p2p"]:
        yield f"p2p        {address}"
    yield f"serve      {view['serve']}"
    yield (
        f"neighbours {view['neighbours']}; sent {size_text(view['sent_bytes'])},"
        f" received {size_text(view['received_bytes'])}, uploads running {view['uploads_running']}"
    )
    if view["refused_heads"]:
        yield f"refused    {view['refused_heads']} heads"
    if view["store_error"]:
        yield f"store      {view['store_error']}"
    for channel in view["channels"]:
        yield from _channel_lines(channel)
    for engine in view["engines"]:
        yield from engine_lines(engine)


def _channel_lines(channel: View) -> Iterator[str]:
    role = ", origin" if channel["is_origin"] else ""
    yield f"channel    {channel['name']} ({channel['freshness']}, epoch {channel['epoch']}{role})"
    head = channel["head"]
    if head is None:
        yield "  newest   none yet"
        return
    yield f"  newest   {_version(head)}"
    for version in channel["fetching"]:
        if version["manifest"] != head["manifest"]:
            yield f"  fetching {_version(version)}"


def _version(view: View) -> str:
    text = f"step {view['step']} (seq {view['seq']}, {size_text(view['bytes'])}): {view['state']}"
    if view["state"] == "complete":
        # an origin says here what it still hands out
        return text if view["explain"] == "complete" else f"{text}; {view['explain']}"
    return f"{text}, {share_text(view['have_chunks'], view['chunks'])} here; {view['explain']}"

"""The command `channel create`."""

from __future__ import annotations

from pathlib import Path

from shardcast_proto.ids import format_digest

from .output import print_result


def create(name: str, directory: Path, *, as_json: bool) -> None:
    """Make the three files of a channel, and say which is for whom."""
    from shardcast.channel_files import create_channel

    made = create_channel(name, directory)
    document = {
        "name": made.name,
        "channel": format_digest(made.channel),
        "root": str(made.root),
        "root_key": str(made.root_key),
        "origin_key": str(made.origin_key),
    }
    lines = [
        f"channel {made.name} {document['channel']}",
        f"  {made.root}  give it to every node: shardcast-node --channel",
        f"  {made.root_key}  keep it offline: it can replace the root",
        f"  {made.origin_key}  for the trainer's node: shardcast-node --origin-key",
    ]
    print_result(document, lines, as_json=as_json)

"""The listing of a version's files as the Hugging Face Hub lists a commit's.

The names of contents, 40 hex digits there, are made of ours: equal for equal bytes, but no SHA-1. A client only compares them.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from shardcast.store.version_table import content_of
from shardcast_proto.hashing import digest_of
from shardcast_proto.manifest import Manifest


class HubEntry(TypedDict):
    """A file, or a directory: its path, its size in bytes, 40 hex digits that name its content."""

    type: Literal["file", "directory"]
    path: str
    size: int
    oid: str


def hub_files(manifest: Manifest) -> list[HubEntry]:
    """Return all files, by path."""
    return [
        {"type": "file", "path": row.path, "size": row.size, "oid": content_of(manifest, index).hex()[:40]}
        for index, row in enumerate(manifest.files)
    ]


def hub_tree(manifest: Manifest, below: str, *, is_recursive: bool) -> list[HubEntry]:
    """Return what lies in a directory, by path.

    Args:
        below: The directory; "" for the whole version.
        is_recursive: Whether what lies in directories below is listed too.
    """
    prefix = f"{below}/" if below else ""
    shown: dict[str, HubEntry] = {}
    members: dict[str, list[str]] = {}
    for file in hub_files(manifest):
        if not file["path"].startswith(prefix):
            continue
        parts = file["path"].removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            folder = prefix + "/".join(parts[:depth])
            members.setdefault(folder, []).append(f"{file['path']}\0{file['oid']}\0")
            if is_recursive or depth == 1:
                shown[folder] = {"type": "directory", "path": folder, "size": 0, "oid": ""}
        if is_recursive or len(parts) == 1:
            shown[file["path"]] = file
    for folder, entry in shown.items():
        if entry["type"] == "directory":
            entry["oid"] = digest_of("".join(members[folder]).encode()).hex()[:40]
    return [shown[path] for path in sorted(shown)]

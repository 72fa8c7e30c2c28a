"""The rule by which old versions go.

Pure: facts in, a list of versions to delete out. Never deleted: the newest version of a channel, what a reader leases,
what the operator pins. Of the rest, the `keep` newest of each channel stay, as far as the byte quota allows; a version
that no channel names any more ranks behind all others. Files that versions share are counted once for each version, so
the quota errs on the safe side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from shardcast_proto.ids import Digest

#: Today's version, the one engines still serve, and one to roll back to.
KEEP_DEFAULT: Final = 3
#: The rank of a version that no head names.
UNNAMED: Final = 1 << 62


@dataclass(frozen=True)
class HeldVersion:
    """A complete version as retention sees it.

    Attributes:
        manifest: Its name.
        bytes: The size of its files.
        rank: How many held versions of its channel are newer; the smallest number if several channels name it.
    """

    manifest: Digest
    bytes: int
    rank: int


def plan_retention(
    versions: Sequence[HeldVersion],
    *,
    keep: int = KEEP_DEFAULT,
    quota_bytes: int | None = None,
    leased: Collection[Digest] = (),
    pinned: Collection[Digest] = (),
    newest: Collection[Digest] = (),
) -> list[Digest]:
    """Return the versions to delete, the oldest first.

    Args:
        versions: All complete versions of the node.
        keep: How many versions of each channel to hold; pinned and leased ones count.
        quota_bytes: Bytes that all versions may take together; None is no limit.
        leased: Versions that a reader holds.
        pinned: Versions that the operator holds.
        newest: Versions that must stay whatever their rank, such as the one being activated.
    """
    held = sum(version.bytes for version in versions)
    doomed: list[Digest] = []
    for version in sorted(versions, key=lambda version: (-version.rank, version.manifest)):
        is_needed = version.rank == 0 or any(version.manifest in some for some in (leased, pinned, newest))
        is_over_quota = quota_bytes is not None and held > quota_bytes
        if not is_needed and (version.rank >= keep or is_over_quota):
            doomed.append(version.manifest)
            held -= version.bytes
    return doomed

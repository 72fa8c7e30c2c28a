"""The command `verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from shardcast_proto.errors import IntegrityError, NotFound

from .output import print_result, size_text
from .progress import progress_bar
from .selector import parse_selector
from .session import Session, absolute

#: Differences that an error quotes; all of them are in its facts, up to the second number.
_QUOTED: Final = 3
_LISTED: Final = 100


def verify(session: Session, version: str) -> None:
    """Have the daemon hash its files of a version again, and print how much was right.

    Raises:
        NotReady: The version is not complete there.
        IntegrityError: Not every byte is as it was published; the daemon fetches it again.
    """
    with progress_bar("verifying", shown=session.shows_progress) as update:
        view = session.client().verify(*parse_selector(version), on_progress=update)
    size = f"{view['chunks']} chunks, {size_text(view['bytes'])}, in {view['seconds']:.2f} s"
    line = f"{view['channel']}@{view['step']} (seq {view['seq']}) is right in every byte: {size}"
    print_result(view, [line], as_json=session.as_json)


def verify_directory(session: Session, version: str, directory: Path) -> None:
    """Compare a directory here with a version of the daemon, byte for byte.

    Raises:
        NotFound: There is no such directory, channel or version.
        NotReady: The daemon does not have the manifest yet.
        IntegrityError: A file is missing, or is there without belonging, or has other bytes.
    """
    from shardcast.client import verify_tree

    place = absolute(directory)
    if not os.path.isdir(directory):  # noqa: PTH112 - Path.is_dir raises for a path that is too long
        raise NotFound(f"there is no directory {directory}", path=str(directory))
    api = session.client()
    view = api.version(*parse_selector(version))
    manifest = api.manifest_of(view)
    differences = verify_tree(directory, manifest)
    which = f"{view['channel']}@{view['step']} (seq {view['seq']})"
    if differences:
        quoted = "; ".join(map(str, differences[:_QUOTED]))
        more = f"; {len(differences) - _QUOTED} more" if len(differences) > _QUOTED else ""
        raise IntegrityError(
            f"{directory} is not {which}: {quoted}{more}",
            hint="pull the version into another directory",
            path=str(directory),
            difference_count=len(differences),
            differences=[difference._asdict() for difference in differences[:_LISTED]],
        )
    document = {**view, "directory": str(place), "identical": True}
    line = f"{directory} is {which} in every byte: {len(manifest.files)} files, {size_text(manifest.total_bytes)}"
    print_result(document, [line], as_json=session.as_json)

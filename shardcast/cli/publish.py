"""The command `publish`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shardcast_proto.errors import NotFound

from .output import print_note, print_result, size_text
from .progress import progress_bar
from .session import Session


def publish(session: Session, path: Path, channel: str, options: Mapping[str, object]) -> None:
    """Have the daemon publish a directory, and print which version it has become.

    Raises:
        NotFound: There is nothing at `path`, or no such channel.
    """
    api = session.client()
    if api.is_local:
        _check_path(path)
    request = {"path": str(path.absolute()), **options}
    try:
        with progress_bar("hashing", shown=session.shows_progress) as update:
            result = api.publish(channel, request, update)
    except KeyboardInterrupt:
        print_note("the daemon goes on publishing; ask again to see what became of it")
        raise
    print_result(result, [_sentence(result)], as_json=session.as_json)


def _check_path(path: Path) -> None:
    """Refuse what is not there; what cannot be looked at from here is for the daemon to judge."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is nothing at {path}", path=str(path)) from error
    except OSError as error:
        print_note(f"cannot look at {path}: {error.strerror}")


def _sentence(result: Mapping[str, object]) -> str:
    size_bytes = result["bytes"]
    size = size_text(size_bytes) if isinstance(size_bytes, int) else "?"
    version = f"{result['channel']}@{result['step']} is seq {result['seq']}, {result['manifest']}, {size}"
    if result.get("existing"):
        return f"{version}; it was published before"
    return f"{version}; hashed in {result['hash_seconds']:.2f} s, kept by {result['link']}"

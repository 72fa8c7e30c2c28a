"""The command `publish`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shardcast.api_client import View
from shardcast_proto.errors import ConfigError, NotFound

from .ending import Interrupted
from .output import print_note, print_result, size_text
from .progress import UpdateFn, progress_bar
from .session import Session, absolute
from .usage import UsageError

#: Characters of a path that is too long, in the error that says so.
_QUOTED_CHARS: Final = 200


def publish(session: Session, path: str, channel: str, options: Mapping[str, object]) -> None:
    """Have the daemon publish a directory, and print which version it has become.

    Raises:
        UsageError: The path is `-`.
        ConfigError: The path is too long, or a loop of links, or starts at a directory that is gone.
        Interrupted: Ctrl-C, while the daemon goes on.
        NotFound: There is nothing at `path`, or no such channel.
        TransferError: What was waited for did not happen in time.
    """
    if path == "-":
        raise UsageError(
            "a checkpoint is a directory of files with names and sizes, which standard input has not",
            hint="write the files to a directory and publish that; from Python, shardcast.Publisher takes tensors",
        )
    api = session.client()
    directory = absolute(Path(path))
    if api.is_local and "wait_marker" not in options:
        _check_path(directory)
    request = {"path": str(directory), **options}
    with progress_bar("hashing", shown=session.shows_progress) as update:
        teller = _Teller(update, shown=session.shows_progress)
        try:
            result = api.publish(channel, request, teller.tell)
        except KeyboardInterrupt as error:
            if teller.waits_for_marker:
                raise
            raise Interrupted(
                "interrupted; the daemon goes on publishing", hint="ask again to see what became of it"
            ) from error
    print_result(result, [_sentence(result)], as_json=session.as_json)


class _Teller:
    """Tells who watches how far the publication is: the bar while it is hashed, else a line when something is new."""

    def __init__(self, update: UpdateFn, *, shown: bool) -> None:
        self._update = update
        self._shown = shown
        self._said = ""
        #: Whether the daemon has not begun, and will not when we leave.
        self.waits_for_marker = False

    def tell(self, event: View) -> None:
        self.waits_for_marker = "marker" in event
        match event.get("event"):
            case "hashing":
                self._update(int(event["done"]), int(event["total"]))
            case "waiting" if "marker" in event:
                self._say(f"waiting for the file {event['marker']}")
            case "waiting":
                self._say("waiting for another publication to end")
            case "spreading":
                held = f"{event['complete_neighbours']} of {event['wait_neighbours']} neighbours hold it complete"
                self._say(f"seq {event['seq']} is announced; {held}")

    def _say(self, text: str) -> None:
        if self._shown and text != self._said:
            self._said = text
            print_note(text)


def _check_path(path: Path) -> None:
    """Refuse what is not there; what cannot be looked at from here is for the daemon to judge."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is nothing at {path}", path=str(path)) from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            text = str(path)[:_QUOTED_CHARS]
            raise ConfigError(f"the path {text!r} leads nowhere: {error.strerror}", path=text) from error


def _sentence(result: Mapping[str, object]) -> str:
    size_bytes = result["bytes"]
    size = size_text(size_bytes) if isinstance(size_bytes, int) else "?"
    version = f"{result['channel']}@{result['step']} is seq {result['seq']}, {result['manifest']}, {size}"
    count = result.get("complete_neighbours")
    held = f"; {count} {'neighbour holds' if count == 1 else 'neighbours hold'} it complete" if count else ""
    if result.get("existing"):
        return f"{version}; it was published before, kept by {result['link']}{held}"
    return f"{version}; hashed in {result['hash_seconds']:.2f} s, kept by {result['link']}{held}"

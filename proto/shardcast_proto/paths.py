"""The rule that says which file paths a manifest may name.

A path comes from a stranger and becomes a file on this host, so it is refused unless it means the same file on every system: it is
relative, normalised, printable, of bounded length and depth, and distinct from every other path even where case does not count.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from .errors import RemoteProtocolError
from .limits import PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX, PATH_LEVELS_MAX

_WINDOWS_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))]
)

#: Control, format, surrogate, private-use characters. Unassigned ones pass: they differ between versions of Unicode.
_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Co"])


def check_path(path: str) -> str:
    """Return `path` if it may be written below a directory of ours.

    Raises:
        RemoteProtocolError: It is absolute, climbs, is not normalised, or is not a name on every system.
    """
    reason = _fault(path)
    if reason:
        raise RemoteProtocolError(f"file path {path[:120]!r} {reason}", path=path[:PATH_BYTES_MAX])
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Check each path, and that no two are one file or a file and its directory where case does not count.

    Raises:
        RemoteProtocolError: A path is bad, or two collide.
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        check_path(path)
        key = unicodedata.normalize("NFC", path.casefold())
        other = files.get(key) or directories.get(key)
        if other is not None:
            raise RemoteProtocolError(f"file paths {other[:120]!r} and {path[:120]!r} collide", path=path)
        files[key] = path
        parent = key.rpartition("/")[0]
        while parent:
            if parent in files:
                raise RemoteProtocolError(f"{files[parent][:120]!r} is a file and a directory", path=path)
            if parent in directories:
                break
            directories[parent] = path
            parent = parent.rpartition("/")[0]


def _fault(path: str) -> str | None:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not valid text"
    if len(encoded) > PATH_BYTES_MAX:
        return f"is longer than {PATH_BYTES_MAX} bytes"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode normal form C"
    components = path.split("/")
    if len(components) > PATH_LEVELS_MAX:
        return f"has more than {PATH_LEVELS_MAX} levels"
    for component in components:
        reason = _component_fault(component)
        if reason:
            return reason
    return None


def _component_fault(component: str) -> str | None:
    if not component:
        return "is absolute, empty, or has an empty component"
    if component in (".", ".."):
        return "climbs or stands still ('.' or '..')"
    if len(component.encode()) > PATH_COMPONENT_BYTES_MAX:
        return f"has a component longer than {PATH_COMPONENT_BYTES_MAX} bytes"
    if any(char in '\\:*?"<>|' or unicodedata.category(char) in _HIDDEN for char in component):
        return "has a control character or one that some systems forbid"
    if component[-1] in ". " or component[0] == " ":
        return "has a component that begins or ends with a space, or ends with a dot"
    if component.split(".", maxsplit=1)[0].casefold() in _WINDOWS_NAMES:
        return "has a component that is a device on some systems"
    return None

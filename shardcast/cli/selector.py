"""The name of a version as people write it: NAME, NAME@STEP, NAME#SEQ or NAME@b3:HEX.

NAME is a channel's name or its id. Without more it means the newest version.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from shardcast_proto.errors import ConfigError

_FORM: Final = re.compile(
    r"(?P<channel>b3:[0-9a-f]{64}|[A-Za-z0-9][A-Za-z0-9._-]*)(?:@(?P<step>[0-9]{1,19})|#(?P<seq>[0-9]{1,19})|@(?P<digest>b3:[0-9a-f]{64}))?"
)


class Selected(NamedTuple):
    """A channel, with the selector of one of its versions as the API writes it."""

    channel: str
    selector: str


def parse_selector(text: str) -> Selected:
    """Read the name of a version.

    Raises:
        ConfigError: It has none of the forms.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text[:120]!r} names no version",
            hint="write NAME, NAME@STEP, NAME#SEQ or NAME@b3:HEX",
            version=text[:120],
        )
    if match["seq"] is not None:
        return Selected(match["channel"], f"seq:{int(match['seq'])}")
    if match["step"] is not None:
        return Selected(match["channel"], str(int(match["step"])))
    return Selected(match["channel"], match["digest"] or "latest")

"""The bounded log that explains a state: event, change, commands.

It is bounded in entries, and each entry in size: peers choose how long their messages are, so of long fields only the beginning is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Final

from shardcast_proto.messages import Have, Skip, Want

from .commands import CancelFetch, CloseLink, Command, FetchChunks, FetchObject, Hangup, OpenLink, PushChunk, Send
from .events import (
    ChunkVerified,
    Event,
    FetchEnded,
    LinkClosed,
    LinkFailed,
    LinkOpened,
    MessageReceived,
    PushArrived,
    PushBegan,
    PushEnded,
    Ticked,
)

#: Of a list (runs, contacts, addresses) and of bytes (a digest fits) so much is kept.
_ITEMS_MAX: Final = 8
_BYTES_MAX: Final = 64
#: A mask is kept when it is at most so long; a longer one is left out.
_BITS_MAX: Final = 512
#: Most entries are made of these, which no peer can make long: they are kept as they are.
_ALWAYS_SHORT: Final = frozenset(
    {ChunkVerified, FetchEnded, Ticked, PushBegan, PushArrived, PushEnded, LinkOpened, LinkFailed, LinkClosed}
    | {CancelFetch, FetchChunks, FetchObject, Hangup, PushChunk, OpenLink, CloseLink}
)
#: Messages whose only long field is their runs.
_OF_RUNS: Final = frozenset({Have, Want, Skip})


@dataclass(frozen=True)
class Entry:
    """One handled event."""

    event_id: int
    now_s: float
    event: Event
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        orders = "; ".join(map(str, self.commands)) or "nothing"
        return f"#{self.event_id} t={self.now_s:.3f} {self.event} -> {orders}"


class Story:
    """The last `size_max` handled events."""

    def __init__(self, size_max: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=size_max)

    def tell(self, event_id: int, now_s: float, event: Event, commands: Sequence[Command]) -> None:
        """Append one entry, dropping the oldest."""
        self._entries.append(Entry(event_id, now_s, _brief(event), tuple(_brief(command) for command in commands)))

    def about(self, *keys: object) -> list[Entry]:
        """Return the entries whose event or commands name one of `keys` (peer, blob, fetch id …); all without keys."""
        if not keys:
            return list(self._entries)
        return [entry for entry in self._entries if any(_names(part, keys) for part in (entry.event, *entry.commands))]


def _names(part: Any, keys: Sequence[object]) -> bool:
    return any(
        _names(value, keys) if is_dataclass(value) else isinstance(value, int | str | bytes) and value in keys
        for value in vars(part).values()
    )


def _brief(value: Any) -> Any:
    """Return `value` without the tails of what is long in it."""
    kind = type(value)
    if kind in _ALWAYS_SHORT:
        return value
    if (kind is Send or kind is MessageReceived) and type(value.message) in _OF_RUNS:
        return value if len(value.message.runs) <= _ITEMS_MAX else replace(value, message=_brief(value.message))
    if isinstance(value, bytes):
        return value[:_BYTES_MAX]
    if isinstance(value, tuple):
        kept = tuple(_brief(item) for item in value[:_ITEMS_MAX])
        return value if kept == value else kept
    if isinstance(value, int) and value.bit_length() > _BITS_MAX:
        return -1
    if is_dataclass(value) and not isinstance(value, type):
        changed = {name: brief for name, item in vars(value).items() if (brief := _brief(item)) is not item}
        return replace(value, **changed) if changed else value
    return value

"""The bounded log that explains a state: event, change, commands.

It is bounded in entries, and each entry in size: peers choose how long their messages are, so of long fields only the beginning is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Final

from shardcast_proto.messages import (
    Adopt,
    Attach,
    Cancel,
    Detach,
    Done,
    GetHead,
    Have,
    Omit,
    Rate,
    Redirect,
    Skip,
    Trees,
    Want,
)

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
#: Most entries are made of these, which no peer can make long (texts are addresses and reasons, bounded on the wire): kept as they are.
_ALWAYS_SHORT: Final = frozenset(
    {ChunkVerified, FetchEnded, Ticked, PushBegan, PushArrived, PushEnded, LinkOpened, LinkFailed, LinkClosed}
    | {str, bool, float, type(None)}
    | {CancelFetch, FetchChunks, FetchObject, Hangup, PushChunk, OpenLink, CloseLink}
)
#: Messages with one field that can be long, a list of what is short.
_LIST_OF: Final = {
    Have: "runs",
    Want: "runs",
    Skip: "runs",
    Omit: "runs",
    Attach: "stripes",
    Trees: "depths",
    Redirect: "peers",
}
#: Messages without a long field.
_SHORT_MESSAGES: Final = frozenset({GetHead, Adopt, Detach, Cancel, Rate, Done})


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
        #: The fields of each entry. Most are never looked at, so the entry is made when one is.
        self._entries: deque[tuple[int, float, Event, tuple[Command, ...]]] = deque(maxlen=size_max)

    def tell(self, event_id: int, now_s: float, event: Event, commands: Sequence[Command]) -> None:
        """Append one entry, dropping the oldest."""
        kept = event if type(event) in _ALWAYS_SHORT else _brief(event)
        self._entries.append((event_id, now_s, kept, tuple(map(_brief, commands)) if commands else ()))

    def about(self, *keys: object) -> list[Entry]:
        """Return the entries whose event or commands name one of `keys` (peer, blob, fetch id …); all without keys."""
        entries = [Entry(*fields) for fields in self._entries]
        if not keys:
            return entries
        return [entry for entry in entries if any(_names(part, keys) for part in (entry.event, *entry.commands))]


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
    if kind is Send or kind is MessageReceived:
        message = value.message
        inner = type(message)
        if inner in _SHORT_MESSAGES or (inner in _LIST_OF and len(getattr(message, _LIST_OF[inner])) <= _ITEMS_MAX):
            return value
        brief = _brief(message)
        return value if brief is message else replace(value, message=brief)
    if kind is bytes:
        return value[:_BYTES_MAX]
    if kind is tuple:
        kept = tuple([_brief(item) for item in value[:_ITEMS_MAX]])
        return value if kept == value else kept
    if kind is int:
        return -1 if value.bit_length() > _BITS_MAX else value
    if is_dataclass(kind):
        changed = {name: brief for name, item in vars(value).items() if (brief := _brief(item)) is not item}
        return replace(value, **changed) if changed else value
    return value

"""The journal of a channel: what happened to its versions lately, to be read on from any point.

It is a ring. Whoever reads on from an event that has left it, or from one of an earlier run of this node, is told what there is
now (a `snapshot`) instead of what was missed; so a reader needs one way of going on, not two.

What happens is found by looking: `Journals` compares the states that the API would show with those it saw last, so an event never
says anything that the views do not. A state that lasted for less than a moment may go unseen.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from shardcast.http.facade import EventKind, EventsView, EventView, VersionState, VersionView
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.versions import Versions
from shardcast.store import HeadRow, Store, VersionRow
from shardcast_proto.errors import ShardcastError
from shardcast_proto.ids import Digest

from .catalog import VERSIONS_SHOWN_MAX, Catalog

#: Events of a channel that are remembered: hours of steps, and about 300 KB of views.
EVENTS_KEPT: Final = 256
#: The states are compared so often even when nobody told of a change.
LOOK_AGAIN_S: Final = 1.0

_NEWS: Final[Mapping[VersionState, EventKind]] = {"complete": "complete", "failed": "failed", "gone": "gone"}

#: A version of a channel among its heads.
_Place = tuple[int, int]

_log = structlog.get_logger("shardcast.node")


class Journal:
    """The ring of one channel's events.

    Invariant: the ids of its events are consecutive numbers behind a word that no other run of the node has used.
    """

    def __init__(self, size: int = EVENTS_KEPT) -> None:
        self._run = secrets.token_hex(4)
        self._events: deque[EventView] = deque(maxlen=size)
        #: How many events there have been.
        self._count = 0
        self._grown = asyncio.Event()

    @property
    def last_id(self) -> str:
        """The id to read on from after the newest event."""
        return f"{self._run}-{self._count}"

    def note(
        self, kind: EventKind, view: VersionView, at_s: float, *, engine: str | None = None, detail: str | None = None
    ) -> None:
        """Add an event, and wake who waits for one."""
        self._count += 1
        event: EventView = {
            "id": self.last_id,
            "event": kind,
            "at": at_s,
            "versions": [view],
            "engine": engine,
            "detail": detail,
        }
        self._events.append(event)
        self._grown.set()
        self._grown = asyncio.Event()

    def after(self, since: str | None) -> list[EventView] | None:
        """Return the events after one, oldest first; None when what followed it is not remembered."""
        run, _, number = (since or "").partition("-")
        if run != self._run or not (number.isascii() and number.isdecimal() and len(number) <= 18):
            return None
        missed = self._count - int(number)
        if not 0 <= missed <= len(self._events):
            return None
        return list(self._events)[len(self._events) - missed :]

    async def wait_grown(self, timeout_s: float) -> None:
        """Return at the next event, or after `timeout_s`."""
        grown = self._grown
        try:
            async with asyncio.timeout(timeout_s):
                await grown.wait()
        except TimeoutError:
            return


class Journals:
    """The journals of a node's channels, and the look-out that fills them.

    Args:
        on_event: Told of each event.
        clock: Unix seconds.
    """

    def __init__(
        self,
        channels: Sequence[FollowedChannel],
        catalog: Catalog,
        versions: Versions,
        *,
        on_event: Callable[[EventKind, VersionView], None] = lambda kind, view: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._channels = channels
        self._catalog = catalog
        self._versions = versions
        self._on_event = on_event
        self._clock = clock
        self._journals = {channel.id: Journal() for channel in channels}
        #: The states that were seen last; of a channel nothing before the first look.
        self._seen: dict[Digest, dict[_Place, VersionState]] = {}

    async def run(self) -> None:
        """Keep the journals, until cancelled."""
        while True:
            changes = self._versions.change_count
            try:
                await self.look()
            except ShardcastError as error:
                _log.error("journal_not_kept", error=error.describe())
                changes = self._versions.change_count
            if self._versions.change_count == changes:
                await self._versions.wait_changed(LOOK_AGAIN_S)

    async def look(self) -> None:
        """Note what has changed since the last look.

        Raises:
            StoreError: The disk fails.
        """
        for channel in self._channels:
            heads, held = await asyncio.to_thread(_states, self._versions.store, channel.id)
            before = self._seen.get(channel.id)
            now = {
                (row.epoch, row.seq): (row, self._state(channel, row, held.get(row.manifest), before)) for row in heads
            }
            self._seen[channel.id] = {place: state for place, (_, state) in now.items()}
            if before is None:
                continue
            for place, (row, state) in reversed(now.items()):
                for kind in _news(before.get(place), state):
                    self._note(channel, row, kind)

    def _state(
        self,
        channel: FollowedChannel,
        row: HeadRow,
        held: VersionRow | None,
        before: Mapping[_Place, VersionState] | None,
    ) -> VersionState:
        state = self._catalog.state(channel, row, held)
        was = (before or {}).get((row.epoch, row.seq))
        # deleted, and not closed yet: only what was lost is fetched again, and of that there is a row
        return "gone" if state == "staging" and held is None and was in ("complete", "gone") else state

    async def read(self, channel: FollowedChannel, since: str | None, timeout_s: float) -> EventsView:
        """Return the events after one, at once or as soon as there are any; none after `timeout_s`."""
        journal = self._journals[channel.id]
        events = journal.after(since)
        if events == []:
            await journal.wait_grown(timeout_s)
            events = journal.after(since)
        if events is None:
            # the id first: what happens while the views are made is told again
            last_id = journal.last_id
            views = self._catalog.versions(channel)
            snapshot: EventView = {
                "id": last_id,
                "event": "snapshot",
                "at": self._clock(),
                "versions": views,
                "engine": None,
                "detail": None,
            }
            events = [snapshot]
        return {"events": events, "next": events[-1]["id"] if events else since or journal.last_id}

    def tell(self, channel: FollowedChannel, kind: EventKind, view: VersionView, *, engine: str, detail: str) -> None:
        """Note what happened to a version in an engine: this is not found by looking."""
        self._journals[channel.id].note(kind, view, self._clock(), engine=engine, detail=detail)

    def _note(self, channel: FollowedChannel, row: HeadRow, kind: EventKind) -> None:
        view = self._catalog.view(channel, row)
        self._journals[channel.id].note(kind, view, self._clock())
        self._on_event(kind, view)


def _states(store: Store, channel: Digest) -> tuple[list[HeadRow], dict[Digest, VersionRow]]:
    rows = {row.manifest: row for row in store.versions()}
    return store.heads(channel, limit=VERSIONS_SHOWN_MAX), rows


def _news(before: VersionState | None, now: VersionState) -> list[EventKind]:
    """Return what there is to tell of a version that had one state and has another; None: it was not known."""
    if before is None:
        return ["announced", *([_NEWS[now]] if now in _NEWS else [])]
    if (before, now) == ("complete", "staging"):
        return ["failed"]  # its files were changed, and it is fetched again: whoever reads them has to hear of it
    return [_NEWS[now]] if now != before and now in _NEWS else []

"""The orders of a sending link: pushes and answers, and the chunks that they become once they are found in their files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol

from shardcast.http.upload import ChunkLocation
from shardcast_proto.bulk import ChunkHead, End, EndOutcome, Get, encode_head
from shardcast_proto.errors import ShardcastError, TransferError
from shardcast_proto.ids import Digest

#: Pushes that share one way to a worker thread and back.
LOOKUP_PUSHES_MAX: Final = 16


class RunSource(Protocol):
    """What a node holds verified; the store."""

    def locate_run(self, blob: Digest, first: int, count: int) -> Sequence[ChunkLocation]:
        """Return the longest prefix of the run that is held verified. May block."""

    def locate_staged(self, blob: Digest, index: int) -> Sequence[ChunkLocation]:
        """Return a chunk if that takes no longer than opening a file, else nothing."""


@dataclass(eq=False, slots=True)
class Push:
    """One chunk to be sent unasked; `ended` is done when the kernel has all of it."""

    blob: Digest
    stripe: int
    index: int
    ended: asyncio.Future[None]

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.ended.done()

    def finish(self) -> None:
        """End it well."""
        if not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: ShardcastError) -> None:
        """End it badly."""
        if not self.ended.done():
            self.ended.set_exception(error)


@dataclass(eq=False, slots=True)
class Answer:
    """The chunks that a peer has asked for."""

    get: Get
    is_cancelled: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the peer wants no more of it."""
        return self.is_cancelled


Order = Push | Answer


@dataclass(eq=False, slots=True)
class Located:
    """One chunk, found; whoever is done with it closes `file` when `closes_file` says that no later one needs it."""

    order: Order
    head: bytes
    file: BinaryIO
    offset: int
    length: int
    closes_file: bool

    def close(self) -> None:
        """Let go of the file."""
        if self.closes_file:
            self.file.close()


@dataclass(eq=False, slots=True)
class Ending:
    """The end of an answer, in its place behind the chunks."""

    answer: Answer
    outcome: EndOutcome

    @property
    def frame(self) -> bytes:
        """What to send."""
        outcome = EndOutcome.CANCELLED if self.answer.is_cancelled else self.outcome
        return encode_head(End(self.answer.get.request, outcome))


@dataclass(slots=True)
class Found:
    """What a look-up brought: what to send in which order, and the pushes that failed."""

    ready: list[Located | Ending] = field(default_factory=list)
    failed: list[tuple[Push, ShardcastError]] = field(default_factory=list)


def look_up(source: RunSource, orders: Iterable[Order], *, bytes_aim: int) -> Found:
    """Find the chunks of some orders. May block."""
    found = Found()
    for order in orders:
        if isinstance(order, Push):
            _find_push(source, order, found)
        else:
            _find_answer(source, order, found, bytes_aim)
    return found


def find_at_once(source: RunSource, push: Push) -> Located | None:
    """Find the chunk of a push if that needs no look-up worth a thread: a way to one and back costs more than opening a file."""
    try:
        run = source.locate_staged(push.blob, push.index)
    except ShardcastError:
        return None  # the look-up says why
    return _located(push, run[0]) if run else None


def _located(push: Push, chunk: ChunkLocation) -> Located:
    head = encode_head(ChunkHead(push.blob, push.index, chunk.length, push.stripe))
    return Located(push, head, chunk.file, chunk.offset, chunk.length, closes_file=True)


def _find_push(source: RunSource, push: Push, found: Found) -> None:
    try:
        run = source.locate_run(push.blob, push.index, 1)
    except ShardcastError as error:
        found.failed.append((push, error))
        return
    if not run:
        missing = TransferError(f"chunk {push.index} is not held here", reason="missing", chunk_index=push.index)
        found.failed.append((push, missing))
        return
    _close_from(run, 1)
    found.ready.append(_located(push, run[0]))


def _find_answer(source: RunSource, answer: Answer, found: Found, bytes_aim: int) -> None:
    get = answer.get
    try:
        run = () if answer.is_cancelled else source.locate_run(get.blob, get.first, get.count)
    except ShardcastError:
        run = ()  # the store has said so itself
    kept, size = 0, 0
    while kept < min(len(run), get.count) and size < bytes_aim:
        size += run[kept].length
        kept += 1
    _close_from(run, kept)
    for at, chunk in enumerate(run[:kept]):
        closes = at + 1 == kept or run[at + 1].file is not chunk.file
        head = encode_head(ChunkHead(get.blob, get.first + at, chunk.length, request=get.request))
        found.ready.append(Located(answer, head, chunk.file, chunk.offset, chunk.length, closes))
    found.ready.append(Ending(answer, EndOutcome.DONE if kept else EndOutcome.MISSING))


def _close_from(run: Sequence[ChunkLocation], kept: int) -> None:
    """Close the files that no kept chunk needs: neighbours may share one."""
    for chunk in run[kept:]:
        if all(chunk.file is not other.file for other in run[:kept]):
            chunk.file.close()

"""The pushes of both directions: chunks that are sent unasked, and chunks that come unasked.

Each `PushChunk` ends in one `PushEnded`; each `PushBegan` in one `PushArrived`. What comes is landed like what was fetched, in batches: of
one blob, whoever sent it, for a chunk of 256 KiB would go alone otherwise.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, deque
from collections.abc import Callable

import structlog

from shardcast.http.chunk_stream import Segments
from shardcast_proto.errors import (
    IntegrityError,
    NotFound,
    RemoteProtocolError,
    ShardcastError,
    StoreError,
    TransferError,
)
from shardcast_proto.ids import Digest, PeerId
from shardcast_relay.commands import PushChunk
from shardcast_relay.events import Event, Outcome, PushArrived, PushBegan, PushEnded

from .lander import Lander
from .landing import Batch, Landing
from .versions import Versions
from .wires import LinkWire

_log = structlog.get_logger("shardcast.push")


class Pushes:
    """Carries out `PushChunk`, and lands what is pushed here.

    Args:
        tell: Hands the machine a fact; tells nothing when the shell is closed.
    """

    def __init__(self, versions: Versions, *, lander: Lander, tell: Callable[[Event], None]) -> None:
        self._versions = versions
        self._lander = lander
        self._tell = tell
        #: What is being landed, by blob.
        self._landings: dict[Digest, Landing] = {}
        #: Who sent what is being landed, in which stripe, in order.
        self._senders: dict[tuple[Digest, int], deque[tuple[PeerId, int]]] = {}
        #: How many chunks of each peer are being landed, and who waits until there are none.
        self._landing_of: Counter[PeerId] = Counter()
        self._settling: dict[PeerId, asyncio.Event] = {}

    async def push(self, links: LinkWire | None, command: PushChunk) -> None:
        """Send a chunk, and tell how that ended."""
        self._tell(PushEnded(command.push_id, await self._push(links, command)))

    async def _push(self, links: LinkWire | None, command: PushChunk) -> Outcome:
        if links is None:
            return Outcome.UNREACHABLE
        deadline_s = max(command.deadline_s - asyncio.get_running_loop().time(), 0.001)
        try:
            await links.push(command.peer, command.blob, command.stripe, command.index, deadline_s=deadline_s)
        except TransferError as error:
            return Outcome(str(error.facts.get("reason", "short")))
        except StoreError as error:
            self._lander.note_store_failure(error)
            return Outcome.STORE
        except ShardcastError as error:
            _log.info("push_given_up", push_id=command.push_id, error=error.message)
            return Outcome.CANCELLED
        except Exception:  # noqa: BLE001 - the shell's per-command task: a bug here must not leave the push without an ending
            _log.exception("push_failed", push_id=command.push_id)
            return Outcome.SHORT
        return Outcome.DONE

    def length_of(self, peer: PeerId, blob: Digest, stripe: int, index: int) -> int | None:
        """Tell of a push that begins, and return its length; None for what this node does not land.

        Raises:
            RemoteProtocolError: The blob has no such chunk.
        """
        version = self._versions.by_blob(blob)
        if version is None or version.staging is None:
            return None
        if index >= version.manifest.blob.chunk_count:
            raise RemoteProtocolError(f"chunk {index} is pushed, the blob has {version.manifest.blob.chunk_count}")
        self._tell(PushBegan(peer, blob, stripe, index))
        return version.manifest.chunk_span(index).length

    async def take(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, segments: Segments) -> None:
        """Land a pushed chunk; returns before it has landed, unless too many wait."""
        version = self._versions.by_blob(blob)
        if version is None:
            self.broken(peer, blob, stripe, index, outcome=Outcome.CANCELLED)
            return
        landing = self._landings.get(blob)
        if landing is None:
            landing = self._landings[blob] = Landing(functools.partial(self._land, blob))
        self._senders.setdefault((blob, index), deque()).append((peer, stripe))
        self._landing_of[peer] += 1
        await landing.take(index, segments)

    def broken(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, outcome: Outcome) -> None:
        """Tell of a push that did not make it."""
        self._tell(PushArrived(peer, blob, stripe, index, outcome))

    async def settle(self, peer: PeerId) -> None:
        """Wait until everything that a peer has pushed has landed and was told of."""
        if self._landing_of[peer]:
            await self._settling.setdefault(peer, asyncio.Event()).wait()

    async def aclose(self) -> None:
        """Let everything land."""
        while self._landings:
            _, landing = self._landings.popitem()
            await landing.abandon()

    async def _land(self, blob: Digest, batch: Batch) -> None:
        version = self._versions.by_blob(blob)
        if version is None:
            ends: list[bool | ShardcastError] = [NotFound("the version was deleted")] * len(batch)
        else:
            ends = await self._lander.land_each(version, batch)
        for (index, _), end in zip(batch, ends, strict=True):
            senders = self._senders[blob, index]
            peer, stripe = senders.popleft()
            if not senders:
                del self._senders[blob, index]
            if isinstance(end, bool) and version is not None:
                size = version.manifest.chunk_span(index).length
                self._versions.count_chunk(version, peer, size, is_new=end)
                self._tell(PushArrived(peer, blob, stripe, index, Outcome.DONE, size, end))
            elif isinstance(end, ShardcastError):
                self.broken(peer, blob, stripe, index, outcome=self._outcome_of(peer, end))
            self._landed_one_of(peer)
        if version is None or version.staging is None:
            self._landings.pop(blob, None)

    def _landed_one_of(self, peer: PeerId) -> None:
        self._landing_of[peer] -= 1
        if not self._landing_of[peer]:
            del self._landing_of[peer]
            settled = self._settling.pop(peer, None)
            if settled is not None:
                settled.set()

    def _outcome_of(self, peer: PeerId, error: ShardcastError) -> Outcome:
        if isinstance(error, IntegrityError):
            self._lander.note_bad_bytes(peer, error)
            return Outcome.CORRUPT
        if isinstance(error, StoreError):
            self._lander.note_store_failure(error)
            return Outcome.STORE
        return Outcome.CANCELLED  # deleted, or complete: nobody's failure

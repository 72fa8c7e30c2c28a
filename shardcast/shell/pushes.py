"""The pushes of both directions: chunks that are sent unasked, and chunks that come unasked.

Each `PushChunk` ends in one `PushEnded`; each `PushBegan` in one `PushArrived`. What comes is landed like what was fetched, in batches of
one peer, blob and stripe.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import structlog

from shardcast.http.chunk_stream import Segments
from shardcast_proto.errors import IntegrityError, RemoteProtocolError, ShardcastError, StoreError, TransferError
from shardcast_proto.ids import Digest, PeerId
from shardcast_relay.commands import PushChunk
from shardcast_relay.events import Event, Outcome, PushArrived, PushBegan, PushEnded

from .lander import Lander
from .landing import Batch, Landing
from .versions import LocalVersion, Versions
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
        #: What is being landed, by peer, blob and stripe.
        self._landings: dict[tuple[PeerId, Digest, int], Landing] = {}

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
        key = (peer, blob, stripe)
        landing = self._landings.get(key)
        if landing is None:
            landing = self._landings[key] = Landing(functools.partial(self._land, key))
        await landing.take(index, segments)

    def broken(self, peer: PeerId, blob: Digest, stripe: int, index: int, *, outcome: Outcome) -> None:
        """Tell of a push that did not make it."""
        self._tell(PushArrived(peer, blob, stripe, index, outcome))

    async def settle(self, peer: PeerId) -> None:
        """Wait until everything that a peer has pushed has landed and was told of."""
        for key in [key for key in self._landings if key[0] == peer]:
            await self._landings.pop(key).abandon()

    async def aclose(self) -> None:
        """Let everything land."""
        for peer in {key[0]: None for key in self._landings}:
            await self.settle(peer)

    async def _land(self, key: tuple[PeerId, Digest, int], batch: Batch) -> None:
        """Land a batch, going on behind a chunk that fails; each one is told of."""
        peer, blob, stripe = key
        told = 0

        def on_landed(index: int, size_bytes: int, is_new: bool) -> None:
            nonlocal told
            told += 1
            self._tell(PushArrived(peer, blob, stripe, index, Outcome.DONE, size_bytes, is_new))

        while told < len(batch):
            version = self._versions.by_blob(blob)
            outcome = await self._land_some(version, peer, batch[told:], on_landed)
            if outcome is not None and told < len(batch):
                self.broken(peer, blob, stripe, batch[told][0], outcome=outcome)
                told += 1
            elif outcome is None:
                return

    async def _land_some(
        self,
        version: LocalVersion | None,
        peer: PeerId,
        batch: Batch,
        on_landed: Callable[[int, int, bool], None],
    ) -> Outcome | None:
        """Land chunks up to the first that fails; return how that one ended."""
        if version is None:
            return Outcome.CANCELLED
        try:
            await self._lander.land(version, peer, batch, on_landed=on_landed)
        except IntegrityError as error:
            self._lander.note_bad_bytes(peer, error)
            return Outcome.CORRUPT
        except StoreError as error:
            self._lander.note_store_failure(error)
            return Outcome.STORE
        except ShardcastError:
            return Outcome.CANCELLED  # deleted, or complete: nobody's failure
        return None

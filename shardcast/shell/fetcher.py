"""The fetches under way: one task for each fetch that the machine ordered, each ending in exactly one `FetchEnded`."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shardcast_proto.errors import IntegrityError, ShardcastError, StoreError, TransferError
from shardcast_proto.ids import Digest, PeerId
from shardcast_relay.commands import FetchChunks, FetchObject
from shardcast_relay.events import ChunkVerified, Event, FetchEnded, Outcome

from .lander import Lander
from .landing import Batch, Landing
from .versions import LocalVersion, Versions
from .wires import DataWire, LinkWire, RunWire

_T = TypeVar("_T")

_log = structlog.get_logger("shardcast.fetch")


class Fetcher:
    """Carries out `FetchObject` and `FetchChunks`, and reports through `tell`.

    Args:
        client: The data plane.
        carried: The same over control connections, for peers whose commands name no address.
        lander: Where chunks go.
        take_object: Given an object that has its digest; what it raises is the ending.
    """

    def __init__(
        self,
        client: DataWire,
        versions: Versions,
        *,
        carried: DataWire,
        lander: Lander,
        tell: Callable[[Event], None],
        take_object: Callable[[Digest, bytes], Awaitable[None]],
    ) -> None:
        self._client = client
        self._carried = carried
        self._versions = versions
        self._tell = tell
        self._take_object = take_object
        self._lander = lander
        #: The bulk links, once there are some: chunks of a peer come by its link while that is up.
        self.links: LinkWire | None = None
        self._tasks: dict[int, asyncio.Task[Outcome]] = {}
        #: When the response of a fetch began, on the loop's clock.
        self._began_s: dict[int, float] = {}
        #: Which fetches go over a link, and whose.
        self._linked: dict[int, PeerId] = {}
        self._is_closed = False
        #: How the fetches since the start have ended.
        self.outcomes: Counter[Outcome] = Counter()

    def start(self, command: FetchObject | FetchChunks) -> None:
        """Begin a fetch."""
        loop = asyncio.get_running_loop()
        task = self._tasks[command.fetch_id] = loop.create_task(self._run(command))
        # not at the end of `_run`: a task that is cancelled before its first step never runs
        task.add_done_callback(functools.partial(self._ended, command.fetch_id, loop.time()))

    def cancel(self, fetch_id: int) -> None:
        """Cancel a fetch; it ends as CANCELLED."""
        task = self._tasks.get(fetch_id)
        if task is not None:
            task.cancel()

    async def aclose(self) -> None:
        """Cancel everything and wait for it; nothing more is told."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_linked(self, peer: PeerId) -> None:
        """Wait until the fetches that go over the link of a peer have ended, and were told of."""
        tasks = [self._tasks[fetch_id] for fetch_id, other in self._linked.items() if other == peer]
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, command: FetchObject | FetchChunks) -> Outcome:
        try:
            return await self._fetch(command)
        except Exception:  # noqa: BLE001 - the shell's per-command task: a bug here must not leave the fetch without an ending
            _log.exception("fetch_failed", fetch_id=command.fetch_id)
            return Outcome.SHORT

    def _ended(self, fetch_id: int, started_s: float, task: asyncio.Task[Outcome]) -> None:
        self._tasks.pop(fetch_id, None)
        self._linked.pop(fetch_id, None)
        began_s = self._began_s.pop(fetch_id, None)
        if not self._is_closed:
            outcome = Outcome.CANCELLED if task.cancelled() else task.result()
            self.outcomes[outcome] += 1
            self._tell(FetchEnded(fetch_id, outcome, None if began_s is None else began_s - started_s))

    async def _fetch(self, command: FetchObject | FetchChunks) -> Outcome:
        now_s = asyncio.get_running_loop().time()
        deadline_s = max(command.deadline_s - now_s, 0.001)
        try:
            if isinstance(command, FetchObject):
                return await self._fetch_object(command, deadline_s)
            return await self._fetch_chunks(command, deadline_s)
        except IntegrityError as error:
            self._lander.note_bad_bytes(command.peer, error)
            return Outcome.CORRUPT
        except StoreError as error:
            self._lander.note_store_failure(error)
            return Outcome.STORE
        except TransferError as error:
            return Outcome(str(error.facts.get("reason", "short")))
        except ShardcastError as error:  # the version was deleted, or its manifest is refused: nobody's failure
            _log.info("fetch_given_up", fetch_id=command.fetch_id, error=error.message)
            return Outcome.CANCELLED

    async def _fetch_object(self, command: FetchObject, deadline_s: float) -> Outcome:
        data = await self._at_some_address(
            command,
            lambda wire, base: wire.fetch_object(
                base, command.digest, size_max=command.size_bytes, deadline_s=deadline_s
            ),
        )
        await self._take_object(command.digest, data)
        self._versions.store_error = None
        return Outcome.DONE

    async def _fetch_chunks(self, command: FetchChunks, deadline_s: float) -> Outcome:
        version = self._versions.by_blob(command.blob)
        if version is None or version.staging is None:
            return Outcome.CANCELLED
        manifest = version.manifest
        indices = range(command.first, command.first + command.count)

        landing = Landing(functools.partial(self._land, command, version))

        def on_began() -> None:
            self._began_s[command.fetch_id] = asyncio.get_running_loop().time()

        lengths = [manifest.chunk_span(index).length for index in indices]

        async def fetch(wire: RunWire, base: str) -> int:
            return await wire.fetch_run(
                base,
                command.blob,
                command.first,
                lengths,
                on_chunk=landing.take,
                on_began=on_began,
                deadline_s=deadline_s,
                idle_timeout_s=command.idle_timeout_s,
            )

        try:
            if self.links is not None and self.links.has(command.peer, is_sending=False):
                self._linked[command.fetch_id] = command.peer
                count = await fetch(self.links, command.peer)
            else:
                count = await self._at_some_address(command, fetch)
            await landing.finish()
        except TransferError:
            await landing.finish()  # what is wrong with the bytes says more than how they ended
            raise
        finally:
            await landing.abandon()
        return Outcome.DONE if count == command.count else Outcome.PARTIAL

    async def _at_some_address(
        self, command: FetchObject | FetchChunks, fetch: Callable[[DataWire, str], Awaitable[_T]]
    ) -> _T:
        """Fetch from the first address of the peer that can be reached; without one over the control connection."""
        if not command.addresses:
            return await fetch(self._carried, command.peer)
        for address in command.addresses[:-1]:
            try:
                return await fetch(self._client, address)
            except TransferError as error:
                if error.facts.get("reason") != "unreachable":
                    raise
        return await fetch(self._client, command.addresses[-1])

    async def _land(self, command: FetchChunks, version: LocalVersion, batch: Batch) -> None:
        if version.staging is None:
            return

        def on_landed(index: int, size_bytes: int, is_new: bool) -> None:
            self._tell(ChunkVerified(command.fetch_id, index, size_bytes, is_new))

        await self._lander.land(version, command.peer, batch, on_landed=on_landed)

"""The publications of a node: what its API asks to publish, with what is waited for before it is read, and after it is announced.

`publisher` does what lies between: it seals, signs and announces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from shardcast.http.facade import PublishNewsFn, PublishRequest, PublishView, SpoolView
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.shell import Shell
from shardcast_proto.errors import ConfigError, NotFound, ShardcastError, TransferError
from shardcast_proto.ids import PeerId, parse_digest

from .publishable import Publishable
from .publisher import Publisher
from .spools import Spools

#: How often a marker is looked for, and neighbours are counted: nobody notices less, and it costs nothing.
LOOK_INTERVAL_S: Final = 0.1
_NAME_BYTES_MAX: Final = 255

_log = structlog.get_logger("shardcast.publish")


class Publications:
    """Publishes what the API asks for.

    Args:
        on_published: Told of each version that was newly published.
    """

    def __init__(
        self,
        shell: Shell,
        publisher: Publisher,
        *,
        spools: Spools,
        publishable: Publishable,
        on_published: Callable[[PublishView], None] = lambda view: None,
    ) -> None:
        self._shell = shell
        self._publisher = publisher
        self._spools = spools
        self._publishable = publishable
        self._on_published = on_published

    async def publish(self, channel: FollowedChannel, request: PublishRequest, tell: PublishNewsFn) -> PublishView:
        """Wait for the marker, publish, wait for the neighbours; see `NodeFacade.publish`."""
        deadline_s = asyncio.get_running_loop().time() + request.timeout_s
        self._check(request)
        channel.require_origin()
        path = await asyncio.to_thread(self._publishable.resolve, request)
        with self._spools.publishing(path):
            if request.wait_marker is not None:
                await _wait_for_marker(path, request.wait_marker, deadline_s, tell)
                path = await asyncio.to_thread(self._publishable.resolve, request)
            view = await self._publisher.publish(
                channel,
                replace(request, path=str(path)),
                lambda done, total: tell({"event": "hashing", "done": done, "total": total}),
            )
        if self._spools.holds(path):
            await self._give_back(path)
        if not view["existing"]:
            self._on_published(view)
        if request.wait_neighbours:
            await self._wait_for_neighbours(view, request, deadline_s, tell)
        return view

    async def lend(self, channel: FollowedChannel) -> SpoolView:
        """Lend a directory to a publisher of a channel; see `NodeFacade.spool`."""
        channel.require_origin()
        return await asyncio.to_thread(self._spools.lend)

    def _check(self, request: PublishRequest) -> None:
        marker, neighbours_max = request.wait_marker, self._shell.machine.config.active_view_max
        if marker is not None and not _is_file_name(marker):
            raise ConfigError(f"the marker {marker[:80]!r} is not the name of a file in the checkpoint's directory")
        if request.wait_neighbours > neighbours_max:
            raise ConfigError(
                f"{request.wait_neighbours} neighbours cannot be waited for: a node has at most {neighbours_max}",
                hint="shardcast peers shows how many there are",
                neighbours_max=neighbours_max,
            )

    async def _give_back(self, path: Path) -> None:
        try:
            await asyncio.to_thread(self._spools.drop, path.relative_to(self._spools.root).parts[0])
        except ShardcastError as error:  # the version is published all the same
            _log.warning("spool_left", path=str(path), error=error.describe())

    async def _wait_for_neighbours(
        self, view: PublishView, request: PublishRequest, deadline_s: float, tell: PublishNewsFn
    ) -> None:
        loop, wanted = asyncio.get_running_loop(), request.wait_neighbours
        complete: dict[PeerId, None] = {}
        while True:
            complete |= dict.fromkeys(self._complete_neighbours(view))
            view["complete_neighbours"] = len(complete)
            if len(complete) >= wanted:
                return
            if loop.time() >= deadline_s:
                raise TransferError(
                    f"{len(complete)} of {wanted} neighbours were complete after {request.timeout_s:g} s; "
                    f"step {view['step']} is published with seq {view['seq']}",
                    hint="publishing the same step again goes on waiting",
                    reason="deadline",
                    seq=view["seq"],
                    step=view["step"],
                    manifest=view["manifest"],
                    complete_neighbours=len(complete),
                    wait_neighbours=wanted,
                )
            tell(
                {
                    "event": "spreading",
                    "seq": view["seq"],
                    "complete_neighbours": len(complete),
                    "wait_neighbours": wanted,
                }
            )
            await asyncio.sleep(min(LOOK_INTERVAL_S, max(deadline_s - loop.time(), 0.0)))

    def _complete_neighbours(self, view: PublishView) -> list[PeerId]:
        """Return the neighbours that say they hold all of a version."""
        version = self._shell.versions.get(parse_digest(view["manifest"]))
        transfer = version and self._shell.machine.exchange.transfers.get(version.manifest.blob.id)
        if not transfer:
            raise NotFound(
                f"step {view['step']} of channel {view['channel']} was deleted while neighbours were waited for",
                channel=view["channel"],
                seq=view["seq"],
            )
        neighbours = self._shell.machine.membership.active
        return [peer for peer, mask in transfer.holders.items() if peer in neighbours and mask == transfer.full()]


async def _wait_for_marker(path: Path, marker: str, deadline_s: float, tell: PublishNewsFn) -> None:
    loop = asyncio.get_running_loop()
    while not await asyncio.to_thread(_is_there, path / marker):
        if loop.time() >= deadline_s:
            raise TransferError(
                f"the file {marker} has not appeared in {path} in time",
                hint="the writer of the checkpoint makes it when everything else is there",
                reason="deadline",
                path=str(path),
                marker=marker,
            )
        tell({"event": "waiting", "marker": marker})
        await asyncio.sleep(min(LOOK_INTERVAL_S, max(deadline_s - loop.time(), 0.0)))


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # nobody may look there yet, or a link leads in circles
        return False


def _is_file_name(name: str) -> bool:
    is_plain = name not in ("", ".", "..") and not set(name) & {"/", "\0"}
    return is_plain and len(name.encode("utf-8", "surrogatepass")) <= _NAME_BYTES_MAX

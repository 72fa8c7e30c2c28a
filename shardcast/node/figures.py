"""The figures of a node at a moment, gathered for its metrics."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

from shardcast import __version__
from shardcast.http.data_server import DataServer
from shardcast.http.facade import EngineView
from shardcast.metrics import ChannelFigures, EngineFigures, Figures
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.shell import Shell
from shardcast.store import Store
from shardcast.store.faults import free_bytes
from shardcast_proto.ids import Digest
from shardcast_proto.trust import Freshness

from .places import bulk_links
from .traffic import Traffic


class FigureReader:
    """Reads what the metrics show.

    Args:
        engines: Describes the engines.
        clock: Unix seconds.
    """

    def __init__(
        self,
        shell: Shell,
        store: Store,
        data_server: DataServer,
        *,
        traffic: Traffic,
        engines: Callable[[], list[EngineView]] = list,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shell = shell
        self._store = store
        self._data_server = data_server
        self._traffic = traffic
        self._engines = engines
        self._clock = clock
        self._started_at_s = clock()

    def read(self) -> Figures:
        """Return the figures of this moment."""
        shell, versions = self._shell, self._shell.versions
        now_s = asyncio.get_running_loop().time()
        sizes: Counter[str] = Counter(complete=0, staging=0, failed=0)
        counts: Counter[str] = Counter(complete=0, staging=0, failed=0)
        states: dict[Digest, str] = {}
        for row in self._store.versions():
            states[row.manifest] = row.state
            sizes[row.state] += row.bytes
            counts[row.state] += 1
        links = bulk_links(shell)
        reputations = shell.machine.downloads.reputations.values()
        return Figures(
            release=__version__,
            started_at_s=self._started_at_s,
            neighbours=len(shell.machine.membership.active),
            quarantined_peers=sum(record.is_quarantined(now_s) for record in reputations),
            uploads_running=self._data_server.uploads_running,
            sent_bytes=self._traffic.sent_bytes,
            received_bytes={str(source): size for source, size in versions.received_by_source.items()},
            chunks_verified=versions.chunks_verified,
            duplicate_chunks=versions.duplicate_chunks,
            fetches={outcome.value: count for outcome, count in shell.fetcher.outcomes.items()},
            refused_heads=shell.heads.refused,
            dropped_announcements=shell.heads.dropped,
            dropped_messages=shell.dropped_messages,
            refused_uploads=self._data_server.refused_busy_count,
            is_store_healthy=versions.store_error is None,
            store_free_bytes=free_bytes(self._store.data_dir),
            store_bytes=sizes,
            store_versions=counts,
            control_bytes=self._control_bytes(),
            pushed_chunks={outcome.value: count for outcome, count in shell.push_outcomes.items()},
            links={
                "receiving": len(shell.machine.links.receiving.up),
                "sending": len(shell.machine.links.sending.up),
            },
            uplink_bytes_per_s=(links.uplink_bytes_per_s or 0.0) if links is not None else 0.0,
            engines=[_engine_figures(view) for view in self._engines()],
            channels=[self._channel(channel, states) for channel in shell.channels.values()],
        )

    def _control_bytes(self) -> dict[tuple[str, str], int]:
        shell, links = self._shell, bulk_links(self._shell)
        sent, received = (0, 0) if links is None else links.control_bytes
        return {
            ("sent", "link"): sent,
            ("received", "link"): received,
            ("sent", "libp2p"): shell.control_sent_bytes,
            ("received", "libp2p"): shell.control_received_bytes,
        }

    def _channel(self, channel: FollowedChannel, states: Mapping[Digest, str]) -> ChannelFigures:
        heads = self._store.heads(channel.id, limit=64)
        complete = next((head for head in heads if states.get(head.manifest) == "complete"), None)
        return ChannelFigures(
            name=channel.name,
            is_fresh=channel.freshness(self._clock()) is Freshness.FRESH,
            newest_step=heads[0].step if heads else None,
            newest_received_at_s=heads[0].received_at_s if heads else None,
            complete_step=complete.step if complete else None,
            fetching_count=sum(states.get(head.manifest) == "staging" for head in heads),
        )


def _engine_figures(view: EngineView) -> EngineFigures:
    return EngineFigures(
        name=view["name"],
        is_reachable=view["state"] != "unreachable",
        is_behind=view["is_behind"],
        is_known=view["knowledge"] in ("confirmed", "assumed"),
        active_step=None if view["active"] is None else view["active"]["step"],
        lag_versions=view["lag_versions"],
        lag_s=view["lag_seconds"],
    )

"""The metrics of a node, in the text format of Prometheus.

Base units (bytes, seconds, unix seconds), `_total` for what only grows. Labels have few values that nobody outside chooses: a source,
a state, a reason, an outcome, and the names of the channels that this node was configured with. No peer and no version is ever
a label: there is no end of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
#: From a small version on loopback to 62 GB on a slow link.
_TRANSFER_BUCKETS_S: Final = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)
#: 62 GB at 2.7 GB/s per thread take about ten seconds.
#: From moving a link to loading a very large model from a disk.
_ACTIVATION_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)
_HASH_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
#: Reasons of refused heads are slugs of ours; should one ever not be, it is counted here.
_OTHER: Final = "other"
_LABEL_VALUES_MAX: Final = 64


@dataclass(frozen=True, kw_only=True)
class ChannelFigures:
    """One channel at a moment."""

    name: str
    is_fresh: bool
    #: None before the first head.
    newest_step: int | None
    newest_received_at_s: float | None
    complete_step: int | None
    fetching_count: int


@dataclass(frozen=True, kw_only=True)
class EngineFigures:
    """One engine at a moment."""

    name: str
    is_reachable: bool
    is_behind: bool
    #: Whether it is known what it serves.
    is_known: bool
    #: None before the first activation.
    active_step: int | None
    lag_versions: int
    lag_s: float


class EndedActivation(Protocol):
    """An activation that has ended, as the metrics count it."""

    @property
    def engine(self) -> str:
        """The engine's name."""

    @property
    def seconds(self) -> float:
        """How long it took, with its preparation."""

    @property
    def result(self) -> str:
        """active, unchanged, restored or unknown."""

    @property
    def pause_s(self) -> float:
        """How long the engine did not sample."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the counters and gauges show at a moment; counts are since the start."""

    release: str
    started_at_s: float
    neighbours: int
    quarantined_peers: int
    uploads_running: int
    sent_bytes: int
    received_bytes: Mapping[str, int]
    chunks_verified: int
    duplicate_chunks: int
    fetches: Mapping[str, int]
    refused_heads: Mapping[str, int]
    dropped_announcements: int
    dropped_messages: int
    refused_uploads: int
    is_store_healthy: bool
    store_free_bytes: int
    store_bytes: Mapping[str, int]
    store_versions: Mapping[str, int]
    #: By direction (sent, received) and way (link, libp2p).
    control_bytes: Mapping[tuple[str, str], int]
    pushed_chunks: Mapping[str, int]
    #: Bulk links that are up, by direction.
    links: Mapping[str, int]
    #: 0 while uploads are not paced.
    uplink_bytes_per_s: float
    channels: list[ChannelFigures] = field(default_factory=list)
    engines: list[EngineFigures] = field(default_factory=list)


class Metrics:
    """The registry of one node.

    Args:
        read: Returns the figures of this moment.
    """

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_FiguresCollector(read))
        ProcessCollector(registry=self._registry)
        self._transfer_seconds = Histogram(
            "shardcast_version_transfer_seconds",
            "From accepting a head to holding its version complete, of versions that were fetched.",
            buckets=_TRANSFER_BUCKETS_S,
            registry=self._registry,
        )
        self._hash_seconds = Histogram(
            "shardcast_publish_hash_seconds",
            "How long hashing a published checkpoint took.",
            buckets=_HASH_BUCKETS_S,
            registry=self._registry,
        )

        self._activations = Counter(
            "shardcast_activations",
            "Activations that have ended, by how: active, unchanged, restored or unknown.",
            labelnames=["engine", "result"],
            registry=self._registry,
        )
        self._activation_seconds = Histogram(
            "shardcast_activation_seconds",
            "How long activations that succeeded took, with their preparation.",
            labelnames=["engine"],
            buckets=_ACTIVATION_BUCKETS_S,
            registry=self._registry,
        )
        self._pause_seconds = Histogram(
            "shardcast_activation_pause_seconds",
            "How long engines did not sample, in activations that succeeded.",
            labelnames=["engine"],
            buckets=_ACTIVATION_BUCKETS_S,
            registry=self._registry,
        )

    def activation_ended(self, ended: EndedActivation) -> None:
        """Count an activation."""
        self._activations.labels(ended.engine, ended.result).inc()
        if ended.result == "active":
            self._activation_seconds.labels(ended.engine).observe(max(ended.seconds, 0.0))
            self._pause_seconds.labels(ended.engine).observe(max(ended.pause_s, 0.0))

    def version_completed(self, seconds: float) -> None:
        """Count a version that was fetched whole."""
        self._transfer_seconds.observe(max(seconds, 0.0))

    def version_published(self, hash_seconds: float) -> None:
        """Count a version that was published here."""
        self._hash_seconds.observe(max(hash_seconds, 0.0))

    def render(self) -> bytes:
        """Return everything as text of type `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _FiguresCollector(Collector):
    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        now = self._read()
        yield _gauge("build_info", "The software, by its release.", {now.release: 1}, label="release")
        yield _gauge("start_time_seconds", "When the node started, in unix seconds.", now.started_at_s)
        yield _gauge("neighbours", "Peers in the active view.", now.neighbours)
        yield _gauge("quarantined_peers", "Peers that are refused for a while.", now.quarantined_peers)
        yield _gauge("uploads_running", "Uploads being sent.", now.uploads_running)
        yield _counter("sent_bytes", "Payload bytes uploaded.", now.sent_bytes)
        yield _counter(
            "received_bytes",
            "Bytes of chunks that arrived and were verified, by what their sender claims to be.",
            {"origin": 0, "peers": 0, **now.received_bytes},
            label="source",
        )
        yield _counter("chunks_verified", "Chunks that arrived, were verified, and were new.", now.chunks_verified)
        yield _counter("duplicate_chunks", "Chunks that arrived and were held already.", now.duplicate_chunks)
        yield _counter("fetches", "Fetches that have ended, by how.", now.fetches, label="outcome")
        yield _counter("refused_heads", "Heads that were refused, by reason.", now.refused_heads, label="reason")
        yield _counter("dropped_announcements", "Announcements that no queue had room for.", now.dropped_announcements)
        yield _counter("dropped_messages", "Control messages that no queue had room for.", now.dropped_messages)
        yield _counter("refused_uploads", "Requests for chunks that were told to come back.", now.refused_uploads)
        yield from _swarm_metrics(now)
        yield _gauge("store_healthy", "1 while the disk takes what it is given, else 0.", int(now.is_store_healthy))
        yield _gauge("store_free_bytes", "Bytes free on the data directory's disk.", now.store_free_bytes)
        yield _gauge("store_bytes", "Bytes of the versions held, by state.", now.store_bytes, label="state")
        yield _gauge("store_versions", "Versions held, by state.", now.store_versions, label="state")
        yield from _channel_metrics(now.channels)
        yield from _engine_metrics(now.engines)


def _swarm_metrics(now: Figures) -> Iterator[Metric]:
    control = CounterMetricFamily(
        "shardcast_control_bytes",
        "Bytes of control messages with their heads, by direction, over bulk links or libp2p (gossip is not counted).",
        labels=["direction", "way"],
    )
    for (direction, way), size_bytes in sorted(now.control_bytes.items()):
        control.add_metric([direction, way], size_bytes)
    yield control
    yield _counter(
        "pushed_chunks", "Chunks sent unasked, by how that ended.", {"done": 0, **now.pushed_chunks}, label="outcome"
    )
    yield _gauge("links", "Bulk links that are up, by which way their chunks go.", now.links, label="direction")
    yield _gauge(
        "uplink_bytes_per_second", "The rate that uploads are paced at; 0 while they are not.", now.uplink_bytes_per_s
    )


def _channel_metrics(channels: list[ChannelFigures]) -> Iterator[Metric]:
    fresh = {channel.name: int(channel.is_fresh) for channel in channels}
    yield _gauge("channel_fresh", "1 while an origin vouches for the newest head, else 0.", fresh, label="channel")
    fetching = {channel.name: channel.fetching_count for channel in channels}
    yield _gauge("channel_fetching_versions", "Versions on their way.", fetching, label="channel")
    newest = {channel.name: channel.newest_step for channel in channels if channel.newest_step is not None}
    yield _gauge("channel_newest_step", "The step of the newest head.", newest, label="channel")
    complete = {channel.name: channel.complete_step for channel in channels if channel.complete_step is not None}
    yield _gauge("channel_complete_step", "The step of the newest complete version.", complete, label="channel")
    received = {
        channel.name: channel.newest_received_at_s for channel in channels if channel.newest_received_at_s is not None
    }
    yield _gauge(
        "channel_newest_received_timestamp_seconds",
        "When the newest head was accepted, in unix seconds.",
        received,
        label="channel",
    )


def _engine_metrics(engines: list[EngineFigures]) -> Iterator[Metric]:
    def each(name: str, text: str, values: Mapping[str, float]) -> Metric:
        return _gauge(f"engine_{name}", text, values, label="engine")

    yield each("reachable", "1 while the engine answers, else 0.", {one.name: int(one.is_reachable) for one in engines})
    yield each("known", "1 while it is known what the engine serves.", {one.name: int(one.is_known) for one in engines})
    behind = {one.name: int(one.is_behind) for one in engines}
    yield each("behind", "1 while the engine is further behind than --max-lag or --max-stale allow.", behind)
    active = {one.name: one.active_step for one in engines if one.active_step is not None}
    yield each("active_step", "The step that the engine was last given with success.", active)
    yield each("lag_versions", "Newer versions that the channel has.", {one.name: one.lag_versions for one in engines})
    yield each("lag_seconds", "For how long the channel has had a newer one.", {one.name: one.lag_s for one in engines})


_Values = float | Mapping[str, int] | Mapping[str, float]


def _gauge(name: str, text: str, values: _Values, *, label: str = "") -> Metric:
    return _filled(GaugeMetricFamily(f"shardcast_{name}", text, labels=[label] if label else []), values)


def _counter(name: str, text: str, values: _Values, *, label: str = "") -> Metric:
    return _filled(CounterMetricFamily(f"shardcast_{name}", text, labels=[label] if label else []), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: _Values) -> Metric:
    if not isinstance(values, Mapping):
        family.add_metric([], values)
        return family
    shown = sorted(values.items())
    for name, value in shown[:_LABEL_VALUES_MAX]:
        family.add_metric([name], value)
    if len(shown) > _LABEL_VALUES_MAX:
        family.add_metric([_OTHER], sum(value for _, value in shown[_LABEL_VALUES_MAX:]))
    return family

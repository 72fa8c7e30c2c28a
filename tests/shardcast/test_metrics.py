"""The metrics, as a scraper reads them."""

from __future__ import annotations

import dataclasses

from prometheus_client.parser import text_string_to_metric_families

from shardcast.metrics import ChannelFigures, Figures, Metrics

CHANNEL = ChannelFigures(
    name='odd "name"\n', is_fresh=True, newest_step=7, newest_received_at_s=5.5, complete_step=6, fetching_count=1
)
FIGURES = Figures(
    release="0.1.0",
    started_at_s=1000.5,
    neighbours=3,
    quarantined_peers=1,
    uploads_running=2,
    sent_bytes=10,
    received_bytes={"origin": 4},
    chunks_verified=5,
    duplicate_chunks=1,
    fetches={"done": 4, "corrupt": 1},
    refused_heads={"rollback": 2},
    dropped_announcements=0,
    dropped_messages=0,
    refused_uploads=0,
    is_store_healthy=False,
    store_free_bytes=99,
    store_bytes={"complete": 8, "staging": 0},
    store_versions={"complete": 1, "staging": 0},
    control_bytes={("sent", "link"): 30, ("received", "link"): 20, ("sent", "libp2p"): 7, ("received", "libp2p"): 0},
    pushed_chunks={"stalled": 2},
    links={"receiving": 3, "sending": 1},
    uplink_bytes_per_s=5.5,
    channels=[CHANNEL, dataclasses.replace(CHANNEL, name="new", newest_step=None, complete_step=None)],
)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_every_figure_is_read_when_the_metrics_are():
    now = [FIGURES]
    metrics = Metrics(lambda: now[0])
    seen = samples(metrics)
    assert seen["shardcast_received_bytes_total", "origin"] == 4
    assert seen["shardcast_received_bytes_total", "peers"] == 0, "a source is there before its first byte"
    assert seen["shardcast_fetches_total", "corrupt"] == 1 and seen["shardcast_refused_heads_total", "rollback"] == 2
    assert seen["shardcast_store_healthy",] == 0 and seen["shardcast_start_time_seconds",] == 1000.5
    assert seen["shardcast_channel_newest_step", 'odd "name"\n'] == 7
    assert ("shardcast_channel_newest_step", "new") not in seen, "no head is not step 0"
    assert seen["shardcast_control_bytes_total", "sent", "link"] == 30
    assert seen["shardcast_control_bytes_total", "received", "libp2p"] == 0
    assert seen["shardcast_pushed_chunks_total", "stalled"] == 2 and seen["shardcast_pushed_chunks_total", "done"] == 0
    assert seen["shardcast_links", "receiving"] == 3 and seen["shardcast_uplink_bytes_per_second",] == 5.5
    now[0] = dataclasses.replace(FIGURES, sent_bytes=11)
    assert samples(metrics)["shardcast_sent_bytes_total",] == 11


def test_every_metric_has_a_text_and_no_name_ends_in_what_only_counters_end_in():
    for family in text_string_to_metric_families(Metrics(lambda: FIGURES).render().decode()):
        assert family.documentation, family.name
        if family.type == "gauge":
            assert not family.name.endswith("_total"), family.name


def test_labels_that_grow_without_end_are_added_up():
    reasons = {f"reason-{index:03}": 1 for index in range(1000)}
    seen = samples(Metrics(lambda: dataclasses.replace(FIGURES, refused_heads=reasons)))
    refused = {name: value for name, value in seen.items() if name[0] == "shardcast_refused_heads_total"}
    assert len(refused) == 65 and sum(refused.values()) == 1000


def test_durations_are_counted_in_buckets():
    metrics = Metrics(lambda: FIGURES)
    metrics.version_completed(0.3)
    metrics.version_completed(-1.0)  # a clock was set back
    metrics.version_published(0.2)
    seen = samples(metrics)
    assert seen["shardcast_version_transfer_seconds_count",] == 2
    assert seen["shardcast_version_transfer_seconds_bucket", "0.25"] == 1
    assert seen["shardcast_version_transfer_seconds_bucket", "0.5"] == 2
    assert seen["shardcast_publish_hash_seconds_sum",] == 0.2

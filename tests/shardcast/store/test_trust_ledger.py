"""What a node remembers of what it accepted as signed."""

from __future__ import annotations

import pytest

from shardcast.store import ChannelRow, EquivocationRow, HeadRow, Store
from shardcast_proto.errors import Conflict
from shardcast_proto.hashing import digest_of
from tests.shardcast.store.trees import kill

CHANNEL, OTHER = digest_of(b"a"), digest_of(b"b")


def head(seq, *, epoch=1, manifest=b"m", stream=b"", channel=CHANNEL, origin=False):
    return HeadRow(
        channel, epoch, seq, seq * 10, digest_of(manifest), 100, 1 << 40, b"envelope", 1, 12.5, origin, stream
    )


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "data") as store:
        yield store


def test_everything_accepted_survives_a_kill(store, tmp_path):
    proof = EquivocationRow(CHANNEL, 1, 7, b"first", b"second")
    store.save_channel(CHANNEL, "model", b"root 1")
    store.save_channel(CHANNEL, "model", b"root 2")
    store.save_head(head(1))
    store.save_head(head(2, origin=True))
    store.save_beacon(CHANNEL, b"old")
    store.save_beacon(CHANNEL, b"new")
    store.save_equivocation(proof)
    kill(store)
    with Store.open(tmp_path / "data") as again:
        assert again.channels() == [ChannelRow(CHANNEL, "model", b"root 2")]
        assert again.heads(CHANNEL) == [head(2, origin=True), head(1)]
        assert again.beacon(CHANNEL) == b"new"
        assert again.beacon(OTHER) is None
        assert again.equivocations(CHANNEL) == [proof]


def test_heads_are_ordered_by_epoch_then_seq(store):
    for epoch, seq in ((1, 9), (2, 1), (1, 3), (2, 2)):
        store.save_head(head(seq, epoch=epoch))
    assert [(row.epoch, row.seq) for row in store.heads(CHANNEL)] == [(2, 2), (2, 1), (1, 9), (1, 3)]


def test_streams_and_channels_are_kept_apart(store):
    store.save_head(head(1))
    store.save_head(head(1, stream=b"contributor", manifest=b"n"))
    store.save_head(head(1, channel=OTHER, manifest=b"o"))
    assert store.heads(CHANNEL) == [head(1)]
    assert store.heads(CHANNEL, stream=b"contributor") == [head(1, stream=b"contributor", manifest=b"n")]
    assert [row.channel for row in store.heads_naming(digest_of(b"o"))] == [OTHER]


def test_the_same_head_again_changes_nothing(store):
    store.save_head(head(1))
    store.save_head(head(1))
    assert store.heads(CHANNEL) == [head(1)]


def test_another_manifest_at_the_same_place_is_a_conflict(store):
    store.save_head(head(1))
    with pytest.raises(Conflict):
        store.save_head(head(1, manifest=b"other"))
    assert store.heads(CHANNEL) == [head(1)]


def test_an_equivocated_place_is_left_out_while_the_next_one_counts(store):
    for seq in (1, 2, 3):
        store.save_head(head(seq))
    store.save_equivocation(EquivocationRow(CHANNEL, 1, 2, b"x", b"y"))
    store.save_equivocation(EquivocationRow(CHANNEL, 1, 2, b"other", b"proof"))
    assert [row.seq for row in store.heads(CHANNEL)] == [3, 1]
    assert store.equivocations(CHANNEL) == [EquivocationRow(CHANNEL, 1, 2, b"x", b"y")]
    assert store.equivocations(OTHER) == []

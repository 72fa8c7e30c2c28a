from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.shell.channels import FollowedChannel
from shardcast_proto.errors import RemoteProtocolError, StoreError, TrustError
from shardcast_proto.hashing import digest_of
from shardcast_proto.trust import Announce, Beacon, Freshness, Root, SigningKey, sign_beacon, sign_root
from tests.proto.trust.actors import (
    NOW_S,
    ORIGIN_KEY,
    ROOT_KEY,
    STRANGER_KEY,
    head_bytes,
    key,
    make_head,
    make_root,
    pin,
    successor,
)
from tests.shardcast.shell.fake_swarm import FaultyStore
from tests.shardcast.store.trees import manifest_of, model

CHANNEL = digest_of(make_root().encoded)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    with FaultyStore.at(tmp_path / "data") as opened:
        assert isinstance(opened, FaultyStore)
        yield opened


def follow(store: FaultyStore, *keys: SigningKey, root: Root | None = None) -> FollowedChannel:
    return FollowedChannel.open(sign_root(root or make_root(), [ROOT_KEY]), store, keys, now_s=NOW_S)


def newest_seq(channel: FollowedChannel) -> int:
    current = channel.shown.current
    return 0 if current is None else current.head.seq


def announce(seq: int, content: str = "a", *, beacon: bytes = b"") -> bytes:
    return Announce(head_bytes(pin(), seq, content), beacon).encoded


def test_a_head_that_the_disk_refuses_is_not_shown_and_can_come_again(store: FaultyStore) -> None:
    channel = follow(store)
    store.faults["save_head"] = 1
    with pytest.raises(StoreError):
        channel.take_announce(announce(1), now_s=NOW_S)
    assert newest_seq(channel) == 0 and channel.shown.announce is None and channel.shown.answer == ()
    assert channel.take_announce(announce(1), now_s=NOW_S) is not None
    assert newest_seq(channel) == 1


def test_while_the_disk_cannot_even_be_read_nothing_is_accepted_and_nothing_unkept_is_shown(store: FaultyStore) -> None:
    channel = follow(store)
    channel.take_announce(announce(1), now_s=NOW_S)
    store.faults.update(save_head=1, heads=2)
    for _ in range(3):
        with pytest.raises(StoreError):
            channel.take_announce(announce(2), now_s=NOW_S)
        assert newest_seq(channel) == 1
    assert channel.take_announce(announce(2), now_s=NOW_S).head.seq == 2


def test_what_is_shown_while_a_head_is_being_saved_is_the_one_before(store: FaultyStore) -> None:
    channel = follow(store)
    channel.take_announce(announce(1), now_s=NOW_S)
    seen: list[int] = []
    store.before["save_head"] = lambda: seen.append(newest_seq(channel))
    channel.take_announce(announce(2), now_s=NOW_S)
    assert seen == [1] and newest_seq(channel) == 2


def test_a_good_head_counts_although_somebody_put_a_bad_beacon_beside_it(store: FaultyStore) -> None:
    channel = follow(store)
    accepted = channel.take_announce(announce(1, beacon=b"nonsense"), now_s=NOW_S)
    assert accepted is not None and accepted.head.seq == 1
    with pytest.raises((TrustError, RemoteProtocolError)):
        channel.take_announce(announce(1, beacon=b"nonsense"), now_s=NOW_S)


def test_the_same_head_is_accepted_once(store: FaultyStore) -> None:
    channel = follow(store)
    assert channel.take_announce(announce(1), now_s=NOW_S) is not None
    assert channel.take_announce(announce(1), now_s=NOW_S) is None


def test_a_conviction_outlives_a_restart_and_is_shown_with_its_proof(store: FaultyStore) -> None:
    channel = follow(store)
    channel.take_announce(announce(1), now_s=NOW_S)
    channel.take_announce(announce(2, "a"), now_s=NOW_S)
    with pytest.raises(TrustError) as caught:
        channel.take_announce(announce(2, "b"), now_s=NOW_S)
    assert caught.value.facts["new_proof"]
    for one in (channel, follow(store)):
        assert newest_seq(one) == 1
        assert len(one.shown.answer) == 3, "both heads of the place, then the newest"


def test_a_conviction_that_the_disk_refuses_is_made_again(store: FaultyStore) -> None:
    channel = follow(store)
    channel.take_announce(announce(1, "a"), now_s=NOW_S)
    store.faults["save_equivocation"] = 1
    with pytest.raises(StoreError):
        channel.take_announce(announce(1, "b"), now_s=NOW_S)
    with pytest.raises(TrustError) as caught:
        channel.take_announce(announce(1, "b"), now_s=NOW_S)
    assert caught.value.facts["new_proof"] and len(store.equivocations(CHANNEL)) == 1


def test_heads_and_freshness_outlive_a_restart(store: FaultyStore) -> None:
    channel = follow(store)
    beacon = sign_beacon(Beacon(CHANNEL, make_head(pin(), 3, "a").digest, NOW_S, 600), [ORIGIN_KEY])
    channel.take_announce(announce(3, beacon=beacon), now_s=NOW_S)
    again = follow(store)
    assert again.shown.announce == channel.shown.announce
    assert again.freshness(NOW_S) is Freshness.FRESH and again.freshness(NOW_S + 10_000) is Freshness.STALE
    with pytest.raises(TrustError, match="after seq 3"):
        again.take_announce(announce(2), now_s=NOW_S)


def test_a_next_root_is_kept_and_revokes_keys(store: FaultyStore) -> None:
    channel = follow(store, ORIGIN_KEY)
    new = key("new trainer")
    origins = make_root(origins=[new]).roles
    data = sign_root(successor(make_root(), CHANNEL, roles=origins), [ROOT_KEY])
    before = channel.is_origin
    assert channel.take_root(data, now_s=NOW_S) and not channel.take_root(data, now_s=NOW_S)
    assert (before, channel.is_origin) == (True, False) and channel.shown.roots[2] == data
    assert follow(store, new).is_origin, "the root file of the start is older than what was accepted since"


def test_a_root_that_the_disk_refuses_is_not_shown(store: FaultyStore) -> None:
    channel = follow(store)
    data = sign_root(successor(make_root(), CHANNEL), [ROOT_KEY])
    store.faults["save_channel"] = 1
    with pytest.raises(StoreError):
        channel.take_root(data, now_s=NOW_S)
    assert channel.shown.root.version == 1 and 2 not in channel.shown.roots
    assert channel.take_root(data, now_s=NOW_S) and channel.shown.root.version == 2


def test_a_root_file_that_is_none_or_contradicts_the_accepted_one_is_a_trust_error(store: FaultyStore) -> None:
    with pytest.raises(TrustError):
        FollowedChannel.open(b"\x00 not a root", store, [], now_s=NOW_S)
    channel = follow(store)
    for version_two, ends_well in ((10**10, True), (10**10 + 1, False)):
        root = successor(make_root(), CHANNEL, expires_s=version_two)
        if ends_well:
            channel.take_root(sign_root(root, [ROOT_KEY]), now_s=NOW_S)
        else:
            with pytest.raises(TrustError, match="another version 2"):
                follow(store, root=root)


def test_publishing_signs_ascending_seqs_and_remembers_who_signed(store: FaultyStore) -> None:
    channel = follow(store, ORIGIN_KEY, ORIGIN_KEY)
    assert len(channel.keys) == 1, "one key given twice is one key"
    manifest = manifest_of(model(1))
    first = channel.publish(manifest, step=5, is_rewind=False, now_s=NOW_S)
    second = channel.publish(manifest, step=6, is_rewind=True, now_s=NOW_S)
    assert (first.head.seq, second.head.seq) == (1, 2) and second.head.previous == first.digest
    assert [row.origin for row in store.heads(CHANNEL)] == [True, True]
    assert channel.freshness(NOW_S) is Freshness.FRESH


def test_who_holds_no_listed_key_does_not_publish(store: FaultyStore) -> None:
    channel = follow(store, STRANGER_KEY)
    assert not channel.keys and not channel.renew_beacon(now_s=NOW_S)
    with pytest.raises(TrustError, match="0 of the 1 origin keys"):
        channel.publish(manifest_of(model(1)), step=1, is_rewind=False, now_s=NOW_S)


def test_a_version_that_the_disk_refuses_to_note_is_not_published(store: FaultyStore) -> None:
    channel = follow(store, ORIGIN_KEY)
    store.faults["save_head"] = 1
    with pytest.raises(StoreError):
        channel.publish(manifest_of(model(1)), step=1, is_rewind=False, now_s=NOW_S)
    assert channel.shown.announce is None
    assert channel.publish(manifest_of(model(1)), step=1, is_rewind=False, now_s=NOW_S).head.seq == 1

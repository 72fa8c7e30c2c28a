"""The trusted channel: bytes in, a verdict out, through the one public door."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shardcast_proto.codec import pack
from shardcast_proto.errors import ConfigError, IntegrityError
from shardcast_proto.hashing import digest_of
from shardcast_proto.limits import CLOCK_SKEW_MAX_S
from shardcast_proto.trust import (
    FLAG_REWIND,
    KIND_CONTRIBUTION,
    ROLE_ORIGIN,
    ROLE_ROOT,
    Accepted,
    Announce,
    Beacon,
    Freshness,
    Known,
    Limits,
    PatchOffer,
    Role,
    TrustedChannel,
    sign_beacon,
    sign_head,
    sign_offer,
    sign_root,
)
from tests.proto.trust.actors import (
    CHUNK,
    LIMITS,
    NOW_S,
    ORIGIN_KEY,
    ROOT_KEY,
    STRANGER_KEY,
    beacon_bytes,
    head_bytes,
    key,
    make_head,
    make_manifest,
    make_root,
    newest,
    pin,
    reason_of,
    successor,
)

SECOND_KEY = key("second trainer")


def revoking_root(trusted: TrustedChannel) -> bytes:
    """The next root, which lists SECOND_KEY as origin under a new epoch."""
    roles = (Role.of(ROLE_ROOT, [ROOT_KEY.verify_key]), Role.of(ROLE_ORIGIN, [SECOND_KEY.verify_key]))
    return sign_root(successor(trusted.root, trusted.channel, epoch=2, roles=roles), [ROOT_KEY])


def offer(trusted: TrustedChannel, **changes: Any) -> PatchOffer:
    base, target, patch = (digest_of(text) for text in (b"base", b"target", b"patch"))
    return replace(PatchOffer(trusted.channel, base, target, patch, 100, 5000), **changes)


# --- heads


def test_a_head_by_the_origin_is_accepted():
    trusted = pin()
    verdict = trusted.judge_head(head_bytes(trusted))
    assert isinstance(verdict, Accepted)
    assert verdict.head == make_head(trusted)
    assert verdict.digest == digest_of(make_head(trusted).encoded)
    assert verdict.envelope == head_bytes(trusted)
    assert newest(trusted).head == verdict.head


def test_a_copy_of_a_head_is_known():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    assert isinstance(trusted.judge_head(head_bytes(trusted)), Known)


def _head_cases() -> list[Any]:
    trusted = pin()
    other = pin(make_root(name="other"))
    head = make_head(trusted, 2)
    cases = {
        "by an unlisted key": (sign_head(head, [STRANGER_KEY]), "unlisted_key"),
        "by the root key": (sign_head(head, [ROOT_KEY]), "unlisted_key"),
        "for another channel of the same origin": (head_bytes(other, 2), "wrong_channel"),
        "with a lower seq": (head_bytes(trusted, 4), "rollback"),
        "with the same seq and another manifest": (head_bytes(trusted, 5, "other"), "equivocation"),
        "of a lower epoch": (head_bytes(trusted, 6, epoch=0), "rollback"),
        "of a higher epoch": (head_bytes(trusted, 6, epoch=2), "epoch_ahead"),
        "of another kind": (
            head_bytes(trusted, 6, kind=KIND_CONTRIBUTION, stream=ORIGIN_KEY.key_id),
            "unsupported_kind",
        ),
        "over the root's limit": (head_bytes(trusted, 6, total_bytes=LIMITS.max_version_bytes + 1), "over_limit"),
        "that is a beacon": (sign_beacon(Beacon(trusted.channel, head.digest, NOW_S), [ORIGIN_KEY]), "wrong_type"),
        "that is a root": (sign_root(make_root(), [ROOT_KEY]), "wrong_type"),
        "with a trailing byte": (head_bytes(trusted, 6) + b"\x00", "malformed"),
        "cut short": (head_bytes(trusted, 6)[:-1], "malformed"),
        "of nothing": (b"", "malformed"),
        "over the cap": (bytes(2049), "malformed"),
        "in a longer encoding": (
            head_bytes(trusted, 6).replace(b"\xb2shardcast/envelope", b"\xd9\x12shardcast/envelope"),
            "malformed",
        ),
        "with a 63-byte signature": (head_bytes(trusted, 6).replace(b"\xc4\x40", b"\xc4\x3f")[:-1], "malformed"),
    }
    return [pytest.param(data, reason, id=f"a head {name}") for name, (data, reason) in cases.items()]


@pytest.mark.parametrize(("data", "reason"), _head_cases())
def test_a_bad_head_is_refused_and_changes_nothing(data, reason):
    trusted = pin()
    trusted.judge_head(head_bytes(trusted, 3))
    trusted.judge_head(head_bytes(trusted, 5))
    before = trusted.current
    assert reason_of(lambda: trusted.judge_head(data)) == reason
    if reason != "equivocation":
        assert trusted.current == before
        assert trusted.equivocations == ()


def test_a_payload_in_a_longer_encoding_fails_its_signature():
    trusted = pin()
    data = head_bytes(trusted)
    payload = make_head(trusted).encoded
    longer = payload.replace(b"\xaeshardcast/head", b"\xd9\x0eshardcast/head")
    forged = data.replace(b"\xc4%c%b" % (len(payload), payload), b"\xc4%c%b" % (len(longer), longer))
    assert forged != data
    assert reason_of(lambda: trusted.judge_head(forged)) == "bad_signature"


def test_a_payload_that_the_origin_signed_in_a_longer_encoding_is_refused():
    trusted = pin()
    head = make_head(trusted)
    head.__dict__["encoded"] = head.encoded.replace(b"\xaeshardcast/head", b"\xd9\x0eshardcast/head")
    assert reason_of(lambda: trusted.judge_head(sign_head(head, [ORIGIN_KEY]))) == "malformed"


def test_an_equivocation_is_proven_and_the_next_seq_continues():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted, 1))
    trusted.judge_head(head_bytes(trusted, 2, "a"))
    assert reason_of(lambda: trusted.judge_head(head_bytes(trusted, 2, "b"))) == "equivocation"
    assert newest(trusted).head.seq == 1
    (proof,) = trusted.equivocations
    assert (proof.first, proof.second) == (head_bytes(trusted, 2, "a"), head_bytes(trusted, 2, "b"))
    assert isinstance(trusted.judge_head(head_bytes(trusted, 3)), Accepted)


def test_a_proof_convinces_another_node():
    trusted, other = pin(), pin()
    trusted.judge_head(head_bytes(trusted, 2, "a"))
    reason_of(lambda: trusted.judge_head(head_bytes(trusted, 2, "b")))
    (proof,) = trusted.equivocations
    other.judge_head(proof.second)
    assert reason_of(lambda: other.judge_head(proof.first)) == "equivocation"
    assert other.current is None


def test_a_forged_equivocation_convinces_nobody():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted, 2, "a"))
    forged = sign_head(make_head(trusted, 2, "b"), [STRANGER_KEY])
    assert reason_of(lambda: trusted.judge_head(forged)) == "unlisted_key"
    assert newest(trusted).head.seq == 2


def test_two_of_three_origins_sign_together():
    keys = [ORIGIN_KEY, SECOND_KEY, key("third trainer")]
    trusted = pin(make_root(origins=keys, origin_threshold=2))
    head = make_head(trusted)
    assert reason_of(lambda: trusted.judge_head(sign_head(head, keys[:1]))) == "threshold_not_met"
    assert isinstance(trusted.judge_head(sign_head(head, keys[1:])), Accepted)
    assert isinstance(trusted.judge_head(sign_head(head, keys[:2])), Known)


def test_reading_a_head_changes_nothing():
    trusted = pin()
    assert trusted.read_head(head_bytes(trusted, 7)).head.seq == 7
    assert trusted.current is None
    assert reason_of(lambda: trusted.read_head(b"junk")) == "malformed"


# --- roots and epochs


def test_a_new_epoch_revokes_the_heads_of_the_old_one():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted, 900))
    old = head_bytes(trusted, 901)
    assert trusted.update_root(revoking_root(trusted)) is not None
    assert trusted.current is None
    assert trusted.highest_seq == 0
    assert reason_of(lambda: trusted.judge_head(old)) == "unlisted_key"
    fresh = sign_head(make_head(trusted, 1), [SECOND_KEY])
    assert isinstance(trusted.judge_head(fresh), Accepted)
    assert trusted.highest_seq == 1


def test_a_listed_key_cannot_sign_for_a_revoked_epoch():
    trusted = pin()
    trusted.update_root(revoking_root(trusted))
    assert reason_of(lambda: trusted.judge_head(sign_head(make_head(trusted, 9, epoch=1), [SECOND_KEY]))) == "rollback"


def test_a_rotation_within_an_epoch_keeps_the_heads():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted, 3))
    roles = (Role.of(ROLE_ROOT, [ROOT_KEY.verify_key]), Role.of(ROLE_ORIGIN, [SECOND_KEY.verify_key]))
    trusted.update_root(sign_root(successor(trusted.root, trusted.channel, roles=roles), [ROOT_KEY]))
    assert newest(trusted).head.seq == 3
    assert not trusted.lists_origin(ORIGIN_KEY.key_id)
    assert trusted.lists_origin(SECOND_KEY.key_id)
    assert reason_of(lambda: trusted.judge_head(head_bytes(trusted, 4))) == "unlisted_key"


def test_the_held_root_again_is_no_update():
    trusted = pin()
    assert trusted.update_root(sign_root(make_root(), [ROOT_KEY])) is None


# --- restarts


def test_a_restart_forgets_nothing():
    trusted = pin()
    kept = [trusted.judge_head(head_bytes(trusted, seq, "a")).envelope for seq in (1, 2, 3, 4)]
    reason_of(lambda: trusted.judge_head(head_bytes(trusted, 3, "b")))
    proofs = [(proof.first, proof.second) for proof in trusted.equivocations]
    again = TrustedChannel.restore(trusted.roots, reversed(kept), proofs)
    assert again.current == trusted.current
    assert again.highest_seq == 4
    assert again.equivocations == trusted.equivocations
    assert reason_of(lambda: again.judge_head(head_bytes(again, 3, "a"))) == "equivocation"
    assert isinstance(again.judge_head(head_bytes(again, 2, "a")), Known)
    assert isinstance(again.judge_head(head_bytes(again, 5)), Accepted)


def test_a_restart_keeps_heads_whose_keys_have_gone():
    trusted = pin()
    kept = trusted.judge_head(head_bytes(trusted, 8)).envelope
    roles = (Role.of(ROLE_ROOT, [ROOT_KEY.verify_key]), Role.of(ROLE_ORIGIN, [SECOND_KEY.verify_key]))
    trusted.update_root(sign_root(successor(trusted.root, trusted.channel, roles=roles), [ROOT_KEY]))
    again = TrustedChannel.restore(trusted.roots[-1:], [kept])
    assert newest(again).head.seq == 8
    assert reason_of(lambda: again.judge_head(sign_head(make_head(again, 7), [SECOND_KEY]))) == "rollback"


def test_a_restart_does_not_bring_back_the_heads_of_a_revoked_epoch():
    trusted = pin()
    kept = trusted.judge_head(head_bytes(trusted, 8)).envelope
    trusted.update_root(revoking_root(trusted))
    again = TrustedChannel.restore(trusted.roots, [kept])
    assert again.current is None
    assert again.highest_seq == 0


def test_a_restart_with_an_equivocated_newest_head_does_not_bring_it_back():
    trusted = pin()
    first, second = head_bytes(trusted, 6, "a"), head_bytes(trusted, 6, "b")
    again = TrustedChannel.restore(trusted.roots, [first], [(first, second)])
    assert again.current is None
    assert again.highest_seq == 6


def test_a_restart_from_another_channels_rows_is_refused():
    trusted, other = pin(), pin(make_root(name="other"))
    assert reason_of(lambda: TrustedChannel.restore(trusted.roots, [head_bytes(other)])) == "wrong_channel"
    assert reason_of(lambda: TrustedChannel.restore(trusted.roots, [b"junk"])) == "malformed"
    with pytest.raises(ConfigError):
        TrustedChannel.restore([])


# --- beacons


def test_a_beacon_makes_its_head_fresh_until_it_runs_out():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    assert trusted.freshness(NOW_S) is Freshness.STALE
    verdict = trusted.judge_beacon(beacon_bytes(trusted), now_s=NOW_S)
    assert (verdict.freshness, verdict.is_news) == (Freshness.FRESH, True)
    assert trusted.freshness(NOW_S + 599) is Freshness.FRESH
    assert trusted.freshness(NOW_S + 600) is Freshness.STALE


def test_a_later_beacon_is_news_and_an_earlier_one_is_not():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    assert trusted.judge_beacon(beacon_bytes(trusted, issued_s=NOW_S), now_s=NOW_S).is_news
    assert trusted.judge_beacon(beacon_bytes(trusted, issued_s=NOW_S + 60), now_s=NOW_S + 60).is_news
    assert not trusted.judge_beacon(beacon_bytes(trusted, issued_s=NOW_S + 60), now_s=NOW_S + 60).is_news
    assert not trusted.judge_beacon(beacon_bytes(trusted, issued_s=NOW_S), now_s=NOW_S + 60).is_news
    assert trusted.freshness(NOW_S + 659) is Freshness.FRESH


def test_a_beacon_from_the_future_reports_the_clock():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    ahead = beacon_bytes(trusted, issued_s=NOW_S + CLOCK_SKEW_MAX_S + 1)
    assert trusted.judge_beacon(ahead, now_s=NOW_S).freshness is Freshness.CLOCK
    assert trusted.freshness(NOW_S) is Freshness.CLOCK
    assert trusted.freshness(NOW_S + 1) is Freshness.FRESH


def test_a_beacon_from_the_far_future_does_not_silence_the_honest_ones():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    trusted.judge_beacon(beacon_bytes(trusted, issued_s=2**40), now_s=NOW_S)
    assert trusted.judge_beacon(beacon_bytes(trusted), now_s=NOW_S).freshness is Freshness.FRESH


def test_a_small_clock_error_is_ordinary():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    ahead = beacon_bytes(trusted, issued_s=NOW_S + CLOCK_SKEW_MAX_S)
    assert trusted.judge_beacon(ahead, now_s=NOW_S).freshness is Freshness.FRESH


def test_a_newer_head_is_stale_until_its_own_beacon():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted, 1))
    old = beacon_bytes(trusted)
    trusted.judge_beacon(old, now_s=NOW_S)
    trusted.judge_head(head_bytes(trusted, 2))
    assert trusted.freshness(NOW_S) is Freshness.STALE
    verdict = trusted.judge_beacon(old, now_s=NOW_S)
    assert (verdict.freshness, verdict.is_news) == (Freshness.STALE, False)


def _beacon_cases() -> list[Any]:
    trusted = pin()
    head = make_head(trusted)
    good = Beacon(trusted.channel, head.digest, NOW_S)
    cases = {
        "by an unlisted key": (sign_beacon(good, [STRANGER_KEY]), "unlisted_key"),
        "for another channel": (sign_beacon(replace(good, channel=digest_of(b"x")), [ORIGIN_KEY]), "wrong_channel"),
        "for an unknown head": (sign_beacon(replace(good, head=digest_of(b"x")), [ORIGIN_KEY]), "unknown_head"),
        "that vouches for too long": (sign_beacon(replace(good, ttl_s=601), [ORIGIN_KEY]), "over_limit"),
        "that is a head": (head_bytes(trusted), "wrong_type"),
        "of junk": (b"junk", "malformed"),
        "over the cap": (bytes(1025), "malformed"),
    }
    return [pytest.param(data, reason, id=f"a beacon {name}") for name, (data, reason) in cases.items()]


@pytest.mark.parametrize(("data", "reason"), _beacon_cases())
def test_a_bad_beacon_is_refused(data, reason):
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    assert reason_of(lambda: trusted.judge_beacon(data, now_s=NOW_S)) == reason
    assert trusted.freshness(NOW_S) is Freshness.STALE


def test_any_one_origin_can_light_the_beacon():
    keys = [ORIGIN_KEY, SECOND_KEY]
    trusted = pin(make_root(origins=keys, origin_threshold=2))
    trusted.judge_head(sign_head(make_head(trusted), keys))
    assert trusted.judge_beacon(beacon_bytes(trusted), now_s=NOW_S).freshness is Freshness.FRESH


# --- announcements and offers


def test_an_announcement_carries_the_newest_head_and_its_beacon():
    trusted = pin()
    assert trusted.announce() is None
    trusted.judge_head(head_bytes(trusted))
    assert trusted.announce() == Announce(head_bytes(trusted))
    trusted.judge_beacon(beacon_bytes(trusted), now_s=NOW_S)
    assert trusted.announce() == Announce(head_bytes(trusted), beacon_bytes(trusted))
    trusted.judge_head(head_bytes(trusted, 2))
    assert trusted.announce() == Announce(head_bytes(trusted, 2))


def test_an_offer_by_an_origin_is_read():
    trusted = pin()
    assert trusted.judge_offer(sign_offer(offer(trusted), [ORIGIN_KEY])) == offer(trusted)


@pytest.mark.parametrize(
    ("changes", "signer", "reason"),
    [
        pytest.param({}, STRANGER_KEY, "unlisted_key", id="by an unlisted key"),
        pytest.param({"channel": digest_of(b"x")}, ORIGIN_KEY, "wrong_channel", id="for another channel"),
        pytest.param({"payload_bytes": 1 << 41}, ORIGIN_KEY, "over_limit", id="over the root's limit"),
    ],
)
def test_a_bad_offer_is_refused(changes, signer, reason):
    trusted = pin()
    assert reason_of(lambda: trusted.judge_offer(sign_offer(offer(trusted, **changes), [signer]))) == reason


# --- manifests and drafts


def test_the_manifest_that_a_head_names_is_accepted():
    trusted, manifest = pin(), make_manifest()
    head = trusted.draft_head(manifest, step=1)
    assert trusted.check_manifest(head, manifest.encoded) == manifest


def test_other_bytes_than_the_manifest_are_an_integrity_error():
    trusted, manifest = pin(), make_manifest()
    head = trusted.draft_head(manifest, step=1)
    flipped = bytes([manifest.encoded[0] ^ 1]) + manifest.encoded[1:]
    for data in (flipped, make_manifest("other").encoded):
        with pytest.raises(IntegrityError, match="came for"):
            trusted.check_manifest(head, data)
    for data in (b"", manifest.encoded + b"\x00"):
        with pytest.raises(IntegrityError, match=f"the head names {head.manifest_bytes}"):
            trusted.check_manifest(head, data)


def test_a_manifest_that_the_origin_should_not_have_signed_is_refused():
    trusted, manifest = pin(), make_manifest()
    head = trusted.draft_head(manifest, step=1)
    junk = pack(["junk"])
    lying = replace(head, total_bytes=head.total_bytes + 1)
    named = replace(head, manifest=digest_of(junk), manifest_bytes=len(junk))
    small = pin(make_root(limits=Limits(CHUNK, 10, 600)))
    assert reason_of(lambda: trusted.check_manifest(lying, manifest.encoded)) == "malformed"
    assert reason_of(lambda: trusted.check_manifest(named, junk)) == "malformed"
    assert reason_of(lambda: small.check_manifest(head, manifest.encoded)) == "over_limit"


def test_a_draft_follows_the_highest_seq_and_links_to_the_current_head():
    trusted = pin()
    first = trusted.draft_head(make_manifest("one"), step=10)
    assert (first.seq, first.previous) == (1, b"")
    trusted.judge_head(sign_head(first, [ORIGIN_KEY]))
    second = trusted.draft_head(make_manifest("two"), step=5, flags=FLAG_REWIND)
    assert (second.seq, second.previous, second.step) == (2, first.digest, 5)
    assert isinstance(trusted.judge_head(sign_head(second, [ORIGIN_KEY])), Accepted)


def test_a_draft_skips_a_seq_that_was_equivocated():
    trusted = pin()
    trusted.judge_head(head_bytes(trusted, 1, "a"))
    reason_of(lambda: trusted.judge_head(head_bytes(trusted, 1, "b")))
    draft = trusted.draft_head(make_manifest(), step=1)
    assert (draft.seq, draft.previous) == (2, b"")

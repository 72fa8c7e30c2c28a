"""Roots: what a root may say, and which root may follow which."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from shardcast_proto.codec import pack, unpack
from shardcast_proto.errors import LocalProtocolError, RemoteProtocolError
from shardcast_proto.hashing import digest_of
from shardcast_proto.trust import (
    ROLE_CONTRIBUTOR,
    ROLE_ORIGIN,
    ROLE_ROOT,
    Envelope,
    Limits,
    Role,
    Root,
    SignedRoot,
    SigningKey,
    TrustedChannel,
    open_next_root,
    open_root,
    sign_root,
)
from tests.proto.trust.actors import (
    ORIGIN_KEY,
    ROOT_KEY,
    STRANGER_KEY,
    head_bytes,
    key,
    make_root,
    pin,
    reason_of,
    successor,
)

NEW_KEY = key("new owner")
A, B, C = key("owner a"), key("owner b"), key("owner c")


def root_role(*keys: SigningKey, threshold: int = 1) -> Role:
    return Role.of(ROLE_ROOT, [one.verify_key for one in keys], threshold)


def origin_role(*keys: SigningKey, threshold: int = 1) -> Role:
    return Role.of(ROLE_ORIGIN, [one.verify_key for one in keys], threshold)


def held() -> SignedRoot:
    return open_root(sign_root(make_root(), [ROOT_KEY]))


def next_root(**changes: object) -> Root:
    first = held()
    return successor(first.root, first.channel, **changes)


def rotated(**changes: object) -> Root:
    """The root that hands the channel over to NEW_KEY."""
    return next_root(roles=(root_role(NEW_KEY), origin_role(ORIGIN_KEY)), **changes)


def test_a_root_survives_its_encoding():
    root = make_root()
    assert Root.decode(root.encoded) == root


def test_the_channel_id_is_the_digest_of_the_first_payload():
    assert held().channel == digest_of(make_root().encoded)


def test_the_channel_id_does_not_depend_on_who_signed():
    root = make_root(roots=[A, B])
    assert open_root(sign_root(root, [A])).channel == open_root(sign_root(root, [A, B])).channel


def test_a_root_that_its_own_threshold_has_not_signed_is_refused():
    root = make_root(roots=[A, B], root_threshold=2)
    assert reason_of(lambda: open_root(sign_root(root, [A]))) == "threshold_not_met"
    assert open_root(sign_root(root, [A, B])).root == root


def test_a_root_signed_by_a_stranger_is_refused():
    assert reason_of(lambda: open_root(sign_root(make_root(), [STRANGER_KEY]))) == "unlisted_key"


def test_the_origin_key_does_not_sign_roots():
    assert reason_of(lambda: open_root(sign_root(make_root(), [ORIGIN_KEY]))) == "unlisted_key"


def test_a_later_root_can_be_pinned_too():
    second = open_next_root(sign_root(next_root(), [ROOT_KEY]), held())
    assert open_root(second.envelope).channel == held().channel


def test_a_successor_by_the_same_keys_is_accepted():
    assert open_next_root(sign_root(next_root(), [ROOT_KEY]), held()).root.version == 2


def test_a_rotation_signed_by_old_and_new_keys_is_accepted():
    assert open_next_root(sign_root(rotated(), [ROOT_KEY, NEW_KEY]), held()).root == rotated()


def test_a_rotation_to_a_threshold_needs_the_threshold_of_both():
    root = next_root(roles=(root_role(A, B, C, threshold=2), origin_role(ORIGIN_KEY)))
    assert reason_of(lambda: open_next_root(sign_root(root, [ROOT_KEY, A]), held())) == "threshold_not_met"
    assert open_next_root(sign_root(root, [ROOT_KEY, A, C]), held()).root == root


def test_the_same_root_again_changes_nothing():
    first = held()
    assert open_next_root(first.envelope, first) is first


def test_the_same_root_with_one_more_signature_changes_nothing():
    root = make_root(roots=[A, B])
    first = open_root(sign_root(root, [A]))
    assert open_next_root(sign_root(root, [A, B]), first) is first


@pytest.mark.parametrize(
    ("root", "keys", "reason"),
    [
        pytest.param(rotated(), [ROOT_KEY], "unlisted_key", id="only by the old keys"),
        pytest.param(rotated(), [NEW_KEY], "unlisted_key", id="only by the new keys"),
        pytest.param(rotated(), [STRANGER_KEY], "unlisted_key", id="by a stranger"),
        pytest.param(next_root(version=3), [ROOT_KEY], "root_gap", id="version N+2"),
        pytest.param(next_root(version=2**62), [ROOT_KEY], "root_gap", id="version 2**62"),
        pytest.param(next_root(epoch=0), [ROOT_KEY], "rollback", id="a lower epoch"),
        pytest.param(next_root(channel=digest_of(b"x")), [ROOT_KEY], "wrong_channel", id="another channel"),
        pytest.param(make_root(name="other"), [ROOT_KEY], "wrong_channel", id="another first root"),
    ],
)
def test_a_root_that_may_not_follow_is_refused(root, keys, reason):
    assert reason_of(lambda: open_next_root(sign_root(root, keys), held())) == reason


def test_an_older_root_is_refused():
    first = held()
    second = open_next_root(sign_root(next_root(), [ROOT_KEY]), first)
    assert reason_of(lambda: open_next_root(first.envelope, second)) == "rollback"


def test_a_second_root_of_one_version_is_refused():
    second = open_next_root(sign_root(next_root(), [ROOT_KEY]), held())
    twin = sign_root(next_root(name="twin"), [ROOT_KEY])
    assert reason_of(lambda: open_next_root(twin, second)) == "equivocation"


def test_a_second_root_of_one_version_by_a_stranger_raises_no_alarm():
    second = open_next_root(sign_root(next_root(), [ROOT_KEY]), held())
    twin = sign_root(next_root(name="twin"), [STRANGER_KEY])
    assert reason_of(lambda: open_next_root(twin, second)) == "unlisted_key"


def test_a_head_is_no_root():
    assert reason_of(lambda: open_root(head_bytes(pin()))) == "wrong_type"


def test_a_chain_of_rotations_is_walked_step_by_step():
    trusted = pin()
    keys = [ROOT_KEY, A, B, C]
    for old, new in pairwise(keys):
        root = successor(trusted.root, trusted.channel, roles=(root_role(new), origin_role(ORIGIN_KEY)))
        assert trusted.update_root(sign_root(root, [old, new])) is not None
    assert trusted.root.version == 4
    assert len(trusted.roots) == 4
    assert TrustedChannel.restore(trusted.roots).root == trusted.root


def test_a_refused_root_leaves_everything_as_it_was():
    trusted = pin()
    assert reason_of(lambda: trusted.update_root(sign_root(rotated(), [NEW_KEY]))) == "unlisted_key"
    assert reason_of(lambda: trusted.update_root(b"junk")) == "malformed"
    assert trusted.root == make_root()
    assert len(trusted.roots) == 1


def test_roots_are_found_by_version():
    trusted = pin()
    second = sign_root(successor(trusted.root, trusted.channel), [ROOT_KEY])
    trusted.update_root(second)
    assert [trusted.root_envelope(version) == second for version in (0, 1, 2, 3)] == [False, False, True, False]
    assert trusted.root_envelope(3) is None


def test_a_root_warns_after_its_end_and_accepts_still():
    root = replace(make_root(), expires_s=100)
    assert not root.is_expired(99)
    assert root.is_expired(100)
    assert not make_root().is_expired(2**40)
    assert pin(root).root.expires_s == 100


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": 0}, id="version 0"),
        pytest.param({"version": 2}, id="version 2 without a channel"),
        pytest.param({"channel": digest_of(b"x")}, id="version 1 with a channel"),
        pytest.param({"version": 2, "channel": b"short"}, id="a channel id of 5 bytes"),
        pytest.param({"name": ""}, id="no name"),
        pytest.param({"name": "a/b"}, id="a name with a slash"),
        pytest.param({"name": "-a"}, id="a name that looks like a flag"),
        pytest.param({"name": "a\n"}, id="a name with a line end"),
        pytest.param({"name": "x" * 65}, id="a long name"),
        pytest.param({"limits": Limits(0, 1, 600)}, id="no bytes"),
        pytest.param({"limits": Limits(1, 0, 600)}, id="no files"),
        pytest.param({"limits": Limits(1, 65_537, 600)}, id="more files than a manifest holds"),
        pytest.param({"limits": Limits(1, 1, 59)}, id="beacons below a minute"),
        pytest.param({"limits": Limits(1, 1, 86_401)}, id="beacons above a day"),
        pytest.param({"roles": ()}, id="no roles"),
        pytest.param({"roles": (root_role(A),)}, id="no origin"),
        pytest.param({"roles": (origin_role(A), root_role(A))}, id="roles out of order"),
        pytest.param({"roles": (root_role(A), root_role(A), origin_role(A))}, id="a role twice"),
    ],
)
def test_a_root_that_makes_no_sense_is_refused(changes):
    with pytest.raises(RemoteProtocolError):
        replace(make_root(), **changes)


@pytest.mark.parametrize(
    ("name", "threshold", "public_keys"),
    [
        pytest.param("emperor", 1, (A.public_key,), id="an unknown role"),
        pytest.param("root", 0, (A.public_key,), id="threshold 0"),
        pytest.param("root", 2, (A.public_key,), id="a threshold above the keys"),
        pytest.param("root", 1, (), id="no keys"),
        pytest.param("root", 2, (A.public_key, A.public_key), id="one key twice"),
        pytest.param("root", 1, tuple(sorted((A.public_key, B.public_key), reverse=True)), id="keys out of order"),
        pytest.param("root", 9, tuple(sorted(key(str(i)).public_key for i in range(9))), id="threshold 9"),
        pytest.param("root", 1, tuple(sorted(key(str(i)).public_key for i in range(65))), id="65 keys"),
        pytest.param("root", 1, (b"\x01" + bytes(31),), id="a small-order key"),
        pytest.param("root", 1, (A.public_key[:31],), id="a 31-byte key"),
    ],
)
def test_a_role_that_makes_no_sense_is_refused(name, threshold, public_keys):
    with pytest.raises(RemoteProtocolError):
        Role(name, threshold, public_keys)


def test_a_root_can_list_contributors():
    role = Role.of(ROLE_CONTRIBUTOR, [A.verify_key, B.verify_key])
    root = replace(make_root(), roles=(*make_root().roles, role))
    assert Root.decode(root.encoded).role(ROLE_CONTRIBUTOR) == role
    assert make_root().role(ROLE_CONTRIBUTOR) is None


def _with_threshold(threshold: object) -> bytes:
    value: Any = unpack(make_root().encoded, size_max=65536, what="root")
    value[8][1][1] = threshold
    return pack(value)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(make_root().encoded + b"\x00", id="a trailing byte"),
        pytest.param(make_root().encoded.replace(b"\xa4demo", b"\xd9\x04demo"), id="a longer encoding"),
        pytest.param(_with_threshold(-1), id="a negative threshold"),
        pytest.param(_with_threshold(2**63), id="a threshold beyond the numbers"),
        pytest.param(_with_threshold("1"), id="a threshold of text"),
        pytest.param(_with_threshold(True), id="a threshold of true"),
    ],
)
def test_a_payload_that_is_no_root_is_refused(payload):
    with pytest.raises(RemoteProtocolError):
        Root.decode(payload)


def test_a_root_over_the_cap_is_refused_before_it_is_decoded():
    data = pack(["shardcast/envelope", 1, "x", bytes(64 * 1024), []])
    with pytest.raises(RemoteProtocolError, match="the limit is 65536"):
        open_root(data)


def test_the_largest_rotation_fits_the_cap():
    old = [key(f"old {index}") for index in range(64)]
    new = [key(f"new {index}") for index in range(64)]
    first = open_root(sign_root(make_root(roots=old, root_threshold=8, origins=old), old[:8]))
    root = successor(first.root, first.channel, roles=(root_role(*new, threshold=8), origin_role(*new)))
    assert open_next_root(sign_root(root, old[:8] + new[:8]), first).root == root


def test_more_signatures_than_an_envelope_holds_are_not_made():
    many = [key(str(index)) for index in range(17)]
    with pytest.raises(LocalProtocolError):
        sign_root(make_root(roots=many), many)


def test_an_envelope_of_a_root_carries_its_type():
    envelope = Envelope.decode(held().envelope, size_max=65536, what="root")
    assert envelope.payload_type == "application/vnd.shardcast.root.v1+msgpack"

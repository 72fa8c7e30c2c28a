"""Bindings: who may say of a peer that it is an origin's."""

from __future__ import annotations

import pytest

from shardcast_proto.errors import RemoteProtocolError, TrustError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import PeerId
from shardcast_proto.trust import Beacon, Binding, TrustedChannel, sign_beacon, sign_binding, sign_root
from tests.proto.trust.actors import NOW_S, ORIGIN_KEY, ROOT_KEY, STRANGER_KEY, key, make_root

PEER = key("a peer").peer


def trusted() -> TrustedChannel:
    return TrustedChannel.from_root(sign_root(make_root(), [ROOT_KEY]))


def test_a_binding_by_an_origin_key_is_accepted_and_names_its_peer() -> None:
    channel = trusted()
    assert channel.judge_binding(sign_binding(Binding(channel.channel, PEER), [ORIGIN_KEY])).peer == PEER


@pytest.mark.parametrize("what", ["a stranger's", "of another channel", "a beacon", "nothing", "signed by its peer"])
def test_a_binding_is_refused_that_is(what: str) -> None:
    channel = trusted()
    good = Binding(channel.channel, PEER)
    data = {
        "a stranger's": sign_binding(good, [STRANGER_KEY]),
        "of another channel": sign_binding(Binding(digest_of(b"other"), PEER), [ORIGIN_KEY]),
        "a beacon": sign_beacon(Beacon(channel.channel, digest_of(b"head"), NOW_S), [ORIGIN_KEY]),
        "nothing": b"",
        "signed by its peer": sign_binding(good, [key("a peer")]),
    }[what]
    with pytest.raises(TrustError):
        channel.judge_binding(data)


def test_a_binding_names_a_real_peer_id() -> None:
    with pytest.raises(RemoteProtocolError):
        Binding(digest_of(b"channel"), PeerId("nobody"))

"""Envelopes: what is signed, who counts, and which bytes are no envelope."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shardcast_proto.codec import pack
from shardcast_proto.errors import LocalProtocolError, RemoteProtocolError
from shardcast_proto.hashing import digest_of
from shardcast_proto.trust import Envelope, Signature, SigningKey
from shardcast_proto.trust.dsse import TAG, pae, sign, verify
from tests.proto.trust.actors import key, reason_of

TYPE = "application/vnd.shardcast.test.v1+msgpack"
A, B, C = key("a"), key("b"), key("c")


def signed(*keys: SigningKey, payload: bytes = b"payload", payload_type: str = TYPE) -> Envelope:
    return Envelope.decode(sign(payload_type, payload, keys, size_max=4096), size_max=4096, what="test")


def raw(signatures: Sequence[object], *, version: int = 1, tag: str = TAG, payload: bytes = b"payload") -> bytes:
    return pack([tag, version, TYPE, payload, signatures])


def row(signer: SigningKey, payload: bytes = b"payload") -> list[bytes]:
    return [signer.key_id, signer.sign(pae(TYPE, payload))]


def decode(data: bytes, size_max: int = 4096) -> Envelope:
    return Envelope.decode(data, size_max=size_max, what="test")


def test_the_pre_authentication_encoding_is_that_of_the_specification():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_signed_payload_comes_back_as_it_was():
    assert verify(signed(A), TYPE, [A.verify_key], 1) == b"payload"


def test_signatures_by_unlisted_keys_are_ignored():
    assert verify(signed(A, B), TYPE, [A.verify_key], 1) == b"payload"


def test_two_of_three_keys_meet_a_threshold_of_two():
    keys = [A.verify_key, B.verify_key, C.verify_key]
    assert verify(signed(A, C), TYPE, keys, 2) == b"payload"


def test_an_unlisted_key_is_refused():
    assert reason_of(lambda: verify(signed(B), TYPE, [A.verify_key], 1)) == "unlisted_key"


def test_no_listed_key_at_all_is_refused():
    assert reason_of(lambda: verify(signed(A), TYPE, [], 1)) == "unlisted_key"


def test_one_key_does_not_meet_a_threshold_of_two():
    keys = [A.verify_key, B.verify_key]
    assert reason_of(lambda: verify(signed(A), TYPE, keys, 2)) == "threshold_not_met"


def test_a_key_listed_twice_counts_once():
    keys = [A.verify_key, A.verify_key]
    assert reason_of(lambda: verify(signed(A), TYPE, keys, 2)) == "threshold_not_met"


def test_a_key_under_a_claimed_name_does_not_count():
    forged = decode(raw(sorted([row(A), [digest_of(b"another name of a"), row(A)[1]]])))
    assert reason_of(lambda: verify(forged, TYPE, [A.verify_key, B.verify_key], 2)) == "threshold_not_met"


def test_a_key_in_the_name_of_another_listed_one_is_refused():
    forged = decode(raw(sorted([row(A), [B.key_id, row(A)[1]]])))
    assert reason_of(lambda: verify(forged, TYPE, [A.verify_key, B.verify_key], 2)) == "bad_signature"


def test_one_broken_signature_of_a_listed_key_refuses_the_whole():
    forged = decode(raw(sorted([row(A), [B.key_id, bytes(64)]])))
    assert reason_of(lambda: verify(forged, TYPE, [A.verify_key, B.verify_key], 1)) == "bad_signature"


def test_a_signature_over_another_payload_is_refused():
    forged = decode(raw([row(A, b"another")]))
    assert reason_of(lambda: verify(forged, TYPE, [A.verify_key], 1)) == "bad_signature"


def test_an_envelope_of_another_type_is_refused():
    other = signed(A, payload_type="application/vnd.shardcast.other.v1+msgpack")
    assert reason_of(lambda: verify(other, TYPE, [A.verify_key], 1)) == "wrong_type"


def test_a_payload_does_not_pass_under_another_type():
    other = signed(A, payload_type="application/vnd.shardcast.other.v1+msgpack")
    forged = Envelope(TYPE, other.payload, other.signatures)
    assert reason_of(lambda: verify(forged, TYPE, [A.verify_key], 1)) == "bad_signature"


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_is_our_bug(threshold):
    with pytest.raises(LocalProtocolError):
        verify(signed(A), TYPE, [A.verify_key], threshold)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        pytest.param(raw([row(A), row(A)]), "twice", id="one key twice"),
        pytest.param(raw(sorted([row(A), row(B)], reverse=True)), "order", id="out of order"),
        pytest.param(raw([]), "0 signatures", id="no signature"),
        pytest.param(raw([[A.key_id, bytes(63)]]), "63 bytes", id="63-byte signature"),
        pytest.param(raw([[A.key_id, bytes(65)]]), "65 bytes", id="65-byte signature"),
        pytest.param(raw([[A.key_id[:31], bytes(64)]]), "31 bytes", id="31-byte key id"),
        pytest.param(raw([[A.key_id]]), "key id, signature", id="no signature in a row"),
        pytest.param(raw([A.key_id]), "key id, signature", id="a row that is no list"),
        pytest.param(raw([["text", bytes(64)]]), "bytes", id="a key id of text"),
        pytest.param(raw([[bytes([i]) * 32, bytes(64)] for i in range(17)]), "17 signatures", id="17 signatures"),
        pytest.param(raw([row(A)], version=2), "version", id="version 2"),
        pytest.param(raw([row(A)], tag="shardcast/other"), "not of kind envelope", id="another tag"),
        pytest.param(raw([row(A)]) + b"\xc0", "not valid", id="trailing byte"),
        pytest.param(raw([row(A)])[:-1], "not valid", id="cut short"),
        pytest.param(pack([TAG, 1, TYPE, b"payload", [row(A)], 0]), "fields", id="a field too many"),
        pytest.param(pack([TAG, True, TYPE, b"payload", [row(A)]]), "version", id="a version of true"),
        pytest.param(pack([TAG, 1, "", b"payload", [row(A)]]), "type", id="an empty type"),
        pytest.param(pack([TAG, 1, "é", b"payload", [row(A)]]), "type", id="a type beyond ASCII"),
        pytest.param(pack([TAG, 1, "x" * 65, b"payload", [row(A)]]), "type", id="a long type"),
        pytest.param(b"", "not valid", id="nothing"),
        pytest.param(b"\x80", "map|valid", id="a map"),
        pytest.param(raw([row(A)], payload=bytes(5000)), "the limit is 4096", id="over the cap"),
    ],
)
def test_bytes_that_are_no_envelope_are_refused(data, match):
    with pytest.raises(RemoteProtocolError, match=match):
        decode(data)


def test_an_envelope_in_a_longer_encoding_is_refused():
    data = sign(TYPE, b"payload", [A], size_max=4096)
    longer = data.replace(b"\xc4\x07payload", b"\xc5\x00\x07payload")
    assert longer != data
    with pytest.raises(RemoteProtocolError, match="canonical"):
        decode(longer)


def test_the_cap_is_the_last_length_that_passes():
    data = sign(TYPE, b"payload", [A], size_max=4096)
    assert decode(data, size_max=len(data)).payload == b"payload"
    with pytest.raises(RemoteProtocolError, match="limit"):
        decode(data, size_max=len(data) - 1)


def test_the_order_of_the_signers_does_not_matter():
    assert sign(TYPE, b"payload", [A, B, C], size_max=4096) == sign(TYPE, b"payload", [C, A, B], size_max=4096)


@pytest.mark.parametrize("keys", [[], [A, A]])
def test_nothing_is_signed_by_nobody_or_by_one_key_twice(keys):
    with pytest.raises(LocalProtocolError):
        sign(TYPE, b"payload", keys, size_max=4096)


def test_nothing_is_signed_that_no_reader_would_take():
    with pytest.raises(LocalProtocolError, match="limit is 200"):
        sign(TYPE, bytes(200), [A], size_max=200)


def test_an_envelope_refuses_signatures_that_no_reader_would_take():
    with pytest.raises(RemoteProtocolError, match="63 bytes"):
        Envelope(TYPE, b"payload", (Signature(A.key_id, bytes(63)),))

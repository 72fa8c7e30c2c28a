"""Ed25519 keys: the published vectors hold, weak keys do not pass, secrets do not show."""

from __future__ import annotations

import pytest

from shardcast_proto.errors import ConfigError, RemoteProtocolError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import peer_id_of_key
from shardcast_proto.trust import SigningKey, VerifyKey
from tests.proto.trust.actors import key

#: RFC 8032, section 7.1: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]

#: Encodings of the eight small-order points (RFC 7748, section 7, and their non-canonical twins).
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032_hold(seed, public_key, message, signature):
    signer = SigningKey(bytes.fromhex(seed))
    assert signer.public_key.hex() == public_key
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert signer.verify_key.verify(bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_a_small_order_key_is_refused(encoded):
    with pytest.raises(RemoteProtocolError, match="prime-order"):
        VerifyKey(bytes.fromhex(encoded))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(RemoteProtocolError, match="32"):
        VerifyKey(bytes(length))


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="31 bytes"):
        SigningKey(bytes(31))


def test_a_key_id_is_the_digest_of_the_key():
    assert key("a").key_id == digest_of(key("a").public_key)


def test_a_signature_of_another_length_is_no_signature():
    signature = key("a").sign(b"message")
    assert not key("a").verify_key.verify(b"message", signature[:63])
    assert not key("a").verify_key.verify(b"message", signature + b"\0")


def test_a_signature_with_a_malleable_scalar_is_no_signature():
    order = 2**252 + 27742317777372353535851937790883648493
    signature = key("a").sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    twin = signature[:32] + scalar.to_bytes(32, "little")
    assert not key("a").verify_key.verify(b"message", twin)


def test_a_signature_by_another_key_is_no_signature():
    assert not key("a").verify_key.verify(b"message", key("b").sign(b"message"))


def test_the_repr_of_a_private_key_shows_no_seed():
    seed = digest_of(b"a")
    assert seed.hex()[:12] not in repr(SigningKey(seed))
    assert str(SigningKey(seed)) == repr(SigningKey(seed))


def test_a_peer_id_gives_its_key_back():
    assert VerifyKey.of_peer(peer_id_of_key(key("a").public_key)) == key("a").verify_key


@pytest.mark.parametrize("suffix", [" ", "\n", "\t "])
def test_a_peer_id_has_one_text_only(suffix):
    with pytest.raises(RemoteProtocolError):
        VerifyKey.of_peer(key("a").peer + suffix)


def test_a_peer_id_of_a_small_order_key_is_refused():
    with pytest.raises(RemoteProtocolError, match="prime-order"):
        VerifyKey.of_peer(peer_id_of_key(bytes.fromhex(SMALL_ORDER[0])))

"""Digests and peer ids, their texts, and the hash behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from shardcast_proto.hashing import ChunkHasher, digest_of
from shardcast_proto.ids import as_digest, format_digest, key_of_peer_id, parse_digest, peer_id_of_key

#: Public keys with the ids that libp2p gives them: the key of its specification, and that of the seed 00 01 02 … 1f.
LIBP2P_IDS = [
    (
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
    ),
    (
        "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB",
    ),
]
PEER = LIBP2P_IDS[0][1]

keys = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize(("key", "peer"), LIBP2P_IDS)
def test_a_peer_id_is_the_one_that_libp2p_gives(key, peer):
    assert peer_id_of_key(bytes.fromhex(key)) == peer
    assert key_of_peer_id(peer) == bytes.fromhex(key)


@given(keys)
def test_a_key_can_be_read_out_of_its_peer_id(key):
    assert key_of_peer_id(peer_id_of_key(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        PEER[:-1],
        PEER + "1",
        "1" + PEER,
        " " + PEER,
        PEER + "\n",
        PEER + " ",
        PEER[:-1] + "0",
        PEER.lower(),
        "é" * 10,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "x" * 10_000,
        "/p2p/" + PEER,
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_a_text_that_is_no_id_of_an_ed25519_key_is_refused(text):
    with pytest.raises(RemoteProtocolError):
        key_of_peer_id(text)


@given(st.text(max_size=80))
def test_any_text_is_a_peer_id_or_is_refused(text):
    with pytest.raises(RemoteProtocolError):
        key_of_peer_id(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_naming_a_key_of_another_length_is_our_bug(size):
    with pytest.raises(LocalProtocolError):
        peer_id_of_key(b"k" * size)


@given(keys)
def test_a_digest_survives_its_text_with_and_without_its_prefix(data):
    assert parse_digest(format_digest(data)) == data
    assert parse_digest(data.hex()) == data
    assert format_digest(data).startswith("b3:")


@pytest.mark.parametrize(
    "text",
    ["", "b3:", "b3:" + "0" * 63, "b3:" + "0" * 65, "B3:" + "0" * 64, "A" * 64, "b3:" + "g" * 64, "0" * 64 + "\n"],
)
def test_a_text_that_is_no_digest_is_refused_with_a_hint(text):
    with pytest.raises(ConfigError) as caught:
        parse_digest(text)
    assert caught.value.hint


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_digest_has_32_bytes(size):
    with pytest.raises(RemoteProtocolError):
        as_digest(b"x" * size)


def test_the_hash_is_blake3():
    # the first test vector of the BLAKE3 specification: the hash of nothing
    assert digest_of(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@given(st.lists(st.binary(max_size=100), max_size=6))
def test_bytes_in_pieces_have_the_digest_of_the_whole(pieces):
    hasher = ChunkHasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest() == digest_of(b"".join(pieces))

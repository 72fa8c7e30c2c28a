"""The bulk link on the wire: heads of frames, and the preamble that proves who opens it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.bulk import (
    ANSWER_BYTES,
    ASKED,
    HEAD_BYTES_MAX,
    HELLO_BYTES,
    MAGIC,
    Accepting,
    CancelGet,
    ChunkHead,
    End,
    EndOutcome,
    Get,
    Head,
    MessageHead,
    Opening,
    encode_head,
    message_frame,
    read_head,
)
from shardcast_proto.errors import LocalProtocolError, RemoteProtocolError
from shardcast_proto.framing import NEED_DATA
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import CHUNK_BYTES_MAX, CHUNKS_MAX, LINK_MESSAGE_BYTES_MAX, LINK_RUN_CHUNKS_MAX
from shardcast_proto.messages import STRIPES_MAX
from shardcast_proto.trust import SigningKey

D = Digest(b"d" * 32)
ALICE, BOB, EVE = (SigningKey(bytes([seed]) * 32) for seed in (4, 5, 6))

requests = st.integers(1, 2**32 - 1)
blobs = st.binary(min_size=32, max_size=32).map(Digest)
indices, lengths = st.integers(0, CHUNKS_MAX - 1), st.integers(1, CHUNK_BYTES_MAX)
with_chunks: st.SearchStrategy[Head] = st.one_of(
    st.builds(ChunkHead, blobs, indices, lengths, st.integers(0, STRIPES_MAX - 1), st.just(0)),
    st.builds(ChunkHead, blobs, indices, lengths, st.just(ASKED), requests),
    st.builds(End, requests, st.sampled_from(EndOutcome)),
    st.builds(MessageHead, st.integers(1, LINK_MESSAGE_BYTES_MAX)),
)
against: st.SearchStrategy[Head] = st.one_of(
    st.builds(Get, requests, blobs, indices, st.integers(1, LINK_RUN_CHUNKS_MAX)),
    st.builds(CancelGet, requests),
    st.builds(MessageHead, st.integers(1, LINK_MESSAGE_BYTES_MAX)),
)


@given(head=with_chunks, more=st.binary(max_size=8))
def test_a_head_with_the_chunks_survives_the_wire(head: Head, more: bytes) -> None:
    data = encode_head(head)
    assert read_head(data + more, has_chunks=True) == (head, len(data))
    assert len(data) <= HEAD_BYTES_MAX


@given(head=against, cut=st.integers(0, 44))
def test_a_head_against_the_chunks_is_read_once_it_is_whole(head: Head, cut: int) -> None:
    data = encode_head(head)
    expected = (head, len(data)) if cut >= len(data) else NEED_DATA
    assert read_head(data[:cut], has_chunks=False) == expected


@given(data=st.binary(max_size=64), has_chunks=st.booleans())
def test_any_bytes_are_a_head_or_not_enough_or_a_protocol_error(data: bytes, has_chunks: bool) -> None:
    try:
        read = read_head(data, has_chunks=has_chunks)
    except RemoteProtocolError:
        return
    assert (read is NEED_DATA and len(data) < HEAD_BYTES_MAX) or (read is not NEED_DATA and read[1] <= len(data))


BAD_HEADS: dict[str, Head] = {
    "a chunk of no bytes": ChunkHead(D, 0, 0, 0),
    "a chunk that is too long": ChunkHead(D, 0, CHUNK_BYTES_MAX + 1, 0),
    "a chunk that no blob has": ChunkHead(D, CHUNKS_MAX, 1, 0),
    "a push without a stripe": ChunkHead(D, 0, 1),
    "an answer with a stripe": ChunkHead(D, 0, 1, stripe=3, request=1),
    "an end of nothing": End(0, EndOutcome.DONE),
    "an empty message": MessageHead(0),
    "a message that is too long": MessageHead(LINK_MESSAGE_BYTES_MAX + 1),
    "a request without a number": Get(0, D, 0, 1),
    "a run of nothing": Get(1, D, 0, 0),
    "a run that is too long": Get(1, D, 0, LINK_RUN_CHUNKS_MAX + 1),
    "a cancel of nothing": CancelGet(0),
}


@pytest.mark.parametrize("what", BAD_HEADS)
def test_nobody_sends(what: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_head(BAD_HEADS[what])


BAD_BYTES = {
    "an unknown kind": (b"\x09" * 46, True),
    "a request with the chunks": (encode_head(Get(1, D, 0, 1)), True),
    "a chunk against the chunks": (encode_head(ChunkHead(D, 0, 1, 0)), False),
    "an unknown outcome": (bytes([2, 9, 0, 0, 0, 1]), True),
    "a message of 4 GiB": (b"\x03\xff\xff\xff\xff", False),
    "a chunk of 4 GiB": (encode_head(ChunkHead(D, 0, 1, 0))[:-4] + b"\xff" * 4, True),
}


@pytest.mark.parametrize("what", BAD_BYTES)
def test_a_reader_refuses(what: str) -> None:
    data, has_chunks = BAD_BYTES[what]
    with pytest.raises(RemoteProtocolError):
        read_head(data, has_chunks=has_chunks)


def test_a_message_stands_behind_its_head() -> None:
    frame = message_frame(b"payload")
    assert read_head(frame, has_chunks=False) == (MessageHead(7), 5) and frame[5:] == b"payload"


# --- the preamble ---


def opening(peer: PeerId = BOB.peer, *, key: SigningKey = ALICE, is_sending: bool = True) -> Opening:
    return Opening(key, peer, b"o" * 32, is_sending=is_sending)


@pytest.mark.parametrize("is_sending", [True, False])
def test_both_ends_know_each_other_and_the_direction(is_sending: bool) -> None:
    opener = opening(is_sending=is_sending)
    assert opener.hello.startswith(MAGIC) and len(opener.hello) == HELLO_BYTES
    accepting = Accepting(BOB, opener.hello, b"a" * 32)
    assert (accepting.peer, accepting.is_sending) == (ALICE.peer, not is_sending)
    assert len(accepting.answer) == ANSWER_BYTES
    accepting.check(opener.prove(accepting.answer))


def test_a_recorded_proof_does_not_serve_again() -> None:
    opener = opening()
    proof = opener.prove(Accepting(BOB, opener.hello, b"1" * 32).answer)
    with pytest.raises(RemoteProtocolError, match="did not sign this proof"):
        Accepting(BOB, opener.hello, b"2" * 32).check(proof)


def test_a_recorded_answer_does_not_serve_another_opening() -> None:
    answer = Accepting(BOB, opening().hello, b"a" * 32).answer
    with pytest.raises(RemoteProtocolError, match="did not sign this answer"):
        Opening(ALICE, BOB.peer, b"n" * 32, is_sending=True).prove(answer)


def test_an_answer_is_no_proof() -> None:
    opener = opening()
    accepting = Accepting(BOB, opener.hello, b"a" * 32)
    with pytest.raises(RemoteProtocolError):
        accepting.check(accepting.answer[32:])


def test_who_holds_another_key_proves_nothing() -> None:
    opener = opening()
    with pytest.raises(RemoteProtocolError):
        opener.prove(b"a" * 32 + EVE.sign(b"\x01" + opener.hello))
    accepting = Accepting(BOB, opener.hello, b"a" * 32)
    with pytest.raises(RemoteProtocolError):
        accepting.check(EVE.sign(b"anything"))


def _with(at: int, value: int) -> bytes:
    hello = bytearray(opening().hello)
    hello[at] = value
    return bytes(hello)


BAD_HELLOS = {
    "another magic": _with(1, 0),
    "another version": _with(4, 2),
    "a third direction": _with(5, 2),
    "for somebody else": opening(EVE.peer).hello,
    "from ourselves": opening(BOB.peer, key=BOB).hello,
    "of a key that is none": opening().hello[:6] + bytes(32) + opening().hello[38:],
    "too short": opening().hello[:-1],
    "too long": opening().hello + b"x",
}


@pytest.mark.parametrize("what", BAD_HELLOS)
def test_a_hello_is_refused_that_is(what: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Accepting(BOB, BAD_HELLOS[what], b"a" * 32)


@given(data=st.binary(max_size=140), proof=st.binary(max_size=70))
def test_random_bytes_prove_nothing(data: bytes, proof: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Accepting(BOB, data, b"a" * 32).check(proof)
    with pytest.raises(RemoteProtocolError):
        opening().prove(data)
    with pytest.raises(RemoteProtocolError):
        Accepting(BOB, opening().hello, b"a" * 32).check(proof)

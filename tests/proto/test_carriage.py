"""The carriage protocol: requests, answers, and the body that follows in pieces of any size."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.carriage import (
    Answer,
    AnswerReader,
    ChunkRequest,
    ObjectRequest,
    Request,
    RequestReader,
    Status,
    decode_request,
    encode_answer,
    encode_request,
)
from shardcast_proto.codec import pack
from shardcast_proto.errors import RemoteProtocolError
from shardcast_proto.framing import NEED_DATA, frame
from shardcast_proto.ids import Digest
from shardcast_proto.limits import CARRIED_CHUNKS_MAX, CHUNKS_MAX

D = Digest(b"d" * 32)

requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(ObjectRequest, st.binary(min_size=32, max_size=32).map(Digest)),
    st.builds(ChunkRequest, st.just(D), st.integers(0, CHUNKS_MAX - 1), st.integers(1, CARRIED_CHUNKS_MAX)),
)


@given(request=requests, cut=st.integers(0, 80))
def test_a_request_survives_the_wire_in_two_pieces(request: Request, cut: int) -> None:
    data, reader = encode_request(request), RequestReader()
    first = reader.feed(data[:cut])
    assert (first if cut >= len(data) else reader.feed(data[cut:])) == request
    assert cut >= len(data) or first is NEED_DATA


@given(body=st.binary(max_size=400), cuts=st.lists(st.integers(0, 440), max_size=6))
def test_a_body_is_given_out_as_it_was_sent_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    data = encode_answer(Answer(Status.OK, 1, len(body))) + body
    reader, got = AnswerReader(), b""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        got += reader.feed(data[start:end])
        assert reader.is_whole is (end == len(data))
    assert got == body


def test_one_byte_more_than_was_announced_is_a_protocol_error() -> None:
    reader = AnswerReader()
    reader.feed(encode_answer(Answer(Status.OK, 1, 3)))
    with pytest.raises(RemoteProtocolError, match="longer than announced"):
        reader.feed(b"four")


@pytest.mark.parametrize("status", [Status.MISSING, Status.BUSY])
def test_an_answer_without_content_is_whole_at_once(status: Status) -> None:
    reader = AnswerReader()
    assert reader.feed(encode_answer(Answer(status))) == b""
    assert reader.is_whole and reader.answer == Answer(status)


BAD_REQUESTS = {
    "no list": pack(7),
    "an empty list": pack([]),
    "an unknown kind": pack([3, D]),
    "a kind that is no number": pack(["1", D]),
    "an object without a digest": pack([1]),
    "a short digest": pack([1, b"d" * 31]),
    "a run without a count": pack([2, D, 0]),
    "a run of nothing": pack([2, D, 0, 0]),
    "a run that is too long": pack([2, D, 0, CARRIED_CHUNKS_MAX + 1]),
    "a chunk that no blob has": pack([2, D, CHUNKS_MAX, 1]),
    "a negative chunk": pack([2, D, -1, 1]),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_request_is_refused_that_is(what: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request(BAD_REQUESTS[what])


BAD_ANSWERS = {
    "an unknown status": pack([9, 0, 0]),
    "two fields": pack([0, 1]),
    "no list": pack(0),
    "missing, with content": pack([1, 1, 5]),
    "a negative length": pack([0, 1, -5]),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_answer_is_refused_that_is(what: str) -> None:
    with pytest.raises(RemoteProtocolError):
        AnswerReader().feed(frame(BAD_ANSWERS[what]))


def test_fields_behind_the_known_ones_are_ignored() -> None:
    assert decode_request(pack([2, D, 3, 4, "later"])) == ChunkRequest(D, 3, 4)
    reader = AnswerReader()
    reader.feed(frame(pack([0, 1, 2, "later"])))
    assert reader.answer == Answer(Status.OK, 1, 2)


def test_a_frame_that_announces_more_than_a_request_can_be_is_refused_before_it_comes() -> None:
    for reader in (RequestReader(), AnswerReader()):
        with pytest.raises(RemoteProtocolError, match=re.escape("allowed are 1 to 128")):
            reader.feed(b"\x00\x00\x00\x81")

"""The framing of control streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto.errors import LocalProtocolError, RemoteProtocolError
from shardcast_proto.framing import NEED_DATA, FrameReader, NeedData, frame
from shardcast_proto.limits import CONTROL_FRAME_BYTES_MAX

payloads = st.lists(st.binary(min_size=1, max_size=50), max_size=8)


def drain(reader: FrameReader) -> list[bytes]:
    frames = []
    while not isinstance(item := reader.next_frame(), NeedData):
        frames.append(item)
    return frames


@given(payloads, st.lists(st.integers(0, 500), max_size=12))
def test_any_splitting_of_the_stream_gives_the_same_frames(sent, cuts):
    stream = b"".join(map(frame, sent))
    reader, received, begin = FrameReader(), [], 0
    for cut in sorted(min(cut, len(stream)) for cut in cuts):
        reader.receive_data(stream[begin:cut])
        received += drain(reader)
        begin = cut
    reader.receive_data(stream[begin:])
    assert received + drain(reader) == sent


@given(payloads)
def test_a_stream_in_single_bytes_gives_the_same_frames(sent):
    reader, received = FrameReader(), []
    for byte in b"".join(map(frame, sent)):
        reader.receive_data(bytes([byte]))
        received += drain(reader)
    assert received == sent


def test_a_reader_without_a_whole_frame_needs_data():
    reader = FrameReader()
    for piece in (b"", b"\0\0", b"\0\x03", b"ab"):
        reader.receive_data(piece)
        assert reader.next_frame() is NEED_DATA
    reader.receive_data(b"c")
    assert reader.next_frame() == b"abc"
    assert reader.next_frame() is NEED_DATA


@pytest.mark.parametrize("head", [b"\0\0\0\0", b"\0\x10\0\x01", b"\xff\xff\xff\xff", b"GET "])
def test_a_length_of_zero_or_over_the_limit_is_refused_before_its_bytes_arrive(head):
    reader = FrameReader()
    reader.receive_data(head)
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()


def test_a_frame_of_the_largest_size_passes():
    payload = b"x" * CONTROL_FRAME_BYTES_MAX
    reader = FrameReader()
    reader.receive_data(frame(payload))
    assert reader.next_frame() == payload


def test_a_reader_may_have_a_smaller_limit():
    reader = FrameReader(size_max=4)
    reader.receive_data(frame(b"1234") + frame(b"12345"))
    assert reader.next_frame() == b"1234"
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()


@pytest.mark.parametrize("payload", [b"", b"x" * (CONTROL_FRAME_BYTES_MAX + 1)], ids=["empty", "too long"])
def test_framing_what_no_peer_would_take_is_our_bug(payload):
    with pytest.raises(LocalProtocolError):
        frame(payload)

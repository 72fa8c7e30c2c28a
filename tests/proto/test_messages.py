"""The control messages: what survives the wire, what a receiver ignores, what it refuses."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast_proto import messages
from shardcast_proto.bitmap import runs_of
from shardcast_proto.codec import INT_MAX, pack, unpack
from shardcast_proto.errors import LocalProtocolError, RemoteProtocolError
from shardcast_proto.ids import Digest, peer_id_of_key
from shardcast_proto.limits import (
    BINDING_BYTES_MAX,
    BINDINGS_PER_HELLO_MAX,
    CHANNELS_PER_HELLO_MAX,
    CHUNKS_MAX,
    CONTROL_FRAME_BYTES_MAX,
    GOSSIP_BYTES_MAX,
    OFFER_BYTES_MAX,
    PEERS_PER_MESSAGE_MAX,
    REASON_BYTES_MAX,
    RECORD_BYTES_MAX,
    ROOT_BYTES_MAX,
)
from shardcast_proto.messages import DEPTH_MAX, STRIPES_MAX, WALK_MAX, Unknown, decode, encode

D = Digest(b"d" * 32)

digests = st.binary(min_size=32, max_size=32).map(Digest)
runs = st.integers(0, 2**200).map(lambda mask: tuple(runs_of(mask)))
stripe = st.integers(0, STRIPES_MAX - 1)
record = st.binary(max_size=40)
records = st.lists(record, max_size=PEERS_PER_MESSAGE_MAX).map(tuple)
number = st.integers(0, INT_MAX)
reason = st.text(max_size=40)
depth = st.integers(0, DEPTH_MAX)
peers = st.lists(st.binary(min_size=32, max_size=32).map(peer_id_of_key), max_size=3).map(tuple)

MESSAGES: dict[type[messages.Message], st.SearchStrategy[messages.Message]] = {
    messages.Hello: st.builds(
        messages.Hello,
        record,
        st.lists(digests, max_size=CHANNELS_PER_HELLO_MAX).map(tuple),
        st.booleans(),
        st.lists(record, max_size=BINDINGS_PER_HELLO_MAX).map(tuple),
    ),
    messages.Peers: st.builds(messages.Peers, records, st.integers(0, WALK_MAX)),
    messages.GetHead: st.builds(messages.GetHead, digests),
    messages.HeadIs: st.builds(messages.HeadIs, digests, record),
    messages.GetRoot: st.builds(messages.GetRoot, digests, number),
    messages.RootIs: st.builds(messages.RootIs, digests, record),
    messages.Offer: st.builds(messages.Offer, record),
    messages.Have: st.builds(messages.Have, digests, runs, st.booleans()),
    messages.Want: st.builds(messages.Want, digests, runs),
    messages.Skip: st.builds(messages.Skip, digests, runs),
    messages.Omit: st.builds(messages.Omit, digests, runs),
    messages.Attach: st.builds(messages.Attach, digests, st.lists(stripe, max_size=STRIPES_MAX).map(tuple)),
    messages.Redirect: st.builds(messages.Redirect, digests, stripe, peers),
    messages.Detach: st.builds(messages.Detach, digests, stripe),
    messages.Adopt: st.builds(messages.Adopt, digests, stripe, depth),
    messages.Cancel: st.builds(messages.Cancel, digests),
    messages.Rate: st.builds(messages.Rate, number),
    messages.Done: st.builds(messages.Done, digests),
    messages.Goodbye: st.builds(messages.Goodbye, reason, records),
    messages.Trees: st.builds(messages.Trees, digests, st.lists(depth, max_size=STRIPES_MAX).map(tuple), number),
}
any_message = st.one_of(*MESSAGES.values())


def raw(message: messages.Message) -> list:
    value = unpack(encode(message), size_max=CONTROL_FRAME_BYTES_MAX, what="message")
    assert isinstance(value, list)
    return value


def test_every_kind_of_message_is_tried_here():
    assert set(MESSAGES) == set(get_args(messages.Message))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_message_survives_the_wire(kind, data):
    message = data.draw(MESSAGES[kind])
    assert decode(encode(message)) == message


def test_kinds_have_the_numbers_of_the_table_in_the_docstring():
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", messages.__doc__ or "", re.MULTILINE)
    assert [(raw(message)[0], type(message).__name__) for message in SAMPLES] == [(int(n), name) for n, name in rows]


SAMPLES: list[messages.Message] = [
    messages.Hello(b"record", (D,), True),
    messages.Peers((b"record",), 3),
    messages.GetHead(D),
    messages.HeadIs(D, b"announce"),
    messages.GetRoot(D, 2),
    messages.RootIs(D, b"root"),
    messages.Offer(b"offer"),
    messages.Have(D, ((0, 2), (5, 1)), True),
    messages.Want(D, ((1, 1),)),
    messages.Skip(D, ((1, 2),)),
    messages.Attach(D, (0, 1)),
    messages.Redirect(D, 1, (peer_id_of_key(D),)),
    messages.Detach(D, 1),
    messages.Adopt(D, 1, 8),
    messages.Cancel(D),
    messages.Rate(5),
    messages.Done(D),
    messages.Goodbye("reason", (b"record",)),
    messages.Trees(D, (1, 0), 5),
    messages.Omit(D, ((1, 2),)),
]
each_sample = pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)


@each_sample
def test_fields_behind_the_known_ones_are_ignored(message):
    assert decode(pack([*raw(message), "later", [1, 2]])) == message


@each_sample
def test_a_message_with_a_field_too_few_is_refused(message):
    with pytest.raises(RemoteProtocolError):
        decode(pack(raw(message)[:-1]))


@each_sample
@pytest.mark.parametrize("junk", [None, True, -1, 2**63, "text", b"bytes", []], ids=repr)
def test_a_field_of_another_kind_is_refused(message, junk):
    fields = raw(message)
    for position in range(1, len(fields)):
        if type(junk) is not type(fields[position]) or type(junk) is int:
            with pytest.raises(RemoteProtocolError):
                decode(pack([*fields[:position], junk, *fields[position + 1 :]]))


@each_sample
@pytest.mark.parametrize("junk", [[[]], [None], [True], [-1], ["text"], [1, "2"], [b"", None]], ids=repr)
def test_a_list_that_holds_something_of_another_kind_is_refused(message, junk):
    fields = raw(message)
    for position in range(1, len(fields)):
        with pytest.raises(RemoteProtocolError):
            decode(pack([*fields[:position], junk, *fields[position + 1 :]]))


@pytest.mark.parametrize("kind", [0, 21, 1000, INT_MAX])
def test_a_message_of_an_unknown_kind_is_named_and_not_refused(kind):
    assert decode(pack([kind, "whatever", [1]])) == Unknown(kind)


@pytest.mark.parametrize("value", [None, 1, "text", b"", [], [None], ["1"], [True], [b"x"], [[1]]], ids=repr)
def test_what_does_not_begin_with_a_kind_is_refused(value):
    with pytest.raises(RemoteProtocolError):
        decode(pack(value))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_are_refused(data):
    try:
        decode(data)
    except RemoteProtocolError:
        return


@given(any_message, st.integers(0, 10**6), st.binary(min_size=1, max_size=2))
def test_a_damaged_message_is_another_message_or_is_refused(message, position, replacement):
    good = encode(message)
    position %= len(good)
    try:
        decode(good[:position] + replacement + good[position + 1 :])
    except RemoteProtocolError:
        return


TOO_MUCH = {
    "a record": messages.Hello(b"x" * (RECORD_BYTES_MAX + 1), ()),
    "channels": messages.Hello(b"", (D,) * (CHANNELS_PER_HELLO_MAX + 1)),
    "a binding among bindings": messages.Hello(b"", (), bindings=(b"x" * (BINDING_BYTES_MAX + 1),)),
    "bindings": messages.Hello(b"", (), bindings=(b"",) * (BINDINGS_PER_HELLO_MAX + 1)),
    "records": messages.Peers((b"",) * (PEERS_PER_MESSAGE_MAX + 1)),
    "a record among records": messages.Peers((b"x" * (RECORD_BYTES_MAX + 1),)),
    "a walk": messages.Peers((b"x",), WALK_MAX + 1),
    "an announce": messages.HeadIs(D, b"x" * (GOSSIP_BYTES_MAX + 1)),
    "a root": messages.RootIs(D, b"x" * (ROOT_BYTES_MAX + 1)),
    "an offer": messages.Offer(b"x" * (OFFER_BYTES_MAX + 1)),
    "a reason": messages.Goodbye("x" * (REASON_BYTES_MAX + 1)),
    "a reason of long characters": messages.Goodbye("é" * (REASON_BYTES_MAX // 2 + 1)),
    "a stripe": messages.Detach(D, STRIPES_MAX),
    "stripes": messages.Attach(D, (0,) * (STRIPES_MAX + 1)),
    "a depth": messages.Adopt(D, 0, DEPTH_MAX + 1),
    "depths": messages.Trees(D, (0,) * (STRIPES_MAX + 1), 0),
    "peers": messages.Redirect(D, 0, (peer_id_of_key(D),) * (PEERS_PER_MESSAGE_MAX + 1)),
}


@pytest.mark.parametrize("message", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_a_field_beyond_its_limit_is_refused_by_the_receiver(message):
    fields = [list(value) if isinstance(value, tuple) else value for value in vars(message).values()]
    fields = [int(value) if isinstance(value, bool) else value for value in fields]
    kind = next(raw(sample)[0] for sample in SAMPLES if type(sample) is type(message))
    with pytest.raises(RemoteProtocolError):
        decode(pack([kind, *fields]))


@pytest.mark.parametrize(
    "message",
    [message for name, message in TOO_MUCH.items() if "among" not in name],
    ids=[name for name in TOO_MUCH if "among" not in name],
)
def test_a_field_beyond_its_limit_is_our_bug_when_we_send_it(message):
    with pytest.raises(LocalProtocolError):
        encode(message)


def test_a_flag_is_zero_or_one():
    with pytest.raises(RemoteProtocolError):
        decode(pack([8, D, [], 2]))


def test_a_digest_of_another_length_is_refused():
    for size in (0, 31, 33):
        with pytest.raises(RemoteProtocolError):
            decode(pack([17, b"x" * size]))


def test_a_message_over_a_frame_is_refused_before_it_is_decoded():
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        decode(b"\x80" * (CONTROL_FRAME_BYTES_MAX + 1))


def test_the_worst_have_bitmap_fits_one_frame():
    mask = int.from_bytes(b"\xaa" * (CHUNKS_MAX // 8), "little")
    payload = encode(messages.Have(D, tuple(runs_of(mask)), is_snapshot=True))
    assert len(payload) <= CONTROL_FRAME_BYTES_MAX
    assert decode(payload) == messages.Have(D, tuple(runs_of(mask)), is_snapshot=True)

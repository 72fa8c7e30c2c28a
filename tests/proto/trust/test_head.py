"""Heads: what a head may say, and which head may follow which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shardcast_proto.codec import pack, unpack
from shardcast_proto.errors import RemoteProtocolError, TrustError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from shardcast_proto.trust import (
    FLAG_REWIND,
    KIND_CONTRIBUTION,
    Accepted,
    Equivocation,
    Head,
    Known,
    Ref,
    SignedHead,
    sign_head,
)
from shardcast_proto.trust.head_order import CONFLICTS_MAX, HELD_MAX, HeadOrder
from tests.proto.trust.actors import ORIGIN_KEY, key, make_head, pin

TRUSTED = pin()
HEAD = make_head(TRUSTED)


def signed(seq: int, content: str | None = None, epoch: int = 1, **changes: object) -> SignedHead:
    head = make_head(TRUSTED, seq, content, epoch=epoch, **changes)
    return SignedHead(head, sign_head(head, [ORIGIN_KEY]))


def seq_of(order: HeadOrder) -> int:
    assert order.current is not None
    return order.current.head.seq


def refused(order: HeadOrder, head: SignedHead) -> object:
    with pytest.raises(TrustError) as caught:
        order.place(head)
    return caught.value.facts["reason"]


def test_a_head_survives_its_encoding():
    head = replace(
        HEAD, previous=digest_of(b"before"), flags=FLAG_REWIND, refs=(Ref("base", digest_of(b"r")),) * 4, step=2**63 - 1
    )
    assert Head.decode(head.encoded) == head
    assert head.is_rewind


def test_a_contribution_names_its_contributor():
    head = replace(HEAD, kind=KIND_CONTRIBUTION, stream=key("guest").key_id)
    assert Head.decode(head.encoded) == head


def test_flags_that_nobody_knows_yet_are_kept():
    head = replace(HEAD, flags=FLAG_REWIND | 64)
    assert Head.decode(head.encoded).flags == 65


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"channel": b"short"}, id="a short channel id"),
        pytest.param({"manifest": b""}, id="no manifest"),
        pytest.param({"manifest_bytes": 0}, id="an empty manifest"),
        pytest.param({"manifest_bytes": 32 * 1024 * 1024 + 1}, id="a manifest over 32 MiB"),
        pytest.param({"previous": b"short"}, id="a short link"),
        pytest.param({"seq": 0}, id="seq 0"),
        pytest.param({"stream": digest_of(b"x")}, id="weights in a stream"),
        pytest.param({"kind": KIND_CONTRIBUTION}, id="a contribution without a stream"),
        pytest.param({"kind": KIND_CONTRIBUTION, "stream": b"short"}, id="a short stream id"),
        pytest.param({"refs": (Ref("base", digest_of(b"r")),) * 5}, id="five refs"),
        pytest.param({"refs": (Ref("", digest_of(b"r")),)}, id="a ref without a name"),
        pytest.param({"refs": (Ref("B a s e", digest_of(b"r")),)}, id="a ref with a bad name"),
        pytest.param({"refs": (Ref("base", Digest(digest_of(b"r")[:31])),)}, id="a ref to a short digest"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(changes):
    with pytest.raises(RemoteProtocolError):
        replace(HEAD, **changes)


def _changed(position: int, value: object) -> bytes:
    fields: Any = unpack(HEAD.encoded, size_max=2048, what="head")
    fields[position] = value
    return pack(fields)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(HEAD.encoded + b"\xc0", id="a trailing byte"),
        pytest.param(HEAD.encoded[:-1], id="cut short"),
        pytest.param(_changed(0, "shardcast/beacon"), id="another tag"),
        pytest.param(_changed(1, 2), id="version 2"),
        pytest.param(_changed(6, -1), id="a negative seq"),
        pytest.param(_changed(6, 2**63), id="a seq beyond the numbers"),
        pytest.param(_changed(6, True), id="a seq of true"),
        pytest.param(_changed(6, None), id="a seq of nothing"),
        pytest.param(_changed(13, [["base"]]), id="half a ref"),
        pytest.param(_changed(13, [["base", "text"]]), id="a ref to text"),
        pytest.param(_changed(13, [0]), id="a ref that is no list"),
        pytest.param(_changed(13, [["base", digest_of(b"r")]] * 5), id="five refs"),
        pytest.param(_changed(13, None), id="refs of nothing"),
        pytest.param(
            HEAD.encoded.replace(b"\x00\xc4\x00\x01\x01\x0a", b"\x00\xc4\x00\xcc\x01\x01\x0a"), id="a long number"
        ),
        pytest.param(bytes(4096), id="over the cap"),
    ],
)
def test_a_payload_that_is_no_head_is_refused(payload):
    assert payload != HEAD.encoded
    with pytest.raises(RemoteProtocolError):
        Head.decode(payload)


def test_the_first_head_may_have_any_seq():
    order = HeadOrder()
    assert isinstance(order.place(signed(41)), Accepted)
    assert seq_of(order) == 41


def test_heads_may_be_skipped():
    order = HeadOrder()
    order.place(signed(1))
    assert isinstance(order.place(signed(9)), Accepted)


def test_a_copy_of_a_held_head_is_known():
    order = HeadOrder()
    order.place(signed(1))
    order.place(signed(2))
    assert isinstance(order.place(signed(1)), Known)
    assert seq_of(order) == 2


def test_a_lower_seq_is_refused():
    order = HeadOrder()
    order.place(signed(5))
    assert refused(order, signed(4)) == "rollback"


def test_a_lower_epoch_is_refused_whatever_its_seq():
    order = HeadOrder()
    order.place(signed(1, epoch=2))
    assert refused(order, signed(1000, epoch=1)) == "rollback"


def test_a_higher_epoch_starts_its_seqs_again():
    order = HeadOrder()
    order.place(signed(1000, epoch=1))
    assert isinstance(order.place(signed(1, epoch=2)), Accepted)


def test_the_same_content_again_is_a_new_version():
    order = HeadOrder()
    order.place(signed(1, "same"))
    assert isinstance(order.place(signed(2, "same", flags=FLAG_REWIND)), Accepted)


def test_another_head_for_the_same_manifest_changes_nothing():
    order = HeadOrder()
    first = signed(1, step=7)
    order.place(first)
    verdict = order.place(signed(1, step=8))
    assert isinstance(verdict, Known)
    assert verdict.envelope == first.envelope
    assert order.current == first


def test_two_manifests_for_one_seq_are_both_refused():
    order = HeadOrder()
    order.place(signed(1))
    order.place(signed(2, "a"))
    assert refused(order, signed(2, "b")) == "equivocation"
    assert seq_of(order) == 1
    assert refused(order, signed(2, "a")) == "equivocation"
    assert refused(order, signed(2, "b")) == "equivocation"
    assert refused(order, signed(2, "c")) == "equivocation"


def test_the_proof_of_an_equivocation_is_given_once_and_kept():
    order = HeadOrder()
    order.place(signed(2, "a"))
    with pytest.raises(TrustError) as caught:
        order.place(signed(2, "b"))
    proof = caught.value.facts["proof"]
    assert isinstance(proof, Equivocation)
    assert (proof.first, proof.second) == (signed(2, "a").envelope, signed(2, "b").envelope)
    assert order.conflicts == {proof.position: proof}
    with pytest.raises(TrustError) as caught:
        order.place(signed(2, "a"))
    assert "proof" not in caught.value.facts


def test_the_seq_after_an_equivocation_continues():
    order = HeadOrder()
    order.place(signed(2, "a"))
    refused(order, signed(2, "b"))
    assert order.current is None
    assert refused(order, signed(1)) == "rollback"
    assert isinstance(order.place(signed(3)), Accepted)


def test_an_equivocation_below_the_current_head_is_noticed_and_leaves_it():
    order = HeadOrder()
    order.place(signed(2, "a"))
    order.place(signed(3))
    assert refused(order, signed(2, "b")) == "equivocation"
    assert seq_of(order) == 3


def test_nodes_that_see_an_equivocation_in_other_order_agree():
    heads = [signed(1), signed(2, "a"), signed(2, "b")]
    states = []
    for arrival in (heads, [heads[0], heads[2], heads[1]]):
        order = HeadOrder()
        for head in arrival[:2]:
            order.place(head)
        refused(order, arrival[2])
        states.append((order.current, order.high_mark, set(order.conflicts)))
    assert states[0] == states[1]


def test_a_revoked_head_does_not_come_back():
    order = HeadOrder()
    order.place(signed(1, epoch=1))
    order.revoke_below(2)
    assert order.current is None
    assert refused(order, signed(1, epoch=1)) == "rollback"


def test_memory_is_bounded():
    order = HeadOrder()
    for seq in range(1, HELD_MAX + 10):
        order.place(signed(seq))
    assert len(order.held) == HELD_MAX
    assert refused(order, signed(1)) == "rollback"
    for seq in range(1000, 1000 + CONFLICTS_MAX + 3):
        order.place(signed(seq, "a"))
        refused(order, signed(seq, "b"))
    assert len(order.conflicts) == CONFLICTS_MAX
    assert refused(order, signed(1000, "a")) == "rollback"

"""The golden vectors: today's code makes them byte for byte, and reads them back.

A failure here means that the protocol has changed. If that is meant, run `make_vectors.py` and raise the version of what changed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from shardcast_proto import bulk, carriage, messages
from shardcast_proto.blob import Blob
from shardcast_proto.codec import pack, unpack
from shardcast_proto.errors import TrustError
from shardcast_proto.framing import FrameReader
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import format_digest, parse_digest, peer_id_of_key
from shardcast_proto.manifest import Manifest
from shardcast_proto.patch import Patch
from shardcast_proto.trust import (
    Announce,
    Beacon,
    Binding,
    Envelope,
    Head,
    PatchOffer,
    PeerRecord,
    Root,
    SigningKey,
    Ticket,
    TrustedChannel,
    VerifyKey,
    open_next_root,
    open_record,
    open_root,
    open_ticket,
)
from shardcast_proto.trust.dsse import pae
from tests.proto.make_vectors import FOLDER, NOW_S, PEOPLE, make_vectors, text_of

MADE = make_vectors()
CONTENT: dict[str, Any] = {"blob.json": Blob, "manifest.json": Manifest, "patch.json": Patch, "announce.json": Announce}
SIGNED: dict[str, Any] = {
    "root.json": Root,
    "head.json": Head,
    "beacon.json": Beacon,
    "offer.json": PatchOffer,
    "record.json": PeerRecord,
    "ticket.json": Ticket,
    "binding.json": Binding,
}
MESSAGES = sorted(name for name in MADE if name.startswith("message_"))


def stored(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())["cases"]
    return cases


def envelope(name: str, index: int = 0) -> bytes:
    return bytes.fromhex(stored(name)[index]["envelope"])


def pinned() -> TrustedChannel:
    return TrustedChannel.from_root(envelope("root.json"))


def keys() -> dict[str, VerifyKey]:
    return {case["case"]: VerifyKey(bytes.fromhex(case["public_key"])) for case in stored("keys.json")}


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_stored_vector_is_what_the_code_makes(name):
    assert (FOLDER / name).read_text() == text_of(MADE[name])


def test_no_vector_is_left_over():
    assert {path.name for path in FOLDER.iterdir()} == set(MADE)


def test_every_message_kind_has_a_vector():
    assert len(MESSAGES) == len(messages.Message.__args__)
    assert all(stored(name) for name in MESSAGES)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in MADE["keys.json"]["cases"]])
def test_a_key_follows_from_its_seed(case):
    signer = SigningKey(bytes.fromhex(case["seed"]))
    assert signer.public_key.hex() == case["public_key"]
    assert signer.key_id == parse_digest(case["key_id"])
    assert peer_id_of_key(signer.public_key) == case["peer"]


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_content_object_is_read_back(name):
    for case in stored(name):
        data = bytes.fromhex(case["bytes"])
        assert CONTENT[name].decode(data).encoded == data
        assert case.get("digest", format_digest(digest_of(data))) == format_digest(digest_of(data))


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_a_signed_object_is_read_back(name):
    for case in stored(name):
        payload = bytes.fromhex(case["payload"])
        statement = Envelope.decode(bytes.fromhex(case["envelope"]), size_max=65_536, what=name)
        assert statement.payload == payload
        assert {key_id for key_id, _ in statement.signatures} == {keys()[signer].key_id for signer in case["signers"]}
        assert SIGNED[name].decode(payload).encoded == payload
        assert format_digest(digest_of(payload)) == case["digest"]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_read_back(name):
    for case in stored(name):
        payload = bytes.fromhex(case["payload"])
        message = messages.decode(payload)
        assert not isinstance(message, messages.Unknown)
        assert type(message).__name__.lower() == name[11:-5]
        assert messages.encode(message) == payload
        reader = FrameReader()
        reader.receive_data(bytes.fromhex(case["frame"]))
        assert reader.next_frame() == payload


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_with_one_field_more_is_the_same_message(name):
    payload = bytes.fromhex(stored(name)[0]["payload"])
    value: Any = unpack(payload, size_max=1 << 20, what=name)
    longer = pack([*value, "a later field"])
    assert messages.decode(longer) == messages.decode(payload)


def test_the_signed_bytes_are_the_pre_authentication_encoding():
    (case,) = stored("envelope.json")
    signed = pae(case["payload_type"], bytes.fromhex(case["payload"]))
    assert signed.hex() == case["signed_bytes"]
    assert keys()["owner"].verify(signed, bytes.fromhex(case["signature"]))


def test_the_statements_are_accepted_one_after_the_other():
    trusted: Any = pinned()
    assert trusted.judge_head(envelope("head.json", 0)).head.step == 1200
    assert trusted.judge_beacon(envelope("beacon.json"), now_s=NOW_S).freshness == "fresh"
    assert trusted.announce().encoded.hex() == stored("announce.json")[0]["bytes"]
    assert trusted.judge_offer(envelope("offer.json")).patch == parse_digest(stored("patch.json")[0]["digest"])
    manifest = bytes.fromhex(stored("manifest.json")[0]["bytes"])
    assert trusted.check_manifest(trusted.current.head, manifest).blob.id == parse_digest(
        stored("blob.json")[0]["digest"]
    )
    assert trusted.judge_head(envelope("head.json", 1)).head.is_rewind
    assert trusted.update_root(envelope("root.json", 1)).root.epoch == 2
    assert trusted.current is None


def test_the_second_root_follows_the_first():
    first = open_root(envelope("root.json", 0))
    second = open_next_root(envelope("root.json", 1), first)
    assert second.channel == first.channel == parse_digest(stored("root.json")[0]["digest"])


def test_the_carriage_frames_are_read_back():
    for case in stored("carriage.json"):
        data = bytes.fromhex(case["frame"])
        if case["case"] == "request":
            request = carriage.RequestReader().feed(data)
            assert isinstance(request, carriage.Request)
            assert carriage.encode_request(request) == data
        else:
            reader = carriage.AnswerReader()
            assert reader.feed(data) == b"" and reader.answer is not None
            assert carriage.encode_answer(reader.answer) == data


def test_the_heads_of_a_bulk_link_are_read_back():
    for case in stored("bulk.json")[1:]:
        data = bytes.fromhex(case["bytes"])
        read = bulk.read_head(data, has_chunks=case["case"] == "with")
        assert isinstance(read, tuple)
        assert (bulk.encode_head(read[0]), read[1]) == (data, len(data))


def test_the_preamble_of_a_bulk_link_is_accepted():
    case = stored("bulk.json")[0]
    hello, answer, proof = (bytes.fromhex(case[part]) for part in ("hello", "answer", "proof"))
    accepting = bulk.Accepting(PEOPLE["bob"], hello, answer[:32])
    accepting.check(proof)
    assert accepting.answer == answer and accepting.peer == case["opener"]


def test_the_binding_is_accepted():
    assert pinned().judge_binding(envelope("binding.json")).peer == keys()["alice"].peer


def test_the_peer_statements_are_accepted():
    assert open_record(envelope("record.json")).peer == keys()["alice"].peer
    assert open_ticket(envelope("ticket.json"), keys()["alice"], keys()["bob"].peer, now_s=NOW_S).nonce == bytes(
        range(16)
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in MADE["refused_head.json"]["cases"]])
def test_a_refused_head_is_refused_for_the_stated_reason(case):
    with pytest.raises(TrustError) as caught:
        pinned().judge_head(bytes.fromhex(case["envelope"]))
    assert caught.value.facts["reason"] == case["reason"]

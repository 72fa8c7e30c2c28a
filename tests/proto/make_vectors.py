"""The golden vectors: run this file to write `proto/vectors/` again.

Everything is made from fixed seeds, so a run that changes a file has changed the protocol. A vector is JSON: the fields of one object
or message beside its bytes in hexadecimal. `SPEC.md` says how to read them; `test_vectors.py` holds the code to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from shardcast_proto import bulk, carriage, messages
from shardcast_proto.blob import Blob
from shardcast_proto.codec import unpack
from shardcast_proto.framing import frame
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, format_digest
from shardcast_proto.limits import CONTROL_FRAME_BYTES_MAX
from shardcast_proto.manifest import Manifest
from shardcast_proto.patch import Patch
from shardcast_proto.trust import (
    FLAG_REWIND,
    KIND_CONTRIBUTION,
    KIND_WEIGHTS,
    ROLE_CONTRIBUTOR,
    ROLE_ORIGIN,
    ROLE_ROOT,
    Announce,
    Beacon,
    Binding,
    Head,
    Limits,
    PatchOffer,
    PeerRecord,
    Ref,
    Role,
    Root,
    SigningKey,
    Ticket,
    sign_beacon,
    sign_binding,
    sign_head,
    sign_offer,
    sign_record,
    sign_root,
    sign_ticket,
)
from shardcast_proto.trust.dsse import pae

FOLDER = Path(__file__).resolve().parents[2] / "proto" / "vectors"
CHUNK = 256 * 1024
NOW_S = 1_800_000_000

#: The people of the vectors. A seed is one byte, 32 times.
PEOPLE = {
    name: SigningKey(bytes([index]) * 32) for index, name in enumerate(("owner", "heir", "trainer", "alice", "bob"), 1)
}
OWNER, HEIR, TRAINER, ALICE, BOB = PEOPLE.values()

#: The files of the version: path, the byte they are filled with, size.
FILES = (("config.json", 0x7B, 15), ("empty.txt", 0, 0), ("model/weights.safetensors", 0x5A, CHUNK + 5))


def _chunks(fill: int, size: int) -> list[bytes]:
    return [bytes([fill]) * min(CHUNK, size - start) for start in range(0, size, CHUNK)]


MANIFEST = Manifest.build(
    [(path, size) for path, _, size in FILES],
    CHUNK,
    b"".join(digest_of(chunk) for _, fill, size in FILES for chunk in _chunks(fill, size)),
)
PATCH = Patch(
    base=digest_of(b"the manifest of the step before"),
    target=MANIFEST.digest,
    codec="example",
    segments=bytes(range(16)),
    blob=Blob(CHUNK + 1, CHUNK, b"".join(digest_of(chunk) for chunk in _chunks(0x11, CHUNK + 1))),
)
ROOT_1 = Root(
    version=1,
    epoch=1,
    name="demo",
    channel=b"",
    expires_s=NOW_S + 31_536_000,
    limits=Limits(1 << 41, 4096, 600),
    roles=(Role.of(ROLE_ROOT, [OWNER.verify_key]), Role.of(ROLE_ORIGIN, [TRAINER.verify_key])),
)
CHANNEL: Digest = digest_of(ROOT_1.encoded)
ROOT_2 = replace(
    ROOT_1,
    version=2,
    epoch=2,
    channel=CHANNEL,
    roles=(
        Role.of(ROLE_ROOT, [OWNER.verify_key, HEIR.verify_key], 2),
        Role.of(ROLE_ORIGIN, [TRAINER.verify_key]),
        Role.of(ROLE_CONTRIBUTOR, [ALICE.verify_key]),
    ),
)
HEAD_1 = Head(
    channel=CHANNEL,
    kind=KIND_WEIGHTS,
    stream=b"",
    epoch=1,
    seq=1,
    step=1200,
    manifest=MANIFEST.digest,
    manifest_bytes=len(MANIFEST.encoded),
    total_bytes=MANIFEST.total_bytes,
)
HEAD_2 = replace(HEAD_1, seq=2, step=1000, previous=HEAD_1.digest, flags=FLAG_REWIND, refs=(Ref("base", PATCH.base),))
BEACON = Beacon(CHANNEL, HEAD_1.digest, NOW_S, 600)
OFFER = PatchOffer(CHANNEL, PATCH.base, PATCH.target, PATCH.digest, len(PATCH.encoded), PATCH.blob.length)
RECORD = PeerRecord(
    peer=ALICE.peer,
    p2p_addresses=("192.0.2.7:7481", "[2001:db8::7]:7481"),
    serve_addresses=("192.0.2.7:7482",),
    roles=("relay", "client"),
    up_bytes_per_s=125_000_000,
    issued_s=NOW_S,
    expires_s=NOW_S + 3600,
)
TICKET = Ticket(CHANNEL, ALICE.peer, BOB.peer, NOW_S + 60, bytes(range(16)))
BINDING = Binding(CHANNEL, ALICE.peer)
_BINDING = sign_binding(BINDING, [TRAINER])
ANNOUNCE = Announce(sign_head(HEAD_1, [TRAINER]), sign_beacon(BEACON, [TRAINER]))
_RECORD = sign_record(RECORD, ALICE)

#: One or two of each message kind.
MESSAGES: tuple[messages.Message, ...] = (
    messages.Hello(_RECORD, (CHANNEL,), True),
    messages.Hello(_RECORD, ()),
    messages.Hello(_RECORD, (CHANNEL,), False, (_BINDING,)),
    messages.Peers((_RECORD,), 5),
    messages.Peers(()),
    messages.GetHead(CHANNEL),
    messages.HeadIs(CHANNEL, ANNOUNCE.encoded),
    messages.HeadIs(CHANNEL, b""),
    messages.GetRoot(CHANNEL, 2),
    messages.RootIs(CHANNEL, sign_root(ROOT_1, [OWNER])),
    messages.RootIs(CHANNEL, b""),
    messages.Offer(sign_offer(OFFER, [TRAINER])),
    messages.Have(MANIFEST.blob.id, ((0, 1), (2, 1)), True),
    messages.Have(MANIFEST.blob.id, ((1, 1),)),
    messages.Want(MANIFEST.blob.id, ((0, 3),)),
    messages.Want(MANIFEST.blob.id),
    messages.Skip(MANIFEST.blob.id, ((1, 2),)),
    messages.Omit(MANIFEST.blob.id, ((0, 1),)),
    messages.Attach(MANIFEST.blob.id, (0, 7)),
    messages.Attach(MANIFEST.blob.id, ()),
    messages.Redirect(MANIFEST.blob.id, 3, (BOB.peer,)),
    messages.Redirect(MANIFEST.blob.id, 3),
    messages.Detach(MANIFEST.blob.id, 3),
    messages.Adopt(MANIFEST.blob.id, 3, 2),
    messages.Cancel(MANIFEST.blob.id),
    messages.Rate(125_000_000),
    messages.Done(MANIFEST.blob.id),
    messages.Goodbye("the view is full", (_RECORD,)),
    messages.Goodbye("shutting down"),
    messages.Trees(MANIFEST.blob.id, (1, 0, 2), 7),
    messages.Trees(MANIFEST.blob.id, (0,), 8),
)


def make_vectors() -> dict[str, dict[str, Any]]:
    """Return the document of each file, by file name."""
    documents = {
        "keys.json": _document("ed25519 keys", [_key_case(name, person) for name, person in PEOPLE.items()]),
        "blob.json": _document("blob", [_content_case("the blob of the manifest", MANIFEST.blob, MANIFEST.blob.id)]),
        "manifest.json": _document("manifest", [_manifest_case()]),
        "patch.json": _document("patch", [_content_case("a patch of two chunks", PATCH, PATCH.digest)]),
        "root.json": _document(
            "root",
            [
                _signed_case("the first root", ROOT_1, [OWNER], sign_root(ROOT_1, [OWNER])),
                _signed_case(
                    "its successor: two owners, a new epoch", ROOT_2, [OWNER, HEIR], sign_root(ROOT_2, [OWNER, HEIR])
                ),
            ],
        ),
        "head.json": _document(
            "head",
            [
                _signed_case("the first head", HEAD_1, [TRAINER], sign_head(HEAD_1, [TRAINER])),
                _signed_case("a rewind that names its base", HEAD_2, [TRAINER], sign_head(HEAD_2, [TRAINER])),
                _contribution_case(),
            ],
        ),
        "beacon.json": _document(
            "beacon", [_signed_case("for the first head", BEACON, [TRAINER], sign_beacon(BEACON, [TRAINER]))]
        ),
        "offer.json": _document(
            "offer", [_signed_case("of the patch", OFFER, [TRAINER], sign_offer(OFFER, [TRAINER]))]
        ),
        "record.json": _document("record", [_signed_case("of a relay", RECORD, [ALICE], _RECORD)]),
        "binding.json": _document("binding", [_signed_case("of alice's peer", BINDING, [TRAINER], _BINDING)]),
        "carriage.json": _document("carriage requests and answers", _carriage_cases()),
        "bulk.json": _document("bulk link preamble and heads", _bulk_cases()),
        "ticket.json": _document("ticket", [_signed_case("for bob", TICKET, [ALICE], sign_ticket(TICKET, ALICE))]),
        "announce.json": _document(
            "announce",
            [
                {"case": "a head with its beacon", "fields": _plain(ANNOUNCE), "bytes": ANNOUNCE.encoded.hex()},
                _bare_announce_case(),
            ],
        ),
        "envelope.json": _document("envelope", [_pae_case()]),
        "refused_head.json": _document("head, refused", _refused_heads()),
    }
    for message in dict.fromkeys(type(one) for one in MESSAGES):
        some = [one for one in MESSAGES if type(one) is message]
        kind = _kind(some[0])
        name = f"message_{kind:02}_{message.__name__.lower()}.json"
        documents[name] = _document(f"message {kind}, {message.__name__}", [_message_case(one) for one in some])
    return documents


def text_of(document: Mapping[str, object]) -> str:
    """Return the text of one file."""
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    """Write the files, and remove those that are no vector any more."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    documents = make_vectors()
    for path in FOLDER.glob("*.json"):
        if path.name not in documents:
            path.unlink()
    for name, document in documents.items():
        (FOLDER / name).write_text(text_of(document))


def _kind(message: messages.Message) -> int:
    value = unpack(messages.encode(message), size_max=CONTROL_FRAME_BYTES_MAX, what="message")
    return cast(list[int], value)[0]


def _document(what: str, cases: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    return {"what": what, "cases": list(cases)}


def _key_case(name: str, person: SigningKey) -> dict[str, object]:
    return {
        "case": name,
        "seed": (bytes([list(PEOPLE).index(name) + 1]) * 32).hex(),
        "public_key": person.public_key.hex(),
        "key_id": format_digest(person.key_id),
        "peer": person.peer,
    }


def _content_case(case: str, content: Blob | Manifest | Patch, digest: Digest) -> dict[str, object]:
    return {"case": case, "fields": _plain(content), "bytes": content.encoded.hex(), "digest": format_digest(digest)}


def _manifest_case() -> dict[str, object]:
    contents = [{"path": path, "byte": f"{fill:02x}", "size": size} for path, fill, size in FILES]
    return {"contents": contents, **_content_case("two files and an empty one", MANIFEST, MANIFEST.digest)}


def _signed_case(case: str, statement: Any, signers: Sequence[SigningKey], envelope: bytes) -> dict[str, object]:
    names = [name for name, person in PEOPLE.items() if person in signers]
    payload: bytes = statement.encoded
    return {
        "case": case,
        "fields": _plain(statement),
        "payload": payload.hex(),
        "digest": format_digest(digest_of(payload)),
        "signers": names,
        "envelope": envelope.hex(),
    }


def _contribution_case() -> dict[str, object]:
    head = replace(HEAD_1, kind=KIND_CONTRIBUTION, stream=ALICE.key_id)
    return _signed_case("a contribution, which is read and not followed", head, [ALICE], sign_head(head, [ALICE]))


def _bare_announce_case() -> dict[str, object]:
    announce = Announce(ANNOUNCE.head)
    return {"case": "a head alone", "fields": _plain(announce), "bytes": announce.encoded.hex()}


def _pae_case() -> dict[str, object]:
    signed = pae("http://example.com/HelloWorld", b"hello world")
    return {
        "case": "the pre-authentication encoding of the DSSE specification's example, signed by the owner",
        "payload_type": "http://example.com/HelloWorld",
        "payload": b"hello world".hex(),
        "signed_bytes": signed.hex(),
        "signature": OWNER.sign(signed).hex(),
    }


def _refused_heads() -> list[dict[str, object]]:
    """Heads for a node that has pinned the first root and holds no head."""
    good = sign_head(HEAD_1, [TRAINER])
    other = replace(HEAD_1, channel=digest_of(b"another channel"))
    ahead = replace(HEAD_1, epoch=2)
    large = replace(HEAD_1, total_bytes=(1 << 41) + 1)
    cases = {
        ("by an unlisted key", "unlisted_key"): sign_head(HEAD_1, [OWNER]),
        ("for another channel", "wrong_channel"): sign_head(other, [TRAINER]),
        ("of an epoch ahead", "epoch_ahead"): sign_head(ahead, [TRAINER]),
        ("over the root's limit", "over_limit"): sign_head(large, [TRAINER]),
        ("with one bit of the signature flipped", "bad_signature"): good[:-1] + bytes([good[-1] ^ 1]),
        ("that is a beacon", "wrong_type"): sign_beacon(BEACON, [TRAINER]),
        ("with a trailing byte", "malformed"): good + b"\x00",
        ("in a longer encoding of the envelope", "malformed"): good.replace(b"\xb2shard", b"\xd9\x12shard", 1),
        ("in a longer encoding of the payload", "bad_signature"): _longer_payload(good),
    }
    return [{"case": case, "reason": reason, "envelope": data.hex()} for (case, reason), data in cases.items()]


def _longer_payload(envelope: bytes) -> bytes:
    payload = HEAD_1.encoded
    longer = payload.replace(b"\xaeshard", b"\xd9\x0eshard", 1)
    return envelope.replace(bytes([0xC4, len(payload)]) + payload, bytes([0xC4, len(longer)]) + longer)


def _message_case(message: messages.Message) -> dict[str, object]:
    payload = messages.encode(message)
    return {"fields": _plain(message), "payload": payload.hex(), "frame": frame(payload).hex()}


def _carriage_cases() -> list[dict[str, object]]:
    requests = (carriage.ObjectRequest(MANIFEST.digest), carriage.ChunkRequest(MANIFEST.blob.id, 0, 2))
    answers = (carriage.Answer(carriage.Status.OK, 2, CHUNK + 5), *map(carriage.Answer, list(carriage.Status)[1:]))
    return [
        *({"case": "request", "fields": _plain(one), "frame": carriage.encode_request(one).hex()} for one in requests),
        *({"case": "answer", "fields": _plain(one), "frame": carriage.encode_answer(one).hex()} for one in answers),
    ]


def _bulk_cases() -> list[dict[str, object]]:
    opener = bulk.Opening(ALICE, BOB.peer, bytes(range(32)), is_sending=True)
    acceptor = bulk.Accepting(BOB, opener.hello, bytes(range(32, 64)))
    blob = MANIFEST.blob.id
    heads: tuple[tuple[str, bulk.Head], ...] = (
        ("with", bulk.ChunkHead(blob, 1, 5, stripe=3)),
        ("with", bulk.ChunkHead(blob, 0, CHUNK, request=7)),
        *(("with", bulk.End(7, outcome)) for outcome in bulk.EndOutcome),
        ("with", bulk.MessageHead(16)),
        ("against", bulk.Get(7, blob, 0, 2)),
        ("against", bulk.CancelGet(7)),
    )
    return [
        {
            "case": "preamble",
            "opener": ALICE.peer,
            "acceptor": BOB.peer,
            "hello": opener.hello.hex(),
            "answer": acceptor.answer.hex(),
            "proof": opener.prove(acceptor.answer).hex(),
        },
        *({"case": case, "fields": _plain(head), "bytes": bulk.encode_head(head).hex()} for case, head in heads),
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


if __name__ == "__main__":
    main()

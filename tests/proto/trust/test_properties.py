"""What holds for every statement: it survives its encoding, one changed bit spoils it, junk only ever raises our errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardcast_proto.codec import INT_MAX, pack
from shardcast_proto.errors import ShardcastError, TrustError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from shardcast_proto.limits import HEAD_REFS_MAX, MANIFEST_BYTES_MAX, PATCH_BYTES_MAX
from shardcast_proto.trust import (
    KIND_CONTRIBUTION,
    KIND_WEIGHTS,
    PEER_ROLES,
    ROLE_CONTRIBUTOR,
    ROLE_ORIGIN,
    ROLE_ROOT,
    Announce,
    Beacon,
    Envelope,
    Head,
    Limits,
    PatchOffer,
    PeerRecord,
    Ref,
    Role,
    Root,
    SignedHead,
    Ticket,
    TrustedChannel,
    check_address,
    open_next_root,
    open_record,
    open_root,
    open_ticket,
    sign_beacon,
    sign_head,
    sign_offer,
    sign_record,
    sign_root,
    sign_ticket,
)
from shardcast_proto.trust.head_order import HeadOrder
from tests.proto.trust.actors import (
    NOW_S,
    ORIGIN_KEY,
    ROOT_KEY,
    beacon_bytes,
    head_bytes,
    key,
    make_head,
    make_root,
    newest,
    pin,
    successor,
)

PEOPLE = [key(f"person {index}") for index in range(5)]

numbers = st.integers(0, INT_MAX)
digests = st.binary(min_size=32, max_size=32)
peers = st.sampled_from([person.peer for person in PEOPLE])
addresses = st.builds(
    lambda ip, port: f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}",
    st.ip_addresses().filter(lambda ip: ip.version == 4 or ip.ipv4_mapped is None),
    st.integers(1, 65_535),
)
address_lists = st.lists(addresses, max_size=8, unique=True).map(tuple)
refs = st.builds(Ref, st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True), digests)
heads = st.builds(
    Head,
    channel=digests,
    kind=st.just(KIND_WEIGHTS),
    stream=st.just(b""),
    epoch=numbers,
    seq=st.integers(1, INT_MAX),
    step=numbers,
    manifest=digests,
    manifest_bytes=st.integers(1, MANIFEST_BYTES_MAX),
    total_bytes=numbers,
    previous=st.one_of(st.just(b""), digests),
    flags=numbers,
    refs=st.lists(refs, max_size=HEAD_REFS_MAX).map(tuple),
)
contributions = st.builds(
    Head,
    channel=digests,
    kind=st.just(KIND_CONTRIBUTION),
    stream=digests,
    epoch=numbers,
    seq=st.integers(1, INT_MAX),
    step=numbers,
    manifest=digests,
    manifest_bytes=st.integers(1, MANIFEST_BYTES_MAX),
    total_bytes=numbers,
)
beacons = st.builds(Beacon, digests, digests, numbers, st.integers(1, INT_MAX))
offers = st.builds(
    lambda names, *sizes: PatchOffer(*names, *sizes),
    st.lists(digests, min_size=4, max_size=4, unique=True),
    st.integers(1, PATCH_BYTES_MAX),
    numbers,
)
records = st.builds(
    lambda issued_s, life_s, **rest: PeerRecord(issued_s=issued_s, expires_s=issued_s + life_s, **rest),
    peer=peers,
    p2p_addresses=address_lists,
    serve_addresses=address_lists,
    roles=st.sets(st.sampled_from(PEER_ROLES)).map(lambda some: tuple(role for role in PEER_ROLES if role in some)),
    up_bytes_per_s=numbers,
    issued_s=st.integers(0, 2**40),
    life_s=st.integers(1, 86_400),
)
tickets = st.builds(
    Ticket,
    digests,
    st.just(PEOPLE[0].peer),
    st.sampled_from([person.peer for person in PEOPLE[1:]]),
    numbers,
    st.binary(min_size=16, max_size=16),
)
some_keys = st.lists(st.sampled_from([person.verify_key for person in PEOPLE]), min_size=1, unique=True)
roots = st.builds(
    lambda first, root_keys, origin_keys, guests, **rest: Root(
        version=1 if first else 2,
        channel=b"" if first else digest_of(b"channel"),
        roles=(
            Role.of(ROLE_ROOT, root_keys, len(root_keys)),
            Role.of(ROLE_ORIGIN, origin_keys),
            *([Role.of(ROLE_CONTRIBUTOR, guests)] if guests else []),
        ),
        **rest,
    ),
    first=st.booleans(),
    root_keys=some_keys,
    origin_keys=some_keys,
    guests=st.one_of(st.none(), some_keys),
    epoch=numbers,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    expires_s=numbers,
    limits=st.builds(Limits, st.integers(1, INT_MAX), st.integers(1, 65_536), st.integers(60, 86_400)),
)
announces = st.builds(Announce, st.binary(min_size=1, max_size=2048), st.binary(max_size=1024))
_TAG_OF = {
    Head: "head",
    Beacon: "beacon",
    PatchOffer: "offer",
    PeerRecord: "record",
    Ticket: "ticket",
    Root: "root",
    Announce: "announce",
}
statements = st.one_of(heads, contributions, beacons, offers, records, tickets, roots, announces)


@given(statements)
def test_every_statement_survives_its_encoding(statement):
    assert type(statement).decode(statement.encoded) == statement


@given(statements)
def test_a_statement_has_one_encoding(statement):
    tag = f"shardcast/{_TAG_OF[type(statement)]}".encode()
    longer = statement.encoded.replace(tag, b"", 1)
    assert longer[1] == 0xA0 | len(tag)
    with pytest.raises(ShardcastError, match="canonical"):
        type(statement).decode(longer[:1] + b"\xd9" + bytes([len(tag)]) + tag + longer[2:])


@given(heads, st.lists(st.sampled_from(PEOPLE), min_size=1, unique=True))
def test_every_envelope_survives_its_encoding(head, signers):
    data = sign_head(head, signers)
    assert Envelope.decode(data, size_max=2048, what="head").encoded == data


def _samples() -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """Each kind of signed bytes, with the door that it has to pass."""
    trusted = pin()
    trusted.judge_head(head_bytes(trusted))
    first = open_root(sign_root(make_root(), [ROOT_KEY]))
    alice, bob = PEOPLE[0], PEOPLE[1]
    base, target, patch = (digest_of(text) for text in (b"base", b"target", b"patch"))
    offer = PatchOffer(trusted.channel, base, target, patch, 9, 9)
    record = PeerRecord(alice.peer, ("192.0.2.7:7481",), ("192.0.2.7:7482",), ("relay",), 1, NOW_S, NOW_S + 60)
    ticket = Ticket(trusted.channel, alice.peer, bob.peer, NOW_S + 60, bytes(16))
    return {
        "a first root that is not pinned": (first.envelope, lambda data: _reject_other_channel(data, first.channel)),
        "a next root": (
            sign_root(successor(first.root, first.channel), [ROOT_KEY]),
            lambda data: open_next_root(data, first),
        ),
        "a head": (head_bytes(trusted, 2), lambda data: trusted.read_head(data)),
        "a beacon": (beacon_bytes(trusted), lambda data: trusted.judge_beacon(data, now_s=NOW_S)),
        "an offer": (sign_offer(offer, [ORIGIN_KEY]), lambda data: trusted.judge_offer(data)),
        "a record": (sign_record(record, alice), open_record),
        "a ticket": (
            sign_ticket(ticket, alice),
            lambda data: open_ticket(data, alice.verify_key, bob.peer, now_s=NOW_S),
        ),
    }


def _reject_other_channel(data: bytes, channel: Digest) -> None:
    if open_root(data).channel != channel:
        raise TrustError("another channel", reason="wrong_channel")


@pytest.mark.parametrize("name", list(_samples()))
def test_any_one_flipped_bit_of_a_signed_envelope_is_refused(name):
    data, door = _samples()[name]
    door(data)
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ShardcastError):
            door(bytes(flipped))


@pytest.mark.parametrize("name", list(_samples()))
def test_any_cut_or_lengthened_envelope_is_refused(name):
    data, door = _samples()[name]
    for end in range(len(data)):
        with pytest.raises(ShardcastError):
            door(data[:end])
    for more in (b"\x00", b"\xc0", data):
        with pytest.raises(ShardcastError):
            door(data + more)


@given(heads, st.data())
def test_any_flipped_bit_of_any_head_is_refused(head, data):
    head = head.__class__(**{**_plain(head), "channel": pin().channel, "epoch": 1, "total_bytes": 1})
    signed = sign_head(head, [ORIGIN_KEY])
    position = data.draw(st.integers(0, len(signed) * 8 - 1))
    flipped = bytearray(signed)
    flipped[position // 8] ^= 1 << position % 8
    trusted = pin()
    assert trusted.read_head(signed).head == head
    with pytest.raises(TrustError):
        trusted.judge_head(bytes(flipped))
    assert trusted.current is None


def _plain(head: Head) -> dict[str, Any]:
    return {name: getattr(head, name) for name in head.__dataclass_fields__}


TAGS = ["shardcast/" + name for name in ("envelope", "root", "head", "beacon", "offer", "record", "ticket", "announce")]
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.binary(max_size=64), st.text(max_size=64)),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=40,
)
tagged = st.builds(
    lambda tag, version, rest: [tag, version, *rest], st.sampled_from(TAGS), st.just(1), st.lists(values)
)
junk = st.one_of(st.binary(max_size=4096), values.map(pack), tagged.map(pack))


def _doors() -> list[Callable[[bytes], object]]:
    trusted = pin()
    first = open_root(sign_root(make_root(), [ROOT_KEY]))
    return [
        *(kind.decode for kind in (Head, Beacon, PatchOffer, PeerRecord, Ticket, Root, Announce)),
        lambda data: Envelope.decode(data, size_max=4096, what="junk"),
        open_root,
        open_record,
        lambda data: open_next_root(data, first),
        lambda data: open_ticket(data, PEOPLE[0].verify_key, PEOPLE[1].peer, now_s=NOW_S),
        trusted.judge_head,
        trusted.update_root,
        trusted.judge_offer,
        lambda data: trusted.judge_beacon(data, now_s=NOW_S),
        lambda data: trusted.check_manifest(make_head(trusted), data),
        lambda data: TrustedChannel.restore([data]),
    ]


@settings(max_examples=300)
@given(junk)
@example(b"")
@example(b"\x91" * 4096)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x92\xd9\x02\xed\xa0\x00")
def test_arbitrary_bytes_only_ever_raise_our_errors(data):
    for door in _doors():
        with contextlib.suppress(ShardcastError):
            door(data)


@settings(max_examples=300)
@given(junk, st.sampled_from(PEOPLE))
def test_arbitrary_signed_bytes_only_ever_raise_our_errors(payload, signer):
    types = [f"application/vnd.{tag.replace('/', '.')}.v1+msgpack" for tag in TAGS]
    rows = [[ORIGIN_KEY.key_id, bytes(64)]]
    for name in types:
        with contextlib.suppress(ShardcastError):
            open_root(pack(["shardcast/envelope", 1, name, payload, rows]))
        with contextlib.suppress(ShardcastError):
            open_record(pack(["shardcast/envelope", 1, name, payload, [[signer.key_id, bytes(64)]]]))


@given(st.text(max_size=64))
@example("[::1%25]:80")
@example("[]:80")
@example(":")
@example("[fe80::1%a]:80")
def test_any_text_is_an_address_or_raises_our_error(text):
    with contextlib.suppress(ShardcastError):
        host, port = check_address(text)
        assert text == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 6), st.sampled_from("ab")), max_size=40))
def test_any_arrival_order_keeps_the_order_of_heads(arrivals):
    trusted, order = pin(), HeadOrder()
    accepted: dict[tuple[int, int], set[str]] = {}
    for epoch, seq, content in arrivals:
        head = make_head(trusted, seq, content, epoch=epoch)
        mark = order.high_mark
        with contextlib.suppress(TrustError):
            order.place(SignedHead(head, head.encoded))
            accepted.setdefault((epoch, seq), set()).add(content)
        assert order.high_mark >= mark
        assert order.high_mark == max(mark, max(accepted, default=(0, 0)))
        assert not order.held.keys() & order.conflicts.keys()
        assert all(position <= order.high_mark for position in order.held)
        assert order.current is None or order.current.head.position == max(order.held)
    assert all(len(contents) == 1 for contents in accepted.values())


@given(st.permutations([1, 2, 3, 4]))
def test_a_restart_does_not_depend_on_the_order_of_rows(seqs):
    trusted = pin()
    rows = [head_bytes(trusted, seq) for seq in seqs]
    again = TrustedChannel.restore(trusted.roots, rows)
    assert newest(again).head.seq == 4


def test_a_signed_beacon_for_no_head_at_all_is_refused():
    trusted = pin()
    data = sign_beacon(Beacon(trusted.channel, digest_of(b"x"), NOW_S), [ORIGIN_KEY])
    with pytest.raises(TrustError):
        trusted.judge_beacon(data, now_s=NOW_S)

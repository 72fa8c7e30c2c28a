"""Peer records, tickets and announcements: who can make them, and what they may say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardcast_proto.codec import pack
from shardcast_proto.errors import RemoteProtocolError
from shardcast_proto.hashing import digest_of
from shardcast_proto.trust import (
    Announce,
    PeerRecord,
    Ticket,
    check_address,
    gossip_topic,
    open_record,
    open_ticket,
    sign_record,
    sign_ticket,
)
from tests.proto.trust.actors import NOW_S, key, reason_of

ALICE, BOB, EVE = key("alice"), key("bob"), key("eve")
RECORD = PeerRecord(
    peer=ALICE.peer,
    p2p_addresses=("192.0.2.7:7481", "[2001:db8::7]:7481"),
    serve_addresses=("192.0.2.7:7482",),
    roles=("origin", "relay"),
    up_bytes_per_s=125_000_000,
    issued_s=NOW_S,
    expires_s=NOW_S + 3600,
)
TICKET = Ticket(digest_of(b"channel"), ALICE.peer, BOB.peer, NOW_S + 60, bytes(16))


def test_a_record_signed_by_its_peer_is_read():
    assert open_record(sign_record(RECORD, ALICE)) == RECORD


def test_a_record_of_a_peer_that_takes_no_connections_is_read():
    quiet = replace(RECORD, p2p_addresses=(), serve_addresses=(), roles=(), up_bytes_per_s=0)
    assert open_record(sign_record(quiet, ALICE)) == quiet


def test_a_record_signed_by_another_peer_is_refused():
    assert reason_of(lambda: open_record(sign_record(RECORD, EVE))) == "unlisted_key"


def test_a_ticket_is_no_record():
    assert reason_of(lambda: open_record(sign_ticket(TICKET, ALICE))) == "wrong_type"


def test_the_largest_record_fits_the_cap():
    full = replace(
        RECORD,
        p2p_addresses=tuple(f"[2001:db8:1111:2222:3333:4444:5555:{n:x}]:65535" for n in range(0x6660, 0x6668)),
        serve_addresses=tuple(f"[2001:db8:1111:2222:3333:4444:5555:{n:x}]:65535" for n in range(0x6660, 0x6668)),
        roles=("origin", "relay", "client"),
    )
    assert open_record(sign_record(full, ALICE)) == full


def test_a_record_counts_in_its_time():
    assert not RECORD.is_current(NOW_S - 121)
    assert RECORD.is_current(NOW_S - 120)
    assert RECORD.is_current(NOW_S + 3600)
    assert not RECORD.is_current(NOW_S + 3720)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"peer": "12D3KooWjunk"}, id="a junk peer id"),
        pytest.param({"peer": ALICE.peer + " "}, id="a peer id with a space"),
        pytest.param({"p2p_addresses": tuple(f"192.0.2.{n}:1" for n in range(9))}, id="nine addresses"),
        pytest.param({"serve_addresses": ("192.0.2.7:1", "192.0.2.7:1")}, id="an address twice"),
        pytest.param({"serve_addresses": ("example.org:80",)}, id="a name to resolve"),
        pytest.param({"roles": ("relay", "origin")}, id="roles out of order"),
        pytest.param({"roles": ("relay", "relay")}, id="a role twice"),
        pytest.param({"roles": ("emperor",)}, id="an unknown role"),
        pytest.param({"expires_s": NOW_S}, id="no time at all"),
        pytest.param({"expires_s": NOW_S - 1}, id="an end before the beginning"),
        pytest.param({"expires_s": NOW_S + 86_401}, id="more than a day"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(changes):
    with pytest.raises(RemoteProtocolError):
        replace(RECORD, **changes)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(RECORD.encoded + b"\x00", id="a trailing byte"),
        pytest.param(RECORD.encoded.replace(b"\xb0shardcast", b"\xd9\x10shardcast"), id="a longer encoding"),
        pytest.param(pack(["shardcast/record", 1, ALICE.peer, ["x"] * 9, [], [], 0, 1, 2]), id="nine addresses"),
        pytest.param(pack(["shardcast/record", 1, ALICE.peer, [7], [], [], 0, 1, 2]), id="an address of a number"),
        pytest.param(pack(["shardcast/record", 1, ALICE.peer, [], [], [], -1, 1, 2]), id="a negative rate"),
        pytest.param(bytes(2049), id="over the cap"),
    ],
)
def test_a_payload_that_is_no_record_is_refused(payload):
    assert payload != RECORD.encoded
    with pytest.raises(RemoteProtocolError):
        PeerRecord.decode(payload)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("127.0.0.1:1", "127.0.0.1", 1), ("192.0.2.7:65535", "192.0.2.7", 65_535), ("[::1]:7482", "::1", 7482)],
)
def test_a_literal_address_is_taken_apart(address, host, port):
    assert check_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:080",
        "127.0.0.1:+1",
        "127.0.0.1:٣",
        "127.0.0.1:999999",
        "127.1:80",
        "2130706433:80",
        "0x7f.0.0.1:80",
        "127.0.0.01:80",
        "[127.0.0.1]:80",
        "::1:80",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:80",
        "[2001:DB8::1]:80",
        "[fe80::1%eth0]:80",
        "[::ffff:169.254.169.254]:80",
        "[::ffff:a9fe:a9fe]:80",
        "localhost:80",
        "127.0.0.1:80 ",
        "http://127.0.0.1:80",
        "1" * 300 + ":80",
    ],
)
def test_an_address_in_any_other_form_is_refused(address):
    with pytest.raises(RemoteProtocolError):
        check_address(address)


def test_a_ticket_admits_its_holder_to_its_server_in_its_time():
    assert open_ticket(sign_ticket(TICKET, ALICE), ALICE.verify_key, BOB.peer, now_s=NOW_S) == TICKET


@pytest.mark.parametrize(
    ("ticket", "signer", "server", "client", "now_s", "reason"),
    [
        pytest.param(TICKET, ALICE, ALICE, EVE, NOW_S, "wrong_peer", id="shown by another client"),
        pytest.param(TICKET, ALICE, EVE, BOB, NOW_S, "unlisted_key", id="shown to another server"),
        pytest.param(TICKET, EVE, ALICE, BOB, NOW_S, "unlisted_key", id="signed by another"),
        pytest.param(
            replace(TICKET, server=EVE.peer), ALICE, ALICE, BOB, NOW_S, "wrong_peer", id="naming another server"
        ),
        pytest.param(TICKET, ALICE, ALICE, BOB, NOW_S + 60, "expired", id="too late"),
    ],
)
def test_a_ticket_admits_nobody_else(ticket, signer, server, client, now_s, reason):
    data = sign_ticket(ticket, signer)
    assert reason_of(lambda: open_ticket(data, server.verify_key, client.peer, now_s=now_s)) == reason


@pytest.mark.parametrize(
    "changes",
    [{"client": ALICE.peer}, {"nonce": bytes(15)}, {"channel": b""}, {"server": "x"}, {"client": "y"}],
)
def test_a_ticket_that_makes_no_sense_is_refused(changes):
    with pytest.raises(RemoteProtocolError):
        replace(TICKET, **changes)


def test_an_announcement_survives_its_encoding():
    for announce in (Announce(b"head"), Announce(bytes(2048), bytes(1024))):
        assert Announce.decode(announce.encoded) == announce


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pack(["shardcast/announce", 1, b"", b""]), id="no head"),
        pytest.param(pack(["shardcast/announce", 1, bytes(2049), b""]), id="a long head"),
        pytest.param(pack(["shardcast/announce", 1, b"head", bytes(1025)]), id="a long beacon"),
        pytest.param(pack(["shardcast/announce", 2, b"head", b""]), id="version 2"),
        pytest.param(pack(["shardcast/announce", 1, b"head"]), id="a field too few"),
        pytest.param(Announce(b"head").encoded + b"\x00", id="a trailing byte"),
        pytest.param(Announce(b"head").encoded.replace(b"\xc4\x04head", b"\xc5\x00\x04head"), id="a longer encoding"),
        pytest.param(bytes(4097), id="over the cap"),
    ],
)
def test_bytes_that_are_no_announcement_are_refused(data):
    with pytest.raises(RemoteProtocolError):
        Announce.decode(data)


def test_a_topic_names_its_channel():
    assert gossip_topic(digest_of(b"x")) == f"/shardcast/1/{digest_of(b'x').hex()}"

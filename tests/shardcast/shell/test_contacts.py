from __future__ import annotations

import pytest

from shardcast.p2p import AddressPolicy
from shardcast.shell.contacts import Contacts, OwnAddresses, endpoint_of
from shardcast_proto.errors import ConfigError, ShardcastError, TrustError
from shardcast_proto.trust import PeerRecord, SigningKey, open_record, sign_record
from tests.proto.trust.actors import NOW_S, key

ME, OTHER = key("me"), key("other")


def contacts(bind: str = "10.1.2.3", *allowed: str) -> Contacts:
    return Contacts(AddressPolicy(bind, allowed), ME, clock=lambda: NOW_S)


def record(
    owner: SigningKey = OTHER, p2p: tuple[str, ...] = (), serve: tuple[str, ...] = (), roles: tuple[str, ...] = ()
) -> bytes:
    return sign_record(PeerRecord(owner.peer, p2p, serve, roles, 5, NOW_S, NOW_S + 60), owner)


def test_addresses_that_must_not_be_dialled_are_dropped_from_a_record() -> None:
    bad = ("127.0.0.1:7481", "169.254.169.254:8000", "192.168.0.9:7481", "8.8.8.8:80")
    contact = contacts().open(record(p2p=(*bad, "10.9.9.9:7481", "8.8.8.8:7481"), serve=(*bad, "10.9.9.9:7482")))
    assert contact.dial == (f"/ip4/10.9.9.9/tcp/7481/p2p/{OTHER.peer}", f"/ip4/8.8.8.8/tcp/7481/p2p/{OTHER.peer}")
    assert contact.serve == ("10.9.9.9:7482",)


def test_an_ipv6_address_becomes_a_multiaddr() -> None:
    contact = contacts().open(record(p2p=("[2600::1]:7481",)))
    assert contact.dial == (f"/ip6/2600::1/tcp/7481/p2p/{OTHER.peer}",)


def test_a_record_that_somebody_else_signed_is_refused() -> None:
    said = PeerRecord(OTHER.peer, (), (), (), 0, NOW_S, NOW_S + 60)
    forged = sign_record(said, ME)
    with pytest.raises(TrustError):
        contacts().open(forged)
    assert contacts().open_all([forged, record(), b"nonsense"]) == (contacts().open(record()),)


def test_records_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardcast.shell.contacts._CACHE_MAX", 3)
    opened = contacts()
    people = [key(f"peer {number}") for number in range(8)]
    for owner in people:
        opened.open(record(owner, roles=("relay",)))
    assert len(opened._opened) == len(opened._roles) == 3
    assert opened.roles_of(people[-1].peer) == ("relay",) and opened.roles_of(people[0].peer) == ()
    assert opened.open(record(people[-1])).peer == people[-1].peer


def test_the_own_record_can_be_opened_by_others() -> None:
    data = contacts().own_record(OwnAddresses(("10.1.2.3:7481",), ("10.1.2.3:7482",), ("origin", "relay"), 9))
    opened = open_record(data)
    assert (opened.peer, opened.roles, opened.is_current(NOW_S)) == (ME.peer, ("origin", "relay"), True)


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "/dns4/example.com/tcp/7481",
        "/ip4/10.0.0.1/tcp/7481",
        f"/ip4/127.0.0.1/tcp/7481/p2p/{OTHER.peer}",
        f"/ip4/10.0.0.1/tcp/22/p2p/{OTHER.peer}",
        "/ip4/10.0.0.1/tcp/7481/p2p/nobody",
    ],
)
def test_a_bootstrap_address_that_cannot_be_dialled_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigError):
        contacts().bootstrap(address)


def test_a_bootstrap_address_is_taken_as_it_is() -> None:
    address = f"/ip4/192.168.0.9/tcp/7481/p2p/{OTHER.peer}"
    assert contacts("10.1.2.3", "192.168.0.0/16").bootstrap(address).dial == (address,)
    assert endpoint_of(address) == "192.168.0.9:7481" and endpoint_of("/ip6/::1/tcp/9000") == "[::1]:9000"


def test_nonsense_is_no_record() -> None:
    with pytest.raises(ShardcastError):
        contacts().open(b"\x93\x01")

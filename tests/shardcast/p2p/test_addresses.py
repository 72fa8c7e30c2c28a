"""Who may be dialled."""

from __future__ import annotations

import pytest

from shardcast.p2p.addresses import AddressPolicy, parse_endpoint, parse_p2p_address
from shardcast_proto.errors import ConfigError, RemoteProtocolError
from shardcast_proto.ids import peer_id_of_key

PEER = peer_id_of_key(bytes(range(32)))

#: bind address, --allow-private, address, may it be dialled
RULES: list[tuple[str, tuple[str, ...], str, bool]] = [
    # loopback: only from loopback
    ("127.0.0.1", (), "127.0.0.1", True),
    ("127.0.0.1", (), "127.8.8.8", True),
    ("::1", (), "::1", True),
    ("0.0.0.0", (), "127.0.0.1", False),
    ("93.184.216.34", ("127.0.0.0/8",), "127.0.0.1", False),
    ("10.0.0.5", (), "::1", False),
    # global unicast: always
    ("127.0.0.1", (), "93.184.216.34", True),
    ("0.0.0.0", (), "93.184.216.34", True),
    ("::", (), "2606:2800:220:1::1", True),
    # private: the range of the own bind address, or allowed
    ("0.0.0.0", (), "10.0.0.7", False),
    ("10.0.0.5", (), "10.200.0.7", True),
    ("10.0.0.5", (), "192.168.0.7", False),
    ("192.168.3.4", (), "192.168.9.9", True),
    ("172.16.0.1", (), "172.31.255.1", True),
    ("172.16.0.1", (), "10.0.0.1", False),
    ("93.184.216.34", ("10.0.0.0/8",), "10.0.0.7", True),
    ("93.184.216.34", ("10.0.0.0/24",), "10.0.1.7", False),
    ("fd00:1:2::1", (), "fd00:1:2:ff::9", True),
    ("fd00:1:2::1", (), "fd00:1:3::9", False),
    ("::", ("fd00::/8",), "fd12::9", True),
    # carrier-grade NAT
    ("0.0.0.0", (), "100.64.0.1", False),
    ("0.0.0.0", ("100.64.0.0/10",), "100.64.0.1", True),
    ("100.64.3.3", (), "100.127.0.1", True),
    # metadata services and link-local: never, not even when allowed
    ("0.0.0.0", (), "169.254.169.254", False),
    ("0.0.0.0", ("169.254.0.0/16",), "169.254.169.254", False),
    ("169.254.1.1", (), "169.254.169.254", False),
    ("0.0.0.0", ("100.64.0.0/10",), "100.100.100.200", False),
    ("::", ("fd00::/8",), "fd00:ec2::254", False),
    ("::", ("fe80::/10",), "fe80::1", False),
    ("0.0.0.0", ("192.0.0.0/24",), "192.0.0.192", False),
    ("0.0.0.0", (), "192.0.0.192", False),
    ("0.0.0.0", ("192.0.0.0/24",), "192.0.0.191", True),
    ("0.0.0.0", (), "192.0.0.191", False),
    ("0.0.0.0", (), "192.88.99.1", False),
    ("::", (), "fec0::1", False),
    ("::", (), "4000::1", False),
    # unspecified, multicast, broadcast, reserved, documentation
    ("0.0.0.0", ("0.0.0.0/0",), "0.0.0.0", False),
    ("::", ("::/0",), "::", False),
    ("0.0.0.0", ("0.0.0.0/0",), "224.0.0.1", False),
    ("::", ("::/0",), "ff02::1", False),
    ("0.0.0.0", ("0.0.0.0/0",), "255.255.255.255", False),
    ("0.0.0.0", ("0.0.0.0/0",), "240.0.0.1", False),
    ("0.0.0.0", (), "192.0.2.1", False),
    ("::", (), "2001:db8::1", False),
    # IPv6 that carries IPv4: mapped, compatible, NAT64, 6to4, Teredo
    ("127.0.0.1", (), "::ffff:127.0.0.1", False),
    ("::1", ("::/0",), "::ffff:10.0.0.1", False),
    ("::", ("::/0",), "::ffff:93.184.216.34", False),
    ("::", ("::/0",), "::10.0.0.1", False),
    ("::", ("::/0",), "::ffff:169.254.169.254", False),
    ("::", ("::/0",), "2002:a9fe:a9fe::1", False),
    ("::", ("::/0",), "::ffff:100.100.100.200", False),
    ("::", ("::/0",), "2002:c000:c0::1", False),
    ("::", ("::/0",), "64:ff9b::a9fe:a9fe", False),
    ("::", ("::/0",), "64:ff9b:1::a00:1", False),
    ("::", ("::/0",), "2002:7f00:1::1", False),
    ("::", ("::/0",), "2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
]


@pytest.mark.parametrize(("bind", "allowed", "ip", "may"), RULES)
def test_the_rules_say_who_may_be_dialled(bind: str, allowed: tuple[str, ...], ip: str, may: bool) -> None:
    policy = AddressPolicy(bind, allowed)
    refusal = policy.refusal(ip, 7481)
    assert (refusal is None) is may, refusal
    version = "ip6" if ":" in ip else "ip4"
    assert (policy.refusal_of_multiaddr(f"/{version}/{ip}/tcp/7481/p2p/{PEER}") is None) is may


@pytest.mark.parametrize("port", [-1, 0, 22, 80, 1023, 65_536])
def test_ports_of_system_services_are_not_dialled(port: int) -> None:
    assert AddressPolicy("127.0.0.1").refusal("127.0.0.1", port) is not None


@pytest.mark.parametrize("port", [1024, 7481, 65_535])
def test_other_ports_are_dialled(port: int) -> None:
    assert AddressPolicy("127.0.0.1").refusal("127.0.0.1", port) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/tcp/7481/",
        "/ip4/127.0.0.1/tcp/07481",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/+7481",
        "/ip4/127.0.0.1/udp/7481/quic-v1",
        "/ip4/127.0.0.1/tcp/7481/ws",
        "/ip4/127.0.0.1/tcp/7481/p2p/Qm",
        f"/ip4/127.0.0.1/tcp/7481/p2p/{PEER}/p2p-circuit",
        f"/p2p/{PEER}",
        "/ip4/0x7f.0.0.1/tcp/7481",
        "/ip4/127.1/tcp/7481",
        "/ip4/2130706433/tcp/7481",
        "/ip4/::1/tcp/7481",
        "/ip6/127.0.0.1/tcp/7481",
        "/ip6/fe80::1%eth0/tcp/7481",
        "/ip6zone/eth0/ip6/fe80::1/tcp/7481",
        "/dns4/localhost/tcp/7481",
        "/dnsaddr/example.org/tcp/7481",
        "/unix/tmp/socket",
        "/ip4/127.0.0.1/tcp/7481" + "/" * 300,
    ],
)
def test_other_shapes_of_multiaddr_are_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_p2p_address(text)
    assert AddressPolicy("127.0.0.1").refusal_of_multiaddr(text) is not None


@pytest.mark.parametrize("text", ["/ip4/127.0.0.1/tcp/7481", f"/ip6/::1/tcp/7481/p2p/{PEER}"])
def test_a_multiaddr_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_p2p_address(text)) == text


@pytest.mark.parametrize(
    ("text", "endpoint"), [("127.0.0.1:7482", ("127.0.0.1", 7482)), ("[2606:2800::1]:1", ("2606:2800::1", 1))]
)
def test_an_endpoint_is_read(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", "localhost:80", "::1:80", "[127.0.0.1]:80", "1.2.3.4:0", "1.2.3.4:", "[::1]"]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("bind", "allowed"), [("localhost", ()), ("127.0.0.1", ("10.0.0.1/8",)), ("127.0.0.1", ("ten",))]
)
def test_a_wrong_setting_is_a_configuration_error(bind: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        AddressPolicy(bind, allowed)

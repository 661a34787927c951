"""Which addresses a call may reach. The list is from the IANA registries and from what other guards let through."""

import socket

import pytest

from libs.common.settings import SettingsError, load
from services.dispatcher.guard import BLOCKED_ERRNO, BlockedAddress, guarded_socket_factory, policy_of, refuse_blocked
from services.dispatcher.settings import DispatcherSettings

DENIED = """
    0.0.0.0  0.1.2.3  10.0.0.1  10.255.255.255  100.64.0.1  100.100.100.200  100.127.255.255  127.0.0.1
    127.255.255.254  169.254.0.1  169.254.169.254  169.254.170.2  168.63.129.16  172.16.0.1  172.31.255.255
    192.0.0.1  192.0.0.170  192.0.0.192  192.0.2.1  192.88.99.1  192.168.1.1  198.18.0.1  198.19.255.255
    198.51.100.7  203.0.113.9  224.0.0.1  239.255.255.250  240.0.0.1  255.255.255.255
    ::  ::1  ::2  ::127.0.0.1  ::169.254.169.254  ::ffff:0.0.0.0  ::ffff:127.0.0.1  ::ffff:10.0.0.1
    ::ffff:169.254.169.254  ::ffff:168.63.129.16  ::ffff:0:127.0.0.1
    64:ff9b::a9fe:a9fe  64:ff9b::7f00:1  64:ff9b::a00:1  64:ff9b::a83f:8110  64:ff9b:1::1  64:ff9b:1::a9fe:a9fe
    100::1  2001::1  2001:0:7f00:1::  2001:0:4136:e378:8000:63bf:3fff:fdd2  2001:0:808:808::80ff:fffe
    2001:2::1  2001:10::1  2001:db8::1  2002:7f00:1::  2002:a9fe:a9fe::  2002:a00:1::1  2002:a83f:8110::
    3fff::1  4000::1  5f00::1  8000::1  fc00::1  fd00::1  fd00:ec2::254  fe00::1  fe80::1  fe80::1%1  febf::1
    fec0::1  feff::1  ff02::1  ff0e::1
""".split()

ALLOWED = """
    1.1.1.1  8.8.8.8  93.184.216.34  11.0.0.1  100.63.255.255  100.128.0.0  126.255.255.255  128.0.0.1
    168.63.129.15  168.63.129.17  169.253.255.255  169.255.0.0  172.15.255.255  172.32.0.0  192.167.255.255
    198.17.255.255  198.20.0.0  223.255.255.255
    2606:4700:4700::1111  2001:4860:4860::8888  2a00:1450:4001::1  2400:cb00::1
""".split()


def is_refused(address: str, *allow_networks: str) -> bool:
    try:
        refuse_blocked(policy_of(allow_networks), address)
    except BlockedAddress:
        return True
    return False


@pytest.mark.parametrize("address", DENIED)
def test_no_call_reaches(address: str) -> None:
    assert is_refused(address)


@pytest.mark.parametrize("address", ALLOWED)
def test_a_call_may_reach(address: str) -> None:
    assert not is_refused(address)


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        (
            "10.1.0.0/16",
            ["10.1.0.0", "10.1.255.255"],
            ["10.0.255.255", "10.2.0.0", "127.0.0.1", "::ffff:10.1.0.1", "2002:a01:1::"],
        ),
        ("127.0.0.1/32", ["127.0.0.1"], ["127.0.0.2", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]),
        ("::1/128", ["::1"], ["127.0.0.1", "::2", "::"]),
        ("fd00:7::/32", ["fd00:7::1"], ["fd00:8::1", "fe80::1", "fd00:ec2::254"]),
        ("192.168.0.0/16", ["192.168.0.1"], ["169.254.169.254", "172.16.0.1"]),
    ],
)
def test_an_allowed_network_opens_exactly_its_range(network: str, inside: list[str], outside: list[str]) -> None:
    assert [address for address in inside if is_refused(address, network)] == []
    assert [address for address in outside if not is_refused(address, network)] == []


def test_an_allowed_network_closes_nothing() -> None:
    assert not is_refused("8.8.8.8", "10.0.0.0/8")


@pytest.mark.parametrize("networks", [("0.0.0.0/0",), ("168.63.129.16/32",), ("0.0.0.0/0", "::/0")])
def test_the_wire_server_stays_closed_whatever_is_allowed(networks: tuple[str, ...]) -> None:
    assert is_refused("168.63.129.16", *networks)


def test_a_socket_is_made_for_an_allowed_address_only() -> None:
    make = guarded_socket_factory(("127.0.0.1/32",))
    with make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))) as made:
        assert not made.getblocking()
    with pytest.raises(BlockedAddress) as refused:
        make((socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 80, 0, 0)))
    assert refused.value.errno == BLOCKED_ERRNO
    assert str(refused.value) == "::1 is not a public address: ::1/128 is Loopback Address (RFC4291)"


@pytest.mark.parametrize("text", ["10.1.2.3/16", "10.0.0.0/33", "localhost", "64:ff9b::/96", "::ffff:0:0/96"])
def test_what_is_no_network_or_would_open_all_stops_the_start_by_name(text: str) -> None:
    environ = {
        "CARILLON_AMQP_URL": "amqp://localhost",
        "CARILLON_REDIS_URL": "redis://localhost",
        "CARILLON_ALLOW_NETWORKS": text,
    }
    with pytest.raises(SettingsError, match=f"CARILLON_ALLOW_NETWORKS: '{text}'"):
        load(DispatcherSettings, environ)

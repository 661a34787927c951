"""What a call may reach. The addresses are from the IANA registries and from what other guards let through."""

import pytest

from libs.common.egress import NOT_HTTP_PORTS, EgressRules, server_ports
from tests.forbidden import ADDRESSES, PORTS, SPELLINGS

PUBLIC = """
    1.1.1.1 8.8.8.8 93.184.216.34 11.0.0.1 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
    168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255
    198.17.255.255 198.20.0.0 223.255.255.255
    2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001::1 2400:cb00::1 2a00:1450:4001:81a:0:5efe:808:808
    ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
""".split()


def is_refused(address: str, *allow_networks: str, port: int = 443) -> bool:
    return EgressRules(allow_networks).refusal(address, port) is not None


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_call_reaches(address: str) -> None:
    assert is_refused(address)
    assert EgressRules().host_refusal(address, 443)


@pytest.mark.parametrize("address", ["fe80::1%1", "fe80::1%eth0", "::1%lo"])
def test_a_zone_changes_nothing(address: str) -> None:
    assert is_refused(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_call_may_reach(address: str) -> None:
    assert not is_refused(address)
    assert EgressRules().host_refusal(address, 443) is None


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
        (
            "::/0",
            ["fd00::1", "::1"],
            ["::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "::127.0.0.1", "127.0.0.1"],
        ),
    ],
)
def test_an_allowed_network_opens_exactly_its_range(network: str, inside: list[str], outside: list[str]) -> None:
    assert [address for address in inside if is_refused(address, network)] == []
    assert [address for address in outside if not is_refused(address, network)] == []


def test_an_allowed_network_closes_nothing() -> None:
    assert not is_refused("8.8.8.8", "10.0.0.0/8")


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254",
     "fd20:ce::254", "fd00:42::42", "fe80::a9fe:a9fe", "::ffff:169.254.169.254", "64:ff9b::a83f:8110",
     "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::808:808",
     "2001:0:808:808::5601:5601", "2a00::5efe:a9fe:a9fe", "::169.254.169.254", "::ffff:0:169.254.169.254"],
)  # fmt: skip
def test_metadata_stays_closed_whatever_is_allowed(address: str) -> None:
    everything = ("0.0.0.0/0", "::/0", "169.254.0.0/16", "168.63.129.16/32", "fd00::/8", "64:ff9b:1::/48")
    said = EgressRules(everything).refusal(address, 80)
    assert said
    assert "no setting opens it" in said


@pytest.mark.parametrize("address", ["10.5.0.0", "10.5.255.255", "::ffff:10.5.1.1", "2002:a05:101::", "8.8.4.4"])
def test_a_denied_network_wins_over_an_allowed_one_in_every_disguise(address: str) -> None:
    rules = EgressRules(["10.0.0.0/8", "::/0"], ["10.5.0.0/16", "8.8.4.0/24"])
    assert "CARILLON_DENY_NETWORKS closes" in (rules.refusal(address, 80) or "")
    assert rules.refusal("10.4.255.255", 80) is None


@pytest.mark.parametrize("port", [0, *PORTS])
@pytest.mark.parametrize("address", ["8.8.8.8", "10.0.0.1", "2606:4700::1"])
def test_a_port_of_another_protocol_is_refused_everywhere(address: str, port: int) -> None:
    rules = EgressRules(["10.0.0.0/8"])
    assert "another protocol" in (rules.refusal(address, port) or "")
    assert "another protocol" in (rules.host_refusal("hooks.example", port) or "")


@pytest.mark.parametrize("port", [80, 443, 1024, 3000, 5000, 8000, 8080, 8443, 9000, 9200, 65535])
def test_a_port_that_people_serve_http_on_may_be_called(port: int) -> None:
    assert EgressRules(["10.0.0.0/8"], own_ports=[7001]).refusal("10.0.0.1", port) is None
    assert EgressRules().host_refusal("hooks.example", port) is None


def test_the_ports_are_those_of_the_fetch_standard_and_of_our_servers() -> None:
    assert len(NOT_HTTP_PORTS) == 1 + 82 + 6


@pytest.mark.parametrize("port", [7001, 9101, 9102, 9103, 9104, 15672])
def test_our_own_servers_stay_closed_in_an_opened_network_only(port: int) -> None:
    rules = EgressRules(["10.0.0.0/8", "::/0"], own_ports=[7001])
    for address in ("10.0.0.1", "fd00::1"):
        assert "kept for Carillon's own servers" in (rules.refusal(address, port) or "")
    for address in ("8.8.8.8", "2606:4700::1"):
        assert rules.refusal(address, port) is None


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("amqp://user:5@broker:5673/vhost", {5673}),
        ("amqp://broker/vhost:7", set()),
        ("redis://:p%40ss:1@[fd00::1]:6380/0", {6380}),
        ("postgres://user@one:5433,two:5434/db?port=1", {5433, 5434}),
        ("unix:///run/redis.sock", set()),
        ("amqps://broker:443/", set()),
    ],
)
def test_the_ports_of_servers_are_read_from_their_urls_but_for_the_webs(url: str, ports: set[int]) -> None:
    assert server_ports(url) == ports


@pytest.mark.parametrize("host", [spelling.strip("[]") for spelling in SPELLINGS if spelling != "[v1.x]"])
def test_no_other_way_to_write_an_address_is_taken(host: str) -> None:
    assert EgressRules().host_refusal(host, 443)


@pytest.mark.parametrize(
    "host",
    ["example.com", "localhost.example.com", "notlocalhost", "1password.com", "3.example", "x0x", "10.0.0.1.example",
     "bücher.example", "a_b.example", "example.com.", "xn--bcher-kva.example"],
)  # fmt: skip
def test_of_a_name_nothing_is_known(host: str) -> None:
    assert EgressRules().host_refusal(host, 443) is None


@pytest.mark.parametrize(("network", "is_open"), [("127.0.0.0/8", True), ("::1/128", True), ("10.0.0.0/8", False)])
def test_localhost_is_open_when_one_of_its_addresses_is(network: str, is_open: bool) -> None:
    for host in ("localhost", "LOCALHOST.", "api.localhost"):
        assert (EgressRules([network]).host_refusal(host, 80) is None) == is_open


def test_the_reason_says_what_can_open_it() -> None:
    rules = EgressRules()
    assert rules.refusal("::1", 80) == (
        "::1 is not a public address: ::1/128 is Loopback Address (RFC4291); CARILLON_ALLOW_NETWORKS can open it"
    )
    assert rules.refusal("2a00::5efe:a00:1", 80) == (
        "2a00::5efe:a00:1 carries 10.0.0.1, which is not a public address:"
        " 10.0.0.0/8 is Private-Use (RFC1918); CARILLON_ALLOW_NETWORKS can open it"
    )
    assert rules.refusal("8.8.8.8", 25) == "port 25 belongs to another protocol than HTTP; use another one"

"""Where the rule (test_egress.py) meets the socket, and what the dispatcher is told about its way out."""

import socket
import ssl
from pathlib import Path

import pytest
import trustme

from libs.common.egress import EgressRules
from libs.common.settings import SettingsError, load
from services.dispatcher.guard import BLOCKED_ERRNO, BlockedAddress, Egress, ssl_context
from services.dispatcher.settings import DispatcherSettings
from tests.unit.dispatcher.samples import MASTER_KEY

TLS = ssl_context()
FOUR = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
SIX = (socket.AF_INET6, socket.SOCK_STREAM, 0, "")


def settings(**different: str) -> DispatcherSettings:
    environ = {
        "CARILLON_AMQP_URL": "amqp://localhost:7001",
        "CARILLON_REDIS_URL": "redis://localhost:7002",
        "CARILLON_SIGNING_MASTER_KEY": MASTER_KEY,
    }
    return load(DispatcherSettings, environ | {f"CARILLON_{name}": value for name, value in different.items()})


def test_a_socket_is_made_for_an_allowed_address_only() -> None:
    egress = Egress(EgressRules(["127.0.0.1/32"]), TLS)
    with egress.socket_for((*FOUR, ("127.0.0.1", 80))) as made:
        assert not made.getblocking()
    with pytest.raises(BlockedAddress) as refused:
        egress.socket_for((*SIX, ("::1", 80, 0, 0)))
    assert refused.value.errno == BLOCKED_ERRNO
    assert str(refused.value).startswith("::1 is not a public address: ")


def test_a_socket_is_made_for_an_allowed_port_only() -> None:
    egress = Egress(EgressRules(["127.0.0.1/32"], own_ports=[7001]), TLS)
    for port in (25, 7001, 9103):
        with pytest.raises(BlockedAddress, match=str(port)):
            egress.socket_for((*FOUR, ("127.0.0.1", port)))


def test_with_a_proxy_its_own_address_is_dialled_and_the_urls_host_is_checked() -> None:
    egress = Egress(EgressRules(), TLS, proxy="http://127.0.0.1:3128")
    egress.socket_for((*FOUR, ("127.0.0.1", 3128))).close()
    egress.check_host("example.com", 443)
    with pytest.raises(BlockedAddress):
        egress.check_host("127.0.0.1", 443)


def test_without_a_proxy_the_address_alone_decides() -> None:
    Egress(EgressRules(), TLS).check_host("127.0.0.1", 443)


@pytest.mark.parametrize("text", ["10.1.2.3/16", "10.0.0.0/33", "localhost", "64:ff9b::/96", "::ffff:0:0/96"])
def test_what_is_no_network_or_would_open_all_stops_the_start_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match=f"CARILLON_ALLOW_NETWORKS: '{text}'"):
        settings(ALLOW_NETWORKS=text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DENY_NETWORKS", "10.0.0.0/33"),
        ("DENY_PORTS", "http"),
        ("DENY_PORTS", "65536"),
        ("EGRESS_PROXY", "https://proxy:3128"),
        ("EGRESS_PROXY", "proxy:3128"),
        ("EGRESS_PROXY", "http://proxy"),
        ("CA_FILE", "/nowhere.pem"),
        ("CA_FILE", __file__),
    ],
)
def test_a_setting_that_cannot_be_followed_stops_the_start_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"CARILLON_{name}: "):
        settings(**{name: value})


def test_the_password_of_the_proxy_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as refused:
        settings(EGRESS_PROXY="socks5://me:s3cret@proxy:1080")
    assert "s3cret" not in str(refused.value)


def test_the_rule_knows_the_servers_that_the_dispatcher_knows() -> None:
    told = settings(
        ALLOW_NETWORKS="10.0.0.0/8", DENY_NETWORKS="10.5.0.0/16", DENY_PORTS="7003, 7004", ADMIN_PORT="7005"
    )
    rules = told.egress_rules(told.amqp_url, told.redis_url, own_ports=[told.admin_port])
    assert [port for port in range(7000, 7007) if not rules.refusal("10.0.0.1", port)] == [7000, 7006]
    assert rules.refusal("10.5.0.1", 80)


def test_tls_is_verified_against_the_systems_roots_and_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    plain, more = ssl_context(), ssl_context(file)
    for context in (plain, more):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert more.cert_store_stats()["x509_ca"] == plain.cert_store_stats()["x509_ca"] + 1

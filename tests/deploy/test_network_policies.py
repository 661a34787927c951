"""Who may talk to whom, found by asking the rendered policies as a cluster's network does: what no policy of a pod and
direction allows is refused."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from yarl import URL

from deploy import secrets
from libs.common.egress import TABLE, EgressRules
from tests.deploy.manifests import (
    SERVERS,
    SERVICES,
    VARIANTS,
    Thing,
    labels_of,
    lasting,
    name_of,
    of_kind,
    port_numbers,
    selects,
    workloads,
)

PUBLIC = ("93.184.216.34", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")
MAIL_PORTS = (25, 465, 587, 2525)
SECRETS = secrets.files(secrets.new_passwords(), "rabbitmq", "postgres", "redis")

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@every_variant
def test_every_pod_is_closed_in_both_directions(variant: str) -> None:
    for workload in workloads(variant):
        policies = list(_policies(variant, labels_of(workload)))
        assert any(policy["policyTypes"] == ["Ingress", "Egress"] and not _rules(policy) for policy in policies)


@every_variant
def test_only_the_dispatcher_reaches_the_internet_on_every_port_but_those_of_mail_servers(variant: str) -> None:
    ports = {*range(1, 1025), 2524, 2525, 2526, 8080, 8443, 65535}
    for workload in workloads(variant):
        for address in PUBLIC:
            reached = {port for port in ports if _reaches(variant, workload, address, port)}
            allowed: Mapping[str, set[int]] = {
                "carillon-dispatcher": ports - set(MAIL_PORTS),
                "carillon-mailer": set(MAIL_PORTS),
            }
            assert reached == allowed.get(name_of(workload), set()), f"{name_of(workload)} to {address}"


@pytest.mark.parametrize("port", [80, 443])
def test_the_usual_ports_do_not_hang_on_port_ranges_which_some_networks_ignore(port: int) -> None:
    dispatcher = _workload("production", "carillon-dispatcher")
    assert any(_is_open(rule, PUBLIC[0], port, ranges=False) for rule in _egress("production", dispatcher))


@every_variant
def test_no_address_that_the_dispatcher_itself_would_refuse_is_reached_by_it(variant: str) -> None:
    dispatcher, rules = _workload(variant, "carillon-dispatcher"), EgressRules()
    edges = [edge for block in TABLE.blocks for edge in (block.network[0], block.network[-1])]
    refused = [str(edge) for edge in edges if rules.refusal(str(edge), 443)]
    assert len(refused) > 60
    assert [address for address in refused if _reaches(variant, dispatcher, address, 443)] == []


@pytest.mark.parametrize("service", ["setup", *SERVICES])
def test_a_service_reaches_the_servers_that_its_secrets_name_and_no_others(service: str) -> None:
    named = {URL(url).host for name, url in SECRETS[service].items() if name.endswith("_url")}
    expected = named | ({"mailpit"} if service == "mailer" else set())
    client = _workload("evaluation", f"carillon-{service}")
    servers = {server: _workload("evaluation", server) for server in SERVERS}
    assert {name for name, server in servers.items() if _ports_out("evaluation", client, server)} == expected
    assert {name for name, server in servers.items() if _ports_in("evaluation", client, server)} == expected
    assert {name for name, server in servers.items() if _talks("evaluation", client, server)} == expected


def test_in_production_each_server_has_an_address_and_its_clients_alone_reach_it() -> None:
    reached = {
        (name_of(workload), rule["to"][0]["ipBlock"]["cidr"])
        for workload in workloads("production")
        for rule in _egress("production", workload)
        if "to" in rule and rule["to"][0].get("ipBlock", {}).get("cidr", "").endswith("/32")
    }
    addresses = {"rabbitmq": "192.0.2.1/32", "postgres": "192.0.2.2/32", "redis": "192.0.2.3/32"}
    expected = {
        (f"carillon-{service}", addresses[str(URL(url).host)])
        for service in ("setup", *SERVICES)
        for name, url in SECRETS[service].items()
        if name.endswith("_url")
    }
    assert reached == expected


@every_variant
def test_no_service_talks_to_another_but_through_the_servers(variant: str) -> None:
    ours = [workload for workload in lasting(variant) if name_of(workload).startswith("carillon-")]
    assert not [(name_of(a), name_of(b)) for a in ours for b in ours if _talks(variant, a, b)]


@every_variant
def test_ingest_alone_takes_requests_from_anywhere(variant: str) -> None:
    opened = {
        (name_of(workload), port["port"])
        for workload in lasting(variant)
        for rule in _ingress(variant, workload)
        if "from" not in rule
        for port in rule["ports"]
    }
    assert opened == {("carillon-ingest", "http")}


@every_variant
def test_metrics_are_scraped_from_the_monitoring_namespace_alone(variant: str) -> None:
    for workload in lasting(variant):
        if "admin" not in port_numbers(workload):
            continue
        sources = [rule["from"] for rule in _ingress(variant, workload) if {"port": "admin"} in rule["ports"]]
        monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
        assert sources == [[{"namespaceSelector": monitoring}]], name_of(workload)


@every_variant
def test_every_pod_may_ask_for_names(variant: str) -> None:
    for workload in workloads(variant):
        asked = [
            rule["ports"] for rule in _egress(variant, workload) if {"port": 53, "protocol": "UDP"} in rule["ports"]
        ]
        assert asked == [[{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]]


def _workload(variant: str, name: str) -> Thing:
    [found] = [workload for workload in workloads(variant) if name_of(workload) == name]
    return found


def _policies(variant: str, labels: dict[str, str]) -> Iterator[Thing]:
    for policy in of_kind(variant, "NetworkPolicy"):
        if selects(policy["spec"]["podSelector"], labels):
            yield policy["spec"]


def _rules(policy: Thing) -> list[Thing]:
    return [*policy.get("ingress", ()), *policy.get("egress", ())]


def _egress(variant: str, workload: Thing) -> list[Thing]:
    return [rule for policy in _policies(variant, labels_of(workload)) for rule in policy.get("egress", ())]


def _ingress(variant: str, workload: Thing) -> list[Thing]:
    return [rule for policy in _policies(variant, labels_of(workload)) for rule in policy.get("ingress", ())]


def _reaches(variant: str, workload: Thing, address: str, port: int) -> bool:
    return any(_is_open(rule, address, port) for rule in _egress(variant, workload))


def _is_open(rule: Thing, address: str, port: int, *, ranges: bool = True) -> bool:
    """For TCP; `ranges=False` takes a range of ports for its first one."""
    blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer] if "to" in rule else None
    if blocks is not None and not any(_is_within(block, ip_address(address)) for block in blocks):
        return False
    return any(
        each["port"] <= port <= (each.get("endPort", each["port"]) if ranges else each["port"])
        for each in rule["ports"]
        if each.get("protocol", "TCP") == "TCP"
    )


def _is_within(block: Thing, address: IPv4Address | IPv6Address) -> bool:
    if address not in ip_network(block["cidr"]):
        return False
    return not any(address in ip_network(hole) for hole in block.get("except", ()))


def _talks(variant: str, client: Thing, server: Thing) -> bool:
    """Whether some port of `server` is open at both ends."""
    return bool(_ports_out(variant, client, server) & _ports_in(variant, client, server))


def _ports_out(variant: str, client: Thing, server: Thing) -> set[int]:
    """Those that a policy of `client` names `server` for. No ipBlock of ours holds a pod's address: it is private."""
    rules = [rule for rule in _egress(variant, client) if _names(rule.get("to", ()), server)]
    return {port["port"] for rule in rules for port in rule["ports"]}


def _ports_in(variant: str, client: Thing, server: Thing) -> set[int]:
    rules = [rule for rule in _ingress(variant, server) if "from" not in rule or _names(rule["from"], client)]
    numbers = port_numbers(server)
    return {numbers.get(port["port"], port["port"]) for rule in rules for port in rule["ports"]}


def _names(peers: list[Thing], workload: Thing) -> bool:
    return any(selects(peer["podSelector"], labels_of(workload)) for peer in peers if set(peer) == {"podSelector"})

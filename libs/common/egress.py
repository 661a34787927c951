"""What a call may reach, as a rule: an address and a port in, the reason to refuse it out. Pure; asks no name server.

Ingest asks early, with the host that a URL writes. The dispatcher asks with each address that it is about to dial,
and that answer alone holds for names. Addresses: ssrfguard's table of the IANA special-purpose registries.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import ssrfguard

from libs.common.ports import ADMIN_PORTS

IPAddress = IPv4Address | IPv6Address

# The longest prefix decides. Outside 2000::/3 no IPv6 address is assigned to anybody (RFC 4291 section 2.4).
TABLE = ssrfguard.AddressTable(
    (
        *ssrfguard.DEFAULT_DENIED.blocks,
        ssrfguard.Block(ip_network("::/0"), "Unassigned", "RFC4291", ssrfguard.Reach.DENIED),
        ssrfguard.Block(ip_network("2000::/3"), "Global Unicast", "RFC4291", ssrfguard.Reach.PERMITTED),
    )
)
_PUBLIC = ssrfguard.Policy(denied_networks=TABLE)

# Clouds answer here with the secrets of the machine that asks; and what a translator makes of an address of its own
# network nobody else can know. Closed whatever is opened.
_NEVER = tuple(
    (ip_network(network), meaning)
    for network, meaning in (
        ("169.254.0.0/16", "link-local, where clouds serve metadata"),
        ("fe80::a9fe:a9fe/128", "a cloud's metadata address (OpenStack)"),
        ("168.63.129.16/32", "a cloud's metadata address (Azure's wire server)"),
        ("100.100.100.200/32", "a cloud's metadata address (Alibaba)"),
        ("192.0.0.192/32", "a cloud's metadata address (Oracle)"),
        ("fd00:ec2::/32", "a cloud's metadata address (AWS)"),
        ("fd20:ce::/32", "a cloud's metadata address (Google)"),
        ("fd00:42::42/128", "a cloud's metadata address (Scaleway)"),
        ("64:ff9b:1::/48", "an address behind a NAT64 of its own network"),
    )
)

# Where other protocols listen, which a request could be made to speak: the "bad ports" of the WHATWG Fetch standard
# (section 2.9, as of 2026), and the ports of PostgreSQL, Redis and RabbitMQ.
NOT_HTTP_PORTS = frozenset(
    map(
        int,
        "0 1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 104 109 110 111 113 115 117 119"
        " 123 135 137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 532 540 548 554 556 563 587 601 636 989"
        " 990 993 995 1719 1720 1723 2049 3659 4045 4190 5060 5061 6000 6566 6665 6666 6667 6668 6669 6679 6697 10080"
        " 4369 5432 5671 5672 6379 25672".split(),
    )
)
# HTTP, but ours: the admin ports, RabbitMQ's management and metrics.
_OWN_PORTS = frozenset((*ADMIN_PORTS.values(), 15671, 15672, 15691, 15692))
_WEB_PORTS = frozenset((80, 443))

HOSTS_MAX = 1024
"""Of the last so many hosts the answer is kept: clients name few, and each again and again."""

_LOCALHOST = ("127.0.0.1", "::1")
# Such a host is an IPv4 address (WHATWG URL, section 3.5), or none.
_ENDS_IN_A_NUMBER = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)$")
_MAPPED, _COMPATIBLE, _TRANSLATED = ip_network("::ffff:0:0/96"), ip_network("::/96"), ip_network("::ffff:0:0:0/96")
_NAT64, _SIX_TO_FOUR, _TEREDO = ip_network("64:ff9b::/96"), ip_network("2002::/16"), ip_network("2001::/32")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214 section 6.1: the upper half of the interface identifier


class EgressRules:
    """Public addresses and opened networks, less closed networks, other protocols' ports and our own servers."""

    def __init__(
        self,
        allow_networks: Iterable[str] = (),
        deny_networks: Iterable[str] = (),
        own_ports: Iterable[int] = (),
    ) -> None:
        """`own_ports` are refused in opened networks. Raises: ValueError for what is no network, or would let
        translated addresses of any network through."""
        self._opened = ssrfguard.Policy(
            denied_networks=TABLE, allowed_networks=tuple(ip_network(text) for text in allow_networks)
        )
        self._closed = tuple(ip_network(text) for text in deny_networks)
        self._own_ports = _OWN_PORTS | frozenset(own_ports)
        self._of_host = lru_cache(HOSTS_MAX)(self._host_refusal)

    def refusal(self, address: str, port: int) -> str | None:
        """Why no connection may be made, and what can open it; None when it may. `address` may carry a zone."""
        if said := _port_refusal(port):
            return said
        given = ip_address(address)
        for end in (given, *_carried(given)):
            if said := self._refusal_of(end, port):
                return f"{address} {said}" if end is given else f"{address} carries {end}, which {said}"
        return None

    def host_refusal(self, host: str, port: int) -> str | None:
        """The same for the host of a URL, without brackets: for an address and for localhost. Of another name's
        addresses nothing is known here, so only its port is looked at."""
        return self._of_host(host, port)

    def _host_refusal(self, host: str, port: int) -> str | None:
        if "%" in host:
            return f"{host} contains a percent sign: no name does, and a zone has a meaning on one machine only"
        plain = unicodedata.normalize("NFKC", host).replace("。", ".").rstrip(".").lower()
        if ":" in plain:
            return self._literal_refusal(plain, port)
        if plain == "localhost" or plain.endswith(".localhost"):
            said = [self.refusal(address, port) for address in _LOCALHOST]
            return said[0] if all(said) else None
        if not _ENDS_IN_A_NUMBER.search(plain):
            return _port_refusal(port)
        return self._literal_refusal(plain, port)

    def _literal_refusal(self, text: str, port: int) -> str | None:
        try:
            return self.refusal(text, port)
        except ValueError:
            return f"{text} is an address in an unusual form; write it like 192.0.2.1 or 2001:db8::1"

    def _refusal_of(self, end: IPAddress, port: int) -> str | None:
        for network, meaning in _NEVER:
            if end in network:
                return f"is {meaning}; no setting opens it"
        for network in self._closed:
            if end in network:
                return f"is in {network}, which CARILLON_DENY_NETWORKS closes"
        try:
            self._opened.check_address(end)
        except ssrfguard.BlockedAddressError as error:
            return f"is not a public address: {error.reason}; CARILLON_ALLOW_NETWORKS can open it"
        if port in self._own_ports and not _PUBLIC.permits_address(end):
            return f"is in an opened network, but port {port} there is kept for Carillon's own servers"
        return None


def server_ports(*urls: str) -> frozenset[int]:
    """The ports that URLs of our servers write out. Not those of the web, or opening a network would be for nothing."""
    authorities = (re.split("[/?#]", url.partition("://")[2])[0].rpartition("@")[2] for url in urls)
    found = (int(port) for authority in authorities for port in re.findall(r":(\d+)(?=,|$)", authority))
    return frozenset(found) - _WEB_PORTS


def _port_refusal(port: int) -> str | None:
    return f"port {port} belongs to another protocol than HTTP; use another one" if port in NOT_HTTP_PORTS else None


def _carried(address: IPAddress) -> Iterator[IPv4Address]:
    """The IPv4 addresses that a packet to this one may end at."""
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    is_plain = address in _COMPATIBLE and number > 1  # `::` and `::1` are addresses of their own
    is_isatap = number >> 32 & 0xFFFF_FFFF in _ISATAP
    if is_plain or is_isatap or any(address in network for network in (_MAPPED, _TRANSLATED, _NAT64)):
        yield IPv4Address(number & 0xFFFF_FFFF)
    if address in _SIX_TO_FOUR:
        yield IPv4Address(number >> 80 & 0xFFFF_FFFF)
    if address in _TEREDO:  # server, and client with each bit turned (RFC 4380 section 4)
        yield IPv4Address(number >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(~number & 0xFFFF_FFFF)

"""No call reaches an address that it must not: loopback, private, link-local, metadata, translated forms of these.

The check sits where the socket is made, with the address that will be dialled: after DNS, so a name that changes
its answer gains nothing, and for IP literals too, which a custom resolver would never see.
Table of addresses: ssrfguard (IANA special-purpose registries, with mapped, NAT64, 6to4 and Teredo forms decoded).
"""

import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import ssrfguard

# Azure's wire server: a public address that answers only from inside a virtual machine, with its secrets.
WIRE_SERVER = ip_address("168.63.129.16")
# The longest prefix decides. Outside 2000::/3 no IPv6 address is assigned to anybody (RFC 4291 section 2.4).
TABLE = ssrfguard.AddressTable(
    (
        *ssrfguard.DEFAULT_DENIED.blocks,
        ssrfguard.Block(ip_network(f"{WIRE_SERVER}/32"), "Azure's wire server", "", ssrfguard.Reach.DENIED),
        ssrfguard.Block(ip_network("::/0"), "Unassigned", "RFC4291", ssrfguard.Reach.DENIED),
        ssrfguard.Block(ip_network("2000::/3"), "Global Unicast", "RFC4291", ssrfguard.Reach.PERMITTED),
    )
)
# A number that no system call gives: a name with several addresses fails as one plain OSError, which keeps the
# number of its parts when they all share it, and nothing else of them.
BLOCKED_ERRNO = 99_168

SocketFactory = Callable[[tuple[Any, ...]], socket.socket]


class BlockedAddress(OSError):
    """The policy refuses the address. An OSError, because aiohttp loses any other kind between two addresses."""

    def __init__(self, reason: str) -> None:
        super().__init__(BLOCKED_ERRNO, reason)

    def __str__(self) -> str:
        return str(self.strerror)


def policy_of(allow_networks: Iterable[str]) -> ssrfguard.Policy:
    """Raises: ValueError for what is no network, or would let translated addresses of any network through."""
    return ssrfguard.Policy(denied_networks=TABLE, allowed_networks=tuple(ip_network(text) for text in allow_networks))


def guarded_socket_factory(allow_networks: Iterable[str]) -> SocketFactory:
    """A factory for aiohttp's connector that makes sockets only towards allowed addresses."""
    policy = policy_of(allow_networks)

    def make(address_info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _name, address = address_info
        refuse_blocked(policy, address[0])
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return make


def refuse_blocked(policy: ssrfguard.Policy, address: str) -> None:
    """Raises: BlockedAddress."""
    try:
        policy.check_address(address)
    except ssrfguard.BlockedAddressError as error:
        raise BlockedAddress(f"{address} is not a public address: {error.reason}") from error
    if ip_address(address) == WIRE_SERVER:  # not even when it is in an allowed network
        raise BlockedAddress(f"{address} is a cloud's metadata address")

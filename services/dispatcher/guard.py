"""No call reaches an address that it must not: loopback, private, link-local, metadata, translated forms of these.

The check sits where the socket is made, with the address that will be dialled: after DNS, so a name that changes
its answer gains nothing, and for IP literals too, which a custom resolver would never see.
Table of addresses: ssrfguard (IANA special-purpose registries, with mapped, NAT64, 6to4 and Teredo forms decoded).
"""

import errno
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

import ssrfguard

# Azure's wire server: a public address that answers only from inside a virtual machine, with its secrets.
ALWAYS_DENIED = frozenset({ip_address("168.63.129.16")})

SocketFactory = Callable[[tuple[Any, ...]], socket.socket]


class BlockedAddress(OSError):
    """The policy refuses the address. An OSError, because aiohttp loses any other kind between two addresses."""


def guarded_socket_factory(allow_networks: Iterable[str]) -> SocketFactory:
    """A factory for aiohttp's connector that makes sockets only towards allowed addresses."""
    policy = ssrfguard.Policy(allowed_networks=tuple(ip_network(text) for text in allow_networks))

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
        raise BlockedAddress(errno.EACCES, f"{address} is not a public address: {error}") from error
    ip = ip_address(address)
    if (isinstance(ip, IPv6Address) and ip.ipv4_mapped in ALWAYS_DENIED) or ip in ALWAYS_DENIED:
        raise BlockedAddress(errno.EACCES, f"{address} is a cloud's metadata address")

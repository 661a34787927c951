"""Whose request it is, by address: that of the connection, or what a proxy that is trusted says of it. Pure."""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks: list[Network] = [ipaddress.ip_network(network, strict=False) for network in networks]

    def address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """The nearest address that is no trusted proxy. `forwarded_for`: the headers of that name, in order.

        Each proxy adds whom it heard from at the end; what stands before that of the first one is anybody's guess.
        """
        hops = [hop.strip() for header in forwarded_for for hop in header.split(",")]
        address = peer
        while hops and self._trusts(address):
            if _parsed(hops[-1]) is None:
                break
            address = hops.pop()
        return address

    def _trusts(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _parsed(address: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed

"""The way out: no call reaches an address that it must not, and no name is believed without a certificate.

The check sits where the socket is made, with the address that will be dialled: after DNS, so a name that changes its
answer gains nothing, and for IP literals too, which a custom resolver would never see. The rule: libs/common/egress.py.
"""

import socket
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any

from libs.common.egress import EgressRules

# A number that no system call gives: a name with several addresses fails as one plain OSError, which keeps the
# number of its parts when they all share it, and nothing else of them.
BLOCKED_ERRNO = 99_168
ADDRESSES_KEPT = 4096


class BlockedAddress(OSError):
    """The rules refuse it; the text says why. An OSError: aiohttp loses any other kind between two addresses."""

    def __init__(self, reason: str) -> None:
        super().__init__(BLOCKED_ERRNO, reason)

    def __str__(self) -> str:
        return str(self.strerror)


class Egress:
    """What every caller goes out through."""

    def __init__(self, rules: EgressRules, tls: ssl.SSLContext, proxy: str | None = None) -> None:
        """With `proxy` (http://user:password@host:port) every connection goes there, and names are resolved there."""
        self.tls = tls
        self.proxy = proxy
        self._rules = rules
        self._refusal = lru_cache(ADDRESSES_KEPT)(rules.refusal)  # of tens of microseconds, and always the same

    def check(self, address: str, port: int) -> None:
        """Ask with what will be dialled, just before. Raises: BlockedAddress."""
        if self.proxy is None:  # else it is the proxy's, which the operator named
            _raise(self._refusal(address, port))

    def check_host(self, host: str, port: int) -> None:
        """Ask with what the URL says, where a proxy will dial: nothing more is known here. Raises: BlockedAddress."""
        if self.proxy is not None:
            _raise(self._rules.host_refusal(host, port))

    def socket_for(self, address_info: tuple[Any, ...]) -> socket.socket:
        """A socket towards an address as `getaddrinfo` gives it. Raises: BlockedAddress."""
        family, kind, protocol, _name, address = address_info
        self.check(address[0], address[1])
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def ssl_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Verifies certificate and name, against the system's roots and those in `ca_file`.

    Raises: OSError, when the file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _raise(refusal: str | None) -> None:
    if refusal is not None:
        raise BlockedAddress(refusal)

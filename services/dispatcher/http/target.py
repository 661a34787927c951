"""What a URL says: where to dial, what to call it there, and which path to ask for, byte for byte as it was written."""

import re
from functools import lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple
from urllib.parse import quote

from yarl import URL

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_NEVER_SENT = re.compile(r"[\x00-\x20\x7f]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


class Origin(NamedTuple):
    """Connections to one are connections to any of its kind."""

    is_tls: bool
    host: str
    """As DNS and certificates know it: ASCII, lower case, without brackets; or an IP literal."""
    port: int


class Target(NamedTuple):
    origin: Origin
    authority: str
    """For the Host header: the port stands there when it is not the scheme's own."""
    path: str
    """With the query, without the fragment."""


@lru_cache(maxsize=1024)
def target_of(url: str) -> Target:
    """Raises: ValueError, saying what is wrong."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("neither an http nor an https URL")
    scheme, authority, path = match.groups()
    if "@" in authority:
        raise ValueError("a user or password in the URL is not sent; use an Authorization header")
    if _NEVER_SENT.search(authority + path):
        raise ValueError("a space or a control character in the URL")
    parsed = URL(f"{scheme}://{authority}/")  # lower case, IDNA, brackets, the range of a port
    host = (parsed.raw_host or "").rstrip(".")
    if not host or not parsed.port:
        raise ValueError("no host or no port in the URL")
    asked = _NON_ASCII.sub(lambda found: quote(found[0]), path)
    origin = Origin(parsed.scheme == "https", host, parsed.port)
    return Target(origin, str(parsed.host_port_subcomponent), asked if asked.startswith("/") else f"/{asked}")


def is_odd_address(host: str) -> bool:
    """`127.1`, `0x7f.1` and `2130706433` are addresses to some and names to others; DNS knows no such name."""
    if ":" in host or not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return False
    try:
        IPv4Address(host)
    except ValueError:
        return True
    return False

"""The bytes of a request, and what keeps one request from being read as two."""

import re
from functools import lru_cache

from services.dispatcher.caller import Request
from services.dispatcher.http.proxy import Proxy
from services.dispatcher.http.target import Target

# Without a body these say nothing of one; any other method says that it is empty (RFC 9110 section 8.6).
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
# They frame the message, or belong to the connection: ours to write. Ingest refuses them too.
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2


def bytes_of(request: Request, target: Target, proxy: Proxy | None = None) -> bytes:
    """Head and body, ready to be written, to a proxy if there is one and it can read them.

    Raises: ValueError for what would break out of its line, or is no HTTP.
    """
    call = request.call
    lines = [f"{_token(call.method)} {target.path} HTTP/1.1", f"Host: {target.authority}"]
    if proxy is not None and not target.origin.is_tls:
        lines[0] = f"{call.method} http://{target.authority}{target.path} HTTP/1.1"
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
    lines += [f"{_header_name(name)}: {value}" for name, value in request.headers]
    if call.body or call.method not in _BODILESS:
        lines.append(f"Content-Length: {len(call.body)}")
    head = "\r\n".join((*lines, "\r\n")).encode()
    # A line break in a value shows here: looking once costs less than looking at each value.
    if not head.count(b"\r") == head.count(b"\n") == len(lines) + 1 or b"\0" in head:
        raise ValueError("a line break or a NUL in a header")
    return head + call.body


@lru_cache(maxsize=1024)
def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is no token of HTTP")
    return text


@lru_cache(maxsize=1024)
def _header_name(name: str) -> str:
    if name.lower() in _OURS:
        raise ValueError(f"the header {name} is not the client's to set")
    return _token(name)

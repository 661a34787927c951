"""A proxy on the way: plain calls name the whole URL to it, TLS goes through a tunnel that it makes (CONNECT).

Source: RFC 9112 section 3.2.2, RFC 9110 section 9.3.6. It looks names up; it is never shown what TLS carries.
"""

import asyncio
import socket
from base64 import b64encode
from typing import NamedTuple

from yarl import URL

from services.dispatcher.http.failure import CallFailed
from services.dispatcher.http.target import Origin

ANSWER_BYTES_MAX = 16 * 1024


class Proxy(NamedTuple):
    origin: Origin
    authorization: str | None
    """The value of Proxy-Authorization."""


def proxy_of(url: str) -> Proxy:
    """From http://user:password@host:port."""
    parsed = URL(url)
    secret = f"{parsed.user or ''}:{parsed.password or ''}"
    authorization = f"Basic {b64encode(secret.encode()).decode()}" if parsed.user or parsed.password else None
    return Proxy(Origin(False, parsed.raw_host or "", parsed.port or 80), authorization)


async def open_tunnel(sock: socket.socket, proxy: Proxy, origin: Origin) -> None:
    """Afterwards the other end of `sock` is `origin`. Raises: CallFailed, and what sockets raise."""
    loop = asyncio.get_running_loop()
    authority = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(sock, "\r\n".join((*lines, "\r\n")).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < ANSWER_BYTES_MAX:
        part = await loop.sock_recv(sock, 4096)
        if not part:
            break
        answer += part
    line, _, _ = answer.partition(b"\r\n")
    # In a tunnel the other end waits for us to begin.
    if not (line.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")) and answer.endswith(b"\r\n\r\n")):
        raise CallFailed("connect", f"the proxy makes no tunnel: {line[:200].decode(errors='replace') or 'no answer'}")

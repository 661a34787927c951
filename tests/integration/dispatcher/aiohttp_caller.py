"""A caller made of aiohttp: the second opinion of the conformance suite, and what the benchmark compares with.

It was the product's first. What it does differently stands in `test_caller_conformance.py`.
"""

import ssl
from typing import NamedTuple

import aiohttp
from yarl import URL

from libs.common.clock import Clock, ceil_to_ms
from services.dispatcher.caller import BODY_READ_MAX, CONNECT_TIMEOUT_S, DNS_CACHE_S, Request
from services.dispatcher.guard import BLOCKED_ERRNO, Egress
from services.dispatcher.outcome import Answer, ErrorClass


class AiohttpCaller:
    """One session, no limit of its own: the consumer counts what is in flight."""

    def __init__(self, egress: Egress, clock: Clock) -> None:
        self._clock = clock
        connector = aiohttp.TCPConnector(
            socket_factory=egress.socket_for,
            ssl=egress.tls,
            limit=0,
            ttl_dns_cache=DNS_CACHE_S,
            happy_eyeballs_delay=0.25,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # the default one would show one client's cookie to the next
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(self, request: Request) -> Answer:
        started_at = ceil_to_ms(self._clock.now())
        begun = self._clock.monotonic()
        met = await self._meet(request)
        return Answer(
            started_at=started_at,
            duration_ms=round((self._clock.monotonic() - begun) * 1000),
            status_code=met.status_code,
            headers=met.headers,
            body=met.body,
            error=met.error,
            error_detail=met.detail,
        )

    async def _meet(self, request: Request) -> "_Met":
        call = request.call
        if not call.url.lower().startswith(("http://", "https://")):
            return _Met(error="protocol", detail="neither an http nor an https URL")
        limits = aiohttp.ClientTimeout(
            total=call.timeout_s, connect=CONNECT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, ceil_threshold=3600
        )
        try:
            async with self._session.request(
                call.method,
                URL(call.url, encoded=True),
                data=call.body or None,
                headers=request.headers,
                allow_redirects=False,
                timeout=limits,
            ) as response:
                body = await _beginning(response)
                headers = tuple((_text(name).lower(), _text(value)) for name, value in response.headers.items())
                return _Met(response.status, headers, body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return _Met(error=_class_of(error), detail=_say(error))


class _Met(NamedTuple):
    status_code: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: ErrorClass | None = None
    detail: str | None = None


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < BODY_READ_MAX:
        part = await response.content.read(BODY_READ_MAX - size)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    response.close()
    return b"".join(parts)


def _class_of(error: BaseException) -> ErrorClass:
    if _is_blocked(error):
        return "blocked_address"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connect"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | OSError):
        return "disconnected"
    return "protocol"


def _is_blocked(error: BaseException) -> bool:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(cause, OSError) and cause.errno == BLOCKED_ERRNO


def _say(error: BaseException) -> str:
    said: object = error
    if isinstance(error, aiohttp.ClientConnectorError):  # whose own text loses what several addresses said
        said = error.os_error.strerror or error.os_error
    if _is_blocked(error):
        return str(said)[:500]
    return _text(f"{type(error).__name__}: {said}")[:500]


def _text(received: str) -> str:
    """aiohttp keeps bytes that are no UTF-8 as lone surrogates, which no JSON can carry."""
    return received.encode(errors="surrogateescape").decode(errors="replace")

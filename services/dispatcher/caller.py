"""Makes the call: one HTTP request, under one time limit, without following, remembering or decoding anything.

`Caller` is the port, so that a faster client can take aiohttp's place; `AiohttpCaller` is today's.
"""

import ssl
from datetime import datetime
from typing import NamedTuple, Protocol

import aiohttp
from yarl import URL

from libs.common.clock import Clock, ceil_to_ms, format_utc
from libs.common.contracts import Call, Task
from libs.common.version import VERSION
from services.dispatcher.guard import BLOCKED_ERRNO, SocketFactory
from services.dispatcher.outcome import Answer, ErrorClass

# Enough to look for an expected text in; the rest is not read, and the connection is dropped with it.
BODY_READ_MAX = 64 * 1024
CONNECT_TIMEOUT_S = 10.0
DNS_CACHE_S = 30
USER_AGENT = f"Carillon/{VERSION}"


class Request(NamedTuple):
    """One attempt, ready to be sent."""

    call: Call
    headers: tuple[tuple[str, str], ...]


class Caller(Protocol):
    async def call(self, request: Request) -> Answer:
        """Send it and read the answer. A failure is an `Answer` with an `error`, never an exception."""


def request_of(task: Task, call: Call, attempts_max: int, now: datetime) -> Request:
    """The client's headers, then ours. `webhook-id` is the same on every attempt (Standard Webhooks 1.0)."""
    ours = [
        ("User-Agent", USER_AGENT),
        ("webhook-id", str(task.id)),
        ("webhook-timestamp", str(int(now.timestamp()))),
        ("Idempotency-Key", str(task.id)),
        ("Carillon-Attempt", f"{task.attempt}/{attempts_max}"),
        ("Carillon-Due-At", format_utc(task.due_at)),
    ]
    if call.traceparent:
        ours.append(("traceparent", call.traceparent))
    spelling: dict[str, str] = {}  # aiohttp drops the first of two headers whose names differ in case alone
    theirs = [(spelling.setdefault(name.lower(), name), value) for name, value in call.headers]
    return Request(call, (*theirs, *(pair for pair in ours if pair[0].lower() not in spelling)))


class AiohttpCaller:
    """One session, no limit of its own: the consumer counts what is in flight."""

    def __init__(self, socket_factory: SocketFactory, clock: Clock) -> None:
        self._clock = clock
        connector = aiohttp.TCPConnector(
            socket_factory=socket_factory, limit=0, ttl_dns_cache=DNS_CACHE_S, happy_eyeballs_delay=0.25
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
    return isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == BLOCKED_ERRNO


def _say(error: BaseException) -> str:
    said: object = error
    if isinstance(error, aiohttp.ClientConnectorError):  # whose own text loses what several addresses said
        said = error.os_error.strerror or error.os_error
    if _is_blocked(error):
        return f"{said}; CARILLON_ALLOW_NETWORKS can open it"[:500]
    return _text(f"{type(error).__name__}: {said}")[:500]


def _text(received: str) -> str:
    """aiohttp keeps bytes that are no UTF-8 as lone surrogates, which no JSON can carry."""
    return received.encode(errors="surrogateescape").decode(errors="replace")

"""One request of the API: sent, repeated where that cannot double anything, and its answer read or raised.

Repeated is what a pause may mend (no connection, 429, 5xx), and only if nothing has happened yet or a repeat changes
nothing: a GET, a PUT, a DELETE, or a POST whose Idempotency-Key names it.
"""

import asyncio
import random
from asyncio import sleep
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from carillon.errors import (
    APIError,
    CarillonError,
    Conflict,
    NotReachable,
    Problem,
    RateLimited,
    Unavailable,
    UnexpectedAnswer,
    api_error,
)
from carillon.models import Page
from carillon.version import VERSION

PAUSE_FIRST_S, PAUSE_MAX_S = 0.2, 8.0
CONNECT_S = 5.0  # who does not take a connection by then has not heard of the request

T = TypeVar("T")


class Request(NamedTuple):
    """`is_repeatable`: a second one changes nothing that the first has not changed."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    body: Any = None
    is_repeatable: bool = False
    idempotency_key: str | None = None


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Open from `start` to `close`."""

    def __init__(self, url: str, key: str, *, timeout_s: float, answer_timeout_s: float) -> None:
        self.url = _checked_url(url)
        self._headers = {
            "Authorization": f"Bearer {_checked_key(key)}",
            "Accept": "application/json",
            "User-Agent": f"carillon-python/{VERSION}",
        }
        self._timeout_s = timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        self._session = aiohttp.ClientSession(headers=self._headers, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def until(self) -> float:
        """When what begins now has to be over."""
        return monotonic() + self._timeout_s

    async def pause(self, seconds: float, until: float) -> bool:
        """False, at once, when it would be over before the pause is."""
        if monotonic() + seconds >= until:
            return False
        await sleep(seconds)
        return True

    async def send(self, request: Request, into: type[T], until: float | None = None) -> T:
        """The answer, within the time limit. Raises: CarillonError."""
        body = b"" if request.body is None else msgspec.json.encode(request.body)  # once: a repeat has the same bytes
        until = self.until() if until is None else until
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return _read(await self._once(request, body, until), into, self.url)
            except (NotReachable, APIError) as error:
                if not _may_repeat(request, error) or not await self.pause(_pause_s(error, pause_s), until):
                    raise
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def pages(self, path: str, query: Sequence[tuple[str, str]], item: type[T]) -> AsyncIterator[T]:
        """Every item of a list, newest first, page after page."""
        cursor: list[tuple[str, str]] = []
        while True:
            request = Request("GET", path, [*query, *cursor], is_repeatable=True)
            page = await self.send(request, Page[item])  # type: ignore[valid-type]
            for one in page.data:
                yield one
            if page.next_cursor is None:
                return
            cursor = [("cursor", page.next_cursor)]

    async def _once(self, request: Request, body: bytes, until: float) -> _Answer:
        """Raises: NotReachable."""
        if self._session is None:
            raise RuntimeError("use the client as `async with Client(...) as client:`")
        url = URL(self.url + request.path + (f"?{urlencode(request.query)}" if request.query else ""), encoded=True)
        total_s = max(0.001, min(self._answer_timeout_s, until - monotonic()))
        limit = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S)
        try:
            async with self._session.request(
                request.method, url, data=body or None, headers=_headers(request, body), timeout=limit,
                allow_redirects=False,  # the key is for this address
            ) as response:  # fmt: skip
                return _Answer(response.status, response.headers, await response.read())
        except aiohttp.ClientConnectorCertificateError as error:
            raise UnexpectedAnswer(f"{self.url} does not prove who it is: {error.certificate_error}") from error
        except aiohttp.ClientConnectorError as error:
            raise NotReachable(f"no connection to {self.url}: {error.os_error}", is_maybe_taken=False) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise NotReachable(f"no connection to {self.url} in {CONNECT_S:g} s", is_maybe_taken=False) from error
        except asyncio.TimeoutError as error:  # before Python 3.11 a type of its own
            raise NotReachable(f"no answer from {self.url} within {total_s:.3g} s", is_maybe_taken=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotReachable(f"no answer from {self.url}: {error}", is_maybe_taken=True) from error


def segment(text: object) -> str:
    """`text` as one step of a path, whatever is in it. Raises: ValueError, where it would name another path."""
    if str(text) in ("", ".", ".."):
        raise ValueError(f"{str(text)!r} is no name of anything")
    return quote(str(text), safe="")


def _checked_url(url: str) -> str:
    parsed = URL(url.strip())
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"the URL of Carillon is {url!r}; write it as https://carillon.example.com")
    if parsed.query_string or parsed.fragment or parsed.user:
        raise ValueError("the URL of Carillon is its address alone: leave out user, query and fragment")
    return str(parsed).rstrip("/")


def _checked_key(key: str) -> str:
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the key of Carillon is empty or has characters that no key has: copy it again")
    return key


def _headers(request: Request, body: bytes) -> dict[str, str]:
    headers = {"Content-Type": "application/json"} if body else {}
    if request.idempotency_key is not None:
        headers["Idempotency-Key"] = request.idempotency_key
    return headers


def _may_repeat(request: Request, error: CarillonError) -> bool:
    match error:
        case Conflict():  # of a request with a key of its own: the first one is still being answered
            return request.idempotency_key is not None
        case NotReachable() | Unavailable():
            is_safe = request.is_repeatable or request.idempotency_key is not None
            return is_safe or not error.is_maybe_taken
        case RateLimited():
            return True
        case _:
            return False


def _pause_s(error: CarillonError, pause_s: float) -> float:
    """What the server asked for; else somewhere in the upper half of `pause_s`, so that clients spread."""
    asked_s: float | None = getattr(error, "retry_after_s", None)
    return pause_s * random.uniform(0.5, 1.0) if asked_s is None else asked_s  # noqa: S311 - no secret


def _read(answer: _Answer, into: type[T], url: str) -> T:
    """Raises: APIError, UnexpectedAnswer."""
    if answer.status >= 400:
        raise api_error(_problem(answer, url), _retry_after_s(answer.headers.get("Retry-After")))
    if not 200 <= answer.status < 300:
        location = answer.headers.get("Location", "elsewhere")
        raise UnexpectedAnswer(f"{url} answers {answer.status} and points to {location}: use the address of Carillon")
    if into is type(None):
        return None
    try:
        return msgspec.json.decode(answer.body, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnexpectedAnswer(f"{url} answers {answer.status} with what Carillon would not say: {error}") from error


def _problem(answer: _Answer, url: str) -> Problem:
    """What a proxy in between says instead is no problem document."""
    try:
        problem = msgspec.json.decode(answer.body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = Problem()
    if not problem.code:
        return Problem(
            status=answer.status, code="not_a_problem", detail=f"{url} answers {answer.status} without saying why"
        )
    return msgspec.structs.replace(problem, status=answer.status)


def _retry_after_s(text: str | None) -> float | None:
    """Seconds, or an HTTP date (RFC 9110 section 10.2.3); None when it is neither."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(timezone.utc)).total_seconds()) if at.tzinfo else None

"""The dispatcher's caller: a kept connection or a new one, one time limit over all of it, and an answer in any case."""

import asyncio
from typing import overload

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import DefaultResolver

from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import Timing
from services.dispatcher.caller import CONNECT_TIMEOUT_S, Request
from services.dispatcher.guard import Egress
from services.dispatcher.http.connection import Connection, Reply
from services.dispatcher.http.dial import Dialler, Phases
from services.dispatcher.http.failure import CallFailed
from services.dispatcher.http.pool import Pool
from services.dispatcher.http.proxy import proxy_of
from services.dispatcher.http.request_head import bytes_of
from services.dispatcher.http.target import Origin, target_of
from services.dispatcher.outcome import Answer

# RFC 9110 section 9.2.2. Only these may be sent again after a kept connection died under them (RFC 9112 section
# 9.3.1): whether the receiver had acted on a POST is not known, so that is an attempt, and the ladder repeats it.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class LeanCaller:
    """No limit of its own: the consumer counts what is in flight."""

    def __init__(self, egress: Egress, clock: Clock, resolver: AbstractResolver | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._pool = Pool()
        self._proxy = None if egress.proxy is None else proxy_of(egress.proxy)
        self._dialler = Dialler(egress, resolver or DefaultResolver(), self._proxy)

    async def close(self) -> None:
        self._pool.close()
        await self._dialler.close()

    async def call(self, request: Request) -> Answer:
        started_at = ceil_to_ms(self._clock.now())
        begun = self._loop.time()
        phases = Phases()
        try:
            reply = await self._meet(request, begun + request.call.timeout_s, phases)
        except CallFailed as failure:
            return Answer(
                started_at=started_at,
                duration_ms=_ms(self._loop.time() - begun),
                error=failure.error,
                error_detail=str(failure)[:500],
                timing=_timing(phases),
            )
        return Answer(
            started_at=started_at,
            duration_ms=_ms(self._loop.time() - begun),
            status_code=reply.status,
            headers=tuple([(_text(name).lower(), _text(value.strip())) for name, value in reply.headers]),
            body=reply.body,
            timing=_timing(phases),
        )

    async def _meet(self, request: Request, deadline: float, phases: Phases) -> Reply:
        method = request.call.method
        try:
            target = target_of(request.call.url)
            sent = bytes_of(request, target, self._proxy)
        except ValueError as error:
            raise CallFailed("protocol", str(error)) from error
        kept = self._pool.take(target.origin)
        if kept is not None:
            try:
                return await self._exchange(kept, target.origin, method, sent, deadline, phases)
            except CallFailed as failure:
                if not failure.is_unanswered or method not in _IDEMPOTENT:
                    raise
        new = await self._dial(target.origin, deadline, phases)
        return await self._exchange(new, target.origin, method, sent, deadline, phases)

    async def _dial(self, origin: Origin, deadline: float, phases: Phases) -> Connection:
        try:
            async with asyncio.timeout_at(min(deadline, self._loop.time() + CONNECT_TIMEOUT_S)):
                return await self._dialler.dial(origin, phases)
        except TimeoutError as error:
            raise CallFailed("timeout", "no connection in time") from error

    async def _exchange(
        self, connection: Connection, origin: Origin, method: str, sent: bytes, deadline: float, phases: Phases
    ) -> Reply:
        try:
            reply = await connection.ask(sent, deadline, is_head=method == "HEAD")
        except BaseException:
            connection.abort()  # what is left of its answer must not meet the next request
            raise
        finally:
            phases.first_byte_s = connection.first_byte_s
        if connection.is_open:
            self._pool.put(origin, connection)
        return reply


def _timing(phases: Phases) -> Timing:
    return Timing(
        dns_ms=_ms(phases.dns_s),
        connect_ms=_ms(phases.connect_s),
        tls_ms=_ms(phases.tls_s),
        first_byte_ms=_ms(phases.first_byte_s),
    )


@overload
def _ms(seconds: float) -> int: ...
@overload
def _ms(seconds: None) -> None: ...
def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _text(received: bytes) -> str:
    """Bytes that are no UTF-8 are replaced: no JSON can carry them."""
    return received.decode(errors="replace")

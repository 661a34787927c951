"""The addresses of a name, for half a minute: one question at a time for each, whoever waits for it."""

import asyncio
import socket
from typing import NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from services.dispatcher.caller import DNS_CACHE_S
from services.dispatcher.http.failure import CallFailed

KNOWN_MAX = 10_000


class _Known(NamedTuple):
    addresses: list[ResolveResult]
    until: float


class Names:
    """`resolver` is any of aiohttp's."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._loop = asyncio.get_running_loop()
        self._resolver = resolver
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[list[ResolveResult] | CallFailed]] = {}

    def known(self, host: str) -> list[ResolveResult] | None:
        """What was answered not long ago."""
        known = self._known.get(host)
        return known.addresses if known is not None and known.until > self._loop.time() else None

    async def ask(self, host: str) -> list[ResolveResult]:
        """Raises: CallFailed. A waiter that gives up takes nothing from the others."""
        asking = self._asking.get(host)
        if asking is None:
            asking = self._asking[host] = self._loop.create_task(self._ask(host))
            asking.add_done_callback(lambda _done: self._asking.pop(host))
        answer = await asyncio.shield(asking)
        if isinstance(answer, CallFailed):
            raise answer
        return answer

    async def close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._resolver.close()

    async def _ask(self, host: str) -> list[ResolveResult] | CallFailed:
        try:
            addresses = await self._resolver.resolve(host, 0, family=socket.AF_UNSPEC)
        except (OSError, ValueError) as error:
            return CallFailed("dns", f"{host}: {error.strerror or error}" if isinstance(error, OSError) else str(error))
        now = self._loop.time()
        if len(self._known) >= KNOWN_MAX:
            self._known = {name: known for name, known in self._known.items() if known.until > now}
        self._known[host] = _Known(addresses, now + DNS_CACHE_S)
        return addresses

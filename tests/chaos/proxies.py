"""The proxies of a run, on a thread of their own: they stand before the stack comes up and until it is down."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from deploy.local.layout import LOOPBACK, Layout
from deploy.local.plan import Override
from tests.chaos.fault import Fault
from tests.chaos.links import Link, ports
from tests.chaos.proxy import Proxy

CLOSE_WITHIN_S = 10.0


class Proxies:
    """By the name of their link."""

    def __init__(self, made: Mapping[str, Proxy], loop: asyncio.AbstractEventLoop) -> None:
        self._made = made
        self._loop = loop

    @asynccontextmanager
    async def spoilt(self, fault: Fault) -> AsyncIterator[None]:
        """The link that it names, in the way that it names."""
        proxy = self._made[fault.target]
        await self._there(proxy.poison(fault.kind, fault.parameters))
        try:
            yield
        finally:
            await self._there(proxy.heal())

    async def _there(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@contextmanager
def standing(layout: Layout, replicas: int, dice: random.Random) -> Iterator[Proxies]:
    """One in each link. Raises: OSError when a port is taken."""
    made = {
        link: Proxy(port, (LOOPBACK, layout.server_port(link.server)), random.Random(dice.random()))
        for link, port in ports(layout, replicas).items()
    }
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxies", daemon=True)
    thread.start()
    try:
        _each(made, lambda proxy: proxy.open(), loop)
        yield Proxies({str(link): proxy for link, proxy in made.items()}, loop)
    finally:
        _each(made, lambda proxy: proxy.close(), loop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_WITHIN_S)
        loop.close()


def overrides(layout: Layout, replicas: int) -> dict[str, Override]:
    """So that every service finds its servers behind its own proxies."""
    by_process: dict[str, dict[str, int]] = {}
    for link, port in ports(layout, replicas).items():
        by_process.setdefault(link.process, {})[link.server] = port
    return {process: Override(server_ports=server_ports) for process, server_ports in by_process.items()}


def _each(
    made: Mapping[Link, Proxy],
    work: Callable[[Proxy], Coroutine[Any, Any, None]],
    loop: asyncio.AbstractEventLoop,
) -> None:
    for proxy in made.values():
        asyncio.run_coroutine_threadsafe(work(proxy), loop).result(CLOSE_WITHIN_S)

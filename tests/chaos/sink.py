"""The one who is called: an HTTP server in this process, which nobody kills, and which remembers every call.

/ok/<n> answers 200, /flaky/<n> 503 to attempt 1 and 200 afterwards, /broken/<n> 410.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from deploy.local.layout import LOOPBACK
from tests.chaos.checker import Call

# So that a kill meets calls under way: at 16 tasks/s every dispatcher of two has two in hand.
ANSWER_AFTER_S = 0.25


class Sink:
    """`calls[id]` are the calls of one task, in the order they came."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self.last_call_at = time.monotonic()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Gives the base URL, on a free port of loopback."""
        app = web.Application()
        app.router.add_route("*", "/{behaviour}/{number}", self._called)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, 0).start()
        try:
            yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _called(self, request: web.Request) -> web.Response:
        at_ms = time.time_ns() // 1_000_000
        attempt = int(request.headers["Carillon-Attempt"].partition("/")[0])
        status = _answer(request.match_info["behaviour"], attempt)
        call = Call(request.headers["webhook-id"], attempt, at_ms, status)
        self.calls[call.id].append(call)  # before the answer: the caller may die while it waits
        self.last_call_at = time.monotonic()
        await asyncio.sleep(ANSWER_AFTER_S)
        return web.Response(status=status)


def _answer(behaviour: str, attempt: int) -> int:
    match behaviour:
        case "flaky" if attempt == 1:
            return 503
        case "broken":
            return 410
        case _:
            return 200

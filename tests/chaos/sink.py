"""The one who is called: an HTTP server in this process, which nobody kills, and which remembers every call.

The first segment of the path tells it how to answer, the second which request the task was made by:

    /ok/<n>         200 after a quarter of a second        /broken/<n>    410
    /slow/<n>       200 after one to five seconds          /hopeless/<n>  503, always
    /flaky/<n>      503 to attempt 1, then as ok           /mended/<n>    410 until `mend(n)`, then as ok
    /flaky2/<n>     503 to attempts 1 and 2                /reset/<n>     attempt 1 has its connection reset
    /later/<n>      503 with Retry-After to attempt 1      /stall/<n>     attempt 1 is never answered
    /callback/<n>   200 at once; the body tells of whom    /occurrence/<n> as ok
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec
from aiohttp import web

from deploy.local.layout import LOOPBACK
from libs.common.clock import to_ms
from tests.chaos.checker import Call

# So that a kill meets calls under way: at 16 tasks/s every dispatcher of two has two in hand.
ANSWER_AFTER_S = 0.25
SLOW_S = (1.0, 2.0, 3.0, 5.0)
STALL_TIMEOUT_S = 3.0
"""What a task that stalls has as its time limit; its connection is reset after twice as long."""
RETRY_AFTER_S = 3
"""Longer than the shortest rungs: such a retry goes by the scheduler."""
NO_ANSWER = 0


class _Finished(msgspec.Struct):
    """What a callback tells, as far as it matters here."""

    id: str
    status: str


class Sink:
    """`calls[id]` are the calls of one task, in the order they came."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self.last_call_at = time.monotonic()
        self._mended: set[int] = set()

    def mend(self, number: int) -> None:
        self._mended.add(number)

    def made(self) -> list[Call]:
        return [call for made in self.calls.values() for call in made]

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
        behaviour, number = request.match_info["behaviour"], int(request.match_info["number"])
        attempt = int(request.headers["Carillon-Attempt"].partition("/")[0])
        status, after_s = self._answer(behaviour, number, attempt)
        about = _about(await request.read()) if behaviour == "callback" else ""
        due_ms = to_ms(datetime.fromisoformat(request.headers["Carillon-Due-At"]))
        call = Call(request.headers["webhook-id"], attempt, at_ms, status, number, behaviour, due_ms, about)
        self.calls[call.id].append(call)  # before the answer: the caller may die while it waits
        self.last_call_at = time.monotonic()
        await asyncio.sleep(after_s)
        if status == NO_ANSWER and request.transport is not None:
            request.transport.abort()  # a stalled one too: a caller that was frozen might take the answer after all
        headers = {"Retry-After": str(RETRY_AFTER_S)} if behaviour == "later" and status == 503 else {}
        return web.Response(status=status or 200, headers=headers)

    def _answer(self, behaviour: str, number: int, attempt: int) -> tuple[int, float]:
        """The status, and after how many seconds it is given."""
        match behaviour:
            case "flaky" | "later" if attempt == 1:
                return 503, ANSWER_AFTER_S
            case "flaky2" if attempt <= 2:
                return 503, ANSWER_AFTER_S
            case "hopeless":
                return 503, ANSWER_AFTER_S
            case "broken":
                return 410, ANSWER_AFTER_S
            case "mended" if number not in self._mended:
                return 410, ANSWER_AFTER_S
            case "reset" if attempt == 1:
                return NO_ANSWER, ANSWER_AFTER_S
            case "stall" if attempt == 1:
                return NO_ANSWER, 2 * STALL_TIMEOUT_S
            case "slow":
                return 200, SLOW_S[number % len(SLOW_S)]
            case "callback":
                return 200, 0.0
            case _:
                return 200, ANSWER_AFTER_S


def _about(body: bytes) -> str:
    told = msgspec.json.decode(body, type=_Finished)
    return f"{told.id}:{told.status}"

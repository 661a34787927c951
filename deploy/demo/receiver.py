"""The bundled receiver: a small HTTP server that is called, and remembers when.

/ok/<name>        answers 200
/flaky/<name>     answers 503 twice, then 200
/broken/<name>    answers 500, always
"""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

LOOPBACK = "127.0.0.1"
FLAKY_FAILURES = 2


class Receiver:
    """`calls[name]` holds the moment of every call that came in for `name`."""

    def __init__(self) -> None:
        self.calls: dict[str, list[datetime]] = defaultdict(list)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Gives the base URL, on a free port of loopback."""
        app = web.Application()
        app.router.add_route("*", "/{behaviour}/{name}", self._called)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, LOOPBACK, 0)
        await site.start()
        try:
            yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _called(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.calls[name].append(datetime.now(UTC))
        match request.match_info["behaviour"]:
            case "broken":
                return web.Response(status=500, text="never works")
            case "flaky" if len(self.calls[name]) <= FLAKY_FAILURES:
                return web.Response(status=503, text="not yet")
        return web.json_response({"success": True})

"""The bundled receiver: a small HTTP server that is called, and remembers when.

As a program (`python -m deploy.demo.receiver`, in the demo's container) it listens on port 8000 of every address.

/ok/<name>        answers 200
/flaky/<name>     answers 503 twice, then 200
/broken/<name>    answers 500, always
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  a container's network decides who can reach it
PORT = 8000
FLAKY_FAILURES = 2


class Receiver:
    """`calls[name]` holds the moment of every call that came in for `name`."""

    def __init__(self) -> None:
        self.calls: dict[str, list[datetime]] = defaultdict(list)

    @asynccontextmanager
    async def listening(self, host: str = LOOPBACK, port: int = 0) -> AsyncIterator[str]:
        """Gives the base URL; port 0 takes any free one."""
        app = web.Application()
        app.router.add_route("*", "/{behaviour}/{name}", self._called)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        try:
            yield f"http://{host}:{runner.addresses[0][1]}"
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


async def main() -> None:
    async with Receiver().listening(EVERY_ADDRESS, PORT):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

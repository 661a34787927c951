"""The port a supervisor and Prometheus look at: /livez, /readyz, /metrics.

Answers for: saying truly whether this process works. It knows no dependency by name; a service hands in its
checks. Live means "restarting me would not help", ready means "send me work": a lost dependency makes a
process unready, never dead. Kept apart from any public port, so that metrics are not on the internet.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import msgspec
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from libs.common.lifecycle import Fatal
from libs.common.logs import redacted
from libs.common.metrics import REGISTRY

ReadyCheck = Callable[[], Awaitable[None]]
AliveCheck = Callable[[], str | None]

READY_CHECK_S = 2.0
"""Longest wait for one check: below the 3 s that our probes give the whole answer."""

IDLE_S = 75.0
"""How long a connection may take to bring its first or next request head. Above what load balancers keep (60 s): who
closes first must be the one that sends."""

_NO_CHECKS: Mapping[str, AliveCheck] = MappingProxyType({})


class CannotListen(Fatal):
    """The address is taken, not ours, or needs rights we lack."""


class AdminServer:
    """The worker that serves the admin port. It stays while the others drain, answering "draining"."""

    name = "admin"
    until_last = True

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ready: Mapping[str, ReadyCheck],
        alive: Mapping[str, AliveCheck] = _NO_CHECKS,
    ) -> None:
        """`ready`: a check raises when its dependency is away. `alive`: a check says why its loop is dead."""
        self._host = host
        self._port = port
        self._ready = ready
        self._alive = alive
        self._stopping = asyncio.Event()
        self._listening = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until cancelled. Raises `CannotListen`."""
        self._stopping = stopping
        async with serve(self._app(), self._host, self._port, setting="CARILLON_ADMIN_PORT") as self._port:
            self._listening.set()
            await asyncio.Event().wait()

    async def bound_port(self) -> int:
        """The port in use, once it is listening: of interest when port 0 was asked for."""
        await self._listening.wait()
        return self._port

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", _metrics)
        return app

    async def _livez(self, _request: web.Request) -> web.Response:
        dead = {name: reason for name, check in self._alive.items() if (reason := check()) is not None}
        return _answer("dead", dead) if dead else _answer("ok")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._stopping.is_set():
            return _answer("draining", {"process": "is stopping and takes no new work"})
        reasons = await asyncio.gather(*(_reason_against(check) for check in self._ready.values()))
        missing = {name: reason for name, reason in zip(self._ready, reasons, strict=True) if reason}
        return _answer("not ready", missing) if missing else _answer("ok")


@asynccontextmanager
async def serve(
    app: web.Application, host: str, port: int, *, setting: str, drain_s: float = 1, idle_s: float = IDLE_S
) -> AsyncIterator[int]:
    """Serve `app` inside the block; gives the port in use (`port` 0 takes any free one).

    On leaving, no connection is accepted any more and requests in hand get `drain_s` seconds.
    Raises `CannotListen`, naming the address and `setting`, the variable that changes it.
    """
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=drain_s, keepalive_timeout=idle_s
    )
    await runner.setup()
    try:
        await _listen(runner, host, port, setting)
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int, setting: str) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "another process listens there; stop it"
        else:
            reason = f"{error.strerror or error}; give this process the right to it"
        raise CannotListen(f"cannot listen on {host}:{port}: {reason}, or change {setting}") from error


async def _reason_against(check: ReadyCheck) -> str | None:
    # gather hands a check's exception back as a value: whatever it is, it is the reason.
    [outcome] = await asyncio.gather(_within_limit(check), return_exceptions=True)
    match outcome:
        case None:
            return None
        case TimeoutError():
            return f"no answer within {READY_CHECK_S:g} s"
        case error:
            return str(redacted(f"{type(error).__name__}: {error}"))


async def _within_limit(check: ReadyCheck) -> None:
    async with asyncio.timeout(READY_CHECK_S):
        await check()


def _answer(status: str, checks: Mapping[str, str] | None = None) -> web.Response:
    body = {"status": status} if checks is None else {"status": status, "checks": checks}
    return web.Response(body=msgspec.json.encode(body), status=503 if checks else 200, content_type="application/json")


async def _metrics(request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})

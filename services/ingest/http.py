"""The public HTTP port: the doors side by side, and the worker that serves and drains them."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Protocol

from aiohttp import web

from libs.common.admin import serve
from libs.common.tracing import Tracer
from services.ingest.auth import Keys
from services.ingest.console.wiring import Console
from services.ingest.endpoint import Endpoint, Handler
from services.ingest.key_limits import tell_limit
from services.ingest.middleware import explain
from services.ingest.self_description import SelfDescription
from services.ingest.trace import tracing_middleware


class Door(Protocol):
    def endpoints(self) -> list[Endpoint]: ...


def build_app(
    doors: Sequence[Door],
    keys: Keys,
    *,
    version: str,
    body_bytes_max: int,
    tracer: Tracer | None = None,
    console: Console | None = None,
) -> web.Application:
    around = [explain] if tracer is None else [tracing_middleware(tracer), explain]
    app = web.Application(middlewares=around, client_max_size=body_bytes_max)
    app.on_response_prepare.append(tell_limit)
    endpoints = [endpoint for door in doors for endpoint in door.endpoints()]
    SelfDescription(endpoints, version).add_routes(app)
    for path, rows in groupby(sorted(endpoints, key=_path), key=_path):
        methods = {row.method: row.guarded(keys) for row in rows}
        _add_resource(app, path, methods)
    if console is not None:
        console.add_to(app)
    return app


def _path(row: Endpoint) -> str:
    return row.path


def _add_resource(app: web.Application, path: str, methods: Mapping[str, Handler]) -> None:
    for method, handler in methods.items():
        if method == "GET":
            app.router.add_get(path, handler)  # and HEAD
        else:
            app.router.add_route(method, path, handler)
    if "{" not in path:  # /v1/tasks/batch is no /v1/tasks/{id}, whatever the method
        allowed = {*methods, "HEAD"} if "GET" in methods else {*methods}

        async def refuse(request: web.Request) -> web.StreamResponse:
            raise web.HTTPMethodNotAllowed(request.method, allowed)

        app.router.add_route("*", path, refuse)


class HttpServer:
    """A worker: serves until asked to stop, then gives requests in hand `drain_s` seconds."""

    name = "http"

    def __init__(self, app: web.Application, host: str, port: int, *, drain_s: float) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._drain_s = drain_s

    async def run(self, stopping: asyncio.Event) -> None:
        """Raises: CannotListen."""
        async with serve(self._app, self._host, self._port, setting="CARILLON_PORT", drain_s=self._drain_s):
            await stopping.wait()

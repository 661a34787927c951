"""The public HTTP port: the doors side by side, and the worker that serves and drains them."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from libs.common.admin import serve
from libs.common.tracing import Tracer
from services.ingest.auth import Keys
from services.ingest.endpoint import Endpoint
from services.ingest.middleware import explain
from services.ingest.trace import tracing_middleware

_INDEX = {"tasks": "/v1/tasks", "fallback": "/fallback", "legacy": "/api/task/save"}


class Door(Protocol):
    def endpoints(self) -> list[Endpoint]: ...


def build_app(
    doors: Sequence[Door], keys: Keys, *, version: str, body_bytes_max: int, tracer: Tracer | None = None
) -> web.Application:
    around = [explain] if tracer is None else [tracing_middleware(tracer), explain]
    app = web.Application(middlewares=around, client_max_size=body_bytes_max)
    index = msgspec.json.encode({"name": "carillon", "version": version, "links": _INDEX})

    async def show_index(_request: web.Request) -> web.Response:
        return web.Response(body=index, content_type="application/json")

    app.router.add_get("/", show_index)
    for endpoint in (each for door in doors for each in door.endpoints()):
        handler = endpoint.guarded(keys)
        if endpoint.method == "GET":
            app.router.add_get(endpoint.path, handler)  # and HEAD
        else:
            app.router.add_route(endpoint.method, endpoint.path, handler)
    return app


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

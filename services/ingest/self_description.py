"""What the port says about itself: the index, the document at /openapi.json and the page at /docs. Needs no key."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
from aiohttp import web

from services.ingest.docs_page import Page, docs_page
from services.ingest.endpoint import JSON, Endpoint
from services.ingest.openapi import document

_INDEX = {
    "tasks": "/v1/tasks",
    "fallback": "/fallback",
    "legacy": "/api/task/save",
    "openapi": "/openapi.json",
    "docs": "/docs",
}


class SelfDescription:
    """Document and page are made when they are first asked for: together that takes some 50 ms."""

    def __init__(self, endpoints: Sequence[Endpoint], version: str) -> None:
        self._endpoints = endpoints
        self._version = version

    def add_routes(self, app: web.Application) -> None:
        for path, handler in (("/", self.index), ("/openapi.json", self.openapi), ("/docs", self.docs)):
            app.router.add_get(path, handler)

    async def index(self, _request: web.Request) -> web.Response:
        index = {"name": "carillon", "version": self._version, "links": _INDEX}
        return web.Response(body=msgspec.json.encode(index), content_type=JSON)

    async def openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._json, content_type=JSON)

    async def docs(self, _request: web.Request) -> web.Response:
        html, headers = self._page
        return web.Response(body=html, headers=headers, content_type="text/html", charset="utf-8")

    @cached_property
    def _document(self) -> Mapping[str, Any]:
        return document(self._endpoints, self._version)

    @cached_property
    def _json(self) -> bytes:
        return msgspec.json.encode(self._document)

    @cached_property
    def _page(self) -> Page:
        return docs_page(self._document)

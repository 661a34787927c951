"""The console's routes on ingest's public port: each page behind the guard, files, and pages for what goes wrong."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath

import structlog
from aiohttp import web

from libs.common.postgres import PostgresAway
from libs.common.redis import RedisAway
from services.ingest.console.address import TrustedProxies
from services.ingest.console.guard import Guard, problem_for
from services.ingest.console.page import ROOT, VISITOR, Handler, Page
from services.ingest.console.render import HEADERS, SESSIONS, STATIC, render, set_up, static_path
from services.ingest.problems import Problem

FOR_EVER = "public, max-age=31536000, immutable"


def add_console(app: web.Application, pages: Sequence[Page], guard: Guard) -> None:
    set_up(app)
    app[SESSIONS] = guard.sessions
    app.router.add_get(ROOT + "/static/{fingerprint}/{name}", _explained(_static, guard))
    for page in sorted(pages, key=_words_first):
        path = ROOT if page.path == "/" else ROOT + page.path
        handler = _explained(guard.guarded(page), guard)
        if page.method == "GET":
            app.router.add_get(path, handler)  # and HEAD
        else:
            app.router.add_route(page.method, path, handler)
    app.router.add_get(ROOT + "/", _explained(_to_root, guard))
    app.router.add_route("*", ROOT + "/{rest:.*}", _explained(_nothing, guard))


def _words_first(page: Page) -> tuple[bool, str]:
    """/tasks/new is no /tasks/{id}."""
    return "{" in page.path, page.path


def _explained(handler: Handler, guard: Guard) -> Handler:
    async def served(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(_from_its_sender(request, guard.proxies))
        except web.HTTPRedirection as redirection:  # raised further it would be told as a problem, in JSON
            return web.Response(status=redirection.status, headers={"Location": redirection.headers["Location"]})
        except Exception as error:  # noqa: BLE001 - the last resort: a person gets a page, never a traceback
            return await _error_page(request, problem_for(error), guard)

    return served


def _from_its_sender(request: web.Request, proxies: TrustedProxies) -> web.Request:
    peer = request.remote or ""
    address = proxies.address(peer, request.headers.getall("X-Forwarded-For", ()))
    return request if address == peer else request.clone(remote=address)


async def _error_page(request: web.Request, problem: Problem, guard: Guard) -> web.Response:
    if VISITOR not in request:
        with suppress(RedisAway, PostgresAway):  # with the menu, if it can be had
            if (visitor := await guard.visitor(request)) is not None:
                request[VISITOR] = visitor
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    response = await render(request, "error.html", status=problem.status, problem=problem, request_id=request_id)
    response.headers.update(problem.headers)
    return response


async def _nothing(request: web.Request) -> web.StreamResponse:
    raise Problem(404, "not_found", "There is no such page. The menu leads to all there are.")


async def _to_root(request: web.Request) -> web.StreamResponse:
    raise web.HTTPPermanentRedirect(ROOT)


async def _static(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    file = STATIC / name
    if PurePath(name).name != name or not file.is_file():
        raise web.HTTPNotFound
    if request.path != static_path(name):  # of another release, whose pages are still open
        raise web.HTTPTemporaryRedirect(static_path(name))
    return web.FileResponse(file, headers={**HEADERS, "Cache-Control": FOR_EVER})

"""One row of the public interface: what serves it, who may ask for it, and the types that describe it.

The application and the document at /openapi.json are made from the same rows.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from services.ingest.auth import CALLER, Caller, Keys, Scope

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`handler` answers for `request[CALLER]`, who has `scope`; with None anyone may ask.

    `takes` is the body by media type (`may_be_empty`: or none at all), `query` has a field per query parameter,
    `headers` names the request headers that matter, `gives` the body of each answer by status (None: without one),
    `problems` the statuses of its own problems.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    summary: str
    takes: Mapping[str, Any] = field(default_factory=dict)
    may_be_empty: bool = False
    query: type[msgspec.Struct] | None = None
    headers: tuple[str, ...] = ()
    gives: Mapping[int, Any]
    problems: tuple[int, ...] = ()

    def guarded(self, keys: Keys) -> Handler:
        """The handler behind its key and scope."""
        scope = self.scope
        if scope is None:
            return self.handler

        async def served(request: web.Request) -> web.StreamResponse:
            await keys.admit(request, scope)
            return await self.handler(request)

        return served


def caller_of(request: web.Request) -> Caller:
    return request[CALLER]


def next_link(request: web.Request, cursor: str | None) -> dict[str, str]:
    """The header that leads to a list's next page, when there is one."""
    return {} if cursor is None else {"Link": f'<{request.rel_url.update_query(cursor=cursor)}>; rel="next"'}


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, headers=headers, content_type=JSON)

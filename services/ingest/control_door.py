"""`/v1/targets`: pause the calls to a host, limit their rate, and see how it is. By `host[:port]`, as URLs write it.

To pause needs no more than `tasks:write`: whoever may cancel every task of the project may hold them back as well, and
in an incident that should not wait for an administrator. A limit is a promise to the receiver: that is for `admin`.
"""

from typing import Annotated, Literal, Protocol

import msgspec
from aiohttp import web

from libs.common.clock import Clock, format_utc
from services.ingest.control import SetsControl
from services.ingest.cursor import seal, unseal
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response, next_link
from services.ingest.problems import not_found
from services.ingest.requests import json_body, names_of, read_json, read_query
from services.ingest.store_control import HeldRule
from services.ingest.target_rules import Limit, SetsRules, TargetRules, checked_host

LIMIT_MAX = 250
OF_A_CHANGE = (404, 409, 422, 503)


class TargetsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: str | None = None


class Breaker(msgspec.Struct, frozen=True):
    """Open when nearly no call to the host was answered: calls are put off until then at least; no attempt is lost."""

    state: Literal["open", "closed"]
    until: str | None


class TargetView(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the project's calls to `host`. `changed_by`: the id of a key, or who did it in the console."""

    host: str
    is_paused: bool
    per_s: float | None
    burst: int | None
    breaker: Breaker
    changed_at: str
    changed_by: str


class TargetList(msgspec.Struct, frozen=True, kw_only=True):
    """By host. Those that somebody has paused or limited."""

    data: list[TargetView]
    next_cursor: str | None


_read_limit = msgspec.json.Decoder(Limit).decode


class KeepsRules(SetsRules, Protocol):
    """The part of `ControlStore` that this needs. All raise PostgresAway."""

    async def target(self, project: str, host: str) -> HeldRule | None: ...

    async def targets(self, project: str, after: str, limit: int) -> list[HeldRule]: ...


class TargetDoor:
    def __init__(self, store: KeepsRules, commands: SetsControl, clock: Clock) -> None:
        self._store = store
        self._rules = TargetRules(store, commands, clock)

    def endpoints(self) -> list[Endpoint]:
        changed = {200: TargetView, 202: TargetView}
        return [
            Endpoint(
                method="GET",
                path="/v1/targets",
                handler=self.list,
                scope="tasks:read",
                summary="The hosts that are paused or limited",
                query=TargetsQuery,
                gives={200: TargetList},
                problems=(400, 503),
            ),
            Endpoint(
                method="GET",
                path="/v1/targets/{host}",
                handler=self.show,
                scope="tasks:read",
                summary="What holds for the calls to a host",
                gives={200: TargetView},
                problems=(404, 422, 503),
            ),
            Endpoint(
                method="PUT",
                path="/v1/targets/{host}",
                handler=self.limit,
                scope="admin",
                summary="Limit the calls to a host; a pause stays as it is. 202: in force within 30 seconds",
                takes={JSON: Limit},
                gives=changed,
                problems=(400, 409, 413, 415, 422, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/targets/{host}/pause",
                handler=self.pause,
                scope="tasks:write",
                summary="Hold all calls to a host back. 202: in force within 30 seconds",
                gives=changed,
                problems=(409, 422, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/targets/{host}/resume",
                handler=self.resume,
                scope="tasks:write",
                summary="Call the host again. 202: in force within 30 seconds",
                gives=changed,
                problems=(409, 422, 503),
            ),
        ]

    async def list(self, request: web.Request) -> web.Response:
        query = read_query(request, TargetsQuery)
        project = caller_of(request).project
        scope = f"targets {project}".encode()
        after = "" if query.cursor is None else unseal(query.cursor, scope).decode()
        held = await self._store.targets(project, after, query.limit + 1)
        page, is_more = held[: query.limit], len(held) > query.limit
        next_cursor = seal(page[-1].rule.host.encode(), scope) if is_more else None
        answer = TargetList(data=[_view(each) for each in page], next_cursor=next_cursor)
        return json_response(answer, headers=next_link(request, next_cursor))

    async def show(self, request: web.Request) -> web.Response:
        host = _host(request)
        held = await self._store.target(caller_of(request).project, host)
        if held is None:
            raise not_found(f"Nothing is set for {host}: it is neither paused nor limited")
        return json_response(_view(held))

    async def limit(self, request: web.Request) -> web.Response:
        caller, host = caller_of(request), _host(request)
        limit = read_json(await json_body(request), _read_limit, names_of(Limit))
        return _told(*await self._rules.limit(caller.project, caller.key_id, host, limit))

    async def pause(self, request: web.Request) -> web.Response:
        return await self._pause(request, is_paused=True)

    async def resume(self, request: web.Request) -> web.Response:
        return await self._pause(request, is_paused=False)

    async def _pause(self, request: web.Request, *, is_paused: bool) -> web.Response:
        caller = caller_of(request)
        return _told(*await self._rules.pause(caller.project, caller.key_id, _host(request), is_paused=is_paused))


def _host(request: web.Request) -> str:
    """Raises: Problem (422)."""
    return checked_host(request.match_info["host"])


def _told(held: HeldRule, is_in_force: bool) -> web.Response:
    return json_response(_view(held), status=200 if is_in_force else 202)


def _view(held: HeldRule) -> TargetView:
    rule, until = held.rule, held.open_until
    return TargetView(
        host=rule.host,
        is_paused=rule.is_paused,
        per_s=rule.per_s,
        burst=None if rule.per_s is None else rule.burst,
        breaker=Breaker("open", format_utc(until)) if until else Breaker("closed", None),
        changed_at=format_utc(held.changed_at),
        changed_by=held.changed_by,
    )

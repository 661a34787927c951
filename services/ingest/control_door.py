"""`/v1/targets`: pause the calls to a host, limit their rate, and see how it is. By `host[:port]`, as URLs write it.

To pause needs no more than `tasks:write`: whoever may cancel every task of the project may hold them back as well, and
in an incident that should not wait for an administrator. A limit is a promise to the receiver: that is for `admin`.
"""

from typing import Annotated, Literal, Protocol

import msgspec
from aiohttp import web
from yarl import URL

from libs.common.clock import Clock, format_utc
from libs.common.host import host_of
from services.ingest.control import SetsControl, is_confirmed
from services.ingest.creation import this_millisecond
from services.ingest.cursor import seal, unseal
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response, next_link
from services.ingest.problems import FieldError, Problem, invalid, not_found
from services.ingest.requests import json_body, names_of, read_json, read_query
from services.ingest.store_control import RULES_MAX, Change, HeldRule

LIMIT_MAX = 250
HOST_CHARS_MAX = 261  # a name of 255 and a port
PER_S_MIN, PER_S_MAX = 0.001, 100_000.0
BURST_MAX = 100_000
OF_A_CHANGE = (404, 409, 422, 503)


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`per_s` calls a second, after `burst` at once; null for no limit."""

    per_s: float | None
    burst: int = 1


class TargetsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: str | None = None


class Breaker(msgspec.Struct, frozen=True):
    """Open when nearly no call to the host was answered: calls are put off until then at least; no attempt is lost."""

    state: Literal["open", "closed"]
    until: str | None


class TargetView(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the project's calls to `host`. `changed_by` is the id of a key."""

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


class KeepsRules(Protocol):
    """The part of `ControlStore` that this needs. All raise PostgresAway."""

    async def pause(self, change: Change, host: str, *, is_paused: bool) -> HeldRule | None: ...

    async def limit(self, change: Change, host: str, per_s: float | None, burst: int) -> HeldRule | None: ...

    async def target(self, project: str, host: str) -> HeldRule | None: ...

    async def targets(self, project: str, after: str, limit: int) -> list[HeldRule]: ...


class TargetDoor:
    def __init__(self, store: KeepsRules, commands: SetsControl, clock: Clock) -> None:
        self._store = store
        self._commands = commands
        self._clock = clock

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
        host = _host(request)
        limit = read_json(await json_body(request), _read_limit, names_of(Limit))
        _check(limit)
        held = await self._store.limit(self._change(request), host, limit.per_s, limit.burst)
        return await self._told(held)

    async def pause(self, request: web.Request) -> web.Response:
        return await self._told(await self._store.pause(self._change(request), _host(request), is_paused=True))

    async def resume(self, request: web.Request) -> web.Response:
        return await self._told(await self._store.pause(self._change(request), _host(request), is_paused=False))

    def _change(self, request: web.Request) -> Change:
        caller = caller_of(request)
        return Change(caller.project, caller.key_id, this_millisecond(self._clock.now()))

    async def _told(self, held: HeldRule | None) -> web.Response:
        if held is None:
            detail = f"Rules are set for {RULES_MAX} hosts of this project already, or for too many of all projects."
            raise Problem(409, "too_many_targets", f"{detail} Resume, or take the limit off, where none is needed.")
        is_in_force = await is_confirmed(self._commands, held.rule)
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


def _check(limit: Limit) -> None:
    errors = []
    if limit.per_s is not None and not PER_S_MIN <= limit.per_s <= PER_S_MAX:
        detail = f"give {PER_S_MIN} to {PER_S_MAX:g} calls a second, or null for no limit; to stop all, pause the host"
        errors.append(FieldError("/per_s", "out_of_range", detail))
    if not 1 <= limit.burst <= BURST_MAX:
        errors.append(FieldError("/burst", "out_of_range", f"give 1 to {BURST_MAX}"))
    if errors:
        raise invalid(errors)


def _host(request: web.Request) -> str:
    """As the dispatcher takes it from a URL. Raises: Problem (422)."""
    text = request.match_info["host"]
    if not _is_host(text):
        detail = "is no host; write host or host:port as URLs have it, such as api.example.com or [2001:db8::1]:8080"
        raise invalid([FieldError("/host", "bad_host", detail)])
    return text.lower()


def _is_host(text: str) -> bool:
    url = f"http://{text}"
    if len(text) > HOST_CHARS_MAX or not text.isprintable() or " " in text or "%" in text or "\\" in text:
        return False
    try:
        return host_of(url) == text.lower() and bool(URL(url).host)
    except ValueError:
        return False

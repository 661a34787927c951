"""`/v1/schedules`: recurring tasks, by a name of their owner's. The scheduler holds them; here they are only read."""

import base64
import binascii
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock
from libs.common.egress import EgressRules
from libs.common.ids import derived_id, new_id
from services.ingest.commands import Commands
from services.ingest.creation import this_millisecond
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.idempotency import idempotency_key
from services.ingest.problems import bad_query
from services.ingest.requests import json_body, names_of, read_json, read_query
from services.ingest.schedule_commands import NAME, ScheduleCommands, bad_name, checked
from services.ingest.schedule_view import (
    PreviewView,
    ScheduleList,
    ScheduleView,
    preview,
    schedule_line,
    schedule_view,
)
from services.ingest.schedules import SCHEDULE_FIELDS, NewPreview, NewSchedule, plan_of, schedule_of

LIMIT_DEFAULT, LIMIT_MAX = 50, 250

log = structlog.get_logger(__name__)


class ScheduleQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: str | None = None


class ScheduleRun(msgspec.Struct, frozen=True):
    """The task that was made, beside those of the schedule's own times."""

    task_id: UUID


_decode = msgspec.json.Decoder(NewSchedule).decode
_decode_preview = msgspec.json.Decoder(NewPreview).decode


class ScheduleDoor:
    def __init__(self, commands: Commands, clock: Clock, egress: EgressRules) -> None:
        self._schedules = ScheduleCommands(commands)
        self._clock = clock
        self._egress = egress

    def endpoints(self) -> list[Endpoint]:
        return [*self._of_all(), *self._of_one(), *self._actions()]

    def _of_all(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path="/v1/schedules",
                handler=self.listed,
                scope="schedules:read",
                summary="The schedules of a project, by name",
                query=ScheduleQuery,
                gives={200: ScheduleList},
                problems=(400, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/schedules/preview",
                handler=self.preview,
                scope="schedules:read",
                summary="When a schedule would come, in UTC and local time",
                takes={JSON: NewPreview},
                gives={200: PreviewView},
                problems=(400, 408, 413, 415, 422),
            ),
        ]

    def _of_one(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="PUT",
                path="/v1/schedules/{name}",
                handler=self.put,
                scope="schedules:write",
                summary="Create a schedule, or replace it",
                takes={JSON: NewSchedule},
                gives={200: ScheduleView, 201: ScheduleView},
                problems=(400, 408, 413, 415, 422, 503),
            ),
            Endpoint(
                method="GET",
                path="/v1/schedules/{name}",
                handler=self.show,
                scope="schedules:read",
                summary="A schedule, and when it comes next",
                gives={200: ScheduleView},
                problems=(404, 503),
            ),
            Endpoint(
                method="DELETE",
                path="/v1/schedules/{name}",
                handler=self.delete,
                scope="schedules:write",
                summary="Delete a schedule; what it has already called stays in the history",
                gives={204: None},
                problems=(404, 503),
            ),
        ]

    def _actions(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="POST",
                path="/v1/schedules/{name}/pause",
                handler=self.pause,
                scope="schedules:write",
                summary="Make no more tasks until it is resumed",
                gives={200: ScheduleView},
                problems=(404, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/schedules/{name}/resume",
                handler=self.resume,
                scope="schedules:write",
                summary="Go on with its next time; what the pause has missed is not made up for",
                gives={200: ScheduleView},
                problems=(404, 422, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/schedules/{name}/run",
                handler=self.run,
                scope="schedules:write",
                summary="Make its task now, once, beside its own times",
                headers=("Idempotency-Key",),
                gives={201: ScheduleRun},
                problems=(404, 422, 503),
            ),
        ]

    async def listed(self, request: web.Request) -> web.Response:
        query = read_query(request, ScheduleQuery)
        project, after = caller_of(request).project, _name_of(query.cursor)
        found = await self._schedules.listed(project, after=after, limit=query.limit + 1)
        held = found[: query.limit]
        cursor = _cursor_of(held[-1].name) if len(found) > query.limit else None
        link = {"Link": f'</v1/schedules?limit={query.limit}&cursor={cursor}>; rel="next"'} if cursor else {}
        body = ScheduleList(data=[schedule_line(each) for each in held], next_cursor=cursor)
        return json_response(body, headers=link)

    async def preview(self, request: web.Request) -> web.Response:
        new = read_json(await json_body(request), _decode_preview, names_of(NewPreview))
        now = this_millisecond(self._clock.now())
        return json_response(preview(plan_of(new, now), now, new.count))

    async def put(self, request: web.Request) -> web.Response:
        project, name = _named(request)
        if not NAME.fullmatch(name):
            raise bad_name()
        new = read_json(await json_body(request), _decode, SCHEDULE_FIELDS)
        schedule = schedule_of(new, this_millisecond(self._clock.now()), self._egress)
        was_there = await self._schedules.is_there(project, name)
        standing = await self._schedules.put(project, name, schedule)
        log.info("schedule.put", schedule=name)
        return json_response(schedule_view(*standing), status=200 if was_there else 201)

    async def show(self, request: web.Request) -> web.Response:
        return json_response(schedule_view(*await self._schedules.show(*_named(request))))

    async def pause(self, request: web.Request) -> web.Response:
        return json_response(schedule_view(*await self._schedules.pause(*_named(request))))

    async def resume(self, request: web.Request) -> web.Response:
        return json_response(schedule_view(*await self._schedules.resume(*_named(request))))

    async def delete(self, request: web.Request) -> web.Response:
        project, name = _named(request)
        await self._schedules.delete(project, name)
        log.info("schedule.deleted", schedule=name)
        return web.Response(status=204)

    async def run(self, request: web.Request) -> web.Response:
        """With an Idempotency-Key one task, however often it is asked for."""
        project, name = _named(request)
        key = idempotency_key(request)
        command_id = derived_id(project, key, "run", checked(name)) if key else new_id()
        task_id = await self._schedules.run(project, name, command_id)
        log.info("schedule.run", schedule=name, task_id=str(task_id))
        return json_response(ScheduleRun(task_id), status=201, headers={"Location": f"/v1/tasks/{task_id}"})


def _named(request: web.Request) -> tuple[str, str]:
    """Whose, and which."""
    return caller_of(request).project, request.match_info["name"]


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _name_of(cursor: str | None) -> str:
    """Raises: Problem (400)."""
    try:
        padded = (cursor or "").encode() + b"=" * (-len(cursor or "") % 4)
        name = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        name = "?"
    if cursor is not None and not NAME.fullmatch(name):
        raise bad_query("cursor", "is none that we gave; leave it out to begin at the first")
    return name

"""`/v1/schedules`: recurring tasks, by a name of their owner's. The scheduler holds them; here they are only read."""

import base64
import binascii
import re
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock
from libs.common.contracts import ChangeSchedule, HeldSchedule, ListSchedules, PutSchedule, Schedule, ScheduleAnswer
from libs.common.egress import EgressRules
from libs.common.ids import derived_id, new_id
from services.ingest.commands import Commands, unanswered
from services.ingest.creation import this_millisecond
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.idempotency import idempotency_key
from services.ingest.problems import FieldError, Problem, bad_query, invalid, not_found
from services.ingest.requests import json_body, names_of, read_json, read_query
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

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

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
        self._commands = commands
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
        command = ListSchedules(project=caller_of(request).project, after=_name_of(query.cursor), limit=query.limit + 1)
        answer = await self._commands.list_schedules(command)
        if answer is None:
            raise unanswered()
        held = answer.held[: query.limit]
        cursor = _cursor_of(held[-1].name) if len(answer.held) > query.limit else None
        link = {"Link": f'</v1/schedules?limit={query.limit}&cursor={cursor}>; rel="next"'} if cursor else {}
        body = ScheduleList(data=[schedule_line(each) for each in held], next_cursor=cursor)
        return json_response(body, headers=link)

    async def preview(self, request: web.Request) -> web.Response:
        new = read_json(await json_body(request), _decode_preview, names_of(NewPreview))
        now = this_millisecond(self._clock.now())
        return json_response(preview(plan_of(new, now), now, new.count))

    async def put(self, request: web.Request) -> web.Response:
        project, name = caller_of(request).project, request.match_info["name"]
        if not NAME.fullmatch(name):
            detail = "A schedule's name is 1 to 128 letters, digits and . _ : -, beginning with a letter or digit."
            raise Problem(422, "bad_schedule_name", detail)
        new = read_json(await json_body(request), _decode, SCHEDULE_FIELDS)
        schedule = schedule_of(new, this_millisecond(self._clock.now()), self._egress)
        earlier = await self._asked(ChangeSchedule(project=project, name=name, command_id=new_id(), action="show"))
        command = PutSchedule(project=project, name=name, command_id=new_id(), schedule=schedule)
        answer = await self._asked(command)
        if answer.result == "invalid":
            raise _refused(schedule, answer.detail or "")
        log.info("schedule.put", schedule=name)
        held, schedule = _there(name, answer)
        return json_response(schedule_view(held, schedule), status=201 if earlier.result == "unknown" else 200)

    async def show(self, request: web.Request) -> web.Response:
        return await self._changed(request, "show")

    async def pause(self, request: web.Request) -> web.Response:
        return await self._changed(request, "pause")

    async def resume(self, request: web.Request) -> web.Response:
        return await self._changed(request, "resume")

    async def delete(self, request: web.Request) -> web.Response:
        name = _name(request)
        answer = await self._asked(_change(request, "delete"))
        if answer.result == "unknown":
            raise _unknown(name)
        log.info("schedule.deleted", schedule=name)
        return web.Response(status=204)

    async def run(self, request: web.Request) -> web.Response:
        """With an Idempotency-Key one task, however often it is asked for."""
        caller, name, key = caller_of(request), _name(request), idempotency_key(request)
        id_ = derived_id(caller.project, key, "run", name) if key else new_id()
        command = ChangeSchedule(project=caller.project, name=name, command_id=id_, action="run")
        answer = await self._commands.change_schedule(command)
        if answer is None:
            raise unanswered("Repeat it with the same Idempotency-Key: without one it may make a second task.")
        if answer.task_id is None:
            raise _unknown(name)
        log.info("schedule.run", schedule=name, task_id=str(answer.task_id))
        location = {"Location": f"/v1/tasks/{answer.task_id}"}
        return json_response(ScheduleRun(answer.task_id), status=201, headers=location)

    async def _changed(self, request: web.Request, action: Literal["show", "pause", "resume"]) -> web.Response:
        answer = await self._asked(_change(request, action))
        held, schedule = _there(_name(request), answer)
        return json_response(schedule_view(held, schedule))

    async def _asked(self, command: PutSchedule | ChangeSchedule) -> ScheduleAnswer:
        """Raises: Problem (503)."""
        answer = await self._commands.change_schedule(command)
        if answer is None:
            raise unanswered()
        return answer


def _change(request: web.Request, action: Literal["show", "pause", "resume", "delete"]) -> ChangeSchedule:
    project, name = caller_of(request).project, _name(request)
    return ChangeSchedule(project=project, name=name, command_id=new_id(), action=action)


def _name(request: web.Request) -> str:
    """Of a schedule that there may be. Raises: Problem (404)."""
    name = request.match_info["name"]
    if not NAME.fullmatch(name):
        raise _unknown(name)
    return name


def _there(name: str, answer: ScheduleAnswer) -> tuple[HeldSchedule, Schedule]:
    """Raises: Problem (404, and 422 for one that cannot be read any more)."""
    held = answer.held
    if answer.result == "invalid":
        raise invalid([FieldError("", "invalid_schedule", f"The schedule {answer.detail}; replace it")])
    if held is None or held.schedule is None:
        raise _unknown(name)
    return held, held.schedule


def _refused(schedule: Schedule, detail: str) -> Problem:
    """By a scheduler that knows other zones than we do."""
    field = "timezone" if "time zone" in detail else "cron" if schedule.cron is not None else "every"
    return invalid([FieldError(f"/{field}", "invalid_schedule", detail)])


def _unknown(name: str) -> Problem:
    return not_found(f"There is no schedule {name[:128]!r}")


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

"""`/v1/tasks/{id}`: move, run, cancel and redrive one task. Each answers with the Task as the command left it."""

from datetime import datetime

import msgspec
from aiohttp import web

from libs.common.clock import Clock, format_utc
from services.ingest.commands import unanswered
from services.ingest.creation import due_time, this_millisecond
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.lookup import awaited, found, task_id, unknown_task
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.replays import FindsTasks
from services.ingest.requests import Fields, LocalTime, NewTime, json_body, read_json
from services.ingest.stored import StoredTask
from services.ingest.task_commands import TaskCommands
from services.ingest.view import TaskView, status, task_view

_FIELDS: Fields = {"": NewTime.__struct_fields__, "/local_time": LocalTime.__struct_fields__}
_decode = msgspec.json.Decoder(NewTime).decode


class CommandDoor:
    def __init__(self, tasks: TaskCommands, history: FindsTasks, clock: Clock) -> None:
        self._tasks = tasks
        self._history = history
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="PATCH",
                path="/v1/tasks/{id}",
                handler=self.move,
                scope="tasks:write",
                summary="Another time for a task that waits for its first call",
                takes={JSON: NewTime},
                gives={200: TaskView},
                problems=(400, 404, 408, 409, 413, 415, 422, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/tasks/{id}/run",
                handler=self.run,
                scope="tasks:write",
                summary="Call a waiting task now",
                gives={200: TaskView},
                problems=(404, 409, 503),
            ),
            Endpoint(
                method="DELETE",
                path="/v1/tasks/{id}",
                handler=self.cancel,
                scope="tasks:write",
                summary="Cancel a task: 200 when no call follows, 202 while one is under way or nothing is known",
                gives={200: TaskView, 202: TaskView},
                problems=(404, 409, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/tasks/{id}/redrive",
                handler=self.redrive,
                scope="tasks:write",
                summary="Start a failed, expired or parked task again, with a fresh ladder",
                gives={200: TaskView},
                problems=(404, 409, 503),
            ),
        ]

    async def move(self, request: web.Request) -> web.Response:
        new = read_json(await json_body(request), _decode, _FIELDS)
        task = await found(self._history, caller_of(request).project, request.match_info["id"])
        now = this_millisecond(self._clock.now())
        return await self._rescheduled(task, _due_at(new, task, now))

    async def run(self, request: web.Request) -> web.Response:
        task = await found(self._history, caller_of(request).project, request.match_info["id"])
        return await self._rescheduled(task, None)

    async def cancel(self, request: web.Request) -> web.Response:
        id_ = task_id(request.match_info["id"])
        result, task = await self._tasks.cancel(caller_of(request).project, id_)
        if result == "no_such_task":
            raise unknown_task(id_)
        if task is None:
            raise unanswered()
        now = self._clock.now()
        match result:
            case "cancelled":
                return json_response(task_view(task, now))
            case "in_flight" | "not_known":
                return json_response(task_view(task, now), status=202)
            case "ended":
                raise Problem(409, "already_final", f"The task is {status(task, now)}: there is nothing to cancel.")
            case "superseded":
                raise Problem(409, "superseded", "Somebody is moving the task at this moment. Repeat the request.")

    async def redrive(self, request: web.Request) -> web.Response:
        """Answers once the history shows it, or soon after: the next command builds on what that says."""
        project, id_ = caller_of(request).project, task_id(request.match_info["id"])
        result, task = await self._tasks.redrive(project, id_)
        if task is None:
            raise unknown_task(id_)
        match result:
            case "payload_gone":
                raise Problem(409, "payload_gone", "What the task sends has been purged. Create a new task.")
            case "not_failed":
                state = status(task, self._clock.now())
                raise Problem(
                    409, "not_failed", f"The task is {state}; only failed, expired and parked ones start again."
                )
        await awaited(self._history, project, id_, lambda each: each.generation >= task.generation)
        return json_response(task_view(task, task.due_at))

    async def _rescheduled(self, task: StoredTask, due_at: datetime | None) -> web.Response:
        result, task = await self._tasks.reschedule(task, due_at)
        match result:
            case "rescheduled":
                return json_response(task_view(task, task.due_at))
            case "not_waiting":
                raise _not_waiting(status(task, self._clock.now()))
            case "not_known":
                raise unanswered()


def _due_at(new: NewTime, task: StoredTask, now: datetime) -> datetime:
    """Raises: Problem (422)."""
    given = [name for name in NewTime.__struct_fields__ if getattr(new, name) is not None]
    if not given:
        raise invalid([FieldError("", "required", "says no time; give due_at, delay or local_time")])
    errors: list[FieldError] = []
    due_at = due_time(new, now, errors)
    if not errors and task.expires_at is not None and task.expires_at <= due_at:
        detail = f"is not before the task expires, at {format_utc(task.expires_at)}; give an earlier time"
        errors.append(FieldError(f"/{given[0]}", "too_late", detail))
    if errors:
        raise invalid(errors)
    return due_at


def _not_waiting(state: str) -> Problem:
    """The history may be milliseconds behind what has refused."""
    what = "due by now" if state == "scheduled" else state
    return Problem(409, "not_scheduled", f"The task is {what}: only one that waits for its first call can be moved.")

"""Moves, runs, cancels and redrives one task, and says what came of it in words for who asked: for every door.

What comes back holds the task as the command left it, which the history shows milliseconds later. All raise Problem
(404, 409, 422, 503), NotPublished and PostgresAway.
"""

from datetime import datetime
from typing import NamedTuple

from libs.common.clock import Clock, format_utc
from services.ingest.commands import unanswered
from services.ingest.creation import due_time, this_millisecond
from services.ingest.lookup import awaited, found, task_id, unknown_task
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.replays import FindsTasks
from services.ingest.requests import NewTime
from services.ingest.stored import StoredTask
from services.ingest.task_commands import TaskCommands
from services.ingest.view import status


class Cancel(NamedTuple):
    """`is_certain`: no call of it follows. Otherwise one is under way, or nobody has said in time."""

    task: StoredTask
    is_certain: bool


class TaskChanges:
    def __init__(self, tasks: TaskCommands, history: FindsTasks, clock: Clock) -> None:
        self._tasks = tasks
        self._history = history
        self._clock = clock

    async def move(self, project: str, text: str, new: NewTime) -> StoredTask:
        task = await found(self._history, project, text)
        now = this_millisecond(self._clock.now())
        return await self._rescheduled(task, _due_at(new, task, now))

    async def run(self, project: str, text: str) -> StoredTask:
        return await self._rescheduled(await found(self._history, project, text), None)

    async def cancel(self, project: str, text: str) -> Cancel:
        id_ = task_id(text)
        result, task = await self._tasks.cancel(project, id_)
        if result == "no_such_task":
            raise unknown_task(id_)
        if task is None:
            raise unanswered()
        match result:
            case "cancelled":
                return Cancel(task, is_certain=True)
            case "in_flight" | "not_known":
                return Cancel(task, is_certain=False)
            case "ended":
                state = status(task, self._clock.now())
                raise Problem(409, "already_final", f"The task is {state}: there is nothing to cancel.")
            case "superseded":
                raise Problem(409, "superseded", "Somebody is moving the task at this moment. Repeat the request.")

    async def redrive(self, project: str, text: str) -> StoredTask:
        """Returns once the history shows it, or soon after: the next command builds on what that says."""
        id_ = task_id(text)
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
        return task

    async def _rescheduled(self, task: StoredTask, due_at: datetime | None) -> StoredTask:
        result, task = await self._tasks.reschedule(task, due_at)
        match result:
            case "rescheduled":
                return task
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

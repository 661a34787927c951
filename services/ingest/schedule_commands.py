"""Asks the scheduler about schedules, for the API and the console alike; what it refuses is a Problem.

All raise Problem (404 for a schedule that there is not, 503 when nobody has answered) and NotPublished.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple
from uuid import UUID

from libs.common.contracts import ChangeSchedule, HeldSchedule, ListSchedules, PutSchedule, Schedule, ScheduleAnswer
from libs.common.ids import new_id
from services.ingest.commands import Commands, unanswered
from services.ingest.problems import FieldError, Problem, invalid, not_found

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Standing(NamedTuple):
    """A schedule as the scheduler holds it, with what it says."""

    held: HeldSchedule
    schedule: Schedule


class ScheduleCommands:
    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def listed(self, project: str, *, after: str, limit: int, with_times: bool = False) -> Sequence[HeldSchedule]:
        """By name. A scheduler of the release before leaves out the times."""
        command = ListSchedules(project=project, after=after, limit=limit, with_times=with_times)
        answer = await self._commands.list_schedules(command)
        if answer is None:
            raise unanswered()
        return answer.held

    async def is_there(self, project: str, name: str) -> bool:
        return (await self._asked(_change(project, name, "show"))).result != "unknown"

    async def show(self, project: str, name: str) -> Standing:
        return await self._changed(project, name, "show")

    async def pause(self, project: str, name: str) -> Standing:
        return await self._changed(project, name, "pause")

    async def resume(self, project: str, name: str) -> Standing:
        return await self._changed(project, name, "resume")

    async def put(self, project: str, name: str, schedule: Schedule, *, revision: int | None = None) -> Standing:
        """What stands then: with a `revision`, another schedule when that is not the one that stood (0: none did)."""
        command = PutSchedule(project=project, name=name, command_id=new_id(), schedule=schedule, revision=revision)
        answer = await self._asked(command)
        if answer.result == "invalid":
            raise _refused(schedule, answer.detail or "")
        return _there(name, answer)

    async def delete(self, project: str, name: str) -> None:
        if (await self._asked(_change(project, checked(name), "delete"))).result == "unknown":
            raise unknown(name)

    async def run(self, project: str, name: str, command_id: UUID) -> UUID:
        """The id of the task that is made: the same for the same `command_id`."""
        command = ChangeSchedule(project=project, name=checked(name), command_id=command_id, action="run")
        answer = await self._commands.change_schedule(command)
        if answer is None:
            raise unanswered("Repeat it with the same Idempotency-Key: without one it may make a second task.")
        if answer.task_id is None:
            raise unknown(name)
        return answer.task_id

    async def _changed(self, project: str, name: str, action: Literal["show", "pause", "resume"]) -> Standing:
        return _there(name, await self._asked(_change(project, checked(name), action)))

    async def _asked(self, command: PutSchedule | ChangeSchedule) -> ScheduleAnswer:
        answer = await self._commands.change_schedule(command)
        if answer is None:
            raise unanswered()
        return answer


def bad_name() -> Problem:
    detail = "A schedule's name is 1 to 128 letters, digits and . _ : -, beginning with a letter or digit."
    return Problem(422, "bad_schedule_name", detail)


def checked(name: str) -> str:
    """A name that there may be a schedule of. Raises: Problem (404)."""
    if not NAME.fullmatch(name):
        raise unknown(name)
    return name


def unknown(name: str) -> Problem:
    return not_found(f"There is no schedule {name[:128]!r}")


def _change(project: str, name: str, action: Literal["show", "pause", "resume", "delete"]) -> ChangeSchedule:
    return ChangeSchedule(project=project, name=name, command_id=new_id(), action=action)


def _there(name: str, answer: ScheduleAnswer) -> Standing:
    """Raises: Problem (404, and 422 for one that cannot be read any more)."""
    held = answer.held
    if answer.result == "invalid":
        raise invalid([FieldError("", "invalid_schedule", f"The schedule {answer.detail}; replace it")])
    if held is None or held.schedule is None:
        raise unknown(name)
    return Standing(held, held.schedule)


def _refused(schedule: Schedule, detail: str) -> Problem:
    """By a scheduler that knows other zones than we do."""
    field = "timezone" if "time zone" in detail else "cron" if schedule.cron is not None else "every"
    return invalid([FieldError(f"/{field}", "invalid_schedule", detail)])

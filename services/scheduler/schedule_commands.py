"""Create, replace, pause, resume, delete, run and show schedules. The answer is the schedule as it stands afterwards.

Each change is a new revision: what the old one made ahead of its time is taken back in the same transaction. The
decisions are pure; `store_schedules.py` asks for them under the row's lock. Commit, tell, answer, ack, as in
`commands.py`: what a crash has left untold stands in the row, and the next change of the schedule tells it.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter

from libs.common import topology
from libs.common.asking import Asked, Replier
from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import (
    ChangeSchedule,
    CreateTask,
    HeldSchedule,
    ListSchedules,
    PutSchedule,
    Schedule,
    ScheduleAnswer,
    ScheduleCommand,
    ScheduleList,
    encode,
)
from libs.common.metrics import REGISTRY
from libs.common.postgres import until_available
from libs.common.publisher import Publisher
from services.scheduler.commands import cancelled_event
from services.scheduler.occurrences import ahead, first_after, occurrence_id, run_id, schedule_id, task_of
from services.scheduler.store_commands import Cancelled
from services.scheduler.store_schedules import Change, Decide, ScheduleStore

COMMANDS = Counter(
    "carillon_scheduler_schedule_commands_total", "Commands about schedules, by result", ["command", "result"],
    registry=REGISTRY,
)  # fmt: skip

log = structlog.get_logger(__name__)


class ScheduleCommands:
    """`nudge` wakes the timetable for a schedule that comes soon."""

    def __init__(
        self,
        store: ScheduleStore,
        publisher: Publisher,
        replier: Replier,
        nudge: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._replier = replier
        self._nudge = nudge
        self._clock = clock

    async def handle(self, asked: Asked[ScheduleCommand]) -> None:
        match asked.command:
            case ListSchedules(project=project, after=after, limit=limit, with_times=times):
                held = await until_available(lambda: self._store.listed(project, after, limit, with_times=times))
                await self._replier.reply(asked, ScheduleList(held=tuple(held)))
            case PutSchedule() | ChangeSchedule():
                answer = await self._changed(asked.command)
                action = "put" if isinstance(asked.command, PutSchedule) else asked.command.action
                COMMANDS.labels(action, answer.result).inc()
                await self._replier.reply(asked, answer)

    async def _changed(self, command: PutSchedule | ChangeSchedule) -> ScheduleAnswer:
        id_ = schedule_id(command.project, command.name)
        if isinstance(command, PutSchedule):
            try:
                first_after(command.schedule, self._clock.now(), self._clock.now())
            except ValueError as error:
                return ScheduleAnswer(command_id=command.command_id, result="invalid", detail=str(error))
            return await self._decided(command, id_, put(command, id_))
        match command.action:
            case "show":
                return _answer(command, await until_available(lambda: self._store.shown(id_)))
            case "run":
                return await self._run(command, await until_available(lambda: self._store.shown(id_)))
            case "pause" | "resume" | "delete" as action:
                try:
                    return await self._decided(command, id_, changed(action))
                except ValueError as error:  # resumed, and its zone has gone from tzdata
                    return ScheduleAnswer(command_id=command.command_id, result="invalid", detail=str(error))

    async def _decided(self, command: PutSchedule | ChangeSchedule, id_: UUID, decide: Decide) -> ScheduleAnswer:
        def event_of(task_id: UUID, cancelled: Cancelled) -> bytes:
            has_left = cancelled.result == "left"
            return cancelled_event(task_id, command.project, cancelled.order, self._clock.now(), has_left=has_left)

        changed = await until_available(
            lambda: self._store.change(id_, command.project, command.name, command.command_id, decide, event_of)
        )
        self._nudge()
        if changed.owed:
            await self._publisher.insist_many(topology.TASK_EVENT, changed.owed)
            await until_available(lambda: self._store.told(id_, changed.owed))
        return msgspec.structs.replace(_answer(command, changed.held), overtaken_by=changed.overtaken_by)

    async def _run(self, command: ChangeSchedule, held: HeldSchedule | None) -> ScheduleAnswer:
        if held is None or held.schedule is None:
            return _answer(command, None)
        now = ceil_to_ms(self._clock.now())
        task = task_of(held, held.schedule, run_id(held, command.command_id), now, now)
        await self._publisher.insist(topology.CREATE, encode(CreateTask(task=task)))
        return msgspec.structs.replace(_answer(command, held), task_id=task.id)


def put(command: PutSchedule, id_: UUID) -> Decide:
    """A schedule said again unchanged stays as it is, so that a deployment that repeats itself moves nothing."""

    def decide(held: HeldSchedule | None, now: datetime) -> Change | None:
        if held is not None and held.schedule == command.schedule:
            return None
        if command.revision is not None and command.revision != (held.revision if held else 0):
            return None  # somebody else was here since the asker looked
        created_at = now if held is None else held.created_at
        is_paused = held is not None and held.status == "paused"
        fresh = HeldSchedule(
            id=id_, project=command.project, name=command.name, revision=0, status="paused", created_at=created_at,
            changed_at=now, schedule=command.schedule,
        )  # fmt: skip
        return Change(fresh if is_paused else _started(fresh, command.schedule, now), _made_ahead(held, now))

    return decide


def changed(action: Literal["pause", "resume", "delete"]) -> Decide:
    def decide(held: HeldSchedule | None, now: datetime) -> Change | None:
        if held is None or held.schedule is None:
            return None
        match action:
            case "pause":
                if held.status != "active":
                    return None
                return Change(msgspec.structs.replace(held, status="paused", next_at=None), _made_ahead(held, now))
            case "resume":
                return Change(_started(held, held.schedule, now)) if held.status == "paused" else None
            case "delete":
                gone = msgspec.structs.replace(held, status="deleted", next_at=None, schedule=None)
                return Change(gone, _made_ahead(held, now))

    return decide


def _started(held: HeldSchedule, schedule: Schedule, now: datetime) -> HeldSchedule:
    """From its first occurrence after `now`: what a pause has missed is not made up for."""
    next_at = first_after(schedule, held.created_at, now)
    return msgspec.structs.replace(held, status="ended" if next_at is None else "active", next_at=next_at)


def _made_ahead(held: HeldSchedule | None, now: datetime) -> dict[UUID, datetime]:
    if held is None or held.schedule is None:
        return {}
    schedule = held.schedule
    try:
        return {occurrence_id(held, schedule, one): one.at for one in ahead(held, schedule, now)}
    except ValueError:  # unreadable by now: it makes no tasks, and must be possible to replace or delete
        return {}


def _answer(command: PutSchedule | ChangeSchedule, held: HeldSchedule | None) -> ScheduleAnswer:
    is_there = held is not None and held.status != "deleted"
    deleted = isinstance(command, ChangeSchedule) and command.action == "delete" and held is not None
    return ScheduleAnswer(command_id=command.command_id, result="done" if is_there or deleted else "unknown", held=held)

"""Cancel, reschedule and redrive one task: whom to ask, in which order, and what the answers mean together.

    cancel       the scheduler; what has left it, the dispatcher
    reschedule   the scheduler, which alone can move a task that waits
    redrive      nobody: the same task once more, in its next generation, by the front door

For every door that offers one of them. What comes back holds the task as the command left it, which the history will
show milliseconds later; None where the project has no such task. All raise NotPublished and PostgresAway.
"""

import asyncio
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import structlog

from libs.common.asking import ANSWER_S
from libs.common.clock import Clock
from libs.common.contracts import (
    CANCELLED_WHEN_DUE,
    CancelTask,
    CreateTask,
    RescheduleTask,
    Task,
    encode,
)
from libs.common.ids import new_id
from libs.common.topology import CREATE
from services.ingest.commands import Commands
from services.ingest.creation import this_millisecond
from services.ingest.creator import Publishes
from services.ingest.lookup import awaited
from services.ingest.projection import FINAL, State
from services.ingest.replays import FindsTasks
from services.ingest.stored import StoredTask

REDRIVABLE: frozenset[State] = frozenset({"failed", "expired", "parked"})

CancelResult = Literal["cancelled", "in_flight", "ended", "superseded", "not_known", "no_such_task"]
"""No call will follow; none but the one under way; too late; a newer command moved it; nobody has said so in time."""
RescheduleResult = Literal["rescheduled", "not_waiting", "not_known"]
RedriveResult = Literal["redriven", "not_failed", "payload_gone", "no_such_task"]

log = structlog.get_logger(__name__)


class Cancelled(NamedTuple):
    """`task` is None when there is none, and also when `not_known` is all that is known."""

    result: CancelResult
    task: StoredTask | None


class Rescheduled(NamedTuple):
    result: RescheduleResult
    task: StoredTask


class Redriven(NamedTuple):
    result: RedriveResult
    task: StoredTask | None


class TaskCommands:
    def __init__(self, commands: Commands, publisher: Publishes, history: FindsTasks, clock: Clock) -> None:
        self._commands = commands
        self._publisher = publisher
        self._history = history
        self._clock = clock

    async def cancel(self, project: str, id_: UUID) -> Cancelled:
        """No call of it any more; also when its create is still on the way. The same answer when it is repeated."""
        patience = _Patience()
        known = await self._history.task(project, id_)
        if known is not None and known.state in FINAL:
            if _is_certain(known):
                return _ended(known)
            return await self._cancel_called(known, known.generation, patience.left_s())
        known_generation = 1 if known is None else known.generation
        command = CancelTask(id=id_, project=project, command_id=new_id(), generation=known_generation)
        heard = await self._commands.cancel_waiting(command)
        task = known or await awaited(self._history, project, id_)
        if heard is None:
            return Cancelled("not_known", task)
        if task is None:
            return Cancelled("no_such_task" if heard.result == "unknown" else "not_known", None)
        generation = max(task.generation, heard.generation or 1)
        match heard.result:
            case "cancelled":
                return self._cancelled(task, generation)
            case "unknown" if known is None:
                return self._cancelled(task, generation)  # before its create: that one was too late
            case "rescheduled":
                return Cancelled("superseded", task)
            case "left" | "unknown":
                return await self._cancel_called(task, generation, patience.left_s())

    async def reschedule(self, task: StoredTask, due_at: datetime | None) -> Rescheduled:
        """Another time for a task that waits for its first call; None is now."""
        command = RescheduleTask(id=task.id, project=task.project, command_id=new_id(), due_at=due_at)
        heard = await self._commands.reschedule(command)
        if heard is None:
            return Rescheduled("not_known", task)
        if heard.result != "rescheduled" or heard.due_at is None:
            return Rescheduled("not_waiting", await self._history.task(task.project, task.id) or task)
        log.info("task.rescheduled", task_id=str(task.id))
        generation = heard.generation or task.generation
        moved = task._replace(
            state="scheduled", state_at=heard.due_at, due_at=heard.due_at, generation=generation, reason=""
        )
        return Rescheduled("rescheduled", moved)

    async def redrive(self, project: str, id_: UUID) -> Redriven:
        """From the first attempt, now, with a fresh ladder. However many ask at once, it is one new generation."""
        task = await self._history.task(project, id_)
        if task is None:
            return Redriven("no_such_task", None)
        if task.state not in REDRIVABLE:
            return Redriven("not_failed", task)
        if not task.has_payload:
            return Redriven("payload_gone", task)
        again = _again(task, this_millisecond(self._clock.now()))
        await self._publisher.publish(CREATE, encode(CreateTask(task=_as_sent(again))))
        log.info("task.redriven", task_id=str(id_), generation=again.generation)
        return Redriven("redriven", again)

    async def _cancel_called(self, task: StoredTask, generation: int, within_s: float) -> Cancelled:
        command = CancelTask(id=task.id, project=task.project, command_id=new_id(), generation=generation)
        heard = await self._commands.cancel_called(command, within_s=within_s)
        if heard is None:
            return Cancelled("not_known", task)
        match heard.result:
            case "cancelled":
                return self._cancelled(task, generation)
            case "in-flight":
                return Cancelled("in_flight", task)
            case "ended":  # perhaps by an earlier cancel
                ended = await awaited(self._history, task.project, task.id, _is_certain)
                # A history that is behind does not say as what: a 409 would name a state that it has left.
                return _ended(ended) if ended and _is_certain(ended) else Cancelled("not_known", ended or task)

    def _cancelled(self, task: StoredTask, generation: int) -> Cancelled:
        log.info("task.cancelled", task_id=str(task.id))
        if task.state == "cancelled":
            return Cancelled("cancelled", task)
        now = this_millisecond(self._clock.now())
        return Cancelled(
            "cancelled",
            task._replace(state="cancelled", state_at=now, finished_at=now, generation=generation, reason="cancelled"),
        )


class _Patience:
    """What is left of the time in which an answer should be known."""

    def __init__(self) -> None:
        self._until = asyncio.get_running_loop().time() + ANSWER_S

    def left_s(self) -> float:
        return max(0.0, self._until - asyncio.get_running_loop().time())


def _is_certain(task: StoredTask) -> bool:
    """It has ended, and no copy of it is left that may be called."""
    return task.state in FINAL and task.reason != CANCELLED_WHEN_DUE


def _ended(task: StoredTask) -> Cancelled:
    return Cancelled("cancelled" if task.state == "cancelled" else "ended", task)


def _again(task: StoredTask, now: datetime) -> StoredTask:
    """A moment of expiry that has passed would end it at once: who asks for it again does not mean that."""
    expires_at = task.expires_at if task.expires_at is not None and task.expires_at > now else None
    return task._replace(
        generation=task.generation + 1, due_at=now, expires_at=expires_at, state="scheduled", state_at=now,
        finished_at=None, first_attempt_at=None, lateness_ms=None, last_attempt=None, reason="",
    )  # fmt: skip


def _as_sent(task: StoredTask) -> Task:
    return Task(
        id=task.id,
        project=task.project,
        generation=task.generation,
        created_at=task.created_at,
        due_at=task.due_at,
        expires_at=task.expires_at,
        fingerprint=task.fingerprint,
        labels=dict(task.labels),
        schedule=task.schedule,
        call=task.call,
    )

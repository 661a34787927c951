"""Cancel, reschedule and run now, for tasks that wait here: ask the row, tell the history, answer the asker.

Commit, publish, answer, ack. A redelivery, or an asker who heard nothing and asks again, meets the row or the
tombstone, publishes the same and gets the same answer.
"""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from prometheus_client import Counter

from libs.common import topology
from libs.common.asking import Asked, Replier
from libs.common.clock import Clock
from libs.common.contracts import (
    CANCELLED_WHEN_DUE,
    CancelTask,
    RescheduleTask,
    TaskAccepted,
    TaskAnswer,
    TaskCommand,
    TaskFinished,
    encode,
)
from libs.common.metrics import REGISTRY
from libs.common.postgres import until_available
from libs.common.publisher import Publisher
from services.scheduler.store_commands import CommandStore

COMMANDS = Counter(
    "carillon_scheduler_commands_total", "Commands about tasks, by result", ["command", "result"], registry=REGISTRY
)


class TaskCommands:
    """`hold(id, due_at)` tells the wheel of a new time."""

    def __init__(
        self,
        store: CommandStore,
        publisher: Publisher,
        replier: Replier,
        hold: Callable[[UUID, datetime], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._replier = replier
        self._hold = hold
        self._clock = clock

    async def handle(self, asked: Asked[TaskCommand]) -> None:
        match asked.command:
            case CancelTask():
                answer = await self._cancel(asked.command)
            case RescheduleTask():
                answer = await self._reschedule(asked.command)
        COMMANDS.labels(type(asked.command).__name__, answer.result).inc()
        await self._replier.reply(asked, answer)

    async def _cancel(self, command: CancelTask) -> TaskAnswer:
        cancelled = await until_available(lambda: self._store.cancel(command))
        if cancelled.is_ended:
            event = cancelled_event(
                command.id, command.project, cancelled.order, self._clock.now(), has_left=cancelled.result == "left"
            )
            await self._publisher.insist(topology.TASK_EVENT, event)
        return TaskAnswer(
            command_id=command.command_id,
            id=command.id,
            result=cancelled.result,
            generation=cancelled.order[0],
            overtaken_by=cancelled.overtaken_by,
        )

    async def _reschedule(self, command: RescheduleTask) -> TaskAnswer:
        moved = await until_available(
            lambda: self._store.reschedule(command.id, command.project, command.command_id, command.due_at)
        )
        if moved.task is None:
            return TaskAnswer(command_id=command.command_id, id=command.id, result=moved.result)
        self._hold(command.id, moved.task.due_at)
        await self._publisher.insist(topology.TASK_EVENT, encode(TaskAccepted(task=moved.task)))
        return TaskAnswer(
            command_id=command.command_id,
            id=command.id,
            result=moved.result,
            generation=moved.task.generation,
            due_at=moved.task.due_at,
            overtaken_by=moved.overtaken_by,
        )


def cancelled_event(
    id_: UUID, project: str, order: tuple[int, int, int], at: datetime, *, has_left: bool = False
) -> bytes:
    """The end of a task by a cancel, for the history. `has_left`: unless a copy of it is called before."""
    generation, attempt, hop = order
    return encode(
        TaskFinished(
            id=id_,
            project=project,
            generation=generation,
            attempt=attempt,
            hop=hop,
            state="cancelled",
            finished_at=at,
            reason=CANCELLED_WHEN_DUE if has_left else "cancelled",
        )
    )

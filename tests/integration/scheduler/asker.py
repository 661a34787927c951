"""Someone who asks the scheduler without a broker, and a Postgres whose transactions end as told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

import msgspec

from libs.common.asking import Asked, Replier
from libs.common.clock import SystemClock
from libs.common.contracts import CancelTask, RescheduleTask, Task, TaskAnswer, TaskCommand
from libs.common.ids import new_id
from libs.common.postgres import Connection, Postgres, PostgresAway
from services.scheduler.commands import TaskCommands
from services.scheduler.store_commands import CommandStore
from tests.integration.scheduler.rig import FakePublisher, Held


class Killed(Exception):
    """Here the process died."""


class Answers(Replier):
    """Keeps what is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[TaskAnswer] = []

    async def reply(self, asked: Asked[Any], answer: msgspec.Struct) -> None:
        assert isinstance(answer, TaskAnswer)
        self.given.append(answer)


@dataclass
class Asking:
    """Hands a command to its handler, and gives the answer."""

    postgres: Postgres
    publisher: FakePublisher = field(default_factory=FakePublisher)
    held: Held = field(default_factory=Held)

    def __post_init__(self) -> None:
        self.answers = Answers()
        store = CommandStore(self.postgres)
        self.commands = TaskCommands(store, self.publisher, self.answers, self.held, SystemClock())

    async def __call__(self, command: TaskCommand) -> TaskAnswer:
        await self.commands.handle(Asked(command, "whom", "number"))
        return self.answers.given.pop()


def a_cancel(task: Task, *, project: str = "acme", generation: int = 1, command_id: UUID | None = None) -> CancelTask:
    return CancelTask(id=task.id, project=project, command_id=command_id or new_id(), generation=generation)


def a_reschedule(
    task: Task, due_at: datetime | None = None, *, project: str = "acme", command_id: UUID | None = None
) -> RescheduleTask:
    return RescheduleTask(id=task.id, project=project, command_id=command_id or new_id(), due_at=due_at)


Ending = Literal["rollback", "answer lost"]


class Fickle(Postgres):
    """How its next transaction ends: it dies before the commit, its commit's answer is lost, or `gate` holds it up."""

    def __init__(self, postgres: Postgres, ending: Ending | None = None, gate: asyncio.Event | None = None) -> None:
        self._real = postgres
        self.ending = ending
        self.gate = gate
        self.at_gate = asyncio.Event()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        async with self._real.acquire() as connection:
            yield cast("Connection", _FickleConnection(connection, self))


class _FickleConnection:
    def __init__(self, connection: Connection, postgres: Fickle) -> None:
        self._connection = connection
        self._postgres = postgres

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        ending, self._postgres.ending = self._postgres.ending, None
        async with self._connection.transaction():
            yield
            self._postgres.at_gate.set()
            if self._postgres.gate is not None:
                await self._postgres.gate.wait()
            if ending == "rollback":
                raise Killed
        if ending == "answer lost":
            raise PostgresAway("the answer is lost")

"""A scheduler's handlers of schedules, without its process, and looks at their table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from libs.common.asking import Asked, Replier
from libs.common.clock import SystemClock, from_ms, to_ms
from libs.common.contracts import (
    ChangeSchedule,
    CreateTask,
    ListSchedules,
    Schedule,
    ScheduleAnswer,
    ScheduleCommand,
    ScheduleList,
    TaskFinished,
)
from libs.common.ids import new_id
from libs.common.postgres import Postgres
from services.scheduler import occurrences, store_schedules
from services.scheduler.schedule_commands import ScheduleCommands
from services.scheduler.store import Store
from services.scheduler.store_schedules import ScheduleStore
from services.scheduler.timetable import Timetable
from tests.integration.scheduler.rig import CALL, SECOND, FakePublisher, Held, Tables, an_acceptor

Action = Literal["pause", "resume", "delete", "run", "show"]
LONG_LEAD = 60 * SECOND


def lead_of_a_minute(monkeypatch: Any) -> None:
    """So that a slow machine does not leave the lead in mid-test."""
    monkeypatch.setattr(occurrences, "LEAD", LONG_LEAD)
    monkeypatch.setattr(store_schedules, "LEAD", LONG_LEAD)


def a_schedule(**fields: Any) -> Schedule:
    return Schedule(**{"call": CALL, **fields})


async def at_in(tables: Tables, seconds: float, **fields: Any) -> Schedule:
    """One that comes first in `seconds` from now by Postgres' clock, and each hour after it."""
    start_at = from_ms(to_ms(await tables.now())) + seconds * SECOND
    return a_schedule(**{"every": "1h", "start_at": start_at, **fields})


def a_change(
    action: Action, name: str = "bell", *, project: str = "acme", command_id: UUID | None = None
) -> ChangeSchedule:
    return ChangeSchedule(project=project, name=name, command_id=command_id or new_id(), action=action)


class Answers(Replier):
    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    async def reply(self, asked: Asked[Any], answer: msgspec.Struct) -> None:
        self.given.append(answer)


@dataclass
class Replica:
    """What one scheduler does about schedules."""

    postgres: Postgres
    publisher: FakePublisher = field(default_factory=FakePublisher)
    nudges: int = 0

    def __post_init__(self) -> None:
        self.store = ScheduleStore(self.postgres)
        self.timetable = Timetable(self.store, self.publisher)
        self.acceptor = an_acceptor(Store(self.postgres), self.publisher, Held())

    def _nudge(self) -> None:
        self.nudges += 1

    async def asks(self, command: ScheduleCommand) -> ScheduleAnswer:
        answer = await self._answer(command)
        assert isinstance(answer, ScheduleAnswer)
        return answer

    async def lists(
        self, project: str = "acme", after: str = "", limit: int = 100, *, with_times: bool = False
    ) -> ScheduleList:
        command = ListSchedules(project=project, after=after, limit=limit, with_times=with_times)
        answer = await self._answer(command)
        assert isinstance(answer, ScheduleList)
        return answer

    async def _answer(self, command: ScheduleCommand) -> ScheduleAnswer | ScheduleList:
        answers = Answers()
        commands = ScheduleCommands(self.store, self.publisher, answers, self._nudge, SystemClock())
        await commands.handle(Asked(command, "whom", "number"))
        [answer] = answers.given
        return answer  # type: ignore[no-any-return]

    def creates(self) -> list[CreateTask]:
        """What it has published of tasks; the queue of the tests."""
        sent = self.publisher.take()
        self.publisher.sent = [message for message in sent if not isinstance(message, CreateTask)]
        return [message for message in sent if isinstance(message, CreateTask)]

    async def accepts(self, creates: Sequence[CreateTask]) -> None:
        await self.acceptor.creates(creates)

    def cancelled(self) -> list[UUID]:
        """The tasks whose end by a cancel the history has heard of."""
        return [message.id for message in self.publisher.take() if isinstance(message, TaskFinished)]


async def next_ats(tables: Tables) -> list[Any]:
    rows = await tables.connection.fetch("SELECT next_at FROM scheduler.schedule ORDER BY name")
    return [row["next_at"] for row in rows]


async def set_back(tables: Tables, by: timedelta) -> None:
    """As if no scheduler had run for so long."""
    await tables.connection.execute("UPDATE scheduler.schedule SET next_at = next_at - $1::interval", by)


async def statuses(tables: Tables) -> list[str]:
    rows = await tables.connection.fetch("SELECT status FROM scheduler.schedule ORDER BY name")
    return [row["status"] for row in rows]


async def waiting(tables: Tables) -> set[UUID]:
    return {row["id"] for row in await tables.connection.fetch("SELECT id FROM scheduler.task")}


async def locks_held(tables: Tables) -> int:
    """Transactions that stand open on the table of schedules, other than ours."""
    count: int = await tables.connection.fetchval(
        "SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = 'scheduler.schedule'::regclass"
        " AND pid <> pg_backend_pid()"
    )
    return count

"""The scheduler behind the console: its own handlers on its own tables, with the broker between left out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.asking import ANSWER_S, Asked
from libs.common.clock import SystemClock
from libs.common.contracts import Answer, AnyMessage, CreateTask, Schedule, encode
from libs.common.ids import new_id
from libs.common.publisher import PublishUnknown
from libs.common.topology import Route
from services.scheduler.keeping import Keeping
from services.scheduler.schedule_commands import ScheduleCommands
from services.scheduler.store import Store
from services.scheduler.store_schedules import ScheduleStore
from tests.integration.scheduler.rig import FakePublisher, a_pool
from tests.integration.scheduler.schedules import Answers
from tests.unit.scheduler.schedules import a_put

_read = msgspec.json.Decoder(AnyMessage).decode


@dataclass
class Scheduler:
    """Answers as the real one, of what went over the wire; `is_away`: it says nothing, `no_broker`: nothing arrives."""

    store: ScheduleStore
    publisher: FakePublisher = field(default_factory=FakePublisher)
    is_away: bool = False
    no_broker: bool = False
    asked: list[Any] = field(default_factory=list)

    async def ask(self, _route: Route, command: msgspec.Struct, *, timeout_s: float = ANSWER_S) -> Answer | None:
        if self.no_broker:
            raise PublishUnknown("no link")
        self.asked.append(command)
        return None if self.is_away else await self.answer(command)

    async def answer(self, command: Any) -> Any:
        answers = Answers()
        commands = ScheduleCommands(self.store, self.publisher, answers, lambda: None, SystemClock())
        await commands.handle(Asked(_read(encode(command)), "whom", "number"))
        [answer] = answers.given
        return _read(encode(answer))

    async def put(self, name: str, schedule: Schedule, project: str = "default") -> Any:
        """As somebody else would, by the API."""
        return (await self.answer(a_put(schedule, name, project=project, command_id=new_id()))).held

    def creates(self) -> list[CreateTask]:
        return [message for message in self.publisher.take() if isinstance(message, CreateTask)]


@asynccontextmanager
async def a_scheduler(url: str) -> AsyncIterator[Scheduler]:
    async with a_pool(url) as postgres:
        store = ScheduleStore(postgres)
        await Keeping(Store(postgres), store, 7).prepare()
        yield Scheduler(store)

"""Where commands come in: each goes to who knows its kind."""

import asyncio

from libs.common.asking import Asked
from libs.common.contracts import CancelTask, RescheduleTask, SchedulerCommand
from services.scheduler.commands import TaskCommands
from services.scheduler.schedule_commands import ScheduleCommands

# Each holds a connection while it waits for a row.
AT_ONCE = 4


class Desk:
    def __init__(self, tasks: TaskCommands, schedules: ScheduleCommands) -> None:
        self._tasks = tasks
        self._schedules = schedules
        self.slots = asyncio.Semaphore(AT_ONCE)

    async def handle(self, asked: Asked[SchedulerCommand]) -> None:
        match asked.command:
            case CancelTask() | RescheduleTask() as command:
                await self._tasks.handle(Asked(command, asked.reply_to, asked.correlation_id))
            case command:
                await self._schedules.handle(Asked(command, asked.reply_to, asked.correlation_id))

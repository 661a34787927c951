"""Asks the other services, and waits for their answers: the one place where ingest does.

None is "not known": the command is confirmed and will be carried out, but nobody has told us within `ANSWER_S`. Each
may be repeated: whoever carries it out a second time answers the same. All raise NotPublished.
"""

import asyncio
import secrets
from typing import Protocol, TypeVar
from uuid import UUID

import msgspec

from libs.common.asking import ANSWER_S
from libs.common.contracts import (
    Answer,
    AskDigest,
    CancelAnswer,
    CancelTask,
    ChangeSchedule,
    ControlAnswer,
    DigestAnswer,
    ListSchedules,
    PutSchedule,
    RescheduleTask,
    ScheduleAnswer,
    ScheduleList,
    SetControl,
    TaskAnswer,
)
from libs.common.ids import new_id
from libs.common.topology import DISPATCHER_COMMAND, MAILER_COMMAND, SCHEDULER_COMMAND, Route
from services.ingest.problems import RETRY_AFTER_S, Problem

A = TypeVar("A", bound=msgspec.Struct)
B = TypeVar("B", TaskAnswer, ScheduleAnswer)
C = TypeVar("C", CancelTask, RescheduleTask, PutSchedule | ChangeSchedule)


class Asks(Protocol):
    """The part of `Asker[Answer]` that this needs."""

    async def ask(self, route: Route, command: msgspec.Struct, *, timeout_s: float = ANSWER_S) -> Answer | None: ...


class Commands:
    def __init__(self, asker: Asks) -> None:
        self._asker = asker

    async def cancel_waiting(self, command: CancelTask, *, within_s: float = ANSWER_S) -> TaskAnswer | None:
        """Of the scheduler."""
        return await self._ask_last(command, TaskAnswer, within_s)

    async def cancel_called(self, command: CancelTask, *, within_s: float = ANSWER_S) -> CancelAnswer | None:
        """Of the dispatcher, which does not look at the project: only for a task that is known to be its own."""
        return await self._ask(DISPATCHER_COMMAND, command, CancelAnswer, within_s)

    async def reschedule(self, command: RescheduleTask) -> TaskAnswer | None:
        return await self._ask_last(command, TaskAnswer)

    async def change_schedule(self, command: PutSchedule | ChangeSchedule) -> ScheduleAnswer | None:
        return await self._ask_last(command, ScheduleAnswer)

    async def list_schedules(self, command: ListSchedules) -> ScheduleList | None:
        return await self._ask(SCHEDULER_COMMAND, command, ScheduleList)

    async def set_control(self, command: SetControl) -> ControlAnswer | None:
        return await self._ask(DISPATCHER_COMMAND, command, ControlAnswer)

    async def ask_digest(self, command: AskDigest, *, within_s: float = ANSWER_S) -> DigestAnswer | None:
        return await self._ask(MAILER_COMMAND, command, DigestAnswer, within_s)

    async def _ask_last(self, command: C, kind: type[B], within_s: float = ANSWER_S) -> B | None:
        """Of the scheduler, which lets the greatest id count: once more where a greater one had been there.

        That one may have been sent before, by a process whose clock is ahead. One that is in the way of the second
        was sent meanwhile, and may well have come after it.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        answer = await self._ask(SCHEDULER_COMMAND, command, kind, within_s)
        if answer is None or answer.overtaken_by is None:
            return answer
        # At random, for others may have been told of the same one: of two equal ids one would pass for a redelivery.
        greater = max(new_id(), UUID(int=answer.overtaken_by.int + 1 + secrets.randbits(48)))
        again = msgspec.structs.replace(command, command_id=greater)
        return await self._ask(SCHEDULER_COMMAND, again, kind, until - loop.time())

    async def _ask(self, route: Route, command: msgspec.Struct, kind: type[A], within_s: float = ANSWER_S) -> A | None:
        answer = await self._asker.ask(route, command, timeout_s=within_s)
        if answer is not None and not isinstance(answer, kind):
            raise TypeError(f"{type(command).__name__} is answered by {type(answer).__name__}")
        return answer


def unanswered(advice: str = "Repeat it: that changes nothing twice.") -> Problem:
    """For a command whose answer is not known."""
    detail = "The command was taken and will be carried out, but its result is not known yet."
    return Problem(503, "not_answered", f"{detail} {advice}", headers={"Retry-After": str(RETRY_AFTER_S)})

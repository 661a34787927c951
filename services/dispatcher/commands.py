"""Commands to the dispatchers: whichever replica takes one acts for all of them, then answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from libs.common.asking import Asked, Replier
from libs.common.clock import Clock
from libs.common.contracts import CancelAnswer, CancelTask, ControlAnswer, DispatcherCommand, SetControl
from libs.common.lifecycle import Backoff
from libs.common.redis import RedisAway
from services.dispatcher.control import Control
from services.dispatcher.marks import Marks
from services.dispatcher.outlet import Outlet

# Of a cancel that no call follows, above those of whatever copy the scheduler still tells of as cancelled when due.
HOPS_MAX = 2**31 - 1

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Commands:
    """Each waits for Redis: what was asked is done, however late. The answer may then find nobody."""

    def __init__(self, control: Control, marks: Marks, outlet: Outlet, replier: Replier, clock: Clock) -> None:
        self._control = control
        self._marks = marks
        self._outlet = outlet
        self._replier = replier
        self._clock = clock

    async def handle(self, asked: Asked[DispatcherCommand]) -> None:
        match asked.command:
            case SetControl() as change:
                await _until_available(lambda: self._control.write(change))
                await self._replier.reply(asked, ControlAnswer(command_id=change.command_id))
            case CancelTask() as cancel:
                await self._replier.reply(asked, await self._cancel(cancel))

    async def _cancel(self, command: CancelTask) -> CancelAnswer:
        """For a call under way its holder tells the history, once it has not succeeded."""
        result = await _until_available(lambda: self._marks.cancel(command.id, command.generation))
        if result == "cancelled":
            order = (command.generation, 0, HOPS_MAX)
            await self._outlet.cancelled(command.id, command.project, order, self._clock.now())
        return CancelAnswer(command_id=command.command_id, id=command.id, result=result)


async def _until_available(ask: Callable[[], Awaitable[T]]) -> T:
    backoff = Backoff(first_s=0.1, cap_s=2.0)
    while True:
        try:
            return await ask()
        except RedisAway as error:
            log.warning("command.waits", reason=str(error))
            await asyncio.sleep(backoff.next())

"""Tells the dispatchers what operators have set: each change at once, and the whole of it now and then.

Postgres holds it; the dispatchers' copy stands in Redis and may be lost. So a change that nobody has confirmed is not
lost, only later: the next whole carries it.
"""

import asyncio
from typing import Protocol

import structlog

from libs.common.contracts import ControlAnswer, SetControl, SigningRule, TargetRule, encode
from libs.common.lifecycle import pause
from libs.common.postgres import PostgresAway
from libs.common.publisher import NotPublished
from libs.common.topology import DISPATCHER_COMMAND, Route

EVERY_S = 30.0
LOOK_S = 5.0

log = structlog.get_logger(__name__)


class SetsControl(Protocol):
    """The part of `Commands` that this needs."""

    async def set_control(self, command: SetControl) -> ControlAnswer | None: ...


class KnowsTheWhole(Protocol):
    """The part of `ControlStore` that this needs. All raise PostgresAway."""

    async def claim(self, every_s: float) -> bool: ...

    async def forget(self) -> None: ...

    async def whole(self) -> SetControl: ...


class Publishes(Protocol):
    """The part of `Publisher` that this needs."""

    async def publish(self, route: Route, item: bytes) -> None: ...


async def is_confirmed(commands: SetsControl, rule: TargetRule | SigningRule) -> bool:
    """Tell the dispatchers of a rule that is committed. False: not known in five seconds, and told again later."""
    if isinstance(rule, TargetRule):
        change = SetControl(command_id=rule.command_id, targets=(rule,))
    else:
        change = SetControl(command_id=rule.command_id, signing=(rule,))
    try:
        return await commands.set_control(change) is not None
    except NotPublished as error:
        log.warning("control.not-published", reason=str(error))
        return False


class ControlPublisher:
    """A worker. Whichever replica comes first publishes for all; that several do would be harmless."""

    name = "control"

    def __init__(self, store: KnowsTheWhole, publisher: Publishes) -> None:
        self._store = store
        self._publisher = publisher
        self._is_owed = True  # at the start, and after a failure

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.publish()
            await pause(stopping, LOOK_S)

    async def publish(self) -> None:
        """The whole, unless somebody has published it within `EVERY_S`."""
        try:
            # Below EVERY_S by one look, so that no more than that passes between two.
            if not await self._store.claim(0 if self._is_owed else EVERY_S - LOOK_S):
                return
            self._is_owed = True
            await self._store.forget()
            await self._publisher.publish(DISPATCHER_COMMAND, encode(await self._store.whole()))
            self._is_owed = False
        except (PostgresAway, NotPublished) as error:
            log.warning("control.not-published", reason=str(error))

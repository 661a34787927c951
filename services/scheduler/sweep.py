"""Fires what is overdue, whoever should have: heals a lost wheel, a dead replica, a restart, an outage.

Oldest first, on its own connection beside the wheel, so that a backlog and fresh work share the queue.
"""

import asyncio

import structlog
from prometheus_client import Gauge

from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from services.scheduler.fire import Firing
from services.scheduler.store import Store

SWEEP_EVERY_S = 2.0

OVERDUE = Gauge("carillon_scheduler_overdue_tasks", "Tasks overdue, counted up to 100,000", registry=REGISTRY)
OLDEST = Gauge("carillon_scheduler_overdue_oldest_seconds", "By how much the oldest is overdue", registry=REGISTRY)

log = structlog.get_logger(__name__)


class Sweeper:
    name = "sweeper"

    def __init__(self, store: Store, firing: Firing) -> None:
        self._store = store
        self._firing = firing

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            if not await self.one_pass():
                await pause(stopping, SWEEP_EVERY_S)

    async def one_pass(self) -> bool:
        """Fire one batch of the oldest overdue rows; True when it was full (of rows or bytes): again at once."""
        try:
            found, is_more = await self._firing.fire_overdue()
            tasks, oldest_s = await self._store.overdue()
        except PostgresAway as error:
            log.warning("sweep.waits", reason=str(error))
            return False
        OVERDUE.set(tasks)
        OLDEST.set(oldest_s)
        if found:
            log.info("sweep.found", tasks=found, overdue=tasks, oldest_s=round(oldest_s, 3))
        return is_more

"""Looks at the tables now and then, for the metrics: how much waits, and whether vacuum keeps up."""

import asyncio

import structlog
from prometheus_client import Gauge

from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from services.scheduler.store import Store
from services.scheduler.store_schedules import ScheduleStore

EVERY_S = 15.0

WAITING = Gauge("carillon_scheduler_waiting_tasks", "Tasks in the table, by Postgres' statistics", registry=REGISTRY)
DEAD = Gauge("carillon_scheduler_dead_tuples", "Dead rows in the table that vacuum has yet to free", registry=REGISTRY)
OLDEST = Gauge(
    "carillon_scheduler_oldest_transaction_seconds",
    "Age of the oldest open transaction in the database: vacuum frees nothing that is younger",
    registry=REGISTRY,
)
SCHEDULES = Gauge("carillon_scheduler_schedules", "Schedules, by status", ["status"], registry=REGISTRY)

log = structlog.get_logger(__name__)


class VitalSigns:
    name = "vital signs"

    def __init__(self, store: Store, schedules: ScheduleStore) -> None:
        self._store = store
        self._schedules = schedules

    async def run(self, stopping: asyncio.Event) -> None:
        while True:
            try:
                await self.one_pass()
            except PostgresAway as error:
                log.debug("vitals.waits", reason=str(error))
            if await pause(stopping, EVERY_S):
                return

    async def one_pass(self) -> None:
        waiting, dead, oldest_s = await self._store.vitals()
        WAITING.set(waiting)
        DEAD.set(dead)
        OLDEST.set(oldest_s)
        counts = await self._schedules.counts()
        for status in ("active", "paused", "ended"):
            SCHEDULES.labels(status).set(counts.get(status, 0))

"""Housekeeping of the scheduler's tables: the days ahead are made, the days past and deleted schedules dropped."""

import asyncio

import structlog
from prometheus_client import Gauge

from libs.common.clock import SystemClock
from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway, until_available
from services.scheduler.store import Store
from services.scheduler.store_schedules import ScheduleStore

EVERY_S = 3600.0

MADE = Gauge(
    "carillon_scheduler_partitions_made_timestamp_seconds",
    "When the days ahead were last made sure of, in unix time",
    registry=REGISTRY,
)

log = structlog.get_logger(__name__)


class Keeping:
    name = "housekeeping"

    def __init__(self, store: Store, schedules: ScheduleStore, tombstone_days: int) -> None:
        self._store = store
        self._schedules = schedules
        self._tombstone_days = tombstone_days

    async def prepare(self) -> None:
        """Before anything is consumed: a tombstone must find its day. Waits for Postgres."""
        await until_available(self._store.make_days)
        MADE.set(SystemClock().now().timestamp())

    async def run(self, stopping: asyncio.Event) -> None:
        await self._drop()
        while not await pause(stopping, EVERY_S):
            await self.prepare()
            await self._drop()

    async def _drop(self) -> None:
        """Once; what a dump still reads goes in the next hour."""
        try:
            await self._store.drop_days(self._tombstone_days)
            await self._schedules.forget(self._tombstone_days)
        except PostgresAway as error:
            log.warning("partitions.not-dropped", reason=str(error))
        else:
            log.info("partitions.kept", tombstone_days=self._tombstone_days)

"""Keeps the history's tables in shape: partitions ahead of time, and nothing older than the retention."""

import asyncio
from datetime import date, timedelta

import structlog
from prometheus_client import Gauge

from libs.common.clock import Clock
from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway, until_available
from services.ingest.store import DELETE_BATCH, Store

DAYS_AHEAD = 7
EVERY_S = 3600.0
# Between two batches of deletes, so that they never crowd out the projection.
BREATH_S = 0.1
# Calls by the minute: what the console draws minute by minute is of the last day.
MINUTES_KEPT_DAYS = 8
# A breaker that is open tells of it again within minutes: what is older is of hosts and replicas that are no more.
BREAKERS_KEPT = timedelta(days=1)

PARTITIONS_MADE = Gauge(
    "carillon_ingest_partitions_made_timestamp_seconds",
    "When the partitions of the week to come were last made sure of",
    registry=REGISTRY,
)

log = structlog.get_logger(__name__)


class Maintenance:
    """A worker. `is_prepared` once there is a partition for today: nothing is projected before."""

    name = "maintenance"

    def __init__(self, store: Store, clock: Clock, *, retention_days: int) -> None:
        self.is_prepared = False
        self._store = store
        self._clock = clock
        self._retention_days = retention_days

    async def run(self, stopping: asyncio.Event) -> None:
        """Raises: Fatal when the tables are not there."""
        preparing = asyncio.create_task(until_available(self.prepare))
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({preparing, stop}, return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                await preparing
        finally:
            preparing.cancel()
            stop.cancel()
        while not stopping.is_set():
            await self._one_round(stopping)
            await pause(stopping, EVERY_S)

    async def prepare(self) -> None:
        """The partitions of yesterday (an event may cross midnight), today and the week to come."""
        yesterday = self._clock.now().date() - timedelta(days=1)
        await self._store.make_days(yesterday, DAYS_AHEAD + 2)
        PARTITIONS_MADE.set(self._clock.now().timestamp())
        self.is_prepared = True

    def keep_from(self, today: date) -> date:
        """The oldest day whose attempts are kept."""
        return today - timedelta(days=self._retention_days)

    async def one_pass(self, stopping: asyncio.Event) -> int:
        """Make what is needed and remove what is too old; gives how many tasks were deleted."""
        await self.prepare()
        now = self._clock.now()
        await self._store.drop_attempts(self.keep_from(now.date()))
        await self._store.forget_bulks(now - timedelta(days=self._retention_days))
        await self._store.forget_targets(now - BREAKERS_KEPT)
        days = min(MINUTES_KEPT_DAYS, self._retention_days)
        await self._store.forget_calls(now - timedelta(days=days), now - timedelta(days=self._retention_days))
        deleted, batch = 0, DELETE_BATCH
        while batch == DELETE_BATCH and not stopping.is_set():
            batch = await self._store.forget_tasks(now - timedelta(days=self._retention_days))
            deleted += batch
            await pause(stopping, BREATH_S)
        return deleted

    async def _one_round(self, stopping: asyncio.Event) -> None:
        try:
            log.info("history.trimmed", tasks=await self.one_pass(stopping))
        except PostgresAway as error:
            log.warning("history.not-trimmed", reason=str(error))

"""Housekeeping of the scheduler's tables: the days ahead are made, the days past are dropped."""

import asyncio

import structlog

from libs.common.lifecycle import pause
from libs.common.postgres import until_available
from services.scheduler.store import Store

EVERY_S = 3600.0

log = structlog.get_logger(__name__)


class Keeping:
    name = "housekeeping"

    def __init__(self, store: Store, tombstone_days: int) -> None:
        self._store = store
        self._tombstone_days = tombstone_days

    async def prepare(self) -> None:
        """Before anything is consumed: a tombstone must find its day. Waits for Postgres."""
        await until_available(self.one_pass)

    async def run(self, stopping: asyncio.Event) -> None:
        while not await pause(stopping, EVERY_S):
            await until_available(self.one_pass)

    async def one_pass(self) -> None:
        await self._store.keep_partitions(self._tombstone_days)
        log.info("partitions.kept", tombstone_days=self._tombstone_days)

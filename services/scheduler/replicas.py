"""Divides the loading of the horizon between the schedulers at work, so that they do not all probe the same rows.

Each beats once a second in a table. Of n that are alive, in the order of their ids, the i-th loads the shards whose
number leaves the remainder i. No lease is asked for or given back: two that disagree for a second both load a shard,
and the row lock decides. What a replica has accepted it holds whatever the shard.

Measured before it was built: a second replica that loads everything as well costs 60 to 80 % more CPU per task.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog
from prometheus_client import Gauge

from libs.common.ids import new_id
from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway, until_available
from services.scheduler.store import SHARDS
from services.scheduler.store_replicas import ReplicaStore

BEAT_S = 1.0

LIVE = Gauge("carillon_scheduler_replicas", "Schedulers at work, as this one sees them", registry=REGISTRY)
HELD = Gauge("carillon_scheduler_shards_held", f"Shards that this replica loads, of {SHARDS}", registry=REGISTRY)

log = structlog.get_logger(__name__)


class Share(NamedTuple):
    """The shards whose number leaves the remainder `part` when divided by `parts`."""

    part: int
    parts: int


ALL = Share(0, 1)


class Replicas:
    """`changed(share)` is called with this process's part, whenever it is another one or others have come or gone."""

    name = "replicas"

    def __init__(self, store: ReplicaStore, name: str, changed: Callable[[Share], None]) -> None:
        self._store = store
        self._name = name
        self._changed = changed
        self._id = new_id()
        self._live: tuple[object, ...] = ()

    async def join(self) -> None:
        """Before the horizon is loaded. Waits for Postgres."""
        await until_available(self.beat)

    async def run(self, stopping: asyncio.Event) -> None:
        while not await pause(stopping, BEAT_S):
            try:
                await self.beat()
            except PostgresAway as error:
                log.warning("replicas.waits", reason=str(error))
        try:
            await self._store.leave(self._id)
        except PostgresAway:
            pass  # the others see it in 3 s

    async def beat(self) -> None:
        live = tuple(await self._store.seen(self._id, self._name))
        if live == self._live or self._id not in live:
            return
        self._live = live
        share = Share(live.index(self._id), len(live))
        LIVE.set(share.parts)
        HELD.set(len(range(share.part, SHARDS, share.parts)))
        log.info("shards.divided", replicas=share.parts, part=share.part)
        self._changed(share)

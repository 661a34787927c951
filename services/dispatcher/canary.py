"""How long does a rung really hold what is put on it? Measured by every task that comes back, and by canaries.

A dead-letter worker that stalls shows nowhere else until the tasks behind it are late. A canary is a due task that has
expired and whose attempt is marked as settled: whoever gets it back, of whatever release, drops it. One at a time is on
each rung, whoever sent it.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime

import msgspec
from prometheus_client import Histogram
from redis.asyncio import Redis
from redis.exceptions import RedisError

from libs.common import topology
from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import Call, Task, TaskDue, encode
from libs.common.ids import new_id
from libs.common.lifecycle import Fatal, pause
from libs.common.metrics import REGISTRY
from libs.common.publisher import NotPublished, Publisher
from libs.common.redis import RedisAway, translating
from services.dispatcher.marks import ENDED, PREFIX, attempt_key

LOOK_EVERY_S = 20.0
# From the time when a canary should be back to when another is sent.
LATE_MS = 60_000
FLOW_S = 5.0

ERROR = Histogram(
    "carillon_dispatcher_rung_error_seconds",
    "How much longer than it should a rung held a message",
    ["rung_ms"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
_CALL = msgspec.Raw(encode(Call(url="http://canary.invalid/")))


class Canaries:
    name = "canaries"

    def __init__(self, rungs_ms: Iterable[int], redis: Redis, publisher: Publisher, clock: Clock) -> None:
        self._rungs_ms = tuple(sorted(rungs_ms))
        self._redis = redis
        self._publisher = publisher
        self._clock = clock

    async def run(self, stopping: asyncio.Event) -> None:
        while True:
            for rung_ms in self._rungs_ms:
                await self._send(rung_ms)
            if await pause(stopping, LOOK_EVERY_S):
                return

    def back(self, due: TaskDue) -> None:
        """A message has come from dispatcher.retry-due."""
        if due.rung_ms is not None:
            late_s = (self._clock.now() - due.emitted_at).total_seconds() - due.rung_ms / 1000
            ERROR.labels(str(due.rung_ms)).observe(max(late_s, 0.0))

    async def _send(self, rung_ms: int) -> None:
        now = ceil_to_ms(self._clock.now())
        task = _canary(now)
        try:
            async with asyncio.timeout(FLOW_S):
                await self._publisher.flowing()
            with translating():
                if not await self._redis.set(f"{PREFIX}canary:{rung_ms}", "", nx=True, px=rung_ms + LATE_MS):
                    return
                await self._redis.set(attempt_key(task), ENDED, px=rung_ms + 10 * LATE_MS)
            due = TaskDue(task=msgspec.Raw(encode(task)), due_at=now, emitted_at=now, rung_ms=rung_ms)
            await self._publisher.publish(topology.rung(rung_ms), encode(due))
        except (RedisAway, RedisError, Fatal, NotPublished, TimeoutError):
            pass  # the next one tells


def _canary(now: datetime) -> Task:
    return Task(
        id=new_id(), project="carillon", created_at=now, due_at=now, expires_at=now, fingerprint="canary", call=_CALL
    )

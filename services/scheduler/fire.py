"""Emits what is due: lock the rows, publish with confirms, bury the confirmed ones, commit.

The only order that loses nothing: a crash before the commit frees the rows, and what was published already is
published again with the same content. Publish-then-commit is also how an expiry is told, and the time of a task that
a command has moved: the command tells it after its commit, and may die before.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter

from libs.common import topology
from libs.common.clock import Clock
from libs.common.contracts import LateBecause, TaskAccepted, TaskDue, TaskFinished, decode_task, encode
from libs.common.lifecycle import Backoff
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from libs.common.publisher import NotPublished, Publisher, Refused
from services.scheduler.lateness import Causes, observe
from services.scheduler.store import FIRE_BYTES_MAX, FIRE_ROWS_MAX, DueRow, Emitted, Store

# Twice this is below idle_in_transaction_session_timeout (5 s): the locks are still ours when we bury.
PUBLISH_DEADLINE_S = 2.0
FLOW_WAIT_S = 1.0

FIRED = Counter("carillon_scheduler_fired_total", "Due tasks, by result of the publish", ["result"], registry=REGISTRY)

log = structlog.get_logger(__name__)


class Fired(NamedTuple):
    missed: Sequence[UUID]
    again: Sequence[UUID]
    left: Sequence[UUID] = ()


class Swept(NamedTuple):
    found: int
    is_more: bool


class Firing:
    """One back-off for the wheel and the sweep: both meet the same full queue."""

    def __init__(self, store: Store, publisher: Publisher, causes: Causes, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._causes = causes
        self._clock = clock
        self._backoff = Backoff(first_s=0.05, cap_s=1.0)
        self.pause_s = 0.0

    async def fire_these(self, ids: Sequence[UUID]) -> Fired:
        """Fire those of `ids` that are due and free.

        `missed` were not there to take (not yet due by Postgres' clock, in another replica's hands, or gone);
        `again` were not confirmed and want another try after `pause_s`; `left` found the batch full: ask at once.
        """
        batch = _Batch(self._publisher, self._causes, self._clock)
        if await self._flows():
            with self._noticing():
                await self._store.fire_these(ids, batch.emit)
        else:
            batch.found, batch.again = set(ids), list(ids)
        self._count(batch)
        absent = [task_id for task_id in ids if task_id not in batch.found]
        return Fired([], batch.again, absent) if batch.is_full else Fired(absent, batch.again)

    async def fire_overdue(self) -> Swept:
        """Fire the oldest overdue rows; says whether to come again at once (not when the broker refused some)."""
        if not await self._flows():
            return Swept(0, False)
        batch = _Batch(self._publisher, self._causes, self._clock, is_swept=True)
        with self._noticing():
            found = await self._store.fire_overdue(batch.emit)
        self._count(batch)
        return Swept(found, batch.is_full and not batch.again)

    async def _flows(self) -> bool:
        """No fire starts while the connection is down or blocked: it would only hold row locks."""
        try:
            await asyncio.wait_for(self._publisher.flowing(), FLOW_WAIT_S)
        except TimeoutError:
            self._causes.met("broker", self._clock.now())
            return False
        return True

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except PostgresAway:
            self._causes.met("postgres", self._clock.now())
            raise

    def _count(self, batch: "_Batch") -> None:
        for row in batch.fired:
            observe((row.now - row.due_at).total_seconds() + batch.publish_s, batch.because(row))
        FIRED.labels("confirmed").inc(len(batch.fired))
        FIRED.labels("refused").inc(len(batch.again))
        if batch.again:
            self.pause_s = self._backoff.next()
            log.warning("fire.refused", tasks=len(batch.again), pause_s=round(self.pause_s, 3))
        elif batch.fired:
            self._backoff.reset()
            self.pause_s = 0.0


class _Batch:
    """One transaction's rows on their way through the broker."""

    def __init__(self, publisher: Publisher, causes: Causes, clock: Clock, *, is_swept: bool = False) -> None:
        self._publisher = publisher
        self._causes = causes
        self._clock = clock
        self._is_swept = is_swept
        self.publish_s = 0.0
        self.fired: list[DueRow] = []
        self.again: list[UUID] = []
        self.found: set[UUID] = set()
        self.is_full = False

    async def emit(self, rows: Sequence[DueRow]) -> Emitted:
        self.found.update(row.id for row in rows)
        self.is_full = len(rows) >= FIRE_ROWS_MAX or sum(len(row.message) for row in rows) >= FIRE_BYTES_MAX
        started = self._clock.monotonic()
        sent = await asyncio.gather(
            self._send([row for row in rows if not row.is_moved]),
            self._send_moved([row for row in rows if row.is_moved]),
        )
        self.publish_s = self._clock.monotonic() - started
        done = [row for some in sent for row in some]
        self.fired = [row for row in done if not row.is_expired]
        return Emitted([row.id for row in self.fired], [row.id for row in done if row.is_expired])

    async def _send_moved(self, rows: list[DueRow]) -> list[DueRow]:
        """First to the history, so that it never knows of the call and not of its time."""
        return await self._send(await self._publish(topology.TASK_EVENT, rows, [_moved(row) for row in rows]))

    async def _send(self, rows: list[DueRow]) -> list[DueRow]:
        """Those whose end, or whose turn, the broker confirmed."""
        expired = [row for row in rows if row.is_expired]
        due = [row for row in rows if not row.is_expired]
        told, fired = await asyncio.gather(
            self._publish(topology.TASK_EVENT, expired, [_expired(row) for row in expired]),
            self._publish(topology.DUE, due, [_due(row, self.because(row)) for row in due]),
        )
        return told + fired

    def because(self, row: DueRow) -> LateBecause | None:
        because = self._causes.because(row.due_at, row.now)
        # What a sweep finds singly had a scheduler that was to wake for it, and is no more.
        return "restart" if because == "backlog" and self._is_swept and not self.is_full else because

    async def _publish(self, route: topology.Route, rows: list[DueRow], items: list[bytes]) -> list[DueRow]:
        """The rows whose item the broker confirmed in time."""
        if not rows:
            return []
        failures = await self._publisher.publish_many(route, items, within_s=PUBLISH_DEADLINE_S)
        confirmed = []
        for row, failure in zip(rows, failures, strict=True):
            if failure is None:
                confirmed.append(row)
            else:
                self._failed(row, failure)
        return confirmed

    def _failed(self, row: DueRow, failure: NotPublished) -> None:
        self.again.append(row.id)
        if not isinstance(failure, Refused):  # a full queue is downstream's backlog, and not the broker's doing
            self._causes.met("broker", self._clock.now())


def _moved(row: DueRow) -> bytes:
    return encode(TaskAccepted(task=decode_task(row.message)))


def _due(row: DueRow, because: LateBecause | None) -> bytes:
    due = TaskDue(task=msgspec.Raw(row.message), due_at=row.due_at, emitted_at=row.now, late_because=because)
    return encode(due)


def _expired(row: DueRow) -> bytes:
    return encode(
        TaskFinished(
            id=row.id,
            project=row.project,
            generation=row.generation,
            attempt=row.attempt,
            hop=row.hop,
            state="expired",
            finished_at=row.now,
            reason="expires_at passed before the call",
        )
    )

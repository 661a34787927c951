"""Turns schedules into tasks: an occurrence becomes a `CreateTask`, by the front door, a little before its time.

Lock the schedules that come soon, publish with confirms, advance `next_at`, commit: a crash in between publishes the
same ids again, and the accept absorbs them.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Counter

from libs.common import topology
from libs.common.clock import ceil_to_ms
from libs.common.contracts import CreateTask, encode
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from libs.common.publisher import Publisher
from services.scheduler.occurrences import MISSED, occurrence_id, plan, task_of
from services.scheduler.store_schedules import DUE_MAX, DueSchedule, ScheduleStore

EVERY_S = 1.0
# Below idle_in_transaction_session_timeout (5 s), as in fire.py.
PUBLISH_DEADLINE_S = 2.0
# A schedule that cannot be read any more (its zone has gone from tzdata) must not hold up the others.
UNREADABLE_PAUSE = timedelta(hours=1)

OCCURRENCES = Counter(
    "carillon_scheduler_occurrences_total", "Tasks made of schedules, in time or to make up for a missed one",
    ["kind"], registry=REGISTRY,
)  # fmt: skip
UNREADABLE = Counter("carillon_scheduler_unreadable_schedules_total", "Schedules put off unread", registry=REGISTRY)

log = structlog.get_logger(__name__)


class Timetable:
    name = "timetable"

    def __init__(self, store: ScheduleStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """A schedule has changed: it may come at once."""
        self._nudged.set()

    async def run(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                self._nudged.clear()
                if not await self.one_pass():
                    nudge = asyncio.create_task(self._nudged.wait())
                    await asyncio.wait({stop, nudge}, timeout=EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                    nudge.cancel()
        finally:
            stop.cancel()

    async def one_pass(self) -> bool:
        """Emit what comes soon; True when there may be more."""
        try:
            async with asyncio.timeout(EVERY_S):
                await self._publisher.flowing()
            return await self._store.emit_due(self._emit) >= DUE_MAX
        except TimeoutError:
            return False  # no locks are held while the broker is away
        except PostgresAway as error:
            log.warning("timetable.waits", reason=str(error))
            return False

    async def _emit(self, due: Sequence[DueSchedule]) -> dict[UUID, datetime | None]:
        """When each schedule comes next, of those whose occurrences the broker has confirmed."""
        emitted = await asyncio.gather(*(self._emit_one(one) for one in due))
        return {one.held.id: next_at for one, (is_out, next_at) in zip(due, emitted, strict=True) if is_out}

    async def _emit_one(self, due: DueSchedule) -> tuple[bool, datetime | None]:
        held, schedule, now = due
        try:
            occurrences, next_at = plan(held, schedule, now)
        except ValueError as error:
            log.error("schedule.unreadable", schedule=held.name, project=held.project, reason=str(error))
            UNREADABLE.inc()
            return True, now + UNREADABLE_PAUSE
        made = ceil_to_ms(now)
        items = [
            encode(CreateTask(task=task_of(held, schedule, occurrence_id(held, schedule, one), one.at, made)))
            for one in occurrences
        ]
        failures = await self._publisher.publish_many(topology.CREATE, items, within_s=PUBLISH_DEADLINE_S)
        missed = sum(one.at <= now - MISSED for one in occurrences)
        if missed:
            log.warning("schedule.missed", schedule=held.name, project=held.project, made_up_for=missed)
        is_out = not any(failures)
        if is_out:
            OCCURRENCES.labels("missed").inc(missed)
            OCCURRENCES.labels("in-time").inc(len(items) - missed)
        return is_out, next_at

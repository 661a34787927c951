"""Turns schedules into tasks: an occurrence becomes a `CreateTask`, by the front door, a little before its time.

Lock the schedules that come soon, publish with confirms, advance `next_at`, commit: a crash in between publishes the
same ids again, and the accept absorbs them.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter

from libs.common import topology
from libs.common.clock import ceil_to_ms
from libs.common.contracts import CreateTask, HeldSchedule, encode
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from libs.common.publisher import Publisher
from services.scheduler.occurrences import MISSED, occurrence_id, plan, task_of
from services.scheduler.store_schedules import DueSchedule, ScheduleStore, Version, decode_schedule

EVERY_S = 1.0
# Below idle_in_transaction_session_timeout (5 s), as in fire.py.
PUBLISH_DEADLINE_S = 2.0
# Catching up on one schedule computes for 0.1 s and may make 1,000 large tasks. More than this would outlast the
# transaction: the others come with the next pass.
PLAN_S, PLAN_BYTES = 0.5, 16 * 1024 * 1024
# What this process cannot read (its tzdata does not know the zone) it leaves alone for so long: it must not hold up the
# others, and the row stays as it is for whoever can read it.
UNREADABLE_S = 60.0

OCCURRENCES = Counter(
    "carillon_scheduler_occurrences_total", "Tasks made of schedules, in time or to make up for a missed one",
    ["kind"], registry=REGISTRY,
)  # fmt: skip
UNREADABLE = Counter(
    "carillon_scheduler_unreadable_schedules_total",
    "Times that a schedule was left alone unread, one a minute at most",
    registry=REGISTRY,
)

log = structlog.get_logger(__name__)


class Timetable:
    name = "timetable"

    def __init__(self, store: ScheduleStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._nudged = asyncio.Event()
        self._unreadable_until: dict[Version, float] = {}

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
            left_alone = self._left_alone()
            is_more = await self._store.emit_due(self._emit, left_alone)
            return is_more or len(self._unreadable_until) > len(left_alone)  # behind those found now there may be more
        except TimeoutError:
            return False  # no locks are held while the broker is away
        except PostgresAway as error:
            log.warning("timetable.waits", reason=str(error))
            return False

    def _left_alone(self) -> list[Version]:
        now = asyncio.get_running_loop().time()
        self._unreadable_until = {one: until for one, until in self._unreadable_until.items() if until > now}
        return list(self._unreadable_until)

    async def _emit(self, due: Sequence[DueSchedule]) -> dict[UUID, datetime | None]:
        """When each schedule comes next, of those whose occurrences the broker has confirmed."""
        made = await self._made(due)
        confirmed = await asyncio.gather(*(self._is_confirmed(one) for one in made))
        return {one.held.id: one.next_at for one, is_out in zip(made, confirmed, strict=True) if is_out}

    async def _made(self, due: Sequence[DueSchedule]) -> list["Made"]:
        """Of as many as are soon made; of one at least, or one is left alone from now on."""
        loop = asyncio.get_running_loop()
        enough_at = loop.time() + PLAN_S
        made: list[Made] = []
        weight = 0
        for one in due:
            try:
                made.append(_made_of(one))
                weight += sum(map(len, made[-1].items))
            except (ValueError, msgspec.DecodeError) as error:
                self._unreadable(one.held, str(error))
            if loop.time() > enough_at or weight > PLAN_BYTES:
                break
            await asyncio.sleep(0)
        return made

    def _unreadable(self, held: HeldSchedule, reason: str) -> None:
        self._unreadable_until[held.id, held.revision] = asyncio.get_running_loop().time() + UNREADABLE_S
        log.error("schedule.unreadable", schedule=held.name, project=held.project, reason=reason)
        UNREADABLE.inc()

    async def _is_confirmed(self, made: "Made") -> bool:
        failures = await self._publisher.publish_many(topology.CREATE, made.items, within_s=PUBLISH_DEADLINE_S)
        if any(failures):
            return False
        if made.missed:
            log.warning("schedule.missed", schedule=made.held.name, project=made.held.project, made_up_for=made.missed)
        OCCURRENCES.labels("missed").inc(made.missed)
        OCCURRENCES.labels("in-time").inc(len(made.items) - made.missed)
        return True


class Made(NamedTuple):
    """The creates of one schedule's occurrences; `missed` of them are due long since."""

    held: HeldSchedule
    items: list[bytes]
    missed: int
    next_at: datetime | None


def _made_of(due: DueSchedule) -> Made:
    """Raises: ValueError or DecodeError for one that this process cannot read."""
    held, now = due.held, due.now
    schedule = decode_schedule(due.message)
    occurrences, next_at = plan(held, schedule, now)
    at = ceil_to_ms(now)
    items = [
        encode(CreateTask(task=task_of(held, schedule, occurrence_id(held, schedule, one), one.at, at)))
        for one in occurrences
    ]
    return Made(held, items, sum(one.at <= now - MISSED for one in occurrences), next_at)

"""The alarm clock: wakes at the right millisecond and says which ids are due. Postgres decides whether they are.

The wheel holds (id, due) of the next horizon only: what this replica accepted, and what `_load` finds. Losing it
costs latency and never a task, because the sweep finds what nobody woke for.
"""

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Gauge

from libs.common.clock import Clock, ceil_to_ms, from_ms, to_ms
from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway, until_available
from services.scheduler.fire import Firing
from services.scheduler.store import FIRE_ROWS_MAX, Store
from services.scheduler.wheel import TimingWheel

WHEEL_MAX = 1_000_000
# Clock steps and suspended machines heal within one nap.
NAP_MAX_S = 1.0
AWAY_PAUSE_S = 0.5
EARLY_PAUSE = timedelta(milliseconds=2)
# Reaches back over what fell due while the last scheduler was dying and the sweep would not touch yet.
FIRST_LOAD_BACK = timedelta(seconds=5)

HELD = Gauge("carillon_scheduler_wheel_tasks", "Tasks on the wheel", registry=REGISTRY)
OFFSET = Gauge("carillon_scheduler_clock_offset_seconds", "Postgres' clock minus ours", registry=REGISTRY)

log = structlog.get_logger(__name__)


class Alarm:
    """Two loops: one loads the horizon, one sleeps until the next task is due and fires it."""

    name = "alarm"

    def __init__(self, store: Store, firing: Firing, clock: Clock, *, horizon_s: float) -> None:
        self._store = store
        self._firing = firing
        self._clock = clock
        self._horizon = timedelta(seconds=horizon_s)
        self._offset = timedelta(0)
        self._tick = to_ms(clock.now())
        self._wheel: TimingWheel[UUID] = TimingWheel(self._tick)
        self._loaded_until = clock.now() - FIRST_LOAD_BACK
        self._overdue: list[UUID] = []
        self._nudged = asyncio.Event()

    def now(self) -> datetime:
        """Postgres' time, as well as we know it."""
        return self._clock.now() + self._offset

    def hold(self, task_id: UUID, due_at: datetime) -> None:
        """Wake for `task_id` when it is due, if that is within the horizon; the next load finds it otherwise."""
        if due_at > self.now() + self._horizon:
            return
        if len(self._wheel) >= WHEEL_MAX:
            self._loaded_until = min(self._loaded_until, due_at - timedelta(milliseconds=1))
            return
        if not self._wheel.schedule(task_id, to_ms(ceil_to_ms(due_at))):
            self._overdue.append(task_id)
        self._nudged.set()

    async def run(self, stopping: asyncio.Event) -> None:
        loading = asyncio.create_task(self._keep_loaded(stopping))
        ringing = asyncio.create_task(self._ring(stopping))
        try:
            await asyncio.wait({loading, ringing}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(loading, ringing)
        finally:
            loading.cancel()
            ringing.cancel()

    async def _ring(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self._nudged.clear()
            if due := self.due_now():
                await self._fire(due)
            else:
                await self._nap(stopping)

    def due_now(self) -> list[UUID]:
        due, self._overdue = self._overdue, []
        self._tick = max(self._tick, to_ms(self.now()))
        due += self._wheel.advance(self._tick)
        HELD.set(len(self._wheel))
        return due

    async def _fire(self, due: list[UUID]) -> None:
        for start in range(0, len(due), FIRE_ROWS_MAX):
            await self._fire_batch(due[start : start + FIRE_ROWS_MAX])

    async def _fire_batch(self, ids: list[UUID]) -> None:
        try:
            fired = await self._firing.fire_these(ids)
            again = set(fired.again)
            missed = [task_id for task_id in fired.missed if task_id not in again]
            early = await self._store.still_to_come(missed) if missed else []
        except PostgresAway as error:
            log.warning("fire.waits", reason=str(error))
            again, early = set(ids), []
        retry_at = self.now() + timedelta(seconds=self._firing.pause_s or AWAY_PAUSE_S)
        for task_id in again:
            self.hold(task_id, retry_at)
        for task_id, due_at in early:  # our clock is ahead: not at once, or we would spin until it is not
            self.hold(task_id, max(due_at, self.now() + EARLY_PAUSE))

    async def _nap(self, stopping: asyncio.Event) -> None:
        wake = self._wheel.next_wake()
        nap = NAP_MAX_S if wake is None else (from_ms(wake) - self.now()).total_seconds()
        stop = asyncio.ensure_future(stopping.wait())
        nudge = asyncio.ensure_future(self._nudged.wait())
        await asyncio.wait({stop, nudge}, timeout=min(max(nap, 0.0), NAP_MAX_S), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        nudge.cancel()

    async def _keep_loaded(self, stopping: asyncio.Event) -> None:
        while True:
            await until_available(self.load)
            if await pause(stopping, self._horizon.total_seconds() / 3):
                return

    async def load(self) -> None:
        """Measure the clock's offset, and put what falls due within the horizon on the wheel."""
        before = self._clock.now()
        theirs = await self._store.now()
        self._offset = theirs - (before + (self._clock.now() - before) / 2)
        OFFSET.set(self._offset.total_seconds())
        until = self.now() + self._horizon
        room = WHEEL_MAX - len(self._wheel)
        coming = await self._store.coming(self._loaded_until, until, room)
        for task_id, due_at in coming:
            self.hold(task_id, due_at)
        self._loaded_until = coming[-1][1] if len(coming) == room and coming else until

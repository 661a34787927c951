"""The alarm clock: wakes at the right millisecond and says which ids are due. Postgres decides whether they are.

The wheel holds (id, due) of the next horizon only: what this replica accepted, and what `_load` finds. Losing it
costs latency and never a task, because the sweep finds what nobody woke for.
"""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Gauge

from libs.common.clock import Clock, ceil_to_ms, from_ms, to_ms
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway, until_available
from services.scheduler.fire import Firing
from services.scheduler.replicas import ALL, Share
from services.scheduler.store import COMING_ROWS, FIRE_ROWS_MAX, Store
from services.scheduler.wheel import TimingWheel

WHEEL_MAX = 1_000_000
# Clock steps and suspended machines heal within one nap.
NAP_MAX_S = 1.0
AWAY_PAUSE_S = 0.5
# From one fire to the next, at least: what falls due meanwhile goes with the next one. Measured: at 300 tasks a second
# a task costs 2.8 ms of CPU over all processes and not 4.9, at 1,000/s 1.1 and not 1.6; the median call is 4 ms later.
FIRE_EVERY_S = 0.01
EARLY_PAUSE = timedelta(milliseconds=2)
CLOCK_ERROR = timedelta(milliseconds=50)
# A wheel cannot go back. Below this a measurement may be wrong by itself (half a round trip), and waiting is cheaper.
STEP_MS = 100
# Reaches back over what fell due while the last scheduler was dying and the sweep would not touch yet.
FIRST_LOAD_BACK = timedelta(seconds=5)
# Between two replicas' idea of Postgres' time: what one leaves to the next load, the other must not have loaded yet.
CLOCKS_DIFFER = timedelta(seconds=1)
_MS = timedelta(milliseconds=1)

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
        self._share = ALL
        self._offset = timedelta(0)
        self._tick: int
        self._wheel: TimingWheel[UUID]
        self._loaded_until: datetime
        self._overdue: list[UUID] = []
        self._nudged = asyncio.Event()
        self._reload = asyncio.Event()
        self._begin_anew()

    def now(self) -> datetime:
        """Postgres' time, as well as we know it."""
        return self._clock.now() + self._offset

    def hold(self, task_id: UUID, due_at: datetime) -> None:
        """Wake for `task_id` when it is due, if that is within the horizon; the next load finds it otherwise."""
        if due_at > self.now() + self._horizon + CLOCKS_DIFFER:
            return
        if len(self._wheel) >= WHEEL_MAX:
            self._loaded_until = min(self._loaded_until, due_at - _MS)
            return
        if not self._wheel.schedule(task_id, to_ms(ceil_to_ms(due_at))):
            self._overdue.append(task_id)
        self._nudged.set()

    def take(self, share: Share) -> None:
        """Load this part of the horizon from now on, all of it: who had it may be gone."""
        self._share = share
        self._loaded_until = self.now() - FIRST_LOAD_BACK
        self._reload.set()

    async def run(self, stopping: asyncio.Event) -> None:
        loading = asyncio.create_task(self._keep_loaded())
        ringing = asyncio.create_task(self._ring(stopping))
        try:
            await asyncio.wait({loading, ringing}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            await ringing  # it finishes the fire in hand; a load is not worth waiting for
        finally:
            loading.cancel()
            ringing.cancel()
            await asyncio.wait({loading, ringing})

    async def _ring(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self._nudged.clear()
            if self._is_behind_its_wheel():
                self._reload.set()
            began = self._clock.monotonic()
            if due := self.due_now():
                await self._fire(due, stopping)
                await asyncio.sleep(began + FIRE_EVERY_S - self._clock.monotonic())
            else:
                await self._nap(stopping)

    def due_now(self) -> list[UUID]:
        due, self._overdue = self._overdue, []
        self._tick = max(self._tick, to_ms(self.now()))
        due += self._wheel.advance(self._tick)
        HELD.set(len(self._wheel))
        return due

    async def _fire(self, due: list[UUID], stopping: asyncio.Event) -> None:
        for start in range(0, len(due), FIRE_ROWS_MAX):
            if stopping.is_set():
                return
            await self._fire_batch(due[start : start + FIRE_ROWS_MAX])

    async def _fire_batch(self, ids: list[UUID]) -> None:
        # A moment that surely lies before the fire: what fell due between the two questions must not be lost.
        asked_at = self.now() - CLOCK_ERROR
        try:
            fired = await self._firing.fire_these(ids)
            self._overdue += fired.left
            again = set(fired.again)
            if early := await self._store.still_to_come(fired.missed, asked_at) if fired.missed else []:
                await self._measure()  # our clock is ahead
        except PostgresAway as error:
            log.warning("fire.waits", reason=str(error))
            again, early = set(ids), []
        retry_at = self.now() + timedelta(seconds=self._firing.pause_s or AWAY_PAUSE_S)
        for task_id in again:
            self.hold(task_id, retry_at)
        # Not at once, or we would spin. Far ahead of the clock it is beyond the horizon, and found by the load anew.
        not_before = max(self.now(), from_ms(self._tick)) + EARLY_PAUSE
        for task_id, due_at in early:
            self.hold(task_id, max(due_at, not_before))

    async def _nap(self, stopping: asyncio.Event) -> None:
        wake = self._wheel.next_wake()
        nap = NAP_MAX_S if wake is None else (from_ms(wake) - self.now()).total_seconds()
        stop = asyncio.ensure_future(stopping.wait())
        nudge = asyncio.ensure_future(self._nudged.wait())
        nap = min(max(nap, 0.0), NAP_MAX_S)
        try:
            await asyncio.wait({stop, nudge}, timeout=nap, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            nudge.cancel()

    async def _keep_loaded(self) -> None:
        while True:
            self._reload.clear()
            await until_available(self.load)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._horizon.total_seconds() / 3):
                    await self._reload.wait()

    async def load(self) -> None:
        """Measure the clock's offset, and put what falls due within the horizon on the wheel."""
        has_stepped = self._is_behind_its_wheel()
        await self._measure()
        if has_stepped or self._is_behind_its_wheel():
            held = list(self._wheel.held())  # other shards' too, which no load of ours would find
            self._begin_anew()
            for start in range(0, len(held), COMING_ROWS):
                for task_id, due in held[start : start + COMING_ROWS]:
                    self.hold(task_id, from_ms(due))
                await asyncio.sleep(0)  # some at a time, as `coming` gives them
        after, until = self._loaded_until, self.now() + self._horizon
        room = WHEEL_MAX - len(self._wheel)
        if room == 0:
            return
        self._loaded_until = until  # before the wait: what `hold` turns away in the meantime takes it back
        loaded, last_due_at = 0, after
        try:
            async for some in self._store.coming(after, until, room, part=self._share.part, parts=self._share.parts):
                for task_id, due_at in some:
                    self.hold(task_id, due_at)
                loaded, last_due_at = loaded + len(some), some[-1][1]
        except PostgresAway:
            self._loaded_until = min(after, self._loaded_until)
            raise
        if loaded == room:  # more may be due at the last one's millisecond
            self._loaded_until = min(self._loaded_until, last_due_at - _MS)

    async def _measure(self) -> None:
        before = self._clock.now()
        theirs = await self._store.now()
        self._offset = theirs - (before + (self._clock.now() - before) / 2)
        OFFSET.set(self._offset.total_seconds())

    def _is_behind_its_wheel(self) -> bool:
        """A clock has gone back: ours, Postgres', or ours to where it should have been."""
        return to_ms(self.now()) < self._tick - STEP_MS

    def _begin_anew(self) -> None:
        """An empty wheel at the present moment: the next load fills it."""
        self._tick = to_ms(self.now())
        self._wheel = TimingWheel(self._tick)
        self._loaded_until = self.now() - FIRST_LOAD_BACK

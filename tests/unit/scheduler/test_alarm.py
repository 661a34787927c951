"""The alarm with a store and a broker of five lines: it wakes in time, never spins, and mends a clock that steps."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec
from uuid import UUID, uuid4

import pytest

from libs.common.postgres import PostgresAway
from services.scheduler import alarm as alarm_module
from services.scheduler.alarm import FIRE_EVERY_S, Alarm
from services.scheduler.fire import Fired, Firing
from services.scheduler.replicas import ALL, Share
from services.scheduler.store import COMING_ROWS, FIRE_ROWS_MAX, Store, shard_of
from tests.simulation.world import run_virtually

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)

P = ParamSpec("P")


def virtually(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Waits take no time and nothing else does: what is late is late by the alarm's own doing."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtually(test(*args, **kwargs))

    return run


@dataclass
class World:
    """The true time, Postgres' (which decides) and ours; each may step. Frozen unless `is_running`."""

    is_running: bool = False
    postgres_off: timedelta = timedelta(0)
    ours_off: timedelta = timedelta(0)
    at: datetime = NOON

    def true(self) -> datetime:
        elapsed = timedelta(seconds=asyncio.get_event_loop().time()) if self.is_running else timedelta(0)
        return self.at + elapsed

    def postgres(self) -> datetime:
        return self.true() + self.postgres_off

    def now(self) -> datetime:
        return self.true() + self.ours_off

    def monotonic(self) -> float:
        return (self.true() - NOON).total_seconds()


class FakeStore(Store):
    def __init__(self, world: World, rows: dict[UUID, datetime]) -> None:
        self.world, self.rows, self.limits = world, rows, list[int]()
        self.is_away = False
        self.during_coming: Callable[[], object] = lambda: None

    async def now(self) -> datetime:
        await asyncio.sleep(0)
        if self.is_away:
            raise PostgresAway("away")
        return self.world.postgres()

    async def still_to_come(self, ids: Sequence[UUID], since: datetime) -> list[tuple[UUID, datetime]]:
        await asyncio.sleep(0)
        now = min(since, self.world.postgres())
        return [(id_, self.rows[id_]) for id_ in ids if id_ in self.rows and self.rows[id_] > now]

    async def coming(
        self, after: datetime, until: datetime, limit: int, *, part: int = 0, parts: int = 1
    ) -> AsyncIterator[Sequence[tuple[UUID, datetime]]]:
        await asyncio.sleep(0)
        self.limits.append(limit)
        mine = ((due, id_) for id_, due in self.rows.items() if shard_of(id_) % parts == part)
        found = sorted(row for row in mine if after < row[0] <= until)
        self.during_coming()
        for start in range(0, min(limit, len(found)), COMING_ROWS):
            yield [(id_, due) for due, id_ in found[start : min(limit, start + COMING_ROWS)]]


@dataclass
class FakeFiring(Firing):
    """Fires what Postgres calls due; `refusals` counts down the tries that the broker turns away."""

    world: World
    rows: dict[UUID, datetime]
    pause_s: float = 0.0
    refusals: int = 0
    aways: int = 0
    calls: list[list[UUID]] = field(default_factory=list)
    fired: dict[UUID, datetime] = field(default_factory=dict)

    async def fire_these(self, ids: Sequence[UUID]) -> Fired:
        await asyncio.sleep(0)
        self.calls.append(list(ids))
        if self.aways:
            self.aways -= 1
            raise PostgresAway("away")
        due = [id_ for id_ in ids if id_ in self.rows and self.rows[id_] <= self.world.postgres()]
        missed = [id_ for id_ in ids if id_ not in due]
        if self.refusals:
            self.refusals -= 1
            return Fired(missed, due)
        for id_ in due:
            del self.rows[id_]
            self.fired[id_] = self.world.postgres()
        return Fired(missed, [])


@dataclass
class Bench:
    world: World
    rows: dict[UUID, datetime]
    store: FakeStore
    firing: FakeFiring
    alarm: Alarm

    def add(self, *dues: datetime) -> list[UUID]:
        ids = [uuid4() for _ in dues]
        self.rows.update(zip(ids, dues, strict=True))
        return ids

    def accept(self, due: datetime) -> UUID:
        [id_] = self.add(due)
        self.alarm.hold(id_, due)
        return id_

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        run = asyncio.create_task(self.alarm.run(stopping))
        try:
            yield
        finally:
            stopping.set()
            await asyncio.wait_for(run, 5)

    async def loaded(self) -> None:
        """What is accepted from here on is not found by a load as well."""
        deadline = asyncio.get_running_loop().time() + 5
        while not self.store.limits:
            assert asyncio.get_running_loop().time() < deadline, "waited 5 s for the first load"
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    async def all_fired(self, ids: Iterable[UUID], within_s: float = 5) -> None:
        wanted = set(ids)
        deadline = asyncio.get_running_loop().time() + within_s
        while not wanted <= self.firing.fired.keys():
            assert asyncio.get_running_loop().time() < deadline, (
                f"waited {within_s} s for {len(wanted - self.firing.fired.keys())} of {len(wanted)} tasks to be fired"
            )
            await asyncio.sleep(0.005)

    def forget(self, ids: Iterable[UUID]) -> None:
        for id_ in ids:
            del self.rows[id_]

    def dues(self) -> set[UUID]:
        return set(self.alarm.due_now())


def a_bench(*, horizon_s: float = 60, **world: object) -> Bench:
    the_world = World(**world)  # type: ignore[arg-type]
    rows: dict[UUID, datetime] = {}
    store, firing = FakeStore(the_world, rows), FakeFiring(the_world, rows)
    return Bench(the_world, rows, store, firing, Alarm(store, firing, the_world, horizon_s=horizon_s))


# --- the horizon


async def test_what_is_due_comes_out_at_its_millisecond_and_not_before() -> None:
    bench = a_bench()
    id_ = bench.accept(NOON + 1500 * MS)
    bench.world.at = NOON + 1499 * MS
    assert bench.dues() == set()
    bench.world.at = NOON + 1500 * MS
    assert bench.dues() == {id_}


async def test_a_due_time_between_two_milliseconds_waits_for_the_later_one() -> None:
    bench = a_bench()
    id_ = bench.accept(NOON + timedelta(microseconds=1500))
    bench.world.at = NOON + timedelta(microseconds=1999)
    assert bench.dues() == set()
    bench.world.at = NOON + 2 * MS
    assert bench.dues() == {id_}


async def test_a_load_brings_the_horizon_and_the_next_one_what_came_closer() -> None:
    bench = a_bench(horizon_s=60)
    near, far = bench.add(NOON + 59 * SECOND, NOON + 70 * SECOND)
    await bench.alarm.load()
    bench.world.at = NOON + 20 * SECOND
    await bench.alarm.load()
    bench.world.at = NOON + 69 * SECOND
    assert bench.dues() == {near}
    bench.world.at = NOON + 70 * SECOND
    assert bench.dues() == {far}


async def test_the_first_load_reaches_back_over_what_fell_due_during_the_restart() -> None:
    bench = a_bench()
    ids = bench.add(NOON - 4 * SECOND, NOON)
    await bench.alarm.load()
    assert bench.dues() == set(ids)


@pytest.mark.parametrize("off_s", [-3600, -30, 30, 3600])
async def test_the_first_load_reaches_back_by_postgres_clock_and_not_by_ours(off_s: int) -> None:
    bench = a_bench(ours_off=timedelta(seconds=off_s))
    ids = bench.add(NOON - 4 * SECOND, NOON, NOON + 10 * SECOND)
    await bench.alarm.load()
    assert bench.dues() == set(ids[:2])
    bench.world.at = NOON + 10 * SECOND
    assert bench.dues() == set(ids[2:])


async def test_what_is_accepted_beyond_the_horizon_is_found_by_the_next_load() -> None:
    bench = a_bench()
    await bench.alarm.load()
    bench.world.at = NOON + 5 * SECOND
    id_ = bench.accept(NOON + 66 * SECOND)
    bench.world.at = NOON + 20 * SECOND
    await bench.alarm.load()
    bench.world.at = NOON + 66 * SECOND
    assert bench.dues() == {id_}


async def test_a_task_that_moved_wakes_at_its_new_time_alone() -> None:
    bench = a_bench()
    id_ = bench.accept(NOON + SECOND)
    bench.alarm.hold(id_, NOON + 2 * SECOND)
    bench.world.at = NOON + SECOND
    assert bench.dues() == set()
    bench.world.at = NOON + 2 * SECOND
    assert bench.dues() == {id_}


# --- a share of the horizon


def of_part(ids: Iterable[UUID], part: int) -> set[UUID]:
    return {id_ for id_ in ids if shard_of(id_) % 2 == part}


async def test_a_replica_loads_its_share_and_holds_whatever_it_accepts() -> None:
    bench = a_bench()
    ids = bench.add(*[NOON + SECOND] * 20)
    bench.alarm.take(Share(1, 2))
    await bench.alarm.load()
    accepted = {bench.accept(NOON + SECOND) for _ in range(20)}
    bench.world.at = NOON + SECOND
    assert bench.dues() == of_part(ids, 1) | accepted


async def test_a_new_share_is_loaded_from_its_beginning_and_what_was_held_stays() -> None:
    bench = a_bench()
    bench.alarm.take(Share(1, 2))
    ids = bench.add(*[NOON + 10 * SECOND] * 20)
    await bench.alarm.load()
    bench.world.at = NOON + 2 * SECOND
    bench.alarm.take(Share(0, 2))
    await bench.alarm.load()
    bench.world.at = NOON + 10 * SECOND
    assert bench.dues() == set(ids)


async def test_a_new_share_reaches_back_over_what_fell_due_while_nobody_held_it() -> None:
    bench = a_bench()
    bench.alarm.take(Share(1, 2))
    await bench.alarm.load()
    ids = bench.add(*[NOON + SECOND] * 20)
    bench.world.at = NOON + 5 * SECOND
    bench.alarm.take(ALL)
    await bench.alarm.load()
    assert bench.dues() == set(ids)


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_share_that_changes_while_a_load_is_under_way_is_loaded_from_its_beginning(is_lost: bool) -> None:
    bench = a_bench()
    bench.alarm.take(Share(1, 2))
    ids = bench.add(*[NOON + 10 * SECOND] * 20)

    def change() -> None:
        bench.store.during_coming = lambda: None
        bench.alarm.take(ALL)
        if is_lost:
            raise PostgresAway("away")

    bench.store.during_coming = change
    with suppress(PostgresAway):
        await bench.alarm.load()
    await bench.alarm.load()
    bench.world.at = NOON + 10 * SECOND
    assert bench.dues() == set(ids)


@virtually
async def test_a_new_share_is_loaded_at_once_and_not_with_the_next_load() -> None:
    bench = a_bench(is_running=True)
    bench.alarm.take(Share(1, 2))
    async with bench.running():
        await bench.loaded()
        ids = bench.add(*[bench.world.true() + 200 * MS] * 20)
        bench.alarm.take(ALL)
        await bench.all_fired(ids)


@pytest.mark.parametrize("off_s", [-3600, -30, 30, 3600])
async def test_a_share_taken_before_postgres_clock_is_known_reaches_back_by_it(off_s: int) -> None:
    bench = a_bench(ours_off=timedelta(seconds=off_s))
    bench.alarm.take(ALL)
    ids = bench.add(NOON - 4 * SECOND, NOON)
    await bench.alarm.load()
    assert bench.dues() == set(ids)


# --- the wheel is full


async def test_what_a_full_wheel_turned_away_is_loaded_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "WHEEL_MAX", 2)
    bench = a_bench()
    await bench.alarm.load()
    first, second, third = (bench.accept(NOON + n * SECOND) for n in (1, 2, 30))
    bench.world.at = NOON + 2 * SECOND
    assert bench.dues() == {first, second}
    bench.forget([first, second])
    await bench.alarm.load()
    bench.world.at = NOON + 30 * SECOND
    assert bench.dues() == {third}


async def test_a_load_that_finds_no_room_does_not_skip_what_it_could_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "WHEEL_MAX", 2)
    bench = a_bench()
    held = {bench.accept(NOON + n * SECOND) for n in (1, 2)}
    [later] = bench.add(NOON + 30 * SECOND)
    await bench.alarm.load()
    bench.world.at = NOON + 2 * SECOND
    assert bench.dues() == held
    bench.forget(held)
    await bench.alarm.load()
    bench.world.at = NOON + 30 * SECOND
    assert bench.dues() == {later}


async def test_a_herd_at_one_millisecond_that_fits_only_in_part_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "WHEEL_MAX", 4)
    bench = a_bench()
    early = set(bench.add(*[NOON + n * SECOND for n in (1, 2, 3)]))
    herd = set(bench.add(*[NOON + 30 * SECOND] * 3))
    await bench.alarm.load()
    bench.world.at = NOON + 5 * SECOND
    assert bench.dues() == early
    bench.forget(early)
    await bench.alarm.load()
    bench.world.at = NOON + 30 * SECOND
    assert bench.dues() == herd


async def test_a_load_that_failed_is_repeated_from_where_it_began() -> None:
    bench = a_bench()
    [id_] = bench.add(NOON + 30 * SECOND)

    def lose_postgres() -> None:
        bench.store.during_coming = lambda: None
        raise PostgresAway("away")

    bench.store.during_coming = lose_postgres
    with pytest.raises(PostgresAway):
        await bench.alarm.load()
    await bench.alarm.load()
    bench.world.at = NOON + 30 * SECOND
    assert bench.dues() == {id_}


async def test_what_was_turned_away_while_a_load_was_under_way_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "WHEEL_MAX", 2)
    bench = a_bench()
    late: list[UUID] = []

    def accept_three() -> None:
        bench.store.during_coming = lambda: None
        late.extend(bench.accept(NOON + n * SECOND) for n in (1, 2, 40))

    bench.store.during_coming = accept_three
    await bench.alarm.load()
    bench.world.at = NOON + 2 * SECOND
    assert bench.dues() == set(late[:2])
    bench.forget(late[:2])
    await bench.alarm.load()
    bench.world.at = NOON + 40 * SECOND
    assert bench.dues() == set(late[2:])


# --- the loop: refusals, early ids, clocks that step


@virtually
async def test_the_loop_fires_what_is_due_promptly_and_never_early() -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        now = bench.world.true()
        dues = [now + n * 20 * MS for n in range(10)]
        ids = [bench.accept(due) for due in dues]
        await bench.all_fired(ids)
    late = [bench.firing.fired[id_] - due for id_, due in zip(ids, dues, strict=True)]
    assert all(timedelta(0) <= lag < 500 * MS for lag in late), late


@virtually
async def test_an_accept_wakes_a_loop_that_sleeps_longer() -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        bench.accept(bench.world.true() + 30 * SECOND)
        await asyncio.sleep(0.02)  # let it fall asleep
        now = bench.world.true()
        id_ = bench.accept(now + 50 * MS)
        await bench.all_fired([id_])
    assert bench.firing.fired[id_] - now < 500 * MS


@virtually
async def test_what_falls_due_just_after_a_fire_goes_with_the_next() -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        now = bench.world.true()
        ids = [bench.accept(now + n * MS) for n in range(300)]
        await bench.all_fired(ids)
        took_s = (bench.world.true() - now).total_seconds()
    assert len(bench.firing.calls) <= took_s / FIRE_EVERY_S + 2, len(bench.firing.calls)


@virtually
async def test_a_great_many_due_at_once_are_fired_in_batches() -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        await bench.loaded()
        now = bench.world.true()
        await bench.all_fired([bench.accept(now - SECOND) for _ in range(2 * FIRE_ROWS_MAX + 1)])
    assert [len(call) for call in bench.firing.calls] == [FIRE_ROWS_MAX, FIRE_ROWS_MAX, 1]


@virtually
async def test_what_the_broker_refused_comes_back_after_the_pause() -> None:
    bench = a_bench(is_running=True)
    bench.firing.refusals, bench.firing.pause_s = 3, 0.05
    async with bench.running():
        await bench.loaded()
        started = bench.world.true()
        await bench.all_fired(ids := [bench.accept(started - SECOND) for _ in range(3)])
    assert len(bench.firing.calls) == 4
    assert bench.firing.fired[ids[0]] - started >= 3 * 50 * MS


@virtually
async def test_what_met_a_lost_postgres_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "AWAY_PAUSE_S", 0.05)
    bench = a_bench(is_running=True)
    bench.firing.aways = 2
    async with bench.running():
        await bench.loaded()
        now = bench.world.true()
        await bench.all_fired([bench.accept(now - SECOND) for _ in range(3)])
    assert len(bench.firing.calls) == 3


@virtually
async def test_what_another_replica_has_fired_is_forgotten() -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        await bench.loaded()
        gone, mine = (bench.accept(bench.world.true()) for _ in range(2))
        del bench.rows[gone]
        await bench.all_fired([mine])
        await bench.all_fired([bench.accept(bench.world.true() + 30 * MS)])
    assert sum(gone in call for call in bench.firing.calls) == 1


@pytest.mark.parametrize("step", [20 * MS, SECOND, HOUR], ids=str)
@virtually
async def test_a_clock_that_steps_forward_makes_nobody_spin_and_nothing_late(step: timedelta) -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        await bench.all_fired([bench.accept(bench.world.true())])
        calls = len(bench.firing.calls)
        bench.world.ours_off = step
        now = bench.world.true()
        dues = [now + n * 100 * MS for n in (1, 2, 4)]
        await bench.all_fired(ids := [bench.accept(due) for due in dues])
    late = [bench.firing.fired[id_] - due for id_, due in zip(ids, dues, strict=True)]
    assert all(lag < 200 * MS for lag in late), late
    assert len(bench.firing.calls) - calls < 20


@virtually
async def test_a_wheel_that_a_forward_step_emptied_is_loaded_again() -> None:
    """Its tasks all come out early at once; each must still wake at its own time."""
    bench = a_bench(is_running=True)
    now = bench.world.true()
    dues = [now + n * 100 * MS for n in (2, 4, 6)]
    ids = bench.add(*dues)
    async with bench.running():
        bench.world.ours_off = HOUR
        await bench.all_fired(ids)
    late = [bench.firing.fired[id_] - due for id_, due in zip(ids, dues, strict=True)]
    assert all(lag < 150 * MS for lag in late), late
    assert len(bench.firing.calls) < 30


@virtually
async def test_a_clock_that_steps_back_delays_nothing_by_more_than_a_nap() -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        await bench.all_fired([bench.accept(bench.world.true())])
        bench.world.ours_off = -HOUR
        due = bench.world.true() + 100 * MS
        [id_] = bench.add(due)
        bench.alarm.hold(id_, due)
        await bench.all_fired([id_])
    assert bench.firing.fired[id_] - due < 1500 * MS


@virtually
async def test_postgres_clock_that_steps_back_makes_nobody_spin() -> None:
    bench = a_bench(is_running=True)
    async with bench.running():
        await bench.all_fired([bench.accept(bench.world.true())])
        calls = len(bench.firing.calls)
        bench.world.postgres_off = -400 * MS
        due = bench.world.true()
        await bench.all_fired([id_ := bench.accept(due)])
    assert bench.firing.fired[id_] - due < 200 * MS
    assert len(bench.firing.calls) - calls < 20


@virtually
async def test_a_clock_that_steps_back_leaves_what_this_replica_accepted_of_the_others_shards() -> None:
    """So does a first measurement that a slow connection made wrong. No load of ours would find them again."""
    bench = a_bench(is_running=True, postgres_off=400 * MS)
    bench.alarm.take(Share(1, 2))
    async with bench.running():
        await bench.all_fired([bench.accept(bench.world.postgres())])
        due = bench.world.true() + 600 * MS
        ids = [bench.accept(due) for _ in range(20)]
        assert {shard_of(id_) % 2 for id_ in ids} == {0, 1}
        bench.world.postgres_off = timedelta(0)
        await bench.all_fired(ids)
    assert all(bench.firing.fired[id_] - due < 200 * MS for id_ in ids)


@pytest.mark.parametrize("off", [-HOUR, -SECOND, SECOND, HOUR], ids=str)
@virtually
async def test_a_clock_that_was_always_wrong_changes_nothing(off: timedelta) -> None:
    bench = a_bench(is_running=True, ours_off=off)
    now = bench.world.true()
    dues = [now + n * 100 * MS for n in (1, 2)]
    ids = bench.add(*dues)
    async with bench.running():
        await bench.all_fired(ids)
        due = bench.world.true() + 50 * MS
        ids.append(bench.accept(due))
        dues.append(due)
        await bench.all_fired(ids)
    late = [bench.firing.fired[id_] - due for id_, due in zip(ids, dues, strict=True)]
    assert all(timedelta(0) <= lag < 150 * MS for lag in late), late
    assert len(bench.firing.calls) < 20


@virtually
async def test_stopping_does_not_wait_for_a_postgres_that_is_away() -> None:
    bench = a_bench(is_running=True)
    bench.store.is_away = True
    started = asyncio.get_running_loop().time()
    async with bench.running():
        pass
    assert asyncio.get_running_loop().time() - started < 2


@virtually
async def test_stopping_finishes_the_batch_in_hand_and_begins_no_other() -> None:
    bench = a_bench(is_running=True)
    stopping, fire = asyncio.Event(), bench.firing.fire_these

    async def stop_meanwhile(ids: Sequence[UUID]) -> Fired:
        stopping.set()
        return await fire(ids)

    bench.firing.fire_these = stop_meanwhile  # type: ignore[method-assign]
    now = bench.world.true()
    for _ in range(2 * FIRE_ROWS_MAX):
        bench.accept(now - SECOND)
    await asyncio.wait_for(bench.alarm.run(stopping), 5)
    assert [len(call) for call in bench.firing.calls] == [FIRE_ROWS_MAX]
    assert len(bench.firing.fired) == FIRE_ROWS_MAX


@virtually
async def test_a_bug_in_the_fire_ends_the_alarm() -> None:
    bench = a_bench(is_running=True)

    async def breaks(_ids: Sequence[UUID]) -> Fired:
        raise ZeroDivisionError

    bench.firing.fire_these = breaks  # type: ignore[assignment,method-assign]
    bench.accept(bench.world.true())
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(bench.alarm.run(asyncio.Event()), 5)

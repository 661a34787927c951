"""Clocks that step by an hour, and clocks that are changed for the summer: real schedulers, Postgres and broker.

Early is what leaves before its time by Postgres' clock. That is asked twice: `emitted_at` is Postgres' clock in the
statement that locked the row, and this test asks Postgres itself when the task arrives.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from yarl import URL

from deploy.local import readiness
from deploy.local.errors import StackError
from deploy.setup import migrate, migrations
from libs.common import topology
from libs.common.asking import Asker
from libs.common.contracts import HeldSchedule, PutSchedule, ScheduleAnswer, Task, TaskDue, decode_task
from services.scheduler.store import OVERDUE
from services.scheduler.sweep import SWEEP_EVERY_S
from tests.conftest import STACK, fresh_database
from tests.integration.scheduler.faketime import Dial, library, postgres_on, sweep_up
from tests.integration.scheduler.rig import SECOND, Tables, a_task, bystander, until
from tests.integration.scheduler.schedules import a_schedule
from tests.integration.scheduler.test_service import Broker, House, Process, house
from tests.unit.scheduler.schedules import a_put

__all__ = ["house"]  # a fixture

FOLDER = STACK.with_name(f"{STACK.name}-clocks")
HOUR = timedelta(hours=1)
HEALED = 1.5 * SECOND
"""After a step: the alarm naps for a second at most, and loads anew."""
ON_TIME = SECOND
SWEPT = OVERDUE + (SWEEP_EVERY_S + 3) * SECOND
"""What no wheel woke for is fired so soon, on a machine with other work."""


class Arrival(NamedTuple):
    due: TaskDue
    came_at: datetime
    """By Postgres' clock, asked when it was here."""

    @property
    def late(self) -> timedelta:
        return self.due.emitted_at - self.due.due_at


@dataclass
class Watch(Broker):
    """The broker's other side, with an eye on Postgres' clock."""

    tables: Tables | None = None
    arrivals: dict[UUID, Arrival] = field(default_factory=dict)

    async def _keep_due(self, message: AbstractIncomingMessage) -> None:
        assert self.tables is not None
        async with self.asking:
            now = await self.tables.now()
        due = msgspec.json.decode(message.body, type=list[TaskDue])
        self.arrivals.update((decode_task(one.task).id, Arrival(one, now)) for one in due)
        await super()._keep_due(message)

    def __post_init__(self) -> None:
        self.asking = asyncio.Lock()

    def late(self, tasks: Sequence[Task]) -> list[timedelta]:
        return [self.arrivals[task.id].late for task in tasks]

    def none_was_early(self) -> bool:
        return all(due.due_at <= due.emitted_at <= came_at for due, came_at in self.arrivals.values())


# --- servers by a clock of the test's own


@pytest.fixture(scope="module")
def dials() -> Iterator[tuple[Dial, Dial]]:
    """Of the schedulers, and of Postgres."""
    try:
        found = library()
    except StackError as error:
        found = _missing(str(error))
    FOLDER.mkdir(parents=True, exist_ok=True)
    library_ = found or _missing("packages are not Debian's")
    yield Dial(library_, FOLDER / "schedulers.clock"), Dial(library_, FOLDER / "postgres.clock")
    sweep_up()


def _missing(reason: str) -> Path:
    text = f"no libfaketime: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="module")
def _server(dials: tuple[Dial, Dial]) -> Iterator[tuple[str, str]]:
    """The URL of a Postgres by the second dial, and its template with the scheduler's tables."""
    with postgres_on(dials[1], FOLDER / "stack") as url, asyncio.Runner() as runner:
        runner.run(until("Postgres to serve", lambda: _serves(url), 30))
        template = str(URL(url).with_path("/template_clocks"))
        for schema, folder in migrations():
            migrate(template, schema, folder)
        yield url, "template_clocks"


async def _serves(url: str) -> bool:
    return await readiness.postgres(url)() is None


@pytest.fixture
def ours(dials: tuple[Dial, Dial]) -> Dial:
    """The schedulers' clock, true so far."""
    dials[0].turn(timedelta(0))
    return dials[0]


@pytest.fixture
def theirs(dials: tuple[Dial, Dial]) -> Dial:
    """Postgres' clock, true so far."""
    dials[1].turn(timedelta(0))
    return dials[1]


@pytest.fixture
async def migrated_postgres_url(_server: tuple[str, str], theirs: Dial) -> AsyncIterator[str]:
    async with fresh_database(*_server) as url:
        yield url


@pytest.fixture
async def broker(
    amqp: AbstractConnection, migrated_postgres_url: str, house: House, ours: Dial
) -> AsyncIterator[Watch]:
    house.variables |= ours.environ
    async with bystander(migrated_postgres_url) as tables:
        watch = Watch(amqp, tables=tables)
        await watch.listen()
        yield watch


# --- steps of an hour


async def started(house: House, *, replicas: int = 1) -> list[Process]:
    schedulers = [await house.start() for _ in range(replicas)]
    for scheduler in schedulers:
        await scheduler.is_up()
        await scheduler.says(f'"replicas":{replicas}')
    return schedulers


async def due_from(tables: Tables, broker: Broker, first_s: float, count: int, every_s: float = 0.1) -> list[Task]:
    """Accepted tasks that fall due one after the other, the first in `first_s` by Postgres' clock."""
    now = await tables.now()
    tasks = [a_task(due_at=_whole_ms(now + (first_s + n * every_s) * SECOND)) for n in range(count)]
    await broker.creates(*tasks)
    await broker.hears_of(*tasks)
    return tasks


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


async def reaches(tables: Tables, moment: datetime) -> None:
    async def is_past() -> bool:
        return await tables.now() >= moment

    await until(f"Postgres' clock to show {moment}", is_past, 30)


async def test_a_scheduler_whose_clock_steps_by_an_hour_both_ways_stays_on_time_and_is_never_early(
    house: House, broker: Watch, tables: Tables, ours: Dial
) -> None:
    [scheduler] = await started(house)
    [later] = await due_from(tables, broker, 3000, 1)  # within the hour
    tasks = await due_from(tables, broker, 1, 65)
    steps = [tasks[0].due_at + seconds * SECOND for seconds in (0.5, 2.5, 4.5)]
    for at, offset in zip(steps, (HOUR, -HOUR, timedelta(0)), strict=True):
        await reaches(tables, at)
        ours.turn(offset)
    await broker.gets(*tasks)
    assert broker.fired == {task.id: 1 for task in tasks}
    assert later.id not in broker.fired
    assert broker.none_was_early()
    healed = [task for task in tasks if not any(at <= task.due_at < at + HEALED for at in steps)]
    print("late:", max(broker.late(tasks)), "healed:", max(broker.late(healed)))
    assert max(broker.late(healed)) < ON_TIME
    assert max(broker.late(tasks)) < SWEPT
    assert await scheduler.terminate() == 0


async def test_what_waits_while_postgres_clock_steps_by_an_hour_both_ways_is_fired_by_that_clock(
    house: House, broker: Watch, tables: Tables, ours: Dial, theirs: Dial
) -> None:
    [scheduler] = await started(house)
    near = await due_from(tables, broker, 0.5, 10)
    within_the_hour = await due_from(tables, broker, 1200, 10, every_s=60)
    [after_it] = await due_from(tables, broker, 7000, 1)
    await broker.gets(*near)
    stepped_at = await tables.now()
    theirs.turn(HOUR)
    await broker.gets(*within_the_hour)
    caught_up = max(broker.arrivals[task.id].due.emitted_at for task in within_the_hour) - stepped_at - HOUR
    fresh = await due_from(tables, broker, 0.5, 10)
    await broker.gets(*fresh)

    held = await due_from(tables, broker, 3, 10)
    theirs.turn(timedelta(0))
    fresh += (after := await due_from(tables, broker, 0.5, 20, every_s=0.2))  # until the others would have been due
    await broker.gets(*after)
    assert not {task.id for task in held} & set(broker.fired)
    theirs.turn(HOUR)
    await broker.gets(*held)
    assert after_it.id not in broker.fired
    everything = [*near, *within_the_hour, *fresh, *held]
    assert broker.fired == {task.id: 1 for task in everything}
    assert broker.none_was_early()
    print("caught up within:", caught_up, "fresh late:", max(broker.late(fresh)), "held:", max(broker.late(held)))
    assert caught_up < SWEPT
    assert max(broker.late(fresh)) < SWEPT
    assert max(broker.late(held)) < SWEPT
    assert await scheduler.terminate() == 0


async def test_a_step_back_over_midnight_on_the_first_day_finds_a_place_for_the_tombstones(
    house: House, broker: Watch, tables: Tables, ours: Dial, theirs: Dial
) -> None:
    show(datetime(2027, 6, 15, 0, 20, tzinfo=UTC), ours, theirs)
    [scheduler] = await started(house)
    show(datetime(2027, 6, 14, 23, 20, tzinfo=UTC), ours, theirs)
    await broker.gets(*await due_from(tables, broker, 0.5, 10))
    await until("all tombstones", lambda: _all_gone(tables))
    assert broker.none_was_early()
    assert await scheduler.terminate() == 0


async def _all_gone(tables: Tables) -> bool:
    return await tables.waiting() == 0


async def test_a_scheduler_that_died_before_postgres_clock_stepped_back_is_not_taken_to_be_alive(
    house: House, broker: Watch, tables: Tables, theirs: Dial
) -> None:
    victim, survivor = await started(house, replicas=2)
    alone = survivor.log.read_text().count('"replicas":1,')
    await victim.kill()
    theirs.turn(-HOUR)
    await survivor.says('"replicas":1,', alone + 1)


# --- clocks that are changed for the summer


@pytest.fixture
async def asker(amqp: AbstractConnection) -> Asker[ScheduleAnswer]:
    asker = Asker(ScheduleAnswer)
    await asker.opened(amqp, asyncio.Event())
    return asker


async def put(asker: Asker[ScheduleAnswer], command: PutSchedule) -> HeldSchedule:
    answer = await asker.ask(topology.SCHEDULER_COMMAND, command, timeout_s=20)
    assert answer is not None
    assert answer.held is not None
    return answer.held


def show(moment: datetime, *dials: Dial) -> None:
    for dial in dials:
        dial.show(moment)


async def occurrences(broker: Watch, count: int) -> list[tuple[str | None, datetime]]:
    """(schedule, when due) of all that have come, once there are so many."""
    await until(f"{count} occurrences", lambda: len(broker.due) >= count, 20)
    return [(decode_task(one.task).schedule, one.due_at) for one in broker.due]


async def test_a_time_that_does_not_exist_fires_at_the_first_instant_after_the_gap(
    house: House, broker: Watch, asker: Asker[ScheduleAnswer], ours: Dial, theirs: Dial
) -> None:
    gap = datetime(2027, 3, 28, 1, tzinfo=UTC)  # in Berlin 02:00 becomes 03:00
    show(gap - 120 * SECOND, ours, theirs)
    await started(house)
    held = await put(asker, a_put(a_schedule(cron="30 2 * * *", timezone="Europe/Berlin")))
    assert held.next_at == gap
    show(gap - 2 * SECOND, ours, theirs)
    assert await occurrences(broker, 1) == [("bell", gap)]
    assert gap.astimezone(ZoneInfo("Europe/Berlin")).hour == 3
    next_day = datetime(2027, 3, 29, 0, 30, tzinfo=UTC)
    show(next_day - 2 * SECOND, ours, theirs)
    assert await occurrences(broker, 2) == [("bell", gap), ("bell", next_day)]
    assert broker.none_was_early()
    assert max(one.late for one in broker.arrivals.values()) < SWEPT


async def test_a_time_that_comes_twice_fires_in_the_first_pass_and_not_in_the_second(
    house: House, broker: Watch, asker: Asker[ScheduleAnswer], ours: Dial, theirs: Dial
) -> None:
    first = datetime(2027, 11, 7, 5, 30, tzinfo=UTC)  # in New York 01:30, and again an hour later
    show(first - 120 * SECOND, ours, theirs)
    await started(house)
    zone = "America/New_York"
    await put(asker, a_put(a_schedule(cron="30 1 * * *", timezone=zone), "fixed"))
    await put(asker, a_put(a_schedule(cron="30 * * * *", timezone=zone, catch_up="none"), "hourly"))
    show(first - 2 * SECOND, ours, theirs)
    assert set(await occurrences(broker, 2)) == {("fixed", first), ("hourly", first)}
    show(first + HOUR - 2 * SECOND, ours, theirs)
    assert (await occurrences(broker, 3))[2:] == [("hourly", first + HOUR)]
    assert (first + HOUR).astimezone(ZoneInfo(zone)).strftime("%H:%M") == "01:30"
    next_day = first + 25 * HOUR  # 01:30 again, by winter time
    show(next_day - 2 * SECOND, ours, theirs)
    came = (await occurrences(broker, 5))[3:]
    assert ("fixed", next_day) in came
    assert [one for one in came if one[0] == "fixed"] == [("fixed", next_day)]
    assert broker.none_was_early()

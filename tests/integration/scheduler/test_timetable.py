"""The timetable against real Postgres: each occurrence is one task, whoever makes it, and nobody holds up another."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from aio_pika.abc import AbstractConnection

from libs.common import topology
from libs.common.asking import Asker
from libs.common.contracts import (
    ChangeSchedule,
    CreateTask,
    HeldSchedule,
    PutSchedule,
    ScheduleAnswer,
    TaskAccepted,
    decode_task,
    encode,
)
from libs.common.metrics import REGISTRY
from libs.common.wallclock import UnknownZone
from services.scheduler import timetable as timetable_module
from services.scheduler.store_schedules import DUE_MAX
from tests.integration.scheduler.asker import Fickle, Killed
from tests.integration.scheduler.rig import SECOND, FakePublisher, Tables, a_pool, until
from tests.integration.scheduler.schedules import (
    Replica,
    a_change,
    a_schedule,
    at_in,
    lead_of_a_minute,
    locks_held,
    next_ats,
    set_back,
    statuses,
    waiting,
)
from tests.integration.scheduler.test_service import Broker, House, broker, house
from tests.unit.scheduler.schedules import a_put

__all__ = ["broker", "house"]  # fixtures

HOUR = 3600 * SECOND


@pytest.fixture
async def replica(
    migrated_postgres_url: str, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replica]:
    lead_of_a_minute(monkeypatch)
    await tables.connection.execute("DELETE FROM scheduler.schedule")
    async with a_pool(migrated_postgres_url) as postgres:
        yield Replica(postgres)


async def many(replica: Replica, tables: Tables, count: int, **fields: Any) -> None:
    """So many schedules for one instant, 50 s from now."""
    schedule = await at_in(tables, 50, **fields)
    await replica.asks(a_put(schedule, "n0000"))
    await tables.connection.execute(
        "INSERT INTO scheduler.schedule SELECT gen_random_uuid(), project, 'n' || to_char(n, 'FM0000'), revision,"
        " status, command_id, created_at, changed_at, next_at, schedule"
        " FROM scheduler.schedule, generate_series(1, $1) AS n",
        count - 1,
    )


def ids(creates: list[CreateTask]) -> list[UUID]:
    return [create.task.id for create in creates]


# --- in time


async def test_an_occurrence_within_the_lead_becomes_a_task_once(replica: Replica, tables: Tables) -> None:
    schedule = await at_in(tables, 50)
    held = (await replica.asks(a_put(schedule))).held
    assert held is not None
    assert not await replica.timetable.one_pass()
    [create] = replica.creates()
    assert (create.task.due_at, create.task.schedule) == (schedule.start_at, "bell")
    assert create.task.fingerprint == f"{held.id}:1"
    assert schedule.start_at is not None
    assert await next_ats(tables) == [schedule.start_at + HOUR]
    assert not await replica.timetable.one_pass()
    assert replica.creates() == []


async def test_what_comes_after_the_lead_waits(replica: Replica, tables: Tables) -> None:
    await replica.asks(a_put(await at_in(tables, 70)))
    await replica.timetable.one_pass()
    assert replica.creates() == []
    assert await locks_held(tables) == 0


async def test_the_last_occurrence_ends_the_schedule(replica: Replica, tables: Tables) -> None:
    schedule = await at_in(tables, 50)
    await replica.asks(a_put(a_schedule(every="5s", start_at=schedule.start_at, end_at=schedule.start_at)))
    await replica.timetable.one_pass()
    assert len(replica.creates()) == 1
    assert await statuses(tables) == ["ended"]
    assert await next_ats(tables) == [None]


@pytest.mark.parametrize(("catch_up", "count"), [("latest", 1), ("all", 24), ("none", 0)])
async def test_what_was_missed_is_made_up_for_as_the_schedule_says(
    replica: Replica, tables: Tables, catch_up: str, count: int
) -> None:
    schedule = await at_in(tables, -1800 - 24 * 3600, catch_up=catch_up)
    await replica.asks(a_put(schedule))
    await set_back(tables, 24 * HOUR)
    await replica.timetable.one_pass()
    creates = replica.creates()
    assert len(creates) == count
    now = await tables.now()
    assert all(create.task.due_at <= now for create in creates)
    await replica.timetable.one_pass()
    assert replica.creates() == []


async def test_a_thousand_schedules_of_one_instant_all_come_out(replica: Replica, tables: Tables) -> None:
    await many(replica, tables, 1_000)
    passes = 1
    while await replica.timetable.one_pass():
        passes += 1
    creates = replica.creates()
    assert len(set(ids(creates))) == len(creates) == 1_000
    assert len({create.task.due_at for create in creates}) == 1
    for start in range(0, 1_000, 500):
        await replica.accepts(creates[start : start + 500])
    assert await tables.waiting() == 1_000
    assert passes <= 1_000 // DUE_MAX + 2


# --- twice: two replicas, crashes, lost confirms


async def test_two_replicas_at_once_make_each_occurrence_once(
    replica: Replica, tables: Tables, migrated_postgres_url: str
) -> None:
    await many(replica, tables, 300)
    async with a_pool(migrated_postgres_url, "replica-2") as postgres:
        both = [replica, Replica(postgres)]
        for _ in range(10):
            await asyncio.gather(*(one.timetable.one_pass() for one in both))
        made = [one.creates() for one in both]
    assert Counter(ids(made[0] + made[1])).most_common(1)[0][1] == 1
    assert len(made[0] + made[1]) == 300
    assert all(made)  # the other one's rows are passed by, not waited for


async def test_a_crash_between_publish_and_commit_makes_one_task(replica: Replica, tables: Tables) -> None:
    await replica.asks(a_put(await at_in(tables, 50)))
    before = await next_ats(tables)
    dying = Replica(Fickle(replica.postgres, "rollback"))
    with pytest.raises(Killed):
        await dying.timetable.one_pass()
    assert await next_ats(tables) == before
    await replica.timetable.one_pass()
    [first], [second] = dying.creates(), replica.creates()
    assert first.task.id == second.task.id
    await replica.accepts([first])
    await replica.accepts([second])
    assert await waiting(tables) == {first.task.id}
    told = replica.publisher.take()
    assert told == [TaskAccepted(task=first.task)] * 2  # no conflict


async def test_a_commit_whose_answer_is_lost_has_advanced(replica: Replica, tables: Tables) -> None:
    await replica.asks(a_put(await at_in(tables, 50)))
    fickle = Replica(Fickle(replica.postgres, "answer lost"))
    assert not await fickle.timetable.one_pass()
    assert not await fickle.timetable.one_pass()
    assert len(fickle.creates()) == 1


# --- a broker that refuses, or is away


async def test_what_the_broker_refuses_stays_due_and_comes_out_later(replica: Replica, tables: Tables) -> None:
    await many(replica, tables, 2)
    before = await next_ats(tables)
    replica.publisher.refuses = lambda _item: True
    assert not await replica.timetable.one_pass()
    assert await next_ats(tables) == before
    assert await locks_held(tables) == 0
    replica.publisher.refuses = lambda _item: False
    await replica.timetable.one_pass()
    assert len(replica.creates()) == 2


async def test_a_full_batch_that_the_broker_refuses_is_not_tried_again_at_once(
    replica: Replica, tables: Tables
) -> None:
    await many(replica, tables, DUE_MAX + 1)
    replica.publisher.refuses = lambda _item: True
    assert not await replica.timetable.one_pass()


async def test_a_schedule_that_is_refused_does_not_hold_up_another(replica: Replica, tables: Tables) -> None:
    start_at = (await at_in(tables, 50)).start_at
    await replica.asks(a_put(a_schedule(every="1h", start_at=start_at, labels={"to": "refuse"}), "a"))
    await replica.asks(a_put(a_schedule(every="1h", start_at=start_at), "b"))
    replica.publisher.refuses = lambda item: b"refuse" in item
    await replica.timetable.one_pass()
    assert [create.task.schedule for create in replica.creates()] == ["b"]
    assert start_at is not None
    assert await next_ats(tables) == [start_at, start_at + HOUR]


async def test_a_schedule_refused_in_part_is_made_again_as_a_whole(replica: Replica, tables: Tables) -> None:
    start_at = (await at_in(tables, 30)).start_at
    assert start_at is not None
    await replica.asks(a_put(a_schedule(every="10s", start_at=start_at)))
    refused = encode(start_at + 10 * SECOND)  # type: ignore[arg-type]  # the JSON of a time
    replica.publisher.refuses = lambda item: refused in item
    await replica.timetable.one_pass()
    assert await next_ats(tables) == [start_at]
    first = replica.creates()
    replica.publisher.refuses = lambda _item: False
    await replica.timetable.one_pass()
    second = replica.creates()
    assert set(ids(first)) < set(ids(second))
    await replica.accepts([*first, *second])
    assert await tables.waiting() == len(second)


async def test_while_the_broker_is_away_no_lock_is_taken(
    replica: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timetable_module, "EVERY_S", 0.3)
    await many(replica, tables, 1)
    before = await next_ats(tables)
    replica.publisher.flows = False
    passing = asyncio.create_task(replica.timetable.one_pass())
    while not passing.done():
        assert await locks_held(tables) == 0
    assert not await passing
    assert await next_ats(tables) == before


async def test_a_confirm_that_does_not_come_lets_go_of_the_lock(
    replica: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timetable_module, "PUBLISH_DEADLINE_S", 0.3)
    await many(replica, tables, 1)
    before = await next_ats(tables)
    silent = Replica(replica.postgres, _Silent())
    assert not await silent.timetable.one_pass()
    assert await next_ats(tables) == before
    assert await locks_held(tables) == 0


class _Silent(FakePublisher):
    async def publish(self, route: Any, item: bytes) -> None:
        await asyncio.Event().wait()


# --- schedules that cannot be read any more, or are heavy


@pytest.mark.parametrize(
    "message",
    [
        encode(a_schedule(cron="* * * * *", timezone="Europe/Atlantis")),
        encode(a_schedule(cron="* * * * * * * *")),
        encode(a_schedule()),
        encode(a_schedule(cron="* * * * *")).replace(b"{", b'{"catch_up":"of-tomorrow",', 1),
        b"not json",
    ],
)
async def test_a_schedule_that_cannot_be_read_stays_as_it_is_and_holds_up_nobody(
    replica: Replica, tables: Tables, message: bytes
) -> None:
    await many(replica, tables, 3)
    await tables.connection.execute("UPDATE scheduler.schedule SET schedule = $1 WHERE name = 'n0001'", message)
    before, complaints = await next_ats(tables), unreadable()
    for _ in range(3):
        await replica.timetable.one_pass()
    assert sorted(str(create.task.schedule) for create in replica.creates()) == ["n0000", "n0002"]
    assert (await next_ats(tables))[1] == before[1]
    assert await statuses(tables) == ["active"] * 3
    assert unreadable() == complaints + 1  # once a minute


def unreadable() -> float:
    return REGISTRY.get_sample_value("carillon_scheduler_unreadable_schedules_total") or 0.0


async def test_a_replica_that_can_read_it_makes_in_time_what_another_one_cannot(
    replica: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many(replica, tables, 1)
    old = Replica(replica.postgres)
    with monkeypatch.context() as older:
        older.setattr(timetable_module, "decode_schedule", _no_such_zone)
        await old.timetable.one_pass()
    assert old.creates() == []
    await replica.timetable.one_pass()
    assert len(replica.creates()) == 1


def _no_such_zone(_message: bytes) -> Any:
    raise UnknownZone("'Europe/Atlantis' is no IANA time zone")


async def test_a_schedule_that_could_not_be_read_is_taken_at_once_when_it_is_replaced(
    replica: Replica, tables: Tables
) -> None:
    schedule = await at_in(tables, 50)
    await replica.asks(a_put(schedule))
    await tables.connection.execute("UPDATE scheduler.schedule SET schedule = 'not json'")
    await replica.timetable.one_pass()
    await tables.connection.execute("UPDATE scheduler.schedule SET schedule = $1", encode(a_schedule(every="2h")))
    await replica.asks(a_put(schedule))
    await replica.timetable.one_pass()
    assert [create.task.due_at for create in replica.creates()] == [schedule.start_at]


async def test_what_was_missed_while_it_could_not_be_read_is_made_up_for_when_it_can(
    replica: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timetable_module, "UNREADABLE_S", 0.0)
    await replica.asks(a_put(await at_in(tables, -1800 - 24 * 3600, catch_up="all")))
    await set_back(tables, 24 * HOUR)
    with monkeypatch.context() as older:
        older.setattr(timetable_module, "decode_schedule", _no_such_zone)
        await replica.timetable.one_pass()
    await replica.timetable.one_pass()
    assert len(replica.creates()) == 24


async def test_a_page_of_schedules_that_cannot_be_read_does_not_hide_those_behind_it(
    replica: Replica, tables: Tables
) -> None:
    await many(replica, tables, 2 * DUE_MAX)
    await tables.connection.execute("UPDATE scheduler.schedule SET schedule = 'not json'")
    await replica.asks(a_put(await at_in(tables, 55), "behind"))
    assert [await replica.timetable.one_pass() for _ in range(3)] == [True, True, False]
    assert [create.task.schedule for create in replica.creates()] == ["behind"]


@pytest.mark.parametrize("limit", ["PLAN_S", "PLAN_BYTES"])
async def test_a_pass_ends_when_it_has_made_enough_and_the_next_one_goes_on(
    replica: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(timetable_module, limit, 0)
    await many(replica, tables, DUE_MAX + 2)
    counts = []
    while await replica.timetable.one_pass():
        counts.append(len(replica.creates()))
    assert counts == [1, 1, 1]  # the fourth finds less than a full batch, and is the first that may pause


async def test_a_hundred_schedules_that_missed_thousands_are_caught_up_on_in_passes(
    replica: Replica, tables: Tables
) -> None:
    """All in one would outlast the transaction, and begin again for ever."""
    await many(replica, tables, DUE_MAX, every="300s", catch_up="all")
    await tables.connection.execute("UPDATE scheduler.schedule SET next_at = next_at - interval '30 days'")
    schedule = encode(a_schedule(cron="*/5 * * * *", catch_up="all"))
    await tables.connection.execute("UPDATE scheduler.schedule SET schedule = $1", schedule)
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await replica.timetable.one_pass()
    assert loop.time() - started < 5
    per_schedule = Counter(create.task.schedule for create in replica.creates())
    assert 1 <= len(per_schedule) < DUE_MAX
    assert set(per_schedule.values()) <= {1_000, 1_001, 1_002}


# --- the loop


async def test_a_change_wakes_the_timetable_and_stopping_ends_it(
    replica: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timetable_module, "EVERY_S", 60.0)
    stopping = asyncio.Event()
    running = asyncio.create_task(replica.timetable.run(stopping))
    await asyncio.sleep(0.05)  # let it fall asleep
    await replica.asks(a_put(await at_in(tables, 50)))
    replica.timetable.nudge()
    await until("the task", lambda: len(replica.publisher.sent) == 1, 5)
    stopping.set()
    await asyncio.wait_for(running, 2)


async def test_the_timetable_outlives_postgres(
    replica: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timetable_module, "EVERY_S", 0.05)
    await many(replica, tables, 1)
    fickle = Fickle(replica.postgres, "answer lost")
    other = Replica(fickle)
    stopping = asyncio.Event()
    running = asyncio.create_task(other.timetable.run(stopping))
    await until("the task", lambda: len(other.publisher.sent) == 1, 5)
    fickle.ending = "answer lost"
    await set_back(tables, HOUR)
    await until("the same task again", lambda: len(other.publisher.sent) == 2, 5)
    stopping.set()
    await asyncio.wait_for(running, 2)
    assert len(set(ids(other.creates()))) == 1


# --- processes


async def test_two_processes_make_every_second_once_also_when_one_is_killed_and_none_after_the_pause(
    house: House, broker: Broker, tables: Tables, amqp: AbstractConnection
) -> None:
    await tables.connection.execute("DELETE FROM scheduler.schedule")
    asker = Asker(ScheduleAnswer)
    await asker.opened(amqp, asyncio.Event())
    victim, survivor = await house.start(), await house.start()
    for scheduler in (victim, survivor):
        await scheduler.is_up()
    begin = await _asked(asker, a_put(a_schedule(cron="* * * * * *")))
    await until("the first occurrences", lambda: len(broker.due) >= 3, 20)

    async def is_committed() -> bool:
        return not await tables.orders(decode_task(broker.due[-1].task).id)

    # A fire that is killed between its publish and its commit comes again, rightly.
    await until("the last of them to be committed", is_committed)
    await victim.kill()
    await until("more of them", lambda: len(broker.due) >= 10, 20)
    pause = a_change("pause")
    paused = await _asked(asker, pause)
    assert await _asked(asker, pause) == paused
    await until("the lead to pass", lambda: _is_past(tables, paused.changed_at + 7 * SECOND), 20)
    assert await survivor.terminate() == 0
    assert begin.next_at is not None
    seconds = [due.due_at for due in broker.due]
    assert sorted(seconds) == [begin.next_at + n * SECOND for n in range(len(seconds))]
    assert all(due.emitted_at >= due.due_at for due in broker.due)
    assert -SECOND < paused.changed_at - max(seconds) < 2 * SECOND
    assert await tables.waiting() == 0


async def _is_past(tables: Tables, moment: datetime) -> bool:
    return await tables.now() > moment


async def _asked(asker: Asker[ScheduleAnswer], command: PutSchedule | ChangeSchedule) -> HeldSchedule:
    answer = await asker.ask(topology.SCHEDULER_COMMAND, command, timeout_s=20)
    assert answer is not None
    assert answer.held is not None
    return answer.held

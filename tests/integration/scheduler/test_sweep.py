"""The sweep finds what nobody woke for: oldest first, at once while there is more, never in the wheels' way."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from libs.common.contracts import Task, TaskDue
from libs.common.metrics import REGISTRY
from libs.common.partitions import partition_name
from services.scheduler import fire as fire_module
from services.scheduler import sweep as sweep_module
from services.scheduler.keeping import Keeping
from services.scheduler.store import FIRE_ROWS_MAX, Store
from services.scheduler.store_schedules import ScheduleStore
from services.scheduler.sweep import Sweeper
from tests.integration.scheduler.rig import FakePublisher, Gate, Tables, a_firing, a_pool, a_row, a_task, until


async def accepted(store: Store, *tasks: Task) -> None:
    for start in range(0, len(tasks), 500):
        await store.accept([a_row(task) for task in tasks[start : start + 500]])


def sent(publisher: FakePublisher) -> list[Task]:
    return [msgspec.json.decode(due.task, type=Task) for due in publisher.sent if isinstance(due, TaskDue)]


async def drain(store: Store, tables: Tables, publisher: FakePublisher) -> None:
    """Let a sweeper run until nothing waits."""
    stopping = asyncio.Event()
    run = asyncio.create_task(Sweeper(store, a_firing(store, publisher)).run(stopping))

    async def is_drained() -> bool:
        return await tables.waiting() == 0

    await until("the backlog to be swept", is_drained)
    stopping.set()
    await asyncio.wait_for(run, 5)


@pytest.fixture
def _one_pause_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "SWEEP_EVERY_S", 60.0)


@pytest.mark.usefixtures("_one_pause_is_too_long")
async def test_a_backlog_is_swept_oldest_first_and_without_a_pause_between_full_batches(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    tasks = [a_task(-3 - n) for n in range(2 * FIRE_ROWS_MAX + 10)]
    await accepted(store, *tasks)
    await drain(store, tables, publisher)
    assert [task.id for task in sent(publisher)] == [task.id for task in reversed(tasks)]


@pytest.mark.usefixtures("_one_pause_is_too_long")
async def test_a_backlog_of_large_tasks_is_swept_without_a_pause_too(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    """A batch that is full of bytes has few rows: eight tasks a second would never end."""
    tasks = [a_task(-3 - n, body_bytes=190_000) for n in range(40)]
    await accepted(store, *tasks)
    await drain(store, tables, publisher)
    assert [task.id for task in sent(publisher)] == [task.id for task in reversed(tasks)]


async def test_what_is_overdue_by_less_than_two_seconds_is_left_to_the_wheels(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    fresh, overdue = a_task(due_at=await tables.now()), a_task(-3)
    await accepted(store, fresh, overdue)
    assert await Sweeper(store, a_firing(store, publisher)).one_pass() is False
    assert [task.id for task in sent(publisher)] == [overdue.id]


async def test_what_another_replica_has_in_hand_is_left_to_it(
    migrated_postgres_url: str, store: Store, publisher: FakePublisher
) -> None:
    theirs, free = a_task(-9), a_task(-8)
    await accepted(store, theirs, free)
    async with a_pool(migrated_postgres_url, "replica-2") as other:
        gate = Gate()
        firing = asyncio.create_task(Store(other).fire_these([theirs.id], gate))
        await gate.reached.wait()
        await Sweeper(store, a_firing(store, publisher)).one_pass()
        gate.opened.set()
        await firing
    assert [task.id for task in sent(publisher)] == [free.id]


async def test_a_broker_that_refuses_is_not_asked_again_at_once(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    await accepted(store, *(a_task(-3) for _ in range(FIRE_ROWS_MAX + 1)))
    refusals = [True]
    publisher.refuses = lambda _item: bool(refusals and refusals.pop())
    sweeper = Sweeper(store, a_firing(store, publisher))
    assert await sweeper.one_pass() is False  # full, and one was refused
    assert await tables.waiting() == 2
    assert await sweeper.one_pass() is False
    assert await tables.waiting() == 0


async def test_the_gauges_say_how_much_is_overdue_and_by_how_much(
    store: Store, tables: Tables, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fire_module, "FLOW_WAIT_S", 0.05)
    publisher.flows = False
    await accepted(store, a_task(-100), a_task(-50), a_task(due_at=await tables.now()))
    await Sweeper(store, a_firing(store, publisher)).one_pass()
    assert REGISTRY.get_sample_value("carillon_scheduler_overdue_tasks") == 2
    assert 99 < (REGISTRY.get_sample_value("carillon_scheduler_overdue_oldest_seconds") or 0) < 130
    publisher.flows = True
    await Sweeper(store, a_firing(store, publisher)).one_pass()
    assert REGISTRY.get_sample_value("carillon_scheduler_overdue_tasks") == 0
    assert REGISTRY.get_sample_value("carillon_scheduler_overdue_oldest_seconds") == 0


async def test_a_sweep_that_loses_postgres_goes_on_with_the_next_pass(store: Store, tables: Tables) -> None:
    class LosesPostgres(FakePublisher):
        async def publish(self, route: object, item: bytes) -> None:
            if not self.sent:
                await until("the session to be killed", tables.kill_those_in_a_transaction)
            await super().publish(route, item)  # type: ignore[arg-type]

    publisher, task = LosesPostgres(), a_task(-3)
    await accepted(store, task)
    sweeper = Sweeper(store, a_firing(store, publisher))
    assert await sweeper.one_pass() is False
    assert await tables.causes(task.id) == []
    await sweeper.one_pass()
    assert await tables.causes(task.id) == ["fired"]


async def test_two_replicas_that_make_the_days_ahead_at_once_do_each_other_no_harm(
    migrated_postgres_url: str, tables: Tables
) -> None:
    await tables.drop_days()
    async with a_pool(migrated_postgres_url) as one, a_pool(migrated_postgres_url, "replica-2") as other:
        keepings = [Keeping(Store(postgres), ScheduleStore(postgres), 7) for postgres in (one, other, one, other)]
        await asyncio.wait_for(asyncio.gather(*(keeping.prepare() for keeping in keepings)), 10)
    today = (await tables.now()).date()
    assert await tables.days() == [partition_name("task_done", today + timedelta(days=n)) for n in range(-1, 8)]

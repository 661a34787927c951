"""Firing between a real Postgres and a broker that answers as told, or a real one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractConnection

from libs.common import topology
from libs.common.connection import Link
from libs.common.contracts import AnyMessage, Task, TaskAccepted, TaskDue, TaskFinished, encode
from libs.common.ids import new_id
from libs.common.metrics import REGISTRY
from libs.common.postgres import Postgres, PostgresAway
from libs.common.publisher import Publisher, PublishUnknown
from libs.common.topology import Route
from services.scheduler import fire as fire_module
from services.scheduler.alarm import Alarm
from services.scheduler.fire import Fired
from services.scheduler.store import FIRE_BYTES_MAX, OVERDUE, Store
from services.scheduler.store_commands import CommandStore
from tests.integration.scheduler.rig import (
    SECOND,
    FakePublisher,
    Tables,
    a_firing,
    a_pool,
    a_row,
    a_task,
    at,
    until,
)


async def accepted(store: Store, *tasks: Task) -> list[UUID]:
    await store.accept([a_row(task) for task in tasks])
    return [task.id for task in tasks]


def tasks_of(messages: Sequence[AnyMessage]) -> list[Task]:
    return [msgspec.json.decode(message.task, type=Task) for message in messages if isinstance(message, TaskDue)]


def names(task: Task) -> bytes:
    return str(task.id).encode()


# --- what is sent


async def test_a_due_task_is_sent_as_it_was_accepted_with_its_time_and_when_it_was_emitted(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    task = a_task(-3)
    ids = await accepted(store, task)
    assert await a_firing(store, publisher).fire_these(ids) == Fired([], [])
    [due] = publisher.take()
    assert isinstance(due, TaskDue)
    assert bytes(due.task) == encode(task)
    assert due.due_at == task.due_at <= due.emitted_at <= await tables.now()
    assert await tables.causes(task.id) == ["fired"]


async def test_a_return_is_sent_with_its_own_time_and_the_users_time_inside(
    store: Store, publisher: FakePublisher
) -> None:
    task = at(a_task(-30), 1, 4, 7)
    await store.accept([a_row(task, not_before := task.due_at + 20 * SECOND)])
    await a_firing(store, publisher).fire_these([task.id])
    [due] = publisher.take()
    assert isinstance(due, TaskDue)
    assert due.due_at == not_before
    assert tasks_of([due]) == [task]


async def test_an_expired_task_is_told_as_expired_and_never_called(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    task = a_task(-3)
    task = msgspec.structs.replace(at(task, 1, 2, 3), expires_at=task.due_at + SECOND)
    lives = a_task(-3, expires_at=task.due_at + 3600 * SECOND)
    ids = await accepted(store, task, lives)
    assert await a_firing(store, publisher).fire_these(ids) == Fired([], [])
    sent = publisher.take()
    [end] = [event for event in sent if isinstance(event, TaskFinished)]
    assert (end.id, end.project, end.state) == (task.id, "acme", "expired")
    assert (end.generation, end.attempt, end.hop) == task.order
    assert [due.id for due in tasks_of(sent)] == [lives.id]
    assert await tables.causes(task.id) == ["expired"]


async def test_an_expiry_that_the_broker_did_not_take_is_told_later(store: Store, tables: Tables) -> None:
    task = a_task(-3)
    task = msgspec.structs.replace(task, expires_at=task.due_at)
    publisher = FakePublisher(lambda item: True)
    ids = await accepted(store, task)
    assert await a_firing(store, publisher).fire_these(ids) == Fired([], ids)
    assert await tables.causes(task.id) == []
    publisher.refuses = lambda item: False
    assert await a_firing(store, publisher).fire_overdue() == (1, False)
    assert await tables.causes(task.id) == ["expired"]


async def test_what_fires_late_is_measured_as_late(store: Store, publisher: FakePublisher) -> None:
    def late(le: str) -> float:
        return REGISTRY.get_sample_value("carillon_scheduler_lateness_seconds_bucket", {"le": le}) or 0.0

    before = [late(le) for le in ("2.0", "10.0", "+Inf")]
    ids = await accepted(store, a_task(-5), a_task(-60), a_task(-5))
    publisher.refuses = lambda item: False
    await a_firing(store, publisher).fire_these(ids)
    assert [late(le) for le in ("2.0", "10.0", "+Inf")] == [before[0], before[1] + 2, before[2] + 3]


# --- what a command has moved, and may not have told


@pytest.fixture
async def postgres(migrated_postgres_url: str) -> AsyncIterator[Postgres]:
    async with a_pool(migrated_postgres_url, "replica-2") as opened:
        yield opened


async def moved(store: Store, postgres: Postgres, task: Task) -> Task:
    """To now, by a command that died before it told anybody."""
    await accepted(store, task)
    known = (await CommandStore(postgres).reschedule(task.id, task.project, new_id(), None)).task
    assert known is not None
    await until("its time", lambda: _is_past(store, known.due_at))
    return known


async def _is_past(store: Store, moment: datetime) -> bool:
    return await store.now() > moment


async def test_a_task_that_was_moved_is_told_with_its_new_time_before_it_is_sent(
    store: Store, tables: Tables, postgres: Postgres, publisher: FakePublisher
) -> None:
    task, other = await moved(store, postgres, a_task(3600)), a_task()
    ids = [task.id, *await accepted(store, other)]
    assert await a_firing(store, publisher).fire_these(ids) == Fired([], [])
    sent = publisher.take()
    told = [event for event in sent if isinstance(event, TaskAccepted)]
    assert told == [TaskAccepted(task=task)]
    assert sorted(one.id for one in tasks_of(sent)) == sorted(ids)
    assert sent.index(told[0]) < [isinstance(one, TaskDue) and one.due_at == task.due_at for one in sent].index(True)
    assert [await tables.causes(id_) for id_ in ids] == [["fired"], ["fired"]]


async def test_a_task_that_was_moved_and_could_not_be_told_is_not_sent_and_stays(
    store: Store, tables: Tables, postgres: Postgres, publisher: FakePublisher
) -> None:
    task, other = await moved(store, postgres, a_task(3600)), a_task()
    ids, firing = [task.id, *await accepted(store, other)], a_firing(store, publisher)
    publisher.refuses = lambda item: b"TaskAccepted" in item
    assert await firing.fire_these(ids) == Fired([], [task.id])
    assert tasks_of(publisher.take()) == [other]
    assert await tables.causes(task.id) == []
    publisher.refuses = lambda item: b"TaskDue" in item
    assert await firing.fire_these([task.id]) == Fired([], [task.id])
    assert await tables.causes(task.id) == []
    publisher.refuses = lambda item: False
    assert await firing.fire_these([task.id]) == Fired([], [])
    assert publisher.take()[:2] == [TaskAccepted(task=task)] * 2
    assert await tables.causes(task.id) == ["fired"]


async def test_a_task_that_was_moved_beyond_its_end_is_told_twice(
    store: Store, tables: Tables, postgres: Postgres, publisher: FakePublisher
) -> None:
    task = await moved(store, postgres, a_task(3600, expires_at=datetime.now(UTC)))
    assert await a_firing(store, publisher).fire_these([task.id]) == Fired([], [])
    told, end = publisher.take()
    assert told == TaskAccepted(task=task)
    assert isinstance(end, TaskFinished)
    assert (end.state, end.generation) == ("expired", 2)
    assert await tables.causes(task.id) == ["expired"]


async def test_a_task_that_was_moved_and_came_back_is_not_told_as_new(
    store: Store, postgres: Postgres, publisher: FakePublisher
) -> None:
    """It went out by a fire that died before its commit. The history knows it as retrying: no step back from there."""
    task = await moved(store, postgres, a_task(3600))
    back = at(task, 2, 2, 1)
    await accepted(store, back)
    await a_firing(store, publisher).fire_these([task.id])
    [due] = publisher.take()
    assert tasks_of([due]) == [back]


# --- what is not confirmed


@pytest.mark.parametrize(
    "error", [PublishUnknown("?"), asyncio.CancelledError(), OSError("lost"), TimeoutError()], ids=repr
)
async def test_what_the_broker_did_not_confirm_stays_and_comes_back(
    store: Store, tables: Tables, error: BaseException
) -> None:
    """Also where the library lets a bare CancelledError out, or an OSError that the store would take for Postgres'."""
    tasks = [a_task(-9 + n) for n in range(5)]
    refused = {names(task) for task in tasks[:2]}
    publisher = FakePublisher(lambda item: any(name in item for name in refused))
    publisher.error = error
    ids, firing = await accepted(store, *tasks), a_firing(store, publisher)
    assert await firing.fire_these(ids) == Fired([], ids[:2])
    assert [task.id for task in tasks_of(publisher.take())] == ids[2:]
    assert [await tables.causes(id_) for id_ in ids] == [[], [], ["fired"], ["fired"], ["fired"]]
    refused.clear()
    assert await firing.fire_these(ids) == Fired(ids[2:], [])
    assert [task.id for task in tasks_of(publisher.take())] == ids[:2]


async def test_a_confirm_that_takes_too_long_leaves_the_row(
    store: Store, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fire_module, "PUBLISH_DEADLINE_S", 0.05)

    class Silent(FakePublisher):
        was_cancelled = 0

        async def publish(self, route: Route, item: bytes) -> None:
            await super().publish(route, item)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled += 1
                raise

    publisher = Silent()
    ids = await accepted(store, a_task(-2), a_task())
    assert await a_firing(store, publisher).fire_these(ids) == Fired([], ids)
    assert len(publisher.take()) == 2  # it may have arrived: unknown, not no
    assert await tables.waiting() == 2
    await until("nobody to wait for the confirm any more", lambda: publisher.was_cancelled == 2)


async def test_refusals_back_off_from_50_ms_to_a_second_and_begin_again_after_a_success(
    store: Store, publisher: FakePublisher
) -> None:
    firing, pauses = a_firing(store, publisher), []
    publisher.refuses = lambda item: True
    ids = await accepted(store, a_task())
    for _ in range(8):
        await firing.fire_these(ids)
        pauses.append(firing.pause_s)
    assert 0.025 <= pauses[0] <= 0.05
    assert all(0.5 <= pause <= 1 for pause in pauses[5:])
    publisher.refuses = lambda item: False
    await firing.fire_these(ids)
    assert firing.pause_s == 0
    publisher.refuses = lambda item: True
    await firing.fire_these(await accepted(store, a_task()))
    assert 0.025 <= firing.pause_s <= 0.05


async def test_no_fire_starts_while_the_broker_does_not_listen(
    store: Store, tables: Tables, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fire_module, "FLOW_WAIT_S", 0.05)
    publisher.flows = False
    ids = await accepted(store, a_task(-9))
    firing = a_firing(store, publisher)
    assert await firing.fire_these(ids) == Fired([], ids)
    assert firing.pause_s > 0
    assert await firing.fire_overdue() == (0, False)
    assert publisher.sent == []
    publisher.flows = True
    assert await firing.fire_overdue() == (1, False)


# --- crashes


async def test_postgres_lost_between_publish_and_commit_fires_the_same_again(store: Store, tables: Tables) -> None:
    class LosesPostgres(FakePublisher):
        async def publish(self, route: Route, item: bytes) -> None:
            await super().publish(route, item)
            if len(self.sent) == 1:
                await until("the session to be killed", tables.kill_those_in_a_transaction)

    publisher, task = LosesPostgres(), a_task()
    ids, firing = await accepted(store, task), a_firing(store, publisher)
    with pytest.raises(PostgresAway):
        await firing.fire_these(ids)
    assert await tables.causes(task.id) == []
    assert await firing.fire_these(ids) == Fired([], [])
    assert tasks_of(publisher.take()) == [task, task]
    assert await tables.causes(task.id) == ["fired"]


async def test_a_bug_while_publishing_is_not_taken_for_a_refusal_of_postgres(store: Store, tables: Tables) -> None:
    """The rows stay, whatever it was; the alarm asks again."""
    publisher = FakePublisher(lambda item: True)
    publisher.error = ZeroDivisionError()
    ids = await accepted(store, a_task())
    assert await a_firing(store, publisher).fire_these(ids) == Fired([], ids)
    assert await tables.waiting() == 1


async def test_two_replicas_that_fire_the_same_ids_send_each_task_once(
    migrated_postgres_url: str, store: Store, tables: Tables
) -> None:
    publishers = [FakePublisher() for _ in range(4)]
    ids = await accepted(store, *(a_task() for _ in range(200)))
    async with a_pool(migrated_postgres_url, "replica-2") as other:
        firings = [a_firing((store, Store(other))[n % 2], publisher) for n, publisher in enumerate(publishers)]
        fired = await asyncio.gather(*(firing.fire_these(ids) for firing in firings))
    sent = [task.id for publisher in publishers for task in tasks_of(publisher.take())]
    assert sorted(sent) == sorted(ids)
    assert all(set(one.missed) | set(ids) == set(ids) for one in fired)
    assert await tables.gone() == len(ids)


# --- early, and too much at once


async def test_what_is_not_due_is_missed_and_not_sent(store: Store, publisher: FakePublisher) -> None:
    early, due = await accepted(store, a_task(60), a_task())
    assert await a_firing(store, publisher).fire_these([early, due]) == Fired([early], [])
    assert [task.id for task in tasks_of(publisher.take())] == [due]


async def test_what_exceeds_the_bytes_of_a_batch_is_asked_for_again_at_once(
    store: Store, publisher: FakePublisher
) -> None:
    tasks = [a_task(-1, body_bytes=190_000) for _ in range(40)]
    ids, firing = await accepted(store, *tasks), a_firing(store, publisher)
    rounds = 0
    while ids:
        fired = await firing.fire_these(ids)
        assert (fired.missed, fired.again) == ([], [])
        assert sum(len(encode(task)) for task in tasks_of(publisher.sent)) < FIRE_BYTES_MAX + 262_144
        ids = [id_ for id_ in ids if id_ in fired.left]
        rounds += 1
        publisher.take()
    assert rounds == 3


async def test_the_alarm_fires_a_herd_of_large_tasks_without_waiting_for_the_sweep(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    from libs.common.clock import SystemClock

    alarm = Alarm(store, a_firing(store, publisher), SystemClock(), horizon_s=60)
    stopping = asyncio.Event()
    due_at = await tables.now() + timedelta(seconds=1)
    await accepted(store, *(a_task(due_at=due_at, body_bytes=190_000) for _ in range(40)))
    run = asyncio.create_task(alarm.run(stopping))
    await until("all of them to be fired", lambda: len(publisher.sent) == 40)
    stopping.set()
    await asyncio.wait_for(run, 5)
    emitted = [due.emitted_at - due_at for due in publisher.sent if isinstance(due, TaskDue)]
    assert timedelta(0) <= min(emitted)
    assert max(emitted) < OVERDUE


# --- the real broker


@pytest.fixture
async def real(amqp_url: str) -> AsyncIterator[Publisher]:
    publisher, link = Publisher(), Link(amqp_url, "scheduler under test", topology.topology())
    link.join(publisher)
    async with link:
        await link.up()
        yield publisher


async def test_a_fired_task_arrives_where_the_dispatcher_takes_it(
    amqp: AbstractConnection, store: Store, real: Publisher
) -> None:
    tasks = [a_task() for _ in range(50)]
    ids = await accepted(store, *tasks)
    assert await a_firing(store, real).fire_these(ids) == Fired([], [])
    bodies = await everything(amqp, topology.DISPATCHER_DUE, items=50)
    assert sorted(tasks_of(bodies), key=lambda task: task.id) == sorted(tasks, key=lambda task: task.id)


async def test_a_full_queue_keeps_the_rows_until_there_is_room(
    amqp: AbstractConnection, store: Store, tables: Tables, real: Publisher
) -> None:
    await fill(amqp, topology.DISPATCHER_DUE)
    firing, task = a_firing(store, real), a_task(-9)
    ids = await accepted(store, task)
    assert await firing.fire_these(ids) == Fired([], ids)
    assert await firing.fire_overdue() == (1, False)
    assert (await tables.orders(task.id), await tables.causes(task.id)) == ([(1, 1, 0)], [])
    channel = await amqp.channel()
    await (await channel.get_queue(topology.DISPATCHER_DUE, ensure=False)).purge()

    async def fires() -> bool:
        await firing.fire_overdue()
        return await tables.causes(task.id) == ["fired"]

    await until("the queue to take it", fires)
    assert tasks_of(await everything(amqp, topology.DISPATCHER_DUE, items=1)) == [task]


async def everything(amqp: AbstractConnection, queue: str, *, items: int) -> list[AnyMessage]:
    """Take `items` from the queue."""
    channel = await amqp.channel()
    taken: list[AnyMessage] = []

    async def take(message: Any) -> None:
        taken.extend(msgspec.json.decode(message.body, type=list[AnyMessage]))
        await message.ack()

    await (await channel.get_queue(queue, ensure=False)).consume(take)
    await until(f"{items} items in {queue}", lambda: len(taken) >= items)
    return taken


async def fill(amqp: AbstractConnection, queue: str) -> None:
    """Until the broker refuses more."""
    channel = await amqp.channel()

    async def one() -> bool:
        try:
            await channel.default_exchange.publish(aio_pika.Message(b"[]"), queue)
        except aio_pika.exceptions.DeliveryError:
            return False
        return True

    while all(await asyncio.gather(*(one() for _ in range(250)))):
        pass

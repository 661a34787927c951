"""The store against real Postgres: order decides, locks fence, and nothing is lost between publish and commit."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.common import postgres as patience
from libs.common.contracts import Task, encode
from libs.common.partitions import partition_name
from libs.common.postgres import PostgresAway, until_available
from services.scheduler import store as store_module
from services.scheduler import store_schedules
from services.scheduler.store import FIRE_BYTES_MAX, FIRE_ROWS_MAX, OVERDUE, BadRow, DueRow, Emitted, First, Store
from tests.integration.scheduler.rig import (
    SECOND,
    Gate,
    Order,
    Recorder,
    Tables,
    a_pool,
    a_row,
    a_task,
    at,
    bystander,
    confirm_all,
    confirm_none,
    until,
)


async def _fired(store: Store, task: Task) -> None:
    """Accept it and fire it."""
    assert (await store.accept([a_row(task)])).held == {task.id}
    assert await store.fire_these([task.id], confirm_all) == 1


# --- accept


async def test_a_new_task_is_held_once(store: Store, tables: Tables) -> None:
    task = a_task()
    assert (await store.accept([a_row(task)])).held == {task.id}
    again = await store.accept([a_row(task)])
    assert again.held == frozenset()
    assert again.earlier[task.id][:2] == ("a", encode(task))
    assert await tables.orders(task.id) == [(1, 1, 0)]


async def test_a_create_that_comes_again_after_it_has_fired_is_not_held(store: Store, tables: Tables) -> None:
    task = a_task()
    await _fired(store, task)
    again = await store.accept([a_row(task)])
    assert again.held == frozenset()
    assert again.earlier[task.id][:2] == ("a", None)
    assert await tables.orders(task.id) == []
    assert await store.fire_these([task.id], confirm_all) == 0


async def test_an_accept_is_quick_when_postgres_believes_the_table_empty(
    migrated_postgres_url: str, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when autovacuum has looked in a quiet moment: a careless join was quadratic then, and never ended."""
    await tables.has_been_empty_for_long(tombstones=4000)
    monkeypatch.setattr(patience, "STATEMENT_MS", 2000)
    async with a_pool(migrated_postgres_url) as postgres:
        store = Store(postgres)
        for _ in range(8):  # the sixth is planned for any parameters
            rows = [a_row(a_task(60)) for _ in range(500)]
            assert len((await store.accept(rows)).held) == 500


async def test_another_request_under_a_waiting_id_changes_nothing(store: Store, tables: Tables) -> None:
    task = a_task()
    await store.accept([a_row(task)])
    other = at(a_task(60, id=task.id, fingerprint="b"), 2, 1, 0)
    met = await store.accept([a_row(other)])
    assert met.held == frozenset()
    assert met.earlier[task.id][:2] == ("a", encode(task))
    assert await tables.message(task.id) == encode(task)


async def test_a_return_above_the_tombstone_is_held_until_its_own_time(store: Store, tables: Tables) -> None:
    task = a_task()
    await _fired(store, task)
    not_before = datetime.now(UTC).replace(microsecond=0) + 60 * SECOND
    back = at(task, 1, 2, 1)
    assert (await store.accept([a_row(back, not_before)])).held == {task.id}
    assert await tables.due_at(task.id) == not_before
    assert await tables.orders(task.id) == [(1, 2, 1)]
    assert await store.fire_these([task.id], confirm_all) == 0  # the attempt has its own time


@pytest.mark.parametrize("order", [(1, 1, 0), (1, 2, 4), (1, 2, 3), (1, 1, 9)])
async def test_a_lower_or_equal_order_does_not_move_a_waiting_row(store: Store, tables: Tables, order: Order) -> None:
    task = at(a_task(), 1, 2, 4)
    await store.accept([a_row(task)])
    late = at(task, *order)
    assert (await store.accept([a_row(late, task.due_at + SECOND)])).held == frozenset()
    assert await tables.orders(task.id) == [(1, 2, 4)]
    assert await tables.due_at(task.id) == task.due_at


@pytest.mark.parametrize("order", [(1, 1, 5), (1, 2, 0), (2, 1, 0)])
async def test_a_higher_order_takes_the_place_of_a_waiting_row(store: Store, tables: Tables, order: Order) -> None:
    task = at(a_task(), 1, 1, 4)
    await store.accept([a_row(task)])
    assert (await store.accept([a_row(at(task, *order), task.due_at + SECOND)])).held == {task.id}
    assert await tables.orders(task.id) == [order]
    assert await tables.due_at(task.id) == task.due_at + SECOND
    assert await tables.message(task.id) == encode(at(task, *order))


@pytest.mark.parametrize("order", [(1, 1, 0), (1, 2, 4), (1, 1, 9)])
async def test_a_fork_that_the_tombstone_covers_is_dropped(store: Store, tables: Tables, order: Order) -> None:
    task = at(a_task(), 1, 2, 4)
    await _fired(store, task)
    assert (await store.accept([a_row(at(task, *order))])).held == frozenset()
    assert await tables.orders(task.id) == []


@pytest.mark.parametrize("confirms", [True, False], ids=["confirmed", "unconfirmed"])
async def test_a_return_that_arrives_before_the_fire_has_committed_waits_and_is_not_lost(
    store: Store, tables: Tables, confirms: bool
) -> None:
    task = a_task()
    await store.accept([a_row(task)])
    gate = Gate(confirm_all if confirms else confirm_none)
    firing = asyncio.create_task(store.fire_these([task.id], gate))
    await gate.reached.wait()
    back = at(task, 1, 2, 1)
    accepting = asyncio.create_task(store.accept([a_row(back, task.due_at + 60 * SECOND)]))
    await until("the return to wait for the fire", tables.someone_waits_for_a_lock)
    gate.opened.set()
    assert await firing == 1
    assert (await accepting).held == {task.id}
    assert await tables.orders(task.id) == [(1, 2, 1)]
    assert await tables.tombstones(task.id) == ([(1, 1, 0)] if confirms else [])


async def test_a_create_redelivered_while_it_is_being_fired_waits_and_finds_the_tombstone(
    store: Store, tables: Tables
) -> None:
    task = a_task()
    await store.accept([a_row(task)])
    gate = Gate()
    firing = asyncio.create_task(store.fire_these([task.id], gate))
    await gate.reached.wait()
    accepting = asyncio.create_task(store.accept([a_row(task)]))
    await until("the create to wait for the fire", tables.someone_waits_for_a_lock)
    gate.opened.set()
    await firing
    assert (await accepting).held == frozenset()
    assert await tables.waiting() == 0


async def test_an_accept_that_waits_too_long_for_a_fire_is_away_and_not_lost(
    migrated_postgres_url: str, store: Store, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOCK_MS", 50)
    task = a_task()
    await store.accept([a_row(task)])
    gate = Gate()
    firing = asyncio.create_task(store.fire_these([task.id], gate))
    await gate.reached.wait()
    async with a_pool(migrated_postgres_url, "impatient") as impatient:
        row = a_row(at(task, 1, 2, 1))
        with pytest.raises(PostgresAway):
            await Store(impatient).accept([row])
        accepting = asyncio.create_task(until_available(lambda: Store(impatient).accept([row])))
        gate.opened.set()
        await firing
        assert (await accepting).held == {task.id}
    assert await tables.orders(task.id) == [(1, 2, 1)]


async def test_two_replicas_with_the_same_ids_in_opposite_order_do_not_deadlock(
    migrated_postgres_url: str, store: Store, tables: Tables
) -> None:
    tasks = [a_task() for _ in range(200)]
    async with a_pool(migrated_postgres_url, "replica-2") as other:
        for hop in range(5):
            rows = [a_row(at(task, 1, 1, hop)) for task in tasks]
            first, second = await asyncio.gather(store.accept(rows), Store(other).accept(rows[::-1]))
            assert len(first.held) + len(second.held) == len(tasks)
            assert not first.held & second.held
    assert await tables.waiting() == len(tasks)


async def test_what_is_new_and_what_is_known_in_one_batch_are_told_apart(store: Store) -> None:
    new, waiting, gone, other = a_task(), a_task(), a_task(), a_task()
    await store.accept([a_row(waiting), a_row(other)])
    await _fired(store, gone)
    asks_again = a_task(id=other.id, fingerprint="b")
    accepted = await store.accept([a_row(task) for task in (asks_again, gone, new, waiting)])
    assert accepted.held == {new.id}
    assert {id_: first[:2] for id_, first in accepted.earlier.items()} == {
        waiting.id: ("a", encode(waiting)),
        gone.id: ("a", None),
        other.id: ("a", encode(other)),
    }
    assert isinstance(accepted.earlier[gone.id], First)


@pytest.mark.parametrize(
    "fields",
    [
        {"project": "ac\0me"},
        {"fingerprint": "\0"},
        {"project": "\ud800"},
        {"order": (1, 2**31, 0)},
        {"order": (2**63, 1, 0)},
        {"order": (1, 1, -(2**40))},
    ],
    ids=repr,
)
async def test_data_that_postgres_or_its_driver_refuses_is_a_bad_row(
    store: Store, tables: Tables, fields: dict[str, str]
) -> None:
    bad = a_row(a_task())._replace(**{name: value for name, value in fields.items() if name != "order"})  # type: ignore[arg-type]
    if "order" in fields:
        bad = bad._replace(**dict(zip(("generation", "attempt", "hop"), fields["order"], strict=True)))  # type: ignore[arg-type]
    with pytest.raises(BadRow):
        await store.accept([a_row(a_task()), bad])
    assert await tables.waiting() == 0
    assert len((await store.accept([a_row(a_task())])).held) == 1  # the connection is usable


# --- fire


async def test_a_row_that_is_not_due_is_not_emitted_even_when_asked_for(store: Store, tables: Tables) -> None:
    tasks = [a_task(3600) for _ in range(3)]
    await store.accept([a_row(task) for task in tasks])
    emit = Recorder()
    assert await store.fire_these([task.id for task in tasks], emit) == 0
    assert emit.rows == []
    assert await tables.waiting() == 3
    ids = [task.id for task in tasks]
    for since in (datetime.now(UTC), datetime.now(UTC) + 7200 * SECOND):
        assert set(await store.still_to_come(ids, since)) == {(task.id, task.due_at) for task in tasks}


async def test_what_falls_due_between_the_fire_and_the_question_is_still_to_come(store: Store) -> None:
    """Else nobody would wake for it, and the sweep would find it two seconds late."""
    fell_due, overdue = a_task(-1), a_task(-5)
    await store.accept([a_row(fell_due), a_row(overdue)])
    asked_at = datetime.now(UTC) - 3 * SECOND
    assert await store.still_to_come([fell_due.id, overdue.id], asked_at) == [(fell_due.id, fell_due.due_at)]


async def test_what_was_not_confirmed_stays_and_the_rest_is_buried_by_the_same_commit(
    store: Store, tables: Tables
) -> None:
    tasks = [a_task() for _ in range(4)]
    ids = [task.id for task in tasks]
    await store.accept([a_row(task) for task in tasks])
    seen_before_commit: list[int] = []

    async def emit(rows: Sequence[DueRow]) -> Emitted:
        seen_before_commit.append(await tables.gone())
        return Emitted(ids[:2], ids[2:3])

    assert await store.fire_these(ids, emit) == 4
    assert seen_before_commit == [0]
    assert [await tables.causes(id_) for id_ in ids] == [["fired"], ["fired"], ["expired"], []]
    assert [await tables.orders(id_) for id_ in ids] == [[], [], [], [(1, 1, 0)]]
    again = Recorder()
    assert await store.fire_these(ids, again) == 1
    assert again.ids == ids[3:]


async def test_a_crash_between_publish_and_commit_leaves_the_row_to_be_fired_again(
    store: Store, tables: Tables
) -> None:
    task = a_task()
    await store.accept([a_row(task)])
    published = Recorder()

    async def emit_and_die(rows: Sequence[DueRow]) -> Emitted:
        await published(rows)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await store.fire_these([task.id], emit_and_die)
    assert (await tables.orders(task.id), await tables.tombstones(task.id)) == ([(1, 1, 0)], [])
    assert await store.fire_these([task.id], published) == 1
    first, second = published.rows
    assert first[:-1] == second[:-1]  # the same content; only the moment differs


async def test_a_fire_whose_session_is_killed_between_publish_and_commit_is_away_and_repeats(
    store: Store, tables: Tables
) -> None:
    task = a_task()
    await store.accept([a_row(task)])
    emit = Recorder()

    async def emit_and_lose_postgres(rows: Sequence[DueRow]) -> Emitted:
        emitted = await emit(rows)
        await until("our session to be killed", tables.kill_those_in_a_transaction)
        return emitted

    with pytest.raises(PostgresAway):
        await store.fire_these([task.id], emit_and_lose_postgres)
    assert await tables.tombstones(task.id) == []
    assert await until_available(lambda: store.fire_these([task.id], emit)) == 1
    assert emit.ids == [task.id, task.id]
    assert await tables.causes(task.id) == ["fired"]


async def test_a_replica_frozen_inside_its_fire_loses_the_locks_and_another_fires(
    migrated_postgres_url: str, store: Store, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "IDLE_IN_TRANSACTION_MS", 100)
    task = a_task()
    await store.accept([a_row(task)])
    other = Recorder()
    async with a_pool(migrated_postgres_url, "frozen") as frozen:
        gate = Gate()
        firing = asyncio.create_task(Store(frozen).fire_these([task.id], gate))
        await gate.reached.wait()

        async def another_fires() -> bool:
            return await store.fire_these([task.id], other) == 1

        await until("the frozen replica to lose its locks", another_fires)
        gate.opened.set()
        with pytest.raises(PostgresAway):
            await firing
    assert other.ids == [task.id]
    assert await tables.tombstones(task.id) == [(1, 1, 0)]


async def test_two_fires_of_the_same_ids_at_once_emit_each_row_once(
    migrated_postgres_url: str, store: Store, tables: Tables
) -> None:
    tasks = [a_task() for _ in range(300)]
    ids = [task.id for task in tasks]
    await store.accept([a_row(task) for task in tasks])
    emits = [Recorder() for _ in range(4)]
    async with a_pool(migrated_postgres_url, "replica-2") as other:
        stores = [store, Store(other)]
        await asyncio.gather(
            *(stores[n % 2].fire_these(ids[n * 50 :] + ids[: n * 50], emit) for n, emit in enumerate(emits)),
            store.fire_overdue(Recorder()),  # nothing is overdue by 2 s yet
        )
    emitted = [id_ for emit in emits for id_ in emit.ids]
    assert sorted(emitted) == sorted(ids)
    assert await tables.gone() == len(ids)


async def test_a_second_fire_does_not_wait_for_the_first_one(store: Store) -> None:
    task, free = a_task(), a_task()
    await store.accept([a_row(task), a_row(free)])
    gate = Gate()
    firing = asyncio.create_task(store.fire_these([task.id], gate))
    await gate.reached.wait()
    emit = Recorder()
    assert await asyncio.wait_for(store.fire_these([task.id, free.id], emit), 2) == 1
    assert emit.ids == [free.id]
    gate.opened.set()
    await firing


async def test_a_batch_holds_at_most_4_mib_and_the_rest_is_left_for_the_next(store: Store, tables: Tables) -> None:
    tasks = [a_task(-10 - n, body_bytes=190_000) for n in range(40)]  # about 256 KiB each as JSON
    size = len(encode(tasks[0]))
    assert 250_000 < size < 262_144
    await store.accept([a_row(task) for task in tasks])
    batches = []
    while await tables.waiting():
        emit = Recorder()
        assert await store.fire_these([task.id for task in tasks], emit) > 0
        batches.append(emit)
        assert sum(len(row.message) for row in emit.rows) < FIRE_BYTES_MAX + size
    assert len(batches) == 3
    emitted = [id_ for batch in batches for id_ in batch.ids]
    assert emitted == [task.id for task in reversed(tasks)]  # oldest first, each once


async def test_one_row_above_the_byte_cap_still_fires(store: Store) -> None:
    task = a_task(body_bytes=FIRE_BYTES_MAX)
    await store.accept([a_row(task)])
    assert await store.fire_these([task.id], confirm_all) == 1


async def test_what_is_emitted_says_when_by_postgres_clock_and_never_early(store: Store, tables: Tables) -> None:
    task = a_task(0.2, due_at=await tables.now() + timedelta(milliseconds=200))
    await store.accept([a_row(task)])
    emit = Recorder()

    async def fires() -> bool:
        return await store.fire_these([task.id], emit) == 1

    await until("it to be due", fires)
    assert task.due_at <= emit.rows[0].now <= await tables.now()
    assert emit.rows[0].due_at == task.due_at


# --- what the wheel and the sweep read


async def test_coming_is_after_and_until_soonest_first_and_limited(store: Store) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    tasks = [a_task(due_at=now + n * SECOND) for n in (3, 1, 2, 4)]
    await store.accept([a_row(task) for task in tasks])
    in_order = sorted(((task.id, task.due_at) for task in tasks), key=lambda pair: pair[1])
    assert [row async for some in store.coming(now + SECOND, now + 4 * SECOND, 100) for row in some] == in_order[1:]
    assert [row async for some in store.coming(now, now + 4 * SECOND, 2) for row in some] == in_order[:2]


async def test_overdue_fires_the_oldest_first_and_leaves_alone_what_the_wheels_have_in_hand(store: Store) -> None:
    tasks = [a_task(-5 - n / 10) for n in range(FIRE_ROWS_MAX + 20)]
    for start in (0, FIRE_ROWS_MAX):
        await store.accept([a_row(task) for task in tasks[start : start + FIRE_ROWS_MAX]])
    await store.accept([a_row(a_task(due_at=datetime.now(UTC)))])
    count, oldest_s = await store.overdue()
    assert count == len(tasks)
    assert 55 < oldest_s < 90
    emit = Recorder()
    assert await store.fire_overdue(emit) == FIRE_ROWS_MAX
    assert emit.ids == [task.id for task in reversed(tasks)][:FIRE_ROWS_MAX]
    assert await store.fire_overdue(emit) == 20
    assert await store.fire_overdue(emit) == 0
    assert emit.ids[-1] == tasks[0].id


@pytest.mark.parametrize(
    ("query", "arguments", "index", "column"),
    [
        (store_module._LOCK_OVERDUE, (FIRE_ROWS_MAX, FIRE_BYTES_MAX, OVERDUE), "task_due_at", "due_at"),
        (store_module._OVERDUE_STATE, (OVERDUE,), "task_due_at", "due_at"),
        (store_schedules._DUE, (5 * SECOND, 100, [], []), "schedule_next_at", "next_at"),
    ],
    ids=["the sweep", "the count of what is overdue", "the timetable"],
)
async def test_what_looks_for_the_due_reads_nothing_that_waits(
    store: Store, tables: Tables, query: str, arguments: tuple[Any, ...], index: str, column: str
) -> None:
    """The clock bounds the scan of the index. As a filter it would be compared with each row that waits."""
    await tables.connection.execute(MANY_THAT_WAIT)
    [(plan,)] = await tables.connection.fetch(f"EXPLAIN (FORMAT JSON) {query}", *arguments)
    [scan] = [node for node in _nodes(json.loads(plan)[0]["Plan"]) if node.get("Index Name") == index]
    assert f"({column} <" in scan["Index Cond"]
    assert column not in scan.get("Filter", "")


MANY_THAT_WAIT = """
    SET search_path = scheduler;
    INSERT INTO task SELECT gen_random_uuid(), 1, 1, 0, now() + n * interval '1 minute', NULL, 1, 9, 'p', 'f', NULL, 'x'
    FROM generate_series(1, 5000) AS n;
    INSERT INTO schedule (id, project, name, revision, status, command_id, created_at, changed_at, next_at, schedule)
    SELECT gen_random_uuid(), 'p', n, 1, 'active', gen_random_uuid(), now(), now(), now() + n * interval '1 minute', 'x'
    FROM generate_series(1, 5000) AS n;
    ANALYZE task, schedule;
"""


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


# --- partitions


def _names(today: datetime, first: int, last: int) -> set[str]:
    return {partition_name("task_done", (today + timedelta(days=n)).date()) for n in range(first, last + 1)}


async def test_tombstones_outlive_their_days_and_no_longer(store: Store, tables: Tables) -> None:
    today = await tables.now()
    assert set(await tables.days()) >= _names(today, 0, 7)
    task = a_task()
    await _fired(store, task)
    await _make_day(tables, today - timedelta(days=7))
    await _make_day(tables, today - timedelta(days=8))
    await store.drop_days(7)
    assert _names(today, -7, -7) <= set(await tables.days())
    assert not _names(today, -8, -8) & set(await tables.days())
    assert await tables.tombstones(task.id) == [(1, 1, 0)]


async def test_who_reads_old_tombstones_holds_up_their_end_and_nothing_else(
    migrated_postgres_url: str, store: Store, tables: Tables
) -> None:
    """A dump, or a forgotten psql."""
    today = await tables.now()
    await _make_day(tables, today - timedelta(days=9))
    async with bystander(migrated_postgres_url) as reader, reader.connection.transaction():
        await reader.connection.fetch("SELECT count(*) FROM scheduler.task_done")
        await asyncio.wait_for(store.make_days(), 1)
        with pytest.raises(PostgresAway):
            await store.drop_days(7)
    await store.drop_days(7)
    assert not _names(today, -9, -9) & set(await tables.days())


async def _make_day(tables: Tables, at: datetime) -> None:
    day = at.date()
    await tables.connection.execute("SET ROLE carillon_scheduler")
    await tables.connection.execute(
        f"CREATE TABLE scheduler.{partition_name('task_done', day)} PARTITION OF scheduler.task_done"
        f" FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
    )
    await tables.connection.execute("RESET ROLE")


async def test_every_id_goes_to_a_shard_of_the_fixed_space(store: Store, tables: Tables) -> None:
    tasks = [a_task(id=UUID(int=n * 1023)) for n in range(5)]
    await store.accept([a_row(task) for task in tasks])
    shards = await tables.connection.fetch("SELECT shard FROM scheduler.task ORDER BY id")
    assert [row["shard"] for row in shards] == [task.id.int % 1024 for task in tasks]

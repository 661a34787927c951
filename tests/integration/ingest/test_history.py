"""The projection against a real PostgreSQL: what it says, and that order, repetition and batching change nothing."""

import asyncio
from datetime import timedelta
from random import Random
from typing import Literal
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from libs.common.clock import SystemClock
from libs.common.contracts import (
    AttemptFinished,
    Call,
    Event,
    TargetChanged,
    Task,
    TaskAccepted,
    TaskFinished,
    TaskParked,
    Timing,
    encode,
)
from libs.common.intake import Poison
from libs.common.postgres import Postgres
from services.ingest.creation import this_millisecond
from services.ingest.history import History
from services.ingest.maintenance import Maintenance
from services.ingest.projection import project
from services.ingest.store import Store

NOW = this_millisecond(SystemClock().now())
CALL = Call(url="http://example.com/", body=b"\x00\xff")


def later(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def accepted(id_: UUID, generation: int = 1, created: int = 0, hop: int = 0) -> TaskAccepted:
    return TaskAccepted(
        task=Task(
            id=id_, project="default", generation=generation, hop=hop, created_at=NOW + later(created),
            due_at=NOW + later(60 + created), fingerprint=f"{generation}.{created}", labels={"order": "42"},
            call=msgspec.Raw(encode(CALL)),
        )
    )  # fmt: skip


def attempted(
    id_: UUID, attempt: int = 1, started: float = 0.0, outcome: str = "retry", generation: int = 1, hop: int = 1
) -> AttemptFinished:
    return AttemptFinished(
        id=id_, project="default", generation=generation, attempt=attempt, hop=hop, due_at=NOW,
        started_at=NOW + later(started), duration_ms=12, outcome=outcome,  # type: ignore[arg-type]
        status_code=int(500 + started), error="server_error", error_detail="a\0b",
        next_attempt_at=NOW + later(started + 5) if outcome == "retry" else None,
        response_headers=(("X-A", "\0"),), response_body=b"\x00\xff",
    )  # fmt: skip


def finished(id_: UUID, state: str = "cancelled", generation: int = 1, hop: int = 2, second: int = 0) -> TaskFinished:
    return TaskFinished(
        id=id_, project="default", generation=generation, attempt=2, hop=hop, state=state,  # type: ignore[arg-type]
        finished_at=NOW + later(second), reason="\0because",
    )  # fmt: skip


def parked(id_: UUID, generation: int = 1, hop: int = 1) -> TaskParked:
    return TaskParked(
        id=id_, project="default", generation=generation, attempt=1, hop=hop, parked_at=NOW + later(hop), cause="c"
    )


async def test_a_task_and_its_attempts_can_be_read_back(history: History, store: Store) -> None:
    id_ = uuid4()
    await history.handle([accepted(id_), attempted(id_, 1, 0.003), attempted(id_, 2, 7, "succeeded", hop=2)])
    task = await store.task("default", id_)
    assert task is not None
    assert (task.state, task.finished_at, task.lateness_ms) == ("succeeded", NOW + later(7.012), 3)
    assert task.first_attempt_at == NOW + later(0.003)
    assert (task.labels, bytes(task.call)) == ({"order": "42"}, encode(CALL))
    assert task.last_attempt is not None
    assert (task.last_attempt.number, task.last_attempt.status_code) == (2, 507)
    first, second = await store.attempts(id_)
    assert (first.number, first.next_attempt_at, first.error_detail) == (
        1,
        NOW + later(5.003),
        "a\N{REPLACEMENT CHARACTER}b",
    )
    assert (second.number, second.response_body) == (2, b"\x00\xff")


async def test_events_in_hand_are_saved_though_the_process_is_asked_to_stop_before_there_are_partitions(
    store: Store,
) -> None:
    maintenance, stopping, id_ = Maintenance(store, SystemClock(), retention_days=30), asyncio.Event(), uuid4()
    stopping.set()
    await maintenance.run(stopping)
    assert not maintenance.is_prepared
    async with asyncio.timeout(10):
        await History(store, maintenance, SystemClock()).handle([accepted(id_), attempted(id_, 1)])
    assert len(await store.attempts(id_)) == 1


async def test_the_parts_of_a_call_can_be_read_back(history: History, store: Store) -> None:
    id_, timing = uuid4(), Timing(queue_ms=4, connect_ms=3, first_byte_ms=14)
    timed = msgspec.structs.replace(attempted(id_, 1), timing=timing)
    await history.handle([accepted(id_), timed, attempted(id_, 2)])
    first, second = await store.attempts(id_)
    assert first.timing is not None
    assert msgspec.json.decode(first.timing, type=Timing) == timing
    assert second.timing is None


async def test_the_latest_of_what_a_replica_says_of_a_host_is_kept(history: History, postgres: Postgres) -> None:
    def changed(state: Literal["open", "closed"], second: int, replica: str = "one") -> TargetChanged:
        until = NOW + later(second + 5) if state == "open" else None
        return TargetChanged(
            host="api.example.com", state=state, changed_at=NOW + later(second), until=until, replica=replica
        )

    await history.handle([changed("open", 1), changed("closed", 3), changed("open", 2, "two")])
    await history.handle([changed("open", 2)])
    async with postgres.acquire() as connection:
        rows = await connection.fetch("SELECT replica, state, changed_at, open_until FROM target ORDER BY 1")
    assert [tuple(row) for row in rows] == [
        ("one", "closed", NOW + later(3), None),
        ("two", "open", NOW + later(2), NOW + later(7)),
    ]


async def test_a_task_belongs_to_its_project(history: History, store: Store) -> None:
    id_ = uuid4()
    await history.handle([accepted(id_)])
    assert await store.task("other", id_) is None


async def test_a_task_is_not_there_before_its_accept_and_complete_after_it(history: History, store: Store) -> None:
    id_ = uuid4()
    await history.handle([attempted(id_, outcome="failed")])
    assert await store.task("default", id_) is None
    await history.handle([accepted(id_)])
    task = await store.task("default", id_)
    assert task is not None
    assert task.state == "failed"


async def test_the_earliest_accept_of_a_generation_wins(history: History, store: Store) -> None:
    id_ = uuid4()
    for created in (2, 1, 3):
        await history.handle([accepted(id_, created=created)])
    task = await store.task("default", id_)
    assert task is not None
    assert (task.created_at, task.fingerprint) == (NOW + later(1), "1.1")


async def test_a_redriven_task_is_scheduled_again_and_what_was_before_is_past(history: History, store: Store) -> None:
    id_ = uuid4()
    occurrence = msgspec.structs.replace(accepted(id_).task, schedule="nightly")
    await history.handle([TaskAccepted(task=occurrence), attempted(id_, 1), attempted(id_, 2, outcome="failed")])
    failed = await store.task("default", id_)
    assert failed is not None
    assert (failed.state, failed.generation, failed.reason) == ("failed", 1, "server_error")
    assert failed.schedule == "nightly"
    await history.handle([accepted(id_, generation=2)])
    task = await store.task("default", id_)
    assert task is not None
    assert (task.state, task.finished_at, task.generation, task.reason) == ("scheduled", None, 2, "")
    assert (task.last_attempt, task.first_attempt_at, task.lateness_ms) == (None, None, None)
    await history.handle([attempted(id_, 1, 0.005, "succeeded", generation=2)])
    task = await store.task("default", id_)
    assert task is not None
    assert (task.state, task.last_attempt and task.last_attempt.number, task.lateness_ms) == ("succeeded", 1, 5)
    assert [(each.generation, each.number) for each in await store.attempts(id_)] == [(1, 1), (1, 2), (2, 1)]


async def test_a_moved_task_keeps_no_attempts_because_it_had_none(history: History, store: Store) -> None:
    id_ = uuid4()
    await history.handle([attempted(id_, 1, 0.005, "succeeded", generation=3), accepted(id_, generation=3)])
    task = await store.task("default", id_)
    assert task is not None
    assert (task.generation, task.first_attempt_at, task.last_attempt is not None) == (3, NOW + later(0.005), True)


@pytest.mark.parametrize("seed", range(12))
async def test_order_repetition_and_batches_change_nothing(history: History, postgres: Postgres, seed: int) -> None:
    random = Random(seed)
    ids = [uuid4() for _ in range(3)]
    events = [_random_event(random, random.choice(ids)) for _ in range(30)]
    expected = project(events)

    replayed = events + random.choices(events, k=15)
    random.shuffle(replayed)
    while replayed:
        size = random.randint(1, 6)
        await history.handle(replayed[:size])
        replayed = replayed[size:]
    async with postgres.acquire() as connection:
        rows = {row["id"]: row for row in await connection.fetch("SELECT * FROM task WHERE id = ANY($1)", ids)}
    for id_, wanted in expected.tasks.items():
        row = rows[id_]
        assert (row["state"], row["state_order"], row["state_at"]) == (
            wanted.state.name, wanted.state.order, wanted.state.at,
        )  # fmt: skip
        assert row["fingerprint"] == (wanted.accepted.fingerprint if wanted.accepted else None)
        assert row["last_started_at"] == (wanted.last.started_at if wanted.last else None)
        assert row["first_attempt_at"] == (wanted.first.started_at if wanted.first else None)


async def test_two_writers_of_the_same_tasks_do_not_deadlock(history: History, store: Store) -> None:
    ids = [uuid4() for _ in range(50)]
    batches: list[list[Event]] = [[accepted(id_) for id_ in ids], [attempted(id_) for id_ in reversed(ids)]] * 5
    await asyncio.gather(*(history.handle(batch) for batch in batches))
    tasks = [await store.task("default", id_) for id_ in ids]
    assert {task.state for task in tasks if task} == {"retrying"}


async def test_an_attempt_of_a_day_without_a_partition_is_kept(history: History, store: Store) -> None:
    id_ = uuid4()
    await history.handle([accepted(id_), attempted(id_, started=-5 * 86_400)])
    assert len(await store.attempts(id_)) == 1


@pytest.mark.parametrize("days", [-400, 4000])
async def test_an_attempt_of_an_absurd_day_is_left_out_and_its_task_is_not(
    history: History, store: Store, days: int
) -> None:
    id_ = uuid4()
    await history.handle([accepted(id_), attempted(id_, started=days * 86_400)])
    assert await store.attempts(id_) == []
    assert await store.task("default", id_) is not None


async def test_what_postgres_refuses_is_poison(history: History) -> None:
    bad = accepted(uuid4())
    bad = TaskAccepted(task=msgspec.structs.replace(bad.task, labels={"a": "\0"}))
    with pytest.raises(Poison):
        await history.handle([bad])


async def test_a_batch_waits_for_postgres_and_is_projected_then(
    history: History, store: Store, postgres: Postgres, migrated_postgres_url: str
) -> None:
    id_ = uuid4()
    owner = await asyncpg.connect(migrated_postgres_url)
    async with owner.transaction():
        await owner.execute("LOCK TABLE ingest.task")
        handling = asyncio.create_task(history.handle([accepted(id_)]))
        await asyncio.sleep(2.5)  # past the lock timeout: at least one PostgresAway
        assert not handling.done()
    await owner.close()
    async with asyncio.timeout(10):
        await handling
    assert await store.task("default", id_) is not None


async def test_retention_removes_what_ended_long_ago_and_keeps_what_waits(
    history: History, store: Store, maintenance: Maintenance
) -> None:
    ended, waiting, recent = uuid4(), uuid4(), uuid4()
    old = -31 * 86_400
    await history.handle([accepted(ended, created=old), finished(ended, second=old)])
    await history.handle([accepted(waiting, created=old), accepted(recent), finished(recent)])
    assert await maintenance.one_pass(asyncio.Event()) == 1
    assert await store.task("default", ended) is None
    assert await store.task("default", waiting) is not None
    assert await store.task("default", recent) is not None


async def test_breakers_are_forgotten_a_day_after_their_time_is_over(
    history: History, maintenance: Maintenance, postgres: Postgres
) -> None:
    hour = 3600
    for replica, opened_at, for_s in [("gone", -25 * hour, 60), ("long", -25 * hour, 2 * hour), ("new", -hour, 60)]:
        until = NOW + later(opened_at + for_s)
        await history.handle(
            [TargetChanged(host="h", state="open", changed_at=NOW + later(opened_at), until=until, replica=replica)]
        )
    closed_at = NOW + later(-25 * hour)
    await history.handle([TargetChanged(host="h", state="closed", changed_at=closed_at, replica="closed")])
    await maintenance.one_pass(asyncio.Event())
    async with postgres.acquire() as connection:
        kept = await connection.fetch("SELECT replica FROM target ORDER BY 1")
    assert [row["replica"] for row in kept] == ["long", "new"]


async def test_a_replay_writes_no_new_row_version(history: History, postgres: Postgres) -> None:
    id_ = uuid4()
    events: list[Event] = [accepted(id_), attempted(id_), finished(id_)]
    await history.handle(events)
    async with postgres.acquire() as connection:
        before = await connection.fetchval("SELECT ctid FROM task WHERE id = $1", id_)
        await history.handle(events)
        assert await connection.fetchval("SELECT ctid FROM task WHERE id = $1", id_) == before


def _random_event(random: Random, id_: UUID) -> Event:
    generation, hop, second = random.randint(1, 3), random.randint(1, 3), random.randint(0, 5)
    match random.randint(0, 3):
        case 0:
            return accepted(id_, generation, created=second)
        case 1:
            outcome = random.choice(["retry", "failed", "succeeded"])
            return attempted(id_, random.randint(1, 3), second, outcome, generation, hop)
        case 2:
            return finished(id_, random.choice(["cancelled", "expired"]), generation, hop, second)
        case _:
            return parked(id_, generation, hop)

"""The fakes of `tests/simulation` against the servers that they stand for: the same steps, the same answers."""

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from redis.asyncio import Redis

from libs.common.contracts import AttemptFinished, Call, CancelTask, Task, encode
from libs.common.postgres import Postgres, postgres_pool
from services.dispatcher import marks as marks_module
from services.dispatcher.marks import Marks, attempt_key
from services.dispatcher.retry import Done, Fail, Retry
from services.scheduler.store import DueRow, Emit, Emitted, Row, Store
from services.scheduler.store_commands import CommandStore
from tests.simulation import redis as simulated
from tests.simulation.postgres import SimStore, Tables
from tests.simulation.redis import Memory, SimMarks
from tests.simulation.world import Life, Luck

STEPS = 150
IDS = [UUID(int=number) for number in range(1, 4)]
PAST, FAR = datetime(2020, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)


@pytest.fixture
async def scheduler_postgres(migrated_postgres_url: str) -> AsyncIterator[Postgres]:
    async with postgres_pool(
        migrated_postgres_url, role="carillon_scheduler", schema="scheduler", application_name="test"
    ) as opened:
        yield opened


class Said(NamedTuple):
    """What a fire emitted."""

    found: int
    rows: list[tuple[Any, ...]]


@pytest.mark.parametrize("seed", range(3))
async def test_the_tables_in_memory_answer_as_postgres(scheduler_postgres: Postgres, seed: int) -> None:
    dice, luck = random.Random(seed), Luck(seed, faults=0.0)
    store, commands = Store(scheduler_postgres), CommandStore(scheduler_postgres)
    await store.make_days()
    tables = Tables(luck)
    fake = SimStore(tables, Life("one"))

    for number in range(1, STEPS):
        match dice.choice(("accept", "accept", "accept", "fire", "fire", "overdue", "cancel", "come", "await")):
            case "accept":
                rows = [_row(id_, dice) for id_ in dice.sample(IDS, dice.randint(1, 3))]
                assert await fake.accept(rows) == await store.accept(rows)
            case "fire":
                ids, refused = dice.choices(IDS, k=3), set(dice.sample(IDS, 1))
                assert await _said(fake.fire_these, refused, ids) == await _said(store.fire_these, refused, ids)
            case "overdue":
                refused = set(dice.sample(IDS, 1))
                assert await _said(fake.fire_overdue, refused) == await _said(store.fire_overdue, refused)
            case "cancel":
                id_, generation = dice.choice(IDS), dice.randint(1, 3)
                command_id = UUID(int=dice.randint(max(number - 20, 1), number))
                command = CancelTask(id=id_, project="acme", command_id=command_id, generation=generation)
                assert await fake.cancel(command) == await commands.cancel(command)
            case "come":
                assert await _coming(fake) == await _coming(store)
            case "await":
                assert await fake.still_to_come(IDS, PAST) == sorted(await store.still_to_come(IDS, PAST))
        async with scheduler_postgres.acquire() as connection:
            standing = await connection.fetch("SELECT id, generation, attempt, hop, due_at FROM task ORDER BY id")
        assert [tuple(record) for record in standing] == [
            (waiting.row.id, *waiting.order, waiting.row.due_at)
            for _id, waiting in sorted(tables.rows.items(), key=lambda each: each[0].int)
        ]


@pytest.mark.parametrize("seed", range(3))
async def test_the_marks_in_memory_answer_as_redis(redis_url: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (marks_module, simulated):
        monkeypatch.setattr(module, "RENEW_EVERY_S", 0.0)  # all claims are old enough
        monkeypatch.setattr(module, "CLAIM_S", 600.0)  # none ends while one server was asked and the other not yet
    dice, memory = random.Random(seed), Memory(Luck(seed, faults=0.0))
    redis = Redis.from_url(redis_url)
    replicas = [(Marks(redis, name), SimMarks(memory, Life(name))) for name in ("one", "two")]
    try:
        for _ in range(STEPS):
            real, fake = dice.choice(replicas)
            task = _task(dice.choice(IDS), (dice.randint(1, 2), dice.randint(1, 3), 0))
            verdict = _verdict(task, dice)
            deeds = ("claim", "claim", "look", "renew", "forget", "tell", "settle", "release", "cancel", "is cancelled")
            match dice.choice(deeds):
                case "claim":
                    assert await fake.claim(task) == await real.claim(task)
                case "look":
                    assert await fake.look(task) == await real.look(task)
                case "renew":
                    await fake.renew()
                    await real.renew()
                case "forget":  # as it does when a claim has ended
                    memory.delete("attempt", task.id, task.generation, task.attempt)
                    await redis.delete(attempt_key(task))
                case "tell":
                    assert await fake.tell(task, verdict) == await real.tell(task, verdict)
                case "settle":
                    await fake.settle(task, verdict, 60.0)
                    await real.settle(task, verdict, 60.0)
                case "release":
                    await fake.release(task)
                    await real.release(task)
                case "cancel":
                    assert await fake.cancel(task.id, task.generation) == await real.cancel(task.id, task.generation)
                case "is cancelled":
                    assert await fake.is_cancelled(task) == await real.is_cancelled(task)
    finally:
        await redis.aclose()


async def _said(fire: Any, refused: set[UUID], *ids: Sequence[UUID]) -> Said:
    rows: list[tuple[Any, ...]] = []

    async def emit(given: Sequence[DueRow]) -> Emitted:
        rows.extend(tuple(row[:-1]) for row in given)
        some = [row for row in given if row.id not in refused]
        return Emitted([row.id for row in some if not row.is_expired], [row.id for row in some if row.is_expired])

    emitting: Emit = emit
    return Said(await fire(*ids, emitting), rows)


async def _coming(store: Any) -> list[Any]:
    """Of one moment they come in any order."""
    return sorted([each async for some in store.coming(PAST, FAR, 100) for each in some])


def _task(id_: UUID, order: tuple[int, int, int]) -> Task:
    generation, attempt, hop = order
    return Task(
        id=id_,
        project="acme",
        generation=generation,
        attempt=attempt,
        hop=hop,
        created_at=PAST,
        due_at=PAST,
        fingerprint="a",
        call=msgspec.Raw(encode(Call(url="http://target.test/"))),
    )


def _row(id_: UUID, dice: random.Random) -> Row:
    task = _task(id_, (dice.randint(1, 3), dice.randint(1, 3), dice.randint(0, 3)))
    due_at, expires_at = dice.choice((PAST, FAR)), dice.choice((None, None, PAST, FAR))
    fingerprint = dice.choice("aaaab")
    return Row(id_, *task.order, due_at, expires_at, "acme", fingerprint, encode(task))


def _verdict(task: Task, dice: random.Random) -> Done | Retry | Fail:
    event = AttemptFinished(
        id=task.id,
        project="acme",
        generation=task.generation,
        attempt=task.attempt,
        hop=0,
        due_at=PAST,
        started_at=PAST,
        duration_ms=1,
        outcome="succeeded",
        replica="one",
    )
    return dice.choice((Done(event), Retry(event, FAR, 1000), Fail(event)))

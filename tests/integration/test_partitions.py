import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta

import asyncpg
import pytest

from libs.common.partitions import drop_days, ensure_days, partition_name
from libs.common.postgres import Connection, Postgres, PostgresAway, postgres_pool

ROLE, SCHEMA = "carillon_test_partitions", "test_partitions"
TODAY = date(2026, 11, 21)
PARENT = """
CREATE TABLE task_done (day date NOT NULL, id int NOT NULL, cause text DEFAULT 'fired' CHECK (cause <> ''),
                        PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE INDEX ON task_done (cause);
"""


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Postgres]:
    owner = await asyncpg.connect(postgres_url)
    if not await owner.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", ROLE):
        await owner.execute(f"CREATE ROLE {ROLE} NOLOGIN")
        await owner.execute(f"GRANT {ROLE} TO CURRENT_USER")
    await owner.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    await owner.execute(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {ROLE}")
    async with postgres_pool(postgres_url, role=ROLE, schema=SCHEMA, application_name="test") as opened:
        async with opened.acquire() as connection:
            await connection.execute(PARENT)
        yield opened
    await owner.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    await owner.close()


@pytest.fixture
async def connection(postgres: Postgres) -> AsyncIterator[Connection]:
    async with postgres.acquire() as acquired:
        yield acquired


async def ensure(connection: Connection, first: date = TODAY, days: int = 3) -> list[str]:
    return await ensure_days(connection, SCHEMA, "task_done", first=first, days=days)


async def drop(connection: Connection, keep_from: date) -> list[str]:
    return await drop_days(connection, SCHEMA, "task_done", keep_from=keep_from)


async def tables(connection: Connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r' ORDER BY 1",
        SCHEMA,
    )
    return [row["relname"] for row in rows]


async def test_each_day_gets_a_partition_that_takes_its_rows(connection: Connection) -> None:
    made = await ensure(connection)

    await connection.execute("INSERT INTO task_done (day, id) VALUES ($1, 1)", TODAY + timedelta(days=2))
    assert made == ["task_done_p20261121", "task_done_p20261122", "task_done_p20261123"]
    assert await connection.fetchval("SELECT cause FROM task_done_p20261123") == "fired"


async def test_a_partition_has_the_keys_and_checks_of_its_parent(connection: Connection) -> None:
    await ensure(connection)

    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("INSERT INTO task_done VALUES ($1, 1, '')", TODAY)
    indexes = await connection.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent IN "
        "('task_done_pkey'::regclass, 'task_done_cause_idx'::regclass)"
    )
    assert indexes == 2 * 3


async def test_what_is_there_already_is_not_made_again(connection: Connection) -> None:
    await ensure(connection)

    assert await ensure(connection) == []
    assert await ensure(connection, days=4) == ["task_done_p20261124"]


async def test_two_replicas_may_make_the_same_days_at_once(postgres: Postgres) -> None:
    async def replica() -> list[str]:
        async with postgres.acquire() as connection:
            return await ensure(connection, days=10)

    made = await asyncio.gather(*(replica() for _ in range(4)))

    assert sorted(name for names in made for name in names) == [
        partition_name("task_done", TODAY + timedelta(days=n)) for n in range(10)
    ]


async def test_a_partition_is_made_while_rows_are_being_written(postgres: Postgres, connection: Connection) -> None:
    await ensure(connection, days=1)

    async with postgres.acquire() as writer, writer.transaction():
        await writer.execute("INSERT INTO task_done (day, id) VALUES ($1, 1)", TODAY)
        assert await ensure(connection, days=2) == ["task_done_p20261122"]


async def test_only_days_before_the_first_to_keep_are_dropped(connection: Connection) -> None:
    await ensure(connection)

    assert await drop(connection, TODAY + timedelta(days=2)) == ["task_done_p20261121", "task_done_p20261122"]
    assert await tables(connection) == ["task_done_p20261123"]
    assert await drop(connection, TODAY + timedelta(days=2)) == []


async def test_a_table_with_a_longer_name_is_left_alone(connection: Connection) -> None:
    await connection.execute(
        "CREATE TABLE task_done_p20200101_copy (); CREATE TABLE task_done_parked (); CREATE TABLE other_p20200101 ()"
    )

    assert await drop(connection, TODAY) == []


async def test_a_partition_that_was_detached_and_not_dropped_is_dropped_at_the_next_call(
    connection: Connection,
) -> None:
    await ensure(connection)
    await connection.execute("ALTER TABLE task_done DETACH PARTITION task_done_p20261121")

    assert await drop(connection, TODAY + timedelta(days=1)) == ["task_done_p20261121"]


async def test_a_detach_that_was_cut_off_is_finished_at_the_next_call(
    postgres: Postgres, connection: Connection
) -> None:
    await ensure(connection)

    async def drop_in_a_hurry() -> None:
        async with postgres.acquire() as other:
            await other.execute("SET lock_timeout = 50")
            await drop(other, TODAY + timedelta(days=1))

    async with postgres.acquire() as reader, reader.transaction():
        await reader.execute("SELECT FROM task_done")
        with pytest.raises(PostgresAway):  # it waits for the reader until its lock_timeout
            await drop_in_a_hurry()
    pending = await connection.fetchval("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")

    assert pending == 1
    assert await drop(connection, TODAY + timedelta(days=1)) == ["task_done_p20261121"]
    assert await ensure(connection) == ["task_done_p20261121"]


async def test_only_one_replica_drops_at_a_time(postgres: Postgres, connection: Connection) -> None:
    await ensure(connection, days=8)

    async def replica() -> list[str]:
        async with postgres.acquire() as acquired:
            return await drop(acquired, TODAY + timedelta(days=7))

    dropped = await asyncio.gather(*(replica() for _ in range(4)))

    assert sum(len(names) for names in dropped) == 7
    assert await tables(connection) == ["task_done_p20261128"]

"""The scheduler's tables: the rows that wait, and the tombstones of those that have gone.

Postgres is the truth and the fence: its clock decides what is due, its row locks which replica emits it.
Every method is one idempotent unit: repeat it whole when it raises `PostgresAway`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from libs.common.partitions import drop_days, ensure_days
from libs.common.postgres import Connection, Postgres

FIRE_ROWS_MAX = 500
FIRE_BYTES_MAX = 4 * 1024 * 1024
# The sweep leaves alone what the wheels are probably firing right now.
OVERDUE = timedelta(seconds=2)
COMING_ROWS = 500
PARTITION_DAYS_AHEAD = 7
SHARDS = 1024


class BadRow(Exception):
    """Postgres refuses the data itself (SQLSTATE class 22 or 23): no repetition will help."""


class Row(NamedTuple):
    """One task as it waits. `message` is the JSON of its `contracts.Task`."""

    id: UUID
    generation: int
    attempt: int
    hop: int
    due_at: datetime
    expires_at: datetime | None
    project: str
    fingerprint: str
    message: bytes


class First(NamedTuple):
    """What stands under an id already. `message` and `due_at` are None when only its tombstone is left.

    `fingerprint` is empty where a cancel came before the task it is for; `has_left` where it came when that was due.
    """

    fingerprint: str
    message: bytes | None
    due_at: datetime | None
    is_cancelled: bool = False
    has_left: bool = False


class Accepted(NamedTuple):
    """`held` are the ids whose row is the one given; `earlier` what the others met."""

    held: frozenset[UUID]
    earlier: Mapping[UUID, First]


class DueRow(NamedTuple):
    """A row that is due, locked by the transaction that read it. `now` is Postgres' clock.

    `is_moved`: a command gave it the time that has come, and may have died before the history heard of it.
    """

    id: UUID
    generation: int
    attempt: int
    hop: int
    due_at: datetime
    is_expired: bool
    is_moved: bool
    project: str
    message: bytes
    now: datetime


class Emitted(NamedTuple):
    """What the broker confirmed of a fired batch."""

    fired: Sequence[UUID]
    expired: Sequence[UUID]


Emit = Callable[[Sequence[DueRow]], Awaitable[Emitted]]

# DO UPDATE waits for a row that is being fired; DO NOTHING would not, and would lose a return that arrives between
# the fire's publish and its commit. Ordered by id, so that two replicas cannot deadlock.
_INSERT = """
    INSERT INTO task (id, generation, attempt, hop, due_at, expires_at, shard, size, project, fingerprint, message)
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::timestamptz[], $6::timestamptz[],
                         $7::smallint[], $8::int[], $9::text[], $10::text[], $11::bytea[]) ORDER BY 1
    ON CONFLICT (id) DO UPDATE
        SET generation = excluded.generation, attempt = excluded.attempt, hop = excluded.hop, due_at = excluded.due_at,
            expires_at = excluded.expires_at, size = excluded.size, message = excluded.message
        WHERE (excluded.generation, excluded.attempt, excluded.hop) > (task.generation, task.attempt, task.hop)
          AND excluded.fingerprint = task.fingerprint
    RETURNING id
"""
# A second statement, because it needs a newer snapshot than the insert's: the fire may have committed in between.
# Materialized, step by step: told by old statistics that a table is empty, the planner would scan it once per id.
_DELETE_COVERED = """
    WITH done AS MATERIALIZED (
        SELECT id, generation, attempt, hop, cause, fingerprint, project FROM task_done WHERE id = ANY($1::uuid[])
    ), covered AS MATERIALIZED (
        SELECT task.id, max(done.fingerprint) AS fingerprint,
               bool_and(done.cause IN ('cancelled', 'noted')) AS is_cancelled,
               bool_or(done.cause = 'noted' AND done.fingerprint <> '') AS has_left
        FROM done JOIN task ON task.id = done.id AND coalesce(done.project, task.project) = task.project
        WHERE task.id = ANY($1::uuid[])
          AND (done.generation, done.attempt, done.hop) >= (task.generation, task.attempt, task.hop)
        GROUP BY task.id
    )
    DELETE FROM task USING covered WHERE task.id = covered.id RETURNING covered.*
"""
_EARLIER = "SELECT id, fingerprint, message, due_at FROM task WHERE id = ANY($1::uuid[])"

_DUE = """
    SELECT id, generation, attempt, hop, due_at, coalesce(expires_at <= clock_timestamp(), false) AS is_expired,
           command_id IS NOT NULL AND (attempt, hop) = (1, 0) AS is_moved, size, project, message
    FROM task WHERE {condition} FOR UPDATE SKIP LOCKED
"""
_LOCK = """
    WITH due AS MATERIALIZED ({due}),
         sized AS (SELECT *, sum(size) OVER (ORDER BY due_at, id) - size AS bytes_before FROM due)
    SELECT id, generation, attempt, hop, due_at, is_expired, is_moved, project, message, clock_timestamp() AS now
    FROM sized WHERE bytes_before < $2 ORDER BY due_at, id
"""
_LOCK_THESE = _LOCK.format(due=_DUE.format(condition="id = ANY($1::uuid[]) AND due_at <= clock_timestamp()"))
# The clock in a sub-select is read once, and so can bound an index scan; compared row by row it would be a filter for
# all that wait.
_LOCK_OVERDUE = _LOCK.format(
    due=_DUE.format(condition="due_at < (SELECT clock_timestamp() - $3::interval) ORDER BY due_at LIMIT $1")
)
_STILL_TO_COME = "SELECT id, due_at FROM task WHERE id = ANY($1::uuid[]) AND due_at > least($2, clock_timestamp())"
_BURY = """
    WITH gone AS (
        DELETE FROM task WHERE id = ANY($1::uuid[])
        RETURNING id, generation, attempt, hop, $2, fingerprint, project, command_id
    )
    INSERT INTO task_done (id, generation, attempt, hop, cause, fingerprint, project, command_id) SELECT * FROM gone
"""
_TODAY = "SELECT (now() AT TIME ZONE 'UTC')::date"
_COMING = """
    SELECT id, due_at FROM task WHERE due_at > $1 AND due_at <= $2 AND shard % $4 = $5 ORDER BY due_at LIMIT $3
"""
_OVERDUE_STATE = """
    SELECT count(*) AS tasks, coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float8 AS oldest_s
    FROM (SELECT due_at FROM task WHERE due_at < (SELECT clock_timestamp() - $1::interval)
          ORDER BY due_at LIMIT 100000) AS late
"""


# Estimates of the statistics collector: counting ten million rows would cost more than it tells.
_VITALS = """
    SELECT table_.n_live_tup AS waiting, table_.n_dead_tup AS dead,
           coalesce((SELECT extract(epoch FROM clock_timestamp() - min(xact_start)) FROM pg_stat_activity
                     WHERE datname = current_database()), 0)::float8 AS oldest_transaction_s
    FROM pg_stat_user_tables AS table_ WHERE table_.relid = 'task'::regclass
"""


class Vitals(NamedTuple):
    """Rows that wait and dead ones, about; and for how many seconds the oldest transaction has been open."""

    waiting: int
    dead: int
    oldest_transaction_s: float


class Store:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def accept(self, rows: Sequence[Row]) -> Accepted:
        """Hold each row unless its id is known at the same order or above. One row per id, please.

        Raises: BadRow when the data is refused; halve the batch to find the one at fault.
        """
        ids = [row.id for row in rows]
        try:
            async with self._postgres.acquire() as connection, connection.transaction():
                inserted = await connection.fetch(_INSERT, *_columns(rows))
                covered = await connection.fetch(_DELETE_COVERED, ids)
                held = {record["id"] for record in inserted} - {record["id"] for record in covered}
                earlier = {id_: First(fingerprint, None, None, *cancel) for id_, fingerprint, *cancel in covered}
                if unknown := [id_ for id_ in ids if id_ not in held and id_ not in earlier]:
                    for id_, *first in await connection.fetch(_EARLIER, unknown):
                        earlier[id_] = First(*first)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise BadRow(str(error)) from error
        return Accepted(frozenset(held), earlier)

    async def fire_these(self, ids: Sequence[UUID], emit: Emit) -> int:
        """Emit those of `ids` that are due and that no other replica has in hand; gives how many it found."""
        async with self._postgres.acquire() as connection, connection.transaction():
            return await self._fire(connection, await connection.fetch(_LOCK_THESE, ids, FIRE_BYTES_MAX), emit)

    async def fire_overdue(self, emit: Emit) -> int:
        """Emit the oldest overdue rows, whoever should have; gives how many it found."""
        async with self._postgres.acquire() as connection, connection.transaction():
            rows = await connection.fetch(_LOCK_OVERDUE, FIRE_ROWS_MAX, FIRE_BYTES_MAX, OVERDUE)
            return await self._fire(connection, rows, emit)

    async def still_to_come(self, ids: Sequence[UUID], since: datetime) -> list[tuple[UUID, datetime]]:
        """(id, due_at) of those of `ids` that wait for their time, or have reached it only after `since`."""
        async with self._postgres.acquire() as connection:
            return [(r["id"], r["due_at"]) for r in await connection.fetch(_STILL_TO_COME, ids, since)]

    async def coming(
        self, after: datetime, until: datetime, limit: int, *, part: int = 0, parts: int = 1
    ) -> AsyncIterator[Sequence[tuple[UUID, datetime]]]:
        """(id, due_at) of what is due in (after, until], soonest first, of one part of all shards; some at a time.

        So that the loop which wakes for the next millisecond is never kept by a large horizon.
        """
        async with self._postgres.acquire() as connection, connection.transaction(readonly=True):
            rows = await connection.cursor(_COMING, after, until, limit, parts, part)
            while some := await rows.fetch(COMING_ROWS):
                yield [(record["id"], record["due_at"]) for record in some]

    async def now(self) -> datetime:
        async with self._postgres.acquire() as connection:
            now: datetime = await connection.fetchval("SELECT clock_timestamp()")
            return now

    async def overdue(self) -> tuple[int, float]:
        """How many tasks are overdue (counted up to 100,000), and by how many seconds the oldest is."""
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_OVERDUE_STATE, OVERDUE)
            assert record is not None
            return record["tasks"], record["oldest_s"]

    async def vitals(self) -> Vitals:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_VITALS)
            assert record is not None
            return Vitals(*record)

    async def make_days(self) -> None:
        """Make the tombstones' partitions of the days ahead, by the clock that dates them."""
        async with self._postgres.acquire() as connection:
            today: date = await connection.fetchval(_TODAY)
            # Yesterday too: a clock that is put back just after midnight finds a place for its tombstones.
            first, days = today - timedelta(days=1), PARTITION_DAYS_AHEAD + 2
            await ensure_days(connection, "scheduler", "task_done", first=first, days=days)

    async def drop_days(self, keep_days: int) -> None:
        """Drop the tombstones of days past. Raises: PostgresAway too while somebody still reads one of them."""
        async with self._postgres.acquire() as connection:
            today: date = await connection.fetchval(_TODAY)
            await drop_days(connection, "scheduler", "task_done", keep_from=today - timedelta(days=keep_days))

    async def _fire(self, connection: Connection, records: Sequence[asyncpg.Record], emit: Emit) -> int:
        if not records:
            return 0
        emitted = await emit([DueRow(*record) for record in records])
        if emitted.fired:
            await connection.execute(_BURY, emitted.fired, "fired")
        if emitted.expired:
            await connection.execute(_BURY, emitted.expired, "expired")
        return len(records)


def shard_of(id_: UUID) -> int:
    return id_.int % SHARDS


def _columns(rows: Sequence[Row]) -> tuple[list[object], ...]:
    return (
        [row.id for row in rows],
        [row.generation for row in rows],
        [row.attempt for row in rows],
        [row.hop for row in rows],
        [row.due_at for row in rows],
        [row.expires_at for row in rows],
        [shard_of(row.id) for row in rows],
        [len(row.message) for row in rows],
        [row.project for row in rows],
        [row.fingerprint for row in rows],
        [row.message for row in rows],
    )

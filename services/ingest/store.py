"""Ingest's tables: the history of tasks and attempts, and the parked messages.

A row of `task` is four registers that only move up (`projection.py`), so every write may be repeated and come in any
order. Each method is one idempotent unit: repeat it whole when it raises `PostgresAway`.
"""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

import asyncpg
import msgspec

from libs.common.contracts import AttemptFinished, TargetChanged
from libs.common.lifecycle import Fatal
from libs.common.partitions import drop_days, ensure_days
from libs.common.postgres import Postgres
from services.ingest.projection import (
    GENERATION_SHIFT,
    TaskHistory,
    attempt_generation_of,
    generation_of,
    storable,
)
from services.ingest.rows import attempt_row, day_of, target_row, task_row
from services.ingest.store_calls import add_calls, counted, forget_calls
from services.ingest.stored import LastAttempt, ParkedMessage, StoredAttempt, StoredTask

ATTEMPTS_READ_MAX = 1_000
DELETE_BATCH = 1_000

# Register by register: its columns, and when the row that comes beats the one that is there. A comparison with a null
# (nothing there yet, or nothing new) happens only between equal orders and is then no win.
_STATE = ("state", "state_order", "state_at", "reason")
_STATE_WINS = (
    "(excluded.state_order, excluded.state_at, excluded.reason) > (task.state_order, task.state_at, task.reason)"
)
_ACCEPTED = (
    "accepted_generation", "created_at", "due_at", "expires_at", "fingerprint", "labels", "call", "url", "method",
    "schedule",
)  # fmt: skip
_ACCEPTED_WINS = (
    "(excluded.accepted_generation, task.created_at) > (task.accepted_generation, excluded.created_at)"
    " AND excluded.accepted_generation > task.purged_generation"
)
_LAST = ("last_order", "last_attempt", "last_started_at", "last_status_code", "last_error", "last_duration_ms")
_LAST_WINS = "(excluded.last_order, excluded.last_started_at) > (task.last_order, task.last_started_at)"
_FIRST = ("first_order", "first_attempt_at", "lateness_ms")
_FIRST_WINS = "(excluded.first_order, task.first_attempt_at) > (task.first_order, excluded.first_attempt_at)"


def _taken(columns: Sequence[str], wins: str) -> str:
    return ", ".join(f"{name} = CASE WHEN {wins} THEN excluded.{name} ELSE task.{name} END" for name in columns)


# Ordered by id, so that two replicas cannot deadlock. A replay changes nothing and writes no new row version; what is
# told of a generation that was purged changes nothing either.
_MERGE = f"""
    INSERT INTO task (id, project, {", ".join((*_STATE, *_ACCEPTED, *_LAST, *_FIRST))})
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::text[],
                         $7::int[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::jsonb[],
                         $13::bytea[], $14::text[], $15::text[], $16::text[], $17::bigint[], $18::int[],
                         $19::timestamptz[], $20::int[], $21::text[], $22::bigint[], $23::bigint[],
                         $24::timestamptz[], $25::bigint[]) ORDER BY 1
    ON CONFLICT (id) DO UPDATE SET
        {_taken(_STATE, _STATE_WINS)},
        {_taken(_ACCEPTED, _ACCEPTED_WINS)},
        {_taken(_LAST, _LAST_WINS)},
        {_taken(_FIRST, _FIRST_WINS)}
    WHERE excluded.state_order >> {GENERATION_SHIFT} > task.purged_generation
      AND ({_STATE_WINS} OR {_ACCEPTED_WINS} OR {_LAST_WINS} OR {_FIRST_WINS})
"""  # noqa: S608 - made of the constants above
_ADD_ATTEMPTS = """
    INSERT INTO attempt (task_id, generation, attempt, day, hop, due_at, started_at, duration_ms, outcome, status_code,
                         error, error_detail, next_attempt_at, response_headers, response_body, replica, timing)
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::date[], $5::int[], $6::timestamptz[], $7::timestamptz[],
                         $8::bigint[], $9::text[], $10::int[], $11::text[], $12::text[], $13::timestamptz[],
                         $14::bytea[], $15::bytea[], $16::text[], $17::bytea[]) AS told (task_id, generation)
    WHERE NOT EXISTS (SELECT FROM task WHERE task.id = told.task_id AND task.purged_generation > 0
                          AND task.purged_generation >= told.generation)
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING RETURNING task_id, generation, attempt
"""
_TELL_TARGETS = """
    INSERT INTO target (host, replica, state, changed_at, open_until, reason)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[])
    ORDER BY 1, 2
    ON CONFLICT (host, replica) DO UPDATE
        SET state = excluded.state, changed_at = excluded.changed_at, open_until = excluded.open_until,
            reason = excluded.reason
        WHERE excluded.changed_at > target.changed_at
"""
TASK_COLUMNS = """
    id, project, created_at, due_at, expires_at, fingerprint, labels, call, state, state_at, state_order, reason,
    finished_at, first_order, first_attempt_at, lateness_ms, last_order, last_attempt, last_status_code, last_error,
    last_duration_ms, schedule
"""
_TASK = f"SELECT {TASK_COLUMNS} FROM task WHERE id = $1 AND project = $2 AND accepted_generation > 0"  # noqa: S608
_CALL = "SELECT call FROM task WHERE id = $1"
# A call that was made twice around midnight stands on two days.
_ATTEMPTS = """
    SELECT DISTINCT ON (generation, attempt) generation, attempt, due_at, started_at, duration_ms, status_code, error,
           error_detail, next_attempt_at, response_headers, response_body, timing
    FROM attempt WHERE task_id = $1 ORDER BY generation, attempt, started_at LIMIT $2
"""
_PARK = """
    INSERT INTO parked (message_id, parked_at, origin, cause, crashes, headers, body, project, task_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
"""
_CHANGE = """
    INSERT INTO change (project, number) SELECT project, 1 FROM unnest($1::text[]) AS told (project) ORDER BY 1
    ON CONFLICT (project) DO UPDATE SET number = change.number + 1
"""
_FORGET = """
    DELETE FROM task WHERE id IN (
        SELECT id FROM task WHERE finished_at < $1 ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)
"""
_FORGET_BULKS = "DELETE FROM bulk WHERE finished_at < $1"
_FORGET_TARGETS = "DELETE FROM target WHERE greatest(changed_at, open_until) < $1"
_FORGET_CLEARINGS = "DELETE FROM clearing WHERE finished_at < $1"


class Store:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def save(
        self,
        tasks: Sequence[TaskHistory],
        attempts: Sequence[AttemptFinished],
        targets: Sequence[TargetChanged] = (),
    ) -> None:
        """Merge what a batch said into the history. One row per task, and per target and replica, please.

        Raises: asyncpg.DataError or IntegrityConstraintViolationError when the data is refused.
        """
        try:
            await self._save(tasks, attempts, targets)
        except asyncpg.CheckViolationError:  # there is no partition for a day: an event came late
            async with self._postgres.acquire() as connection:
                for day in sorted({day_of(attempt) for attempt in attempts}):
                    await ensure_days(connection, "ingest", "attempt", first=day, days=1)
            await self._save(tasks, attempts, targets)

    async def task(self, project: str, id_: UUID) -> StoredTask | None:
        """None when it is unknown, another project's, or not accepted yet."""
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_TASK, id_, project)
        return None if record is None else stored_task(record)

    async def call(self, id_: UUID) -> bytes | None:
        """The JSON of a task's `contracts.Call`, whosever it is."""
        async with self._postgres.acquire() as connection:
            call: bytes | None = await connection.fetchval(_CALL, id_)
            return call

    async def attempts(self, id_: UUID) -> list[StoredAttempt]:
        """The first thousand calls, oldest first."""
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_ATTEMPTS, id_, ATTEMPTS_READ_MAX)
        return [StoredAttempt(*record) for record in records]

    async def park(self, parked: ParkedMessage, now: datetime) -> None:
        """Keep a message for a person, once however often it comes."""
        async with self._postgres.acquire() as connection:
            await connection.execute(
                _PARK,
                parked.message_id,
                now,
                parked.origin,
                parked.cause,
                parked.crashes,
                parked.headers,
                parked.body,
                parked.project,
                parked.task_id,
            )

    async def make_days(self, first: date, days: int) -> None:
        """Make the attempts' partitions. Raises: Fatal when the tables are not there."""
        try:
            async with self._postgres.acquire() as connection:
                await ensure_days(connection, "ingest", "attempt", first=first, days=days)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            raise Fatal(
                f"PostgreSQL has no history tables ({error}): run the set-up step (python -m deploy.setup) with the"
                " same CARILLON_POSTGRES_URL as this service"
            ) from error

    async def drop_attempts(self, keep_from: date) -> None:
        async with self._postgres.acquire() as connection:
            await drop_days(connection, "ingest", "attempt", keep_from=keep_from)

    async def forget_tasks(self, finished_before: datetime) -> int:
        """Delete one batch of tasks that ended before; gives how many it were."""
        async with self._postgres.acquire() as connection:
            status = await connection.execute(_FORGET, finished_before, DELETE_BATCH)
        return int(status.rpartition(" ")[2])

    async def forget_bulks(self, finished_before: datetime) -> None:
        """The commands for many tasks, and for many parked messages, that were carried out before."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_FORGET_BULKS, finished_before)
            await connection.execute(_FORGET_CLEARINGS, finished_before)

    async def forget_targets(self, over_before: datetime) -> None:
        """What was told of breakers that have closed, or were to try again, before. One that is open tells anew."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_FORGET_TARGETS, over_before)

    async def forget_calls(self, minutes_before: datetime, hours_before: datetime) -> None:
        """What was counted by the minute and by the hour before."""
        async with self._postgres.acquire() as connection:
            await forget_calls(connection, minutes_before, hours_before)

    async def _save(
        self, tasks: Sequence[TaskHistory], attempts: Sequence[AttemptFinished], targets: Sequence[TargetChanged]
    ) -> None:
        async with self._postgres.acquire() as connection, connection.transaction():
            if tasks:
                await connection.execute(_MERGE, *zip(*map(task_row, tasks), strict=True))
            if targets:
                await connection.execute(_TELL_TARGETS, *zip(*map(target_row, targets), strict=True))
            if attempts:
                added = await connection.fetch(_ADD_ATTEMPTS, *zip(*map(attempt_row, attempts), strict=True))
                await add_calls(connection, counted(attempts, added))
            if tasks:  # last, as the counts: whoever tells of the same project waits from here to the commit
                await connection.execute(_CHANGE, sorted({storable(history.project) for history in tasks}))


def stored_task(record: asyncpg.Record) -> StoredTask:
    """A row of `TASK_COLUMNS`. Attempts of an earlier generation are past: a redriven task has none yet."""
    generation = generation_of(record["state_order"])
    has_begun = attempt_generation_of(record["first_order"]) == generation
    has_ended = attempt_generation_of(record["last_order"]) == generation
    return StoredTask(
        id=record["id"],
        project=record["project"],
        created_at=record["created_at"],
        due_at=record["due_at"],
        expires_at=record["expires_at"],
        fingerprint=record["fingerprint"],
        labels=msgspec.json.decode(record["labels"]),
        call=msgspec.Raw(record["call"]),
        state=record["state"],
        state_at=record["state_at"],
        finished_at=record["finished_at"],
        first_attempt_at=record["first_attempt_at"] if has_begun else None,
        lateness_ms=record["lateness_ms"] if has_begun else None,
        last_attempt=_last_attempt(record) if has_ended else None,
        generation=generation,
        reason=record["reason"],
        schedule=record["schedule"],
    )


def _last_attempt(record: asyncpg.Record) -> LastAttempt:
    names = ("last_attempt", "last_status_code", "last_error", "last_duration_ms")
    return LastAttempt(*(record[name] for name in names))

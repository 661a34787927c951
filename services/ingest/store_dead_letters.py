"""Ingest's dead letters by what they have in common, and the work of clearing a whole cause away.

`sees_nobodys`: whoever may see all projects sees what no project can be read from as well. The row of a clearing is the
work: whoever holds its lease does the next step.
"""

# ruff: noqa: S608  made of the constants below; what comes from outside is a numbered parameter

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from libs.common.postgres import Postgres
from services.ingest.store_parked import DeadLetter, ParkedPlace

CAUSES_MAX = 200
LEASE_S = 60
ClearingAction = Literal["redrive", "drop"]

_VISIBLE = "(project = $1 OR ($2 AND project IS NULL))"
# Null stands for the messages of no project.
_OWNED = "(project = $1 OR ($1::text IS NULL AND project IS NULL))"
_CAUSE = """
    cause_digest, project IS NULL AS is_nobodys, min(origin) AS origin, min(cause) AS cause, count(*) AS count,
    min(parked_at) AS oldest, max(parked_at) AS newest, max(message_id) AS sample
"""
_CAUSES = f"""
    SELECT {_CAUSE} FROM parked WHERE {_VISIBLE} GROUP BY cause_digest, project IS NULL
    ORDER BY count(*) DESC, cause_digest LIMIT {CAUSES_MAX + 1}
"""
_ONE_CAUSE = f"SELECT {_CAUSE} FROM parked WHERE {_OWNED} AND cause_digest = $2 GROUP BY cause_digest, project IS NULL"
_COLUMNS = "message_id, parked_at, origin, cause, crashes, project, task_id"
_OF_CAUSE = f"""
    SELECT {_COLUMNS} FROM parked WHERE {_OWNED} AND cause_digest = $2
      AND ($3::timestamptz IS NULL OR (parked_at, message_id) < ($3, $4))
    ORDER BY parked_at DESC, message_id DESC LIMIT $5
"""
_SHOW = f"SELECT {_COLUMNS}, headers, body FROM parked WHERE {_VISIBLE} AND message_id = $3"
_DROP = f"DELETE FROM parked WHERE {_VISIBLE} AND message_id = ANY($3::text[])"

_CLEARING = """
    id, project, action, cause_digest, origin, cause, reason, matched, submitted_at, submitted_by, after_parked_at,
    after_message_id, done, left_alone, leased_until, finished_at
"""
_ADD = """
    INSERT INTO clearing (id, project, action, cause_digest, origin, cause, reason, matched, submitted_at, submitted_by)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING
"""
_SHOW_CLEARING = f"SELECT {_CLEARING} FROM clearing WHERE {_VISIBLE} AND id = $3"
_UNDER_WAY = f"SELECT {_CLEARING} FROM clearing WHERE {_VISIBLE} AND finished_at IS NULL ORDER BY id LIMIT {CAUSES_MAX}"
_CLAIM = f"""
    UPDATE clearing SET leased_until = clock_timestamp() + interval '{LEASE_S} s' WHERE id = (
        SELECT id FROM clearing WHERE finished_at IS NULL
            AND (leased_until IS NULL OR leased_until <= clock_timestamp())
        ORDER BY leased_until NULLS FIRST, id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING {_CLEARING}
"""
_NEXT = f"""
    SELECT {_COLUMNS}, headers, body FROM parked WHERE {_OWNED} AND cause_digest = $2 AND parked_at <= $3
      AND ($4::timestamptz IS NULL OR (parked_at, message_id) > ($4, $5))
    ORDER BY parked_at, message_id LIMIT $6
"""
_STEP = """
    UPDATE clearing SET after_parked_at = $3, after_message_id = $4, done = done + $5, left_alone = left_alone + $6,
                        leased_until = clock_timestamp(), finished_at = CASE WHEN $7 THEN clock_timestamp() END
    WHERE id = $1 AND leased_until = $2
"""


class Cause(NamedTuple):
    """What was parked by one queue's consumer for one reason. `sample` is the id of one of the messages."""

    digest: str
    is_nobodys: bool
    origin: str
    cause: str
    messages: int
    oldest: datetime
    newest: datetime
    sample: str


class Clearing(NamedTuple):
    """Redrive or drop all of a cause that were there at `submitted_at`, oldest first. `after`: the last looked at."""

    id: UUID
    project: str | None
    action: ClearingAction
    cause_digest: str
    origin: str
    cause: str
    reason: str
    matched: int
    submitted_at: datetime
    submitted_by: str
    after: ParkedPlace | None = None
    done: int = 0
    left_alone: int = 0
    leased_until: datetime | None = None
    finished_at: datetime | None = None


def cause_digest(origin: str, cause: str) -> str:
    """As the migration computes it."""
    return hashlib.md5(f"{origin}\x1f{cause}".encode(), usedforsecurity=False).hexdigest()


class DeadLetterStore:
    """What pages need. All raise PostgresAway."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def causes(self, project: str, *, sees_nobodys: bool) -> list[Cause]:
        """The largest first; `CAUSES_MAX` and one more when there are more."""
        async with self._postgres.acquire() as connection:
            return [Cause(*record) for record in await connection.fetch(_CAUSES, project, sees_nobodys)]

    async def cause(self, owner: str | None, digest: str) -> Cause | None:
        """None when nothing stands there for it (any more)."""
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_ONE_CAUSE, owner, digest)
        return None if record is None else Cause(*record)

    async def page(self, owner: str | None, digest: str, before: ParkedPlace | None, limit: int) -> list[DeadLetter]:
        """Newest first, without headers and bodies."""
        place = (None, None) if before is None else before
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_OF_CAUSE, owner, digest, *place, limit)
        return [DeadLetter(*record) for record in records]

    async def show(self, project: str, message_id: str, *, sees_nobodys: bool) -> DeadLetter | None:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SHOW, project, sees_nobodys, message_id)
        return None if record is None else DeadLetter(*record)

    async def drop(self, project: str, message_ids: Sequence[str], *, sees_nobodys: bool) -> int:
        """How many were still there."""
        async with self._postgres.acquire() as connection:
            told = await connection.execute(_DROP, project, sees_nobodys, message_ids)
        return _count(told)


class ClearingStore:
    """All raise PostgresAway."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def add(self, clearing: Clearing) -> None:
        """Once, however often it is sent."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_ADD, *clearing[:10])

    async def show(self, project: str, id_: UUID, *, sees_nobodys: bool) -> Clearing | None:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SHOW_CLEARING, project, sees_nobodys, id_)
        return None if record is None else _clearing(record)

    async def under_way(self, project: str, *, sees_nobodys: bool) -> list[Clearing]:
        async with self._postgres.acquire() as connection:
            return [_clearing(record) for record in await connection.fetch(_UNDER_WAY, project, sees_nobodys)]

    async def claim(self) -> Clearing | None:
        """One that has work left and no owner, for `LEASE_S`."""
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_CLAIM)
        return None if record is None else _clearing(record)

    async def letters(self, clearing: Clearing, limit: int) -> list[DeadLetter]:
        """The next to be looked at."""
        place = (None, None) if clearing.after is None else clearing.after
        values = (clearing.project, clearing.cause_digest, clearing.submitted_at, *place, limit)
        async with self._postgres.acquire() as connection:
            return [DeadLetter(*record) for record in await connection.fetch(_NEXT, *values)]

    async def forget(self, message_ids: Sequence[str]) -> int:
        """How many were still there."""
        async with self._postgres.acquire() as connection:
            told = await connection.execute("DELETE FROM parked WHERE message_id = ANY($1::text[])", message_ids)
        return _count(told)

    async def step(self, clearing: Clearing, *, done: int, left_alone: int, is_over: bool) -> None:
        """Write down what was done up to `clearing.after`, and let go. Who slept through the lease changes nothing."""
        place = (None, None) if clearing.after is None else clearing.after
        values = (clearing.id, clearing.leased_until, *place, done, left_alone, is_over)
        async with self._postgres.acquire() as connection:
            await connection.execute(_STEP, *values)


def _clearing(record: asyncpg.Record) -> Clearing:
    fields = dict(record)
    parked_at, message_id = fields.pop("after_parked_at"), fields.pop("after_message_id")
    after = None if message_id is None else ParkedPlace(parked_at, message_id)
    return Clearing(**fields, after=after)


def _count(told: str) -> int:
    """Of `DELETE 3`."""
    return int(told.rpartition(" ")[2])

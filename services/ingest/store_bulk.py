"""Ingest's table of commands for many tasks. The row is the work: whoever holds its lease does the next step."""

from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from libs.common.postgres import Postgres
from services.ingest.cursor import Place
from services.ingest.task_filter import TaskFilter

Action = Literal["cancel", "redrive", "purge"]
LEASE_S = 60
RECENT_MAX = 50
# Far enough for any upgrade. In hours, because a day has no fixed length where clocks change.
AHEAD = "interval '8766000 hours'"

_COLUMNS = """
    id, project, action, filter, matched, is_exact, submitted_at, submitted_by, after_created_at, after_id, done,
    left_alone, unknown, leased_until, finished_at
"""
# The release before this one would not see these conditions, and do it to every task that the others let through: so
# such a row's lease is written so far ahead that it never takes it.
_ADD = f"""
    INSERT INTO bulk (id, project, action, filter, matched, is_exact, submitted_at, submitted_by, ahead, leased_until)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, its.ahead, clock_timestamp() + nullif(its.ahead, interval '0')
    FROM (SELECT CASE WHEN $4::jsonb ?| array['host', 'ids', 'ended_from', 'ended_to'] THEN {AHEAD} ELSE '0' END)
         AS its (ahead)
    ON CONFLICT DO NOTHING
"""  # noqa: S608  our own words
_SHOW = f"SELECT {_COLUMNS} FROM bulk WHERE project = $1 AND id = $2"  # noqa: S608  our own words
_RECENT = f"""
    SELECT {_COLUMNS} FROM bulk WHERE project = $1 ORDER BY id DESC LIMIT {RECENT_MAX}
"""  # noqa: S608  our own words
# By turns: what was worked on longest ago comes next, so that a million tasks of one hold up no other.
_CLAIM = f"""
    UPDATE bulk SET leased_until = clock_timestamp() + ahead + interval '{LEASE_S} s' WHERE id = (
        SELECT id FROM bulk
        WHERE finished_at IS NULL AND (leased_until IS NULL OR leased_until - ahead <= clock_timestamp())
        ORDER BY leased_until - ahead NULLS FIRST, id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING {_COLUMNS}
"""  # noqa: S608  our own words
_RENEW = f"""
    UPDATE bulk SET leased_until = clock_timestamp() + ahead + interval '{LEASE_S} s'
    WHERE id = $1 AND leased_until = $2 RETURNING leased_until
"""  # noqa: S608  our own words
# A replica that slept through its lease changes nothing: another has gone on.
_STEP = """
    UPDATE bulk SET after_created_at = $3, after_id = $4, done = done + $5, left_alone = left_alone + $6,
                    unknown = unknown + $7, leased_until = clock_timestamp() + ahead,
                    finished_at = CASE WHEN $8 THEN clock_timestamp() END
    WHERE id = $1 AND leased_until = $2
"""


class Bulk(NamedTuple):
    """`after` is the last task that was looked at; the tasks are those that were there at `submitted_at`."""

    id: UUID
    project: str
    action: Action
    filter: TaskFilter
    matched: int
    is_exact: bool
    submitted_at: datetime
    submitted_by: str
    after: Place | None = None
    done: int = 0
    left_alone: int = 0
    unknown: int = 0
    leased_until: datetime | None = None
    finished_at: datetime | None = None


class Tally(NamedTuple):
    """Carried out; left alone because it had moved on meanwhile; nobody has said in time."""

    done: int = 0
    left_alone: int = 0
    unknown: int = 0


class BulkStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def add(self, bulk: Bulk) -> None:
        wanted = bulk.filter.canonical().decode()
        values = (bulk.matched, bulk.is_exact, bulk.submitted_at, bulk.submitted_by)
        async with self._postgres.acquire() as connection:
            await connection.execute(_ADD, bulk.id, bulk.project, bulk.action, wanted, *values)

    async def show(self, project: str, id_: UUID) -> Bulk | None:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SHOW, project, id_)
        return None if record is None else _bulk(record)

    async def recent(self, project: str) -> list[Bulk]:
        """The newest first, `RECENT_MAX` at most; finished ones until the retention forgets them."""
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_RECENT, project)
        return [_bulk(record) for record in records]

    async def claim(self) -> Bulk | None:
        """One that has work left and no owner, for `LEASE_S`."""
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_CLAIM)
        return None if record is None else _bulk(record)

    async def renew(self, bulk: Bulk) -> Bulk | None:
        """None when the lease was lost."""
        async with self._postgres.acquire() as connection:
            until = await connection.fetchval(_RENEW, bulk.id, bulk.leased_until)
        return None if until is None else bulk._replace(leased_until=until)

    async def step(self, bulk: Bulk, after: Place | None, tally: Tally, *, is_over: bool) -> None:
        """Write down what was done, and let go of the lease."""
        place = (None, None) if after is None else after
        async with self._postgres.acquire() as connection:
            await connection.execute(_STEP, bulk.id, bulk.leased_until, *place, *tally, is_over)


def _bulk(record: asyncpg.Record) -> Bulk:
    fields = dict(record)
    created_at, id_ = fields.pop("after_created_at"), fields.pop("after_id")
    fields["filter"] = msgspec.json.decode(fields["filter"], type=TaskFilter)
    return Bulk(**fields, after=None if id_ is None else Place(created_at, id_))

"""Ingest's table of what was done in the console. All raise PostgresAway."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from libs.common.postgres import Postgres

FORGET_BATCH = 2_000

_BEGIN = """
    INSERT INTO audit (id, at, actor, project, action, object, detail, address)
    VALUES ($1, $2, $3, $4, $5, '', '{}', $6)
"""
_END = "UPDATE audit SET outcome = $2, object = $3, detail = $4, actor = coalesce($5, actor) WHERE id = $1"
# Newest first is the order of the ids. All of it is as much as people did by hand in a month.
_PAGE = """
    SELECT id, at, actor, project, action, object, detail, address, outcome FROM audit
    WHERE ($1::uuid IS NULL OR id < $1)
        AND ($2 = '' OR actor = $2)
        AND ($3 = '' OR starts_with(action, $3))
        AND ($4 = '' OR strpos(object, $4) > 0)
        AND ($5 = '' OR ($5 = 'done') = (outcome IS NOT NULL AND outcome = 'done'))
        AND ($6::timestamptz IS NULL OR at >= $6)
        AND ($7::timestamptz IS NULL OR at < $7)
    ORDER BY id DESC LIMIT $8
"""
_FORGET = f"""
    DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 LIMIT {FORGET_BATCH})
"""  # noqa: S608  our own number


class AuditWords(NamedTuple):
    """What rows are wanted, "" for any: by this user; whose action begins so, whose object has this in it; `outcome`
    "done", or "other" for whatever else came of it. Moments: at or after `after`, before `before`.
    """

    actor: str = ""
    action: str = ""
    about: str = ""
    outcome: str = ""
    after: datetime | None = None
    before: datetime | None = None


class AuditRow(NamedTuple):
    """`outcome` is None while it is under way, or when nobody came to write it. `actor` "": who was not logged in."""

    id: UUID
    at: datetime
    actor: str
    project: str | None
    action: str
    about: str
    detail: Mapping[str, Any]
    address: str
    outcome: str | None


class AuditStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def begin(
        self, id_: UUID, at: datetime, *, actor: str, project: str | None, action: str, address: str
    ) -> None:
        async with self._postgres.acquire() as connection:
            await connection.execute(_BEGIN, id_, at, actor, project, action, address)

    async def end(
        self, id_: UUID, outcome: str, *, object_: str, detail: Mapping[str, object], actor: str | None = None
    ) -> None:
        """`actor`: who it turned out to be."""
        encoded = msgspec.json.encode(detail).decode()
        async with self._postgres.acquire() as connection:
            await connection.execute(_END, id_, outcome, object_, encoded, actor)

    async def page(self, wanted: AuditWords, before: UUID | None, limit: int) -> list[AuditRow]:
        """Newest first, those before the row `before`."""
        words, moments = wanted[:4], wanted[4:]
        async with self._postgres.acquire() as connection:
            return [_row(record) for record in await connection.fetch(_PAGE, before, *words, *moments, limit)]

    async def forget(self, before: datetime) -> int:
        """Delete what is older, at most `FORGET_BATCH` rows: gives how many."""
        async with self._postgres.acquire() as connection:
            return int((await connection.execute(_FORGET, before)).removeprefix("DELETE "))


def _row(record: asyncpg.Record) -> AuditRow:
    row = AuditRow(*record)
    return row._replace(detail=msgspec.json.decode(record["detail"]))

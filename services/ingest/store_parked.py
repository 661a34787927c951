"""Ingest's table of dead letters, as their project sees them. `parking.py` fills it.

What no project can be read from belongs to whoever runs the installation: it is shown to the project of the bootstrap
key.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from libs.common.postgres import Postgres
from services.ingest.auth import BOOTSTRAP_PROJECT

_COLUMNS = "message_id, parked_at, origin, cause, crashes, project, task_id"
_VISIBLE = "(project = $1 OR ($2 AND project IS NULL))"
_LIST = f"""
    SELECT {_COLUMNS} FROM parked
    WHERE {_VISIBLE} AND ($3::text IS NULL OR origin = $3)
      AND ($4::timestamptz IS NULL OR (parked_at, message_id) < ($4, $5))
    ORDER BY parked_at DESC, message_id DESC LIMIT $6
"""  # noqa: S608  our own words
_SHOW = f"SELECT {_COLUMNS}, headers, body FROM parked WHERE {_VISIBLE} AND message_id = $3"  # noqa: S608
_DROP = f"DELETE FROM parked WHERE {_VISIBLE} AND message_id = $3 RETURNING origin"  # noqa: S608


class DeadLetter(NamedTuple):
    """`headers` (JSON) and `body` are there of a single one only."""

    message_id: str
    parked_at: datetime
    origin: str
    cause: str
    crashes: int
    project: str | None
    task_id: UUID | None
    headers: bytes = b"{}"
    body: bytes = b""


class ParkedPlace(NamedTuple):
    parked_at: datetime
    message_id: str


class ParkedStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def page(
        self, project: str, origin: str | None, before: ParkedPlace | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Newest first."""
        place = (None, None) if before is None else before
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_LIST, project, _is_operator(project), origin, *place, limit)
        return [DeadLetter(*record) for record in records]

    async def show(self, project: str, message_id: str) -> DeadLetter | None:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SHOW, project, _is_operator(project), message_id)
        return None if record is None else DeadLetter(*record)

    async def drop(self, project: str, message_id: str) -> bool:
        """False when it is not there (any more)."""
        async with self._postgres.acquire() as connection:
            origin = await connection.fetchval(_DROP, project, _is_operator(project), message_id)
        return origin is not None


def _is_operator(project: str) -> bool:
    return project == BOOTSTRAP_PROJECT

"""Ingest's table of what was done in the console. All raise PostgresAway."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from libs.common.postgres import Postgres

_BEGIN = """
    INSERT INTO audit (id, at, actor, project, action, object, detail, address)
    VALUES ($1, $2, $3, $4, $5, '', '{}', $6)
"""
_END = "UPDATE audit SET outcome = $2, object = $3, detail = $4, actor = coalesce($5, actor) WHERE id = $1"


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

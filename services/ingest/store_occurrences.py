"""The SQL of what became of schedules: the latest tasks of each, by the index of schedules."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from libs.common.postgres import Postgres

# Written so that only the index of schedules has this order: of a schedule with few tasks among many, a walk along all
# tasks, newest first, would find its ten last.
_LATEST = """
    SELECT name, id, CASE WHEN state = 'scheduled' AND due_at < now() THEN 'due' ELSE state END AS status, due_at,
           lateness_ms, reason
    FROM unnest($2::text[]) AS name CROSS JOIN LATERAL (
        SELECT id, state, due_at, lateness_ms, reason, created_at FROM task
        WHERE project = $1 AND schedule >= name AND schedule <= name
        ORDER BY schedule DESC, created_at DESC, id DESC LIMIT $3) AS latest
    ORDER BY name, created_at, id
"""
# From one name to the next by the index, whatever the number of tasks that each has.
_NAMES = """
    WITH RECURSIVE known AS (
        (SELECT schedule FROM task WHERE project = $1 AND schedule > $2 ORDER BY schedule LIMIT 1)
        UNION ALL
        SELECT (SELECT schedule FROM task WHERE project = $1 AND schedule > known.schedule ORDER BY schedule LIMIT 1)
        FROM known WHERE known.schedule IS NOT NULL)
    SELECT schedule FROM known WHERE schedule IS NOT NULL LIMIT $3
"""


class Occurred(NamedTuple):
    """One task of a schedule. `reason` is empty unless its state came of something."""

    id: UUID
    status: str
    due_at: datetime
    lateness_ms: int | None
    reason: str


class OccurrenceStore:
    """All raise PostgresAway."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def latest(self, project: str, names: Sequence[str], count: int) -> dict[str, list[Occurred]]:
        """The latest `count` tasks of each schedule that is named, oldest first."""
        found: dict[str, list[Occurred]] = {name: [] for name in names}
        async with self._postgres.acquire() as connection:
            for record in await connection.fetch(_LATEST, project, list(names), count):
                found[record["name"]].append(Occurred(*list(record.values())[1:]))
        return found

    async def names(self, project: str, after: str, limit: int) -> list[str]:
        """Of schedules that the history has tasks of, by name; some may have been deleted since."""
        async with self._postgres.acquire() as connection:
            return [record["schedule"] for record in await connection.fetch(_NAMES, project, after, limit)]

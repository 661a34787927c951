"""Erases what ended tasks said: payload, URL, labels, reasons, every attempt with its answer, parked messages.

The row stays, with state and times, so that the id is never given to another task, and says in `purged_generation` what
must not come back: the projection (`store.py`) takes nothing any more that is told of this generation or an earlier
one. It locks the task's row before it adds attempts, and so does this: no event can slip in between.
"""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from libs.common.postgres import Postgres
from services.ingest.projection import FINAL, GENERATION_SHIFT

Purged = Literal["purged", "waiting", "unknown"]
"""Erased, or would be; not ended yet, so left alone; no task of this project."""

_LOCK = """
    SELECT id, state FROM task WHERE id = ANY($1::uuid[]) AND project = $2 ORDER BY id FOR UPDATE
"""
_LOOK = "SELECT id, state FROM task WHERE id = ANY($1::uuid[]) AND project = $2"
_ERASE = f"""
    UPDATE task SET call = CASE WHEN call IS NOT NULL THEN ''::bytea END,
                    labels = CASE WHEN labels IS NOT NULL THEN '{{}}'::jsonb END,
                    fingerprint = CASE WHEN fingerprint IS NOT NULL THEN '' END,
                    url = NULL, method = NULL, reason = '', last_error = NULL,
                    purged_generation = greatest(purged_generation, state_order >> {GENERATION_SHIFT})
    WHERE id = ANY($1::uuid[])
"""  # noqa: S608  a number of ours
# No attempt is older than its task; a day more for what clocks disagree about.
_DROP_ATTEMPTS = """
    DELETE FROM attempt WHERE task_id = ANY($1::uuid[]) AND day >= (
        SELECT coalesce(min(created_at), '-infinity')::date - 1 FROM task WHERE id = ANY($1::uuid[]))
"""
_DROP_PARKED = "DELETE FROM parked WHERE task_id = ANY($1::uuid[])"


class PurgeStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def look(self, project: str, ids: Sequence[UUID]) -> dict[UUID, Purged]:
        """What `purge` would do."""
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_LOOK, ids, project)
        return _outcomes(ids, {record["id"]: record["state"] for record in records})

    async def purge(self, project: str, ids: Sequence[UUID]) -> dict[UUID, Purged]:
        async with self._postgres.acquire() as connection, connection.transaction():
            records = await connection.fetch(_LOCK, ids, project)
            outcomes = _outcomes(ids, {record["id"]: record["state"] for record in records})
            ended = [id_ for id_, outcome in outcomes.items() if outcome == "purged"]
            if ended:
                await connection.execute(_ERASE, ended)
                await connection.execute(_DROP_ATTEMPTS, ended)
                await connection.execute(_DROP_PARKED, ended)
        return outcomes


def _outcomes(ids: Sequence[UUID], states: dict[UUID, str]) -> dict[UUID, Purged]:
    return {id_: _outcome(states.get(id_)) for id_ in ids}


def _outcome(state: str | None) -> Purged:
    if state is None:
        return "unknown"
    return "purged" if state in FINAL else "waiting"

"""What the next digest will have, from the history."""

from datetime import datetime

import asyncpg
import msgspec

from libs.common.contracts import FailedTask, decode_call
from libs.common.postgres import Postgres

PREVIEWED_MAX = 10_000

_FAILED = """
    SELECT id, project, state, accepted_generation, call, due_at, state_at, last_attempt, last_status_code, last_error,
           labels
    FROM task
    WHERE project = $1 AND state IN ('failed', 'parked') AND state_at > $2 AND accepted_generation > 0
        AND call <> ''  -- purged: there is nothing left to show
    ORDER BY state_at DESC LIMIT $3
"""


class DigestStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def failed_since(self, project: str, since: datetime) -> list[FailedTask]:
        """At most `PREVIEWED_MAX`, newest first."""
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_FAILED, project, since, PREVIEWED_MAX)
        return [_failed(record) for record in records]


def _failed(record: asyncpg.Record) -> FailedTask:
    call = decode_call(record["call"])
    return FailedTask(
        id=record["id"],
        project=record["project"],
        generation=record["accepted_generation"],
        state=record["state"],
        method=call.method,
        url=call.url,
        due_at=record["due_at"],
        failed_at=record["state_at"],
        attempts=record["last_attempt"],
        status_code=record["last_status_code"],
        error=record["last_error"],
        labels=msgspec.json.decode(record["labels"]),
    )

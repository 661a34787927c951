"""The calls of one task for a person to look at: latest first, and of most of them not what was answered."""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from libs.common.postgres import Postgres
from services.ingest.stored import StoredAttempt

CALLS_MAX = 200
ANSWERS_MAX = 5
"""So many answers are read by themselves, at up to 8 KiB each; one more when it is named."""

_A_DAY = timedelta(days=1)
"""No attempt is older than its task; this much for what clocks disagree about."""

# A call that was made twice around midnight stands on two days.
_TIMELINE = """
    SELECT generation, attempt, due_at, started_at, duration_ms, status_code, error, error_detail, next_attempt_at,
           CASE WHEN is_read THEN response_headers ELSE '[]' END, CASE WHEN is_read THEN response_body ELSE '' END,
           timing, replica, is_read
    FROM (SELECT *, place <= $3 OR (generation, attempt) = ($4, $5) AS is_read
          FROM (SELECT DISTINCT ON (generation, attempt) *,
                       dense_rank() OVER (ORDER BY generation DESC, attempt DESC) AS place
                FROM attempt WHERE task_id = $1 AND day >= $2
                ORDER BY generation DESC, attempt DESC, started_at) AS told) AS placed
    ORDER BY place LIMIT $6
"""


class KeptCall(NamedTuple):
    """`is_read`: headers and body of the answer are here."""

    attempt: StoredAttempt
    replica: str
    is_read: bool


class AttemptStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def timeline(
        self, id_: UUID, created_at: datetime, named: tuple[int, int] | None = None
    ) -> tuple[list[KeptCall], bool]:
        """The latest calls, and whether there are more. `named`: the generation and number of one to read as well."""
        day, (generation, number) = (created_at - _A_DAY).date(), named or (0, 0)
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(
                _TIMELINE, id_, day, ANSWERS_MAX, generation, number, CALLS_MAX + 1
            )  # fmt: skip
        calls = [KeptCall(StoredAttempt(*record[:12]), record["replica"], record["is_read"]) for record in records]
        return calls[:CALLS_MAX], len(calls) > CALLS_MAX

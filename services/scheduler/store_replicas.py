"""The table of scheduler processes at work."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from libs.common.postgres import Postgres

GONE_AFTER = timedelta(seconds=3)

_SEEN = """
    INSERT INTO replica (id, name, seen_at) VALUES ($1, $2, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
"""
_FORGET = "DELETE FROM replica WHERE seen_at < clock_timestamp() - interval '1 minute'"
# Who was seen in the future died before the clock was put back: whoever is alive says so anew each second.
_LIVE = "SELECT id FROM replica WHERE abs(extract(epoch FROM clock_timestamp() - seen_at)) < $1 ORDER BY id"
_LEAVE = "DELETE FROM replica WHERE id = $1"


class ReplicaStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def seen(self, id_: UUID, name: str) -> Sequence[UUID]:
        """Say that this process is alive; gives the ids of all that have been seen in the last 3 s, in order."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_FORGET)
            await connection.execute(_SEEN, id_, name)
            return [record["id"] for record in await connection.fetch(_LIVE, GONE_AFTER.total_seconds())]

    async def leave(self, id_: UUID) -> None:
        async with self._postgres.acquire() as connection:
            await connection.execute(_LEAVE, id_)

"""Which breakers are open for which hosts, and why: ingest's table of what the dispatchers have told of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from libs.common.postgres import Postgres

# As in store_control.py: a replica that has died says nothing any more.
_OPEN = """
    SELECT host, replica, changed_at, open_until, reason FROM target
    WHERE host = ANY($1::text[]) AND state = 'open' AND open_until > clock_timestamp() - interval '1 minute'
    ORDER BY host, replica
"""


class OpenBreaker(NamedTuple):
    """Of one dispatcher. At `until` it lets one call through, which closes it or opens it for longer."""

    host: str
    replica: str
    since: datetime
    until: datetime
    reason: str | None


class TargetStore:
    """All raise PostgresAway."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def open_breakers(self, hosts: Sequence[str]) -> dict[str, list[OpenBreaker]]:
        """By host; a host whose breakers are closed is not among them."""
        by_host: dict[str, list[OpenBreaker]] = {}
        async with self._postgres.acquire() as connection:
            for record in await connection.fetch(_OPEN, hosts):
                by_host.setdefault(record["host"], []).append(OpenBreaker(*record))
        return by_host

"""The table of calls by minute, hour and host: what the projection adds, and what pages read."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import asyncpg

from libs.common.contracts import AttemptFinished
from libs.common.postgres import Connection, Postgres
from services.ingest.calls import ALL_HOSTS, HOUR_S, MINUTE_S, Calls, merged, span_row, tallied

_ADD = """
    INSERT INTO calls (project, host, every_s, at, succeeded, failed, retried, lateness, duration)
    SELECT project, host, every_s, at, succeeded, failed, retried, lateness::int[], duration::int[]
    FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[], $5::int[], $6::int[], $7::int[], $8::text[],
                $9::text[]) AS told (project, host, every_s, at, succeeded, failed, retried, lateness, duration)
    ORDER BY project COLLATE "C", host COLLATE "C", every_s, at
    ON CONFLICT (project, host, every_s, at) DO UPDATE
        SET succeeded = calls.succeeded + excluded.succeeded, failed = calls.failed + excluded.failed,
            retried = calls.retried + excluded.retried, lateness = added(calls.lateness, excluded.lateness),
            duration = added(calls.duration, excluded.duration)
"""
_SPANS = """
    SELECT at, succeeded, failed, retried, lateness, duration FROM calls
    WHERE project = $1 AND host = $2 AND every_s = $3 AND at >= $4 ORDER BY at
"""
_HOSTS = """
    SELECT host, at, succeeded, failed, retried, lateness, duration FROM calls
    WHERE project = $1 AND host > '' AND every_s = 3600 AND at >= $2 ORDER BY host, at
"""
# Skips what the projection adds to just now, so that neither waits for the other.
_FORGET = """
    DELETE FROM calls WHERE (project, host, every_s, at) IN (
        SELECT project, host, every_s, at FROM calls WHERE every_s = $1 AND at < $2 FOR UPDATE SKIP LOCKED)
"""


async def add_calls(connection: Connection, attempts: Iterable[AttemptFinished]) -> None:
    """Last in the projection's transaction: whoever counts in the same minute waits from here to the commit."""
    rows = [span_row(span, tally) for span, tally in tallied(attempts)]
    if rows:
        await connection.execute(_ADD, *zip(*rows, strict=True))


async def forget_calls(connection: Connection, minutes_before: datetime, hours_before: datetime) -> None:
    await connection.execute(_FORGET, MINUTE_S, minutes_before)
    await connection.execute(_FORGET, HOUR_S, hours_before)


class CallStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def minutes(self, project: str, since: datetime) -> list[Calls]:
        """Oldest first; a minute without a call is not among them."""
        return await self._spans(project, ALL_HOSTS, MINUTE_S, since)

    async def hours(self, project: str, since: datetime) -> list[Calls]:
        return await self._spans(project, ALL_HOSTS, HOUR_S, since)

    async def host(self, project: str, host: str, since: datetime) -> list[Calls]:
        """By the hour, oldest first."""
        return await self._spans(project, host, HOUR_S, since)

    async def hosts(self, project: str, since: datetime) -> dict[str, Calls]:
        """All that were called, each with its hours since then in one."""
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_HOSTS, project, since)
        by_host: dict[str, list[Calls]] = {}
        for host, *rest in records:
            by_host.setdefault(host, []).append(Calls(*rest))
        return {host: merged(hours, since) for host, hours in by_host.items()}

    async def _spans(self, project: str, host: str, every_s: int, since: datetime) -> list[Calls]:
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_SPANS, project, host, every_s, since)
        return [Calls(*record) for record in records]


def counted(attempts: Sequence[AttemptFinished], added: Sequence[asyncpg.Record]) -> Sequence[AttemptFinished]:
    """Of `attempts`, those that were `added` to the history: the others were there already, and are counted."""
    if len(added) == len(attempts):
        return attempts
    keys = {tuple(record) for record in added}
    return [attempt for attempt in attempts if (attempt.id, attempt.generation, attempt.attempt) in keys]

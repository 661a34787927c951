"""What the overview shows of a project besides its calls, and whether anything of the project has changed.

Every count ends at `COUNT_MAX`, so that none costs more than a glance whatever waits.
"""

from datetime import datetime
from typing import NamedTuple

from libs.common.postgres import Postgres
from services.ingest.store_lists import BY_INDEX

COUNT_MAX = 10_000
LATE_S = 2
"""A task that is due for less is on its way."""

# Of ended tasks only calls say something; those that were cancelled, say, raise `change`. What has no project is for
# all: a message that cannot be read, a breaker.
_SIGNS = """
    SELECT (SELECT number FROM change WHERE project = $1) AS events,
           (SELECT max(changed_at) FROM target) AS breakers,
           (SELECT command_id FROM control) AS rules,
           (SELECT min(parked_at) FROM parked) AS first_parked,
           (SELECT max(parked_at) FROM parked) AS last_parked,
           (SELECT sum(done + left_alone + unknown) FROM bulk WHERE project = $1 AND finished_at IS NULL) AS bulk,
           (SELECT max(id::text) FROM bulk WHERE project = $1 AND finished_at IS NULL) AS last_bulk
"""
_DUE = f"project = $1 AND state = 'scheduled' AND due_at < now() - interval '{LATE_S} s'"
_WAITING = f"""
    SELECT (SELECT count(*) FROM (SELECT FROM task WHERE project = $1 AND state = 'scheduled' AND due_at >= now()
                                  LIMIT {COUNT_MAX + 1}) AS found) AS scheduled,
           (SELECT count(*) FROM (SELECT FROM task WHERE {_DUE} LIMIT {COUNT_MAX + 1}) AS found) AS overdue,
           (SELECT min(due_at) FROM task WHERE {_DUE}) AS oldest_due_at,
           (SELECT count(*) FROM (SELECT FROM task WHERE project = $1 AND state = 'retrying'
                                  LIMIT {COUNT_MAX + 1}) AS found) AS retrying,
           (SELECT count(*) FROM (SELECT FROM parked WHERE project = $1
                                  UNION ALL SELECT FROM parked WHERE project IS NULL
                                  LIMIT {COUNT_MAX + 1}) AS found) AS parked
"""  # noqa: S608  made of constants
_PAUSED = "SELECT host, changed_at AS since FROM target_rule WHERE project = $1 AND is_paused ORDER BY host"
# Of hosts that the project has called within a day. A replica that has died says nothing any more.
_OPEN = """
    SELECT host, min(changed_at) AS since FROM target
    WHERE state = 'open' AND open_until > clock_timestamp() - interval '1 minute'
      AND EXISTS (SELECT FROM calls WHERE calls.project = $1 AND calls.host = target.host AND every_s = 3600
                      AND at > now() - interval '1 day')
    GROUP BY host ORDER BY host
"""

Signs = tuple[object, ...]


class Waiting(NamedTuple):
    """Each at most `COUNT_MAX` + 1, which says that there are more."""

    scheduled: int
    overdue: int
    oldest_due_at: datetime | None
    retrying: int
    parked: int


class Host(NamedTuple):
    name: str
    since: datetime


class OverviewStore:
    """All raise PostgresAway."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def signs(self, project: str) -> Signs:
        """Another one, when anything that a page of the project shows may have changed."""
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SIGNS, project)
        assert record is not None
        return tuple(record)

    async def waiting(self, project: str) -> Waiting:
        async with self._postgres.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute(BY_INDEX)
            record = await connection.fetchrow(_WAITING, project)
        assert record is not None
        return Waiting(*record)

    async def paused(self, project: str) -> list[Host]:
        async with self._postgres.acquire() as connection:
            return [Host(*record) for record in await connection.fetch(_PAUSED, project)]

    async def open_breakers(self, project: str) -> list[Host]:
        async with self._postgres.acquire() as connection:
            return [Host(*record) for record in await connection.fetch(_OPEN, project)]

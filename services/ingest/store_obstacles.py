"""What is known to keep calls to a host from being made: the project's rule for it, and open circuit breakers."""

from libs.common.postgres import Postgres
from services.ingest.explanation import OpenBreaker, Rule

# A breaker that stays open says so again within a minute or so; one that no longer does was its replica's end.
_RULE = "SELECT is_paused, per_s, changed_at FROM target_rule WHERE project = $1 AND host = $2"
_BREAKERS = """
    SELECT replica, open_until FROM target
    WHERE host = $1 AND state = 'open' AND open_until > clock_timestamp() - interval '1 minute' ORDER BY replica
"""


class ObstacleStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def obstacles(self, project: str, host: str) -> tuple[Rule | None, list[OpenBreaker]]:
        async with self._postgres.acquire() as connection:
            rule = await connection.fetchrow(_RULE, project, host)
            breakers = await connection.fetch(_BREAKERS, host)
        return None if rule is None else Rule(*rule), [OpenBreaker(*each) for each in breakers]

"""What is known to keep calls to a host from being made, read from a real PostgreSQL."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from libs.common.postgres import Postgres
from services.ingest.explanation import OpenBreaker, Rule
from services.ingest.store_obstacles import ObstacleStore

HOST = "api.example.com:8443"
ADD_RULE = """
    INSERT INTO target_rule (project, host, is_paused, per_s, burst, command_id, changed_at, changed_by)
    VALUES ($1, $2, $3, 10, 1, $4, $5, 'key')
"""
ADD_BREAKER = "INSERT INTO target (host, replica, state, changed_at, open_until) VALUES ($1, $2, $3, now(), $4)"


async def test_they_are_those_of_the_project_and_the_host_that_still_hold(postgres: Postgres) -> None:
    now = datetime.now(UTC)
    soon, before, long_ago = (now + timedelta(seconds=seconds) for seconds in (20, -30, -600))
    async with postgres.acquire() as connection:
        for project, host in (("other", HOST), ("default", HOST), ("default", "api.example.com")):
            is_it = (project, host) == ("default", HOST)
            await connection.execute(ADD_RULE, project, host, is_it, uuid4(), now if is_it else long_ago)
        for host, replica, state, until in (
            (HOST, "two", "open", soon), (HOST, "one", "open", before), (HOST, "gone", "open", long_ago),
            (HOST, "shut", "closed", soon), ("api.example.com", "three", "open", soon),
        ):  # fmt: skip
            await connection.execute(ADD_BREAKER, host, replica, state, until)
    rule, breakers = await ObstacleStore(postgres).obstacles("default", HOST)
    assert rule == Rule(is_paused=True, per_s=10.0, changed_at=now)
    assert breakers == [OpenBreaker("one", before), OpenBreaker("two", soon)]


async def test_a_project_without_a_rule_has_none(postgres: Postgres) -> None:
    assert await ObstacleStore(postgres).obstacles("third", "else.example.com") == (None, [])

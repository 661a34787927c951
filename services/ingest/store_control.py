"""Ingest's tables of what operators have set: rules of targets, versions of signing secrets.

The dispatchers compare command ids: of two rules the higher one stands, and a whole takes away what is below its own id
and not among it. So that a whole that was read a moment too early never takes away a rule that is newer than it, ids do
not come from clocks, which differ: whoever makes one holds the row `control` until its commit, and takes an id above
the one there. A reader who sees that id sees every rule up to it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from libs.common.contracts import SetControl, SigningRule, TargetRule
from libs.common.ids import new_id
from libs.common.postgres import Connection, Postgres

T = TypeVar("T")

RULES_MAX = 1_000
"""Of one project."""
RULES_TOTAL_MAX = 10_000
"""They travel in one message: 4 MB with the longest names, where dispatcher.commands holds 16 MiB."""

_FIRST = UUID("00000000-0000-7000-8000-000000000000")
_LOCK = """
    INSERT INTO control (is_the_row, command_id, published_at) VALUES (true, $1, '-infinity')
    ON CONFLICT (is_the_row) DO UPDATE SET is_the_row = true RETURNING command_id
"""
_ADVANCE = "UPDATE control SET command_id = $1"
_CLAIM = """
    UPDATE control SET published_at = now() WHERE published_at <= now() - make_interval(secs => $1)
"""
_LAST = "SELECT command_id FROM control"
# A rule that says nothing is nothing to keep; a day is longer than any command is under way.
_FORGET = """
    DELETE FROM target_rule WHERE NOT is_paused AND per_s IS NULL AND changed_at < now() - interval '1 day'
"""
_ALL_TARGETS = "SELECT project, host, command_id, is_paused, per_s, burst FROM target_rule"
_ALL_SIGNING = "SELECT project, command_id, version, previous_until FROM signing_rule"

_COUNT = """
    SELECT count(*) >= $3 OR count(*) FILTER (WHERE project = $1) >= $4
    FROM target_rule WHERE (project, host) <> ($1, $2)
"""
_PAUSE = """
    INSERT INTO target_rule (project, host, is_paused, per_s, burst, command_id, changed_at, changed_by)
    VALUES ($1, $2, $6, NULL, 1, $3, $4, $5)
    ON CONFLICT (project, host) DO UPDATE SET is_paused = $6, command_id = $3, changed_at = $4, changed_by = $5
"""
_LIMIT = """
    INSERT INTO target_rule (project, host, is_paused, per_s, burst, command_id, changed_at, changed_by)
    VALUES ($1, $2, false, $6, $7, $3, $4, $5)
    ON CONFLICT (project, host) DO UPDATE SET per_s = $6, burst = $7, command_id = $3, changed_at = $4, changed_by = $5
"""
# A breaker's replica that has died says nothing any more; an open one is tried, and told of again, within a minute.
_TARGETS = """
    SELECT project, host, command_id, is_paused, per_s, burst, changed_at, changed_by,
           (SELECT max(open_until) FROM target WHERE target.host = target_rule.host AND state = 'open'
                AND open_until > now() - interval '1 minute')
    FROM target_rule
"""
_SHOW = f"{_TARGETS} WHERE project = $1 AND host = $2"
_PAGE = f"{_TARGETS} WHERE project = $1 AND host > $2 ORDER BY host LIMIT $3"

_SIGNING = "SELECT version, previous_until, changed_at FROM signing_rule WHERE project = $1"
_ROTATE = """
    INSERT INTO signing_rule (project, version, previous_until, command_id, changed_at, changed_by)
    VALUES ($1, 2, $6, $3, $4, $5)
    ON CONFLICT (project) DO UPDATE SET version = signing_rule.version + 1, previous_until = $6, command_id = $3,
                                        changed_at = $4, changed_by = $5
        WHERE $2 OR signing_rule.previous_until <= $4
    RETURNING version
"""


@dataclass(frozen=True)
class Change:
    """Who changes what holds for `project`, and when."""

    project: str
    by: str
    at: datetime


class HeldRule(NamedTuple):
    """A rule as it stands. `open_until`: some dispatcher's breaker for the host is open at least until then."""

    rule: TargetRule
    changed_at: datetime
    changed_by: str
    open_until: datetime | None = None


class Signing(NamedTuple):
    version: int = 1
    previous_until: datetime | None = None
    changed_at: datetime | None = None


class ControlStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def pause(self, change: Change, host: str, *, is_paused: bool) -> HeldRule | None:
        """None: there are too many rules."""
        return await self._set(change, host, _PAUSE, is_paused)

    async def limit(self, change: Change, host: str, per_s: float | None, burst: int) -> HeldRule | None:
        """None: there are too many rules."""
        return await self._set(change, host, _LIMIT, per_s, burst)

    async def target(self, project: str, host: str) -> HeldRule | None:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SHOW, project, host)
        return None if record is None else _held(record)

    async def targets(self, project: str, after: str, limit: int) -> list[HeldRule]:
        """By host, after `after`."""
        async with self._postgres.acquire() as connection:
            return [_held(record) for record in await connection.fetch(_PAGE, project, after, limit)]

    async def signing(self, project: str) -> Signing:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SIGNING, project)
        return Signing() if record is None else Signing(*record)

    async def rotate(self, change: Change, previous_until: datetime, *, is_forced: bool) -> SigningRule | None:
        """None: the one before is not over yet, and nobody insists."""

        async def write(connection: Connection, id_: UUID) -> SigningRule | None:
            version = await connection.fetchval(
                _ROTATE, change.project, is_forced, id_, change.at, change.by, previous_until
            )
            if version is None:
                return None
            return SigningRule(project=change.project, command_id=id_, version=version, previous_until=previous_until)

        return await self._numbered(write)

    async def whole(self) -> SetControl:
        """All rules there are, as of the id they go up to."""
        async with self._postgres.acquire() as connection:
            # The id first: what is committed after this has a higher one, whether it is among the rules or not.
            last: UUID | None = await connection.fetchval(_LAST)
            targets = await connection.fetch(_ALL_TARGETS)
            signing = await connection.fetch(_ALL_SIGNING)
        return SetControl(
            command_id=last or _FIRST,
            targets=tuple(TargetRule(**record) for record in targets),
            signing=tuple(SigningRule(**record) for record in signing),
            is_all=True,
        )

    async def claim(self, every_s: float) -> bool:
        """Whether nobody has for `every_s` seconds: then it is the caller's turn to publish the whole."""
        async with self._postgres.acquire() as connection:
            return await connection.execute(_CLAIM, every_s) == "UPDATE 1"

    async def forget(self) -> None:
        """Delete the rules that say nothing."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_FORGET)

    async def _set(self, change: Change, host: str, statement: str, *values: object) -> HeldRule | None:
        async def write(connection: Connection, id_: UUID) -> HeldRule | None:
            if await connection.fetchval(_COUNT, change.project, host, RULES_TOTAL_MAX, RULES_MAX):
                return None
            await connection.execute(statement, change.project, host, id_, change.at, change.by, *values)
            record = await connection.fetchrow(_SHOW, change.project, host)
            return None if record is None else _held(record)

        return await self._numbered(write)

    async def _numbered(self, write: Callable[[Connection, UUID], Awaitable[T]]) -> T:
        """What `write` gives, with a command id above all that have been committed."""
        async with self._postgres.acquire() as connection, connection.transaction():
            mine = new_id()
            last: UUID = await connection.fetchval(_LOCK, mine)
            id_ = mine if mine > last else UUID(int=last.int + 1)
            await connection.execute(_ADVANCE, id_)
            return await write(connection, id_)


def _held(record: asyncpg.Record) -> HeldRule:
    project, host, command_id, is_paused, per_s, burst, *rest = record
    rule = TargetRule(project=project, host=host, command_id=command_id, is_paused=is_paused, per_s=per_s, burst=burst)
    return HeldRule(rule, *rest)

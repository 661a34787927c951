"""Ingest's table of API keys. Times of the API are the caller's; `changed_at` is Postgres' own clock."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from libs.common.lifecycle import Fatal
from libs.common.postgres import Postgres

KEYS_MAX = 1_000
"""Of one project, without the revoked and expired ones."""

_COLUMNS = (
    "id, project, name, digest, scopes, per_s, burst, created_at, expires_at, revoked_at, replaced_by, last_used_at"
)
_FIND = f"SELECT {_COLUMNS} FROM key WHERE digest = ANY($1)"  # noqa: S608  our own words
_CHANGED = f"SELECT {_COLUMNS} FROM key WHERE changed_at >= $1"  # noqa: S608  our own words
_NOW = "SELECT clock_timestamp()"
_SHOW = f"SELECT {_COLUMNS} FROM key WHERE project = $1 AND id = $2"  # noqa: S608  our own words
_LIST = f"""
    SELECT {_COLUMNS} FROM key WHERE project = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""  # noqa: S608  our own words
_ADD = f"""
    INSERT INTO key (id, project, name, digest, scopes, per_s, burst, created_at, expires_at, changed_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp()
    WHERE (SELECT count(*) FROM key WHERE project = $2 AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > $8)) < {KEYS_MAX}
"""  # noqa: S608  our own words
_REVOKE = f"""
    UPDATE key SET revoked_at = coalesce(revoked_at, $3), changed_at = clock_timestamp()
    WHERE project = $1 AND id = $2 RETURNING {_COLUMNS}
"""  # noqa: S608  our own words
# Two that rotate one key at once: the second waits, and finds it replaced.
_REPLACE = """
    UPDATE key SET replaced_by = $3, expires_at = least(expires_at, $4), changed_at = clock_timestamp()
    WHERE project = $1 AND id = $2 AND replaced_by IS NULL AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > $5)
"""
# Each replica tells of a key once a minute; of several the first counts.
_USED = """
    UPDATE key SET last_used_at = used.at FROM unnest($1::uuid[], $2::timestamptz[]) AS used (id, at)
    WHERE key.id = used.id AND (key.last_used_at IS NULL OR key.last_used_at <= used.at - $3::interval)
"""


class StoredKey(NamedTuple):
    id: UUID
    project: str
    name: str
    digest: bytes
    scopes: tuple[str, ...]
    per_s: float | None
    burst: int | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replaced_by: UUID | None = None
    last_used_at: datetime | None = None


class _Full(Exception):
    pass


class KeyStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def find(self, digests: Sequence[bytes]) -> list[StoredKey]:
        """Those that exist, revoked and expired ones too."""
        async with self._postgres.acquire() as connection:
            return _keys(await connection.fetch(_FIND, digests))

    async def changed(self, since: datetime | None) -> tuple[datetime, list[StoredKey]]:
        """What was committed with a `changed_at` from `since` on (None: from now), and the moment to go on from.

        Raises: Fatal when the table is not there.
        """
        try:
            return await self._changed(since)
        except asyncpg.UndefinedTableError as error:
            raise Fatal(
                f"PostgreSQL has no table of API keys ({error}): run the set-up step (python -m deploy.setup) of this"
                " release with the same CARILLON_POSTGRES_URL as this service"
            ) from error

    async def show(self, project: str, id_: UUID) -> StoredKey | None:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_SHOW, project, id_)
        return None if record is None else _key(record)

    async def page(self, project: str, after: UUID | None, limit: int) -> list[StoredKey]:
        """Newest first, those after the key `after`."""
        async with self._postgres.acquire() as connection:
            return _keys(await connection.fetch(_LIST, project, after, limit))

    async def add(self, key: StoredKey) -> bool:
        """False: the project has `KEYS_MAX` already."""
        async with self._postgres.acquire() as connection:
            return await connection.execute(_ADD, *_new(key)) == "INSERT 0 1"

    async def revoke(self, project: str, id_: UUID, now: datetime) -> StoredKey | None:
        """As it is then; None when there is none. A second time changes nothing."""
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(_REVOKE, project, id_, now)
        return None if record is None else _key(record)

    async def replace(self, old: UUID, new: StoredKey, until: datetime) -> Literal["done", "ended", "full"]:
        """`new` beside `old`, which ends at `until`; or nothing, for an `old` that has been replaced or has ended."""
        try:
            async with self._postgres.acquire() as connection, connection.transaction():
                if await connection.execute(_REPLACE, new.project, old, new.id, until, new.created_at) == "UPDATE 0":
                    return "ended"
                if await connection.execute(_ADD, *_new(new)) == "INSERT 0 0":
                    raise _Full  # and nothing of it has happened
        except _Full:
            return "full"
        return "done"

    async def used(self, when: Mapping[UUID, datetime], every: timedelta) -> None:
        """Note the last use, unless one less than `every` before is noted."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_USED, list(when), list(when.values()), every)

    async def _changed(self, since: datetime | None) -> tuple[datetime, list[StoredKey]]:
        async with self._postgres.acquire() as connection:
            now: datetime = await connection.fetchval(_NOW)
            return now, _keys(await connection.fetch(_CHANGED, since or now))


def _new(key: StoredKey) -> tuple[object, ...]:
    return (*key[:8], key.expires_at)


def _keys(records: Sequence[asyncpg.Record]) -> list[StoredKey]:
    return [_key(record) for record in records]


def _key(record: asyncpg.Record) -> StoredKey:
    id_, project, name, digest, scopes, *rest = record
    return StoredKey(id_, project, name, digest, tuple(scopes), *rest)

"""Ingest's tables of the console's users, and of the one-time links that let them set a password.

All raise PostgresAway. No user is ever deleted. The last admin who could log in never goes: who takes one away holds
them all.
"""

from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from libs.common.lifecycle import Fatal
from libs.common.postgres import Connection, Postgres
from services.ingest.auth import BOOTSTRAP_PROJECT

USERS_MAX = 500

Role = Literal["viewer", "operator", "admin"]
Changed = Literal["done", "unknown", "last_admin"]

_COLUMNS = "id, name, role, projects, epoch, disabled_at, password, created_at, changed_at, last_seen_at"
_BY_ID = f"SELECT {_COLUMNS} FROM console_user WHERE id = $1"  # noqa: S608  our own words
_BY_NAME = f"SELECT {_COLUMNS} FROM console_user WHERE name = $1"  # noqa: S608  our own words
_EVERYONE = f"SELECT {_COLUMNS} FROM console_user ORDER BY name"  # noqa: S608  our own words
_IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM console_user)"
# From one project to the next by an index: of ten million tasks as many entries are read as there are projects.
_PROJECTS = """
    WITH RECURSIVE of_tasks (project) AS (
        SELECT min(project) FROM task
        UNION ALL
        SELECT (SELECT min(project) FROM task WHERE project > of_tasks.project) FROM of_tasks
            WHERE of_tasks.project IS NOT NULL
    )
    SELECT project FROM of_tasks WHERE project IS NOT NULL
    UNION SELECT project FROM key
    UNION SELECT unnest(projects) FROM console_user
"""
_ADD = f"""
    INSERT INTO console_user (id, name, role, projects, password, created_at, changed_at)
    SELECT $1, $2, $3, $4, $5, $6, $6 WHERE (SELECT count(*) FROM console_user) < {USERS_MAX}
"""  # noqa: S608  our own words
_CHANGE = "UPDATE console_user SET role = $2, projects = $3, changed_at = $4 WHERE id = $1"
_DISABLE = """
    WITH no_links AS (DELETE FROM console_link WHERE user_id = $1)
    UPDATE console_user SET disabled_at = coalesce(disabled_at, $2), epoch = epoch + 1, changed_at = $2 WHERE id = $1
"""
_ENABLE = "UPDATE console_user SET disabled_at = NULL, changed_at = $2 WHERE id = $1"
_END_SESSIONS = "UPDATE console_user SET epoch = epoch + 1, changed_at = $2 WHERE id = $1 RETURNING epoch"
_RENEW = """
    UPDATE console_user SET password = $3, epoch = epoch + 1, changed_at = $4
    WHERE id = $1 AND password = $2 AND disabled_at IS NULL RETURNING epoch
"""
_REHASH = "UPDATE console_user SET password = $3 WHERE id = $1 AND password = $2"
_SEEN = "UPDATE console_user SET last_seen_at = greatest(last_seen_at, $2) WHERE id = $1"

# Who could log in as an admin now, held until the end of the transaction; in one order, so that two never wait for
# each other.
_ADMINS = """
    SELECT id FROM console_user WHERE role = 'admin' AND disabled_at IS NULL AND password IS NOT NULL
    ORDER BY id FOR UPDATE
"""
# Nobody else adds or changes a user until the end of the transaction; all may read.
_ALONE = "LOCK TABLE console_user IN SHARE ROW EXCLUSIVE MODE"

_FIRST_LINK = """
    INSERT INTO console_link (digest, created_at, expires_at)
    SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM console_user)
"""
_LINK = "INSERT INTO console_link (digest, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)"
_OLD_LINKS = "DELETE FROM console_link WHERE user_id = $1"
_FIND_FIRST_LINK = """
    SELECT EXISTS (SELECT FROM console_link WHERE digest = $1 AND user_id IS NULL AND expires_at > $2)
        AND NOT EXISTS (SELECT FROM console_user)
"""
_FIND_LINK = f"""
    SELECT {_COLUMNS} FROM console_user
    WHERE id = (SELECT user_id FROM console_link WHERE digest = $1 AND expires_at > $2) AND disabled_at IS NULL
"""  # noqa: S608  our own words
# Of two who use one link at once the second waits, and finds none.
_TAKE_LINK = """
    DELETE FROM console_link WHERE digest = $1 AND user_id IS NOT NULL AND expires_at > $2 RETURNING user_id
"""
_NO_FIRST_LINKS = "DELETE FROM console_link WHERE user_id IS NULL"
_REDEEM = f"""
    UPDATE console_user SET password = $2, epoch = epoch + 1, changed_at = $3
    WHERE id = $1 AND disabled_at IS NULL RETURNING {_COLUMNS}
"""  # noqa: S608  our own words
_FORGET_LINKS = "DELETE FROM console_link WHERE expires_at <= $1"


class ConsoleUser(NamedTuple):
    """`projects`: those they may see; none of them named means all. `password` is its hash, None until one is set."""

    id: UUID
    name: str
    role: Role
    projects: tuple[str, ...]
    epoch: int
    disabled_at: datetime | None
    password: str | None
    created_at: datetime
    changed_at: datetime
    last_seen_at: datetime | None


class NewUser(NamedTuple):
    id: UUID
    name: str
    role: Role
    projects: tuple[str, ...]
    password: str | None = None


class UserStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def by_id(self, id_: UUID) -> ConsoleUser | None:
        return await self._one(_BY_ID, id_)

    async def by_name(self, name: str) -> ConsoleUser | None:
        return await self._one(_BY_NAME, name)

    async def everyone(self) -> list[ConsoleUser]:
        """By name; there are `USERS_MAX` at most."""
        async with self._postgres.acquire() as connection:
            return [_user(record) for record in await connection.fetch(_EVERYONE)]

    async def is_empty(self) -> bool:
        async with self._postgres.acquire() as connection:
            return bool(await connection.fetchval(_IS_EMPTY))

    async def projects(self) -> list[str]:
        """Every project that has a task, a key or a user, and the one that is always there; by name."""
        async with self._postgres.acquire() as connection:
            found = {project for (project,) in await connection.fetch(_PROJECTS)}
        return sorted(found | {BOOTSTRAP_PROJECT})

    async def add(self, user: NewUser, now: datetime) -> Literal["done", "taken", "full"]:
        try:
            async with self._postgres.acquire() as connection:
                done = await connection.execute(_ADD, *user, now)
        except asyncpg.UniqueViolationError:
            return "taken"
        return "done" if done == "INSERT 0 1" else "full"

    async def change(self, id_: UUID, role: Role, projects: tuple[str, ...], now: datetime) -> Changed:
        """What a user may, from the next request on."""
        if role == "admin":
            return await self._changed(_CHANGE, id_, role, projects, now)
        return await self._changed_but_last(_CHANGE, id_, role, projects, now)

    async def disable(self, id_: UUID, now: datetime) -> Changed:
        """Ends their sessions and links too, for good."""
        return await self._changed_but_last(_DISABLE, id_, now)

    async def enable(self, id_: UUID, now: datetime) -> Changed:
        return await self._changed(_ENABLE, id_, now)

    async def end_sessions(self, id_: UUID, now: datetime) -> int | None:
        """The epoch of those to come; None for nobody."""
        async with self._postgres.acquire() as connection:
            epoch: int | None = await connection.fetchval(_END_SESSIONS, id_, now)
        return epoch

    async def set_password(self, id_: UUID, before: str, after: str, now: datetime) -> int | None:
        """Ends their sessions: the epoch of those to come. None when the password is not `before` any more."""
        async with self._postgres.acquire() as connection:
            epoch: int | None = await connection.fetchval(_RENEW, id_, before, after, now)
        return epoch

    async def rehash(self, id_: UUID, before: str, after: str) -> None:
        """The same password in another hash."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_REHASH, id_, before, after)

    async def seen(self, id_: UUID, now: datetime) -> None:
        async with self._postgres.acquire() as connection:
            await connection.execute(_SEEN, id_, now)

    async def add_first_link(self, digest: bytes, now: datetime, until: datetime) -> bool:
        """A link that makes the first admin. False when there is a user already.

        Raises: Fatal when the tables are not there.
        """
        try:
            async with self._postgres.acquire() as connection:
                return await connection.execute(_FIRST_LINK, digest, now, until) == "INSERT 0 1"
        except asyncpg.UndefinedTableError as error:
            raise Fatal(
                f"PostgreSQL has no table of the console's users ({error}): run the set-up step (python -m deploy.setup"
                ") of this release with the same CARILLON_POSTGRES_URL as this service"
            ) from error

    async def add_link(self, digest: bytes, user_id: UUID, now: datetime, until: datetime) -> None:
        """A link that sets the user's password. Their earlier ones end."""
        async with self._postgres.acquire() as connection, connection.transaction():
            await connection.execute(_OLD_LINKS, user_id)
            await connection.execute(_LINK, digest, user_id, now, until)

    async def is_first_link(self, digest: bytes, now: datetime) -> bool:
        async with self._postgres.acquire() as connection:
            return bool(await connection.fetchval(_FIND_FIRST_LINK, digest, now))

    async def user_of_link(self, digest: bytes, now: datetime) -> ConsoleUser | None:
        """Whose password the link sets; None when it does nothing any more."""
        return await self._one(_FIND_LINK, digest, now)

    async def redeem_first(self, digest: bytes, user: NewUser, now: datetime) -> bool:
        """Make the first user, and end all links that make one. False: the link is used up, or there is a user."""
        async with self._postgres.acquire() as connection, connection.transaction():
            await connection.execute(_ALONE)
            if not await connection.fetchval(_FIND_FIRST_LINK, digest, now):
                return False
            await connection.execute(_NO_FIRST_LINKS)
            await connection.execute(_ADD, *user, now)
        return True

    async def redeem(self, digest: bytes, password: str, now: datetime) -> ConsoleUser | None:
        """Set the password, and end the user's sessions and links. None: the link is used up, or they are disabled."""
        async with self._postgres.acquire() as connection, connection.transaction():
            user_id = await connection.fetchval(_TAKE_LINK, digest, now)
            record = await connection.fetchrow(_REDEEM, user_id, password, now)
            await connection.execute(_OLD_LINKS, user_id)
        return None if record is None else _user(record)

    async def forget_links(self, now: datetime) -> None:
        """Delete those that have expired."""
        async with self._postgres.acquire() as connection:
            await connection.execute(_FORGET_LINKS, now)

    async def _one(self, statement: str, *arguments: object) -> ConsoleUser | None:
        async with self._postgres.acquire() as connection:
            record = await connection.fetchrow(statement, *arguments)
        return None if record is None else _user(record)

    async def _changed(self, statement: str, *arguments: object) -> Changed:
        async with self._postgres.acquire() as connection:
            return _outcome(await connection.execute(statement, *arguments))

    async def _changed_but_last(self, statement: str, id_: UUID, *arguments: object) -> Changed:
        async with self._postgres.acquire() as connection, connection.transaction():
            if await _admins(connection) == [id_]:
                return "last_admin"
            return _outcome(await connection.execute(statement, id_, *arguments))


async def _admins(connection: Connection) -> list[UUID]:
    return [id_ for (id_,) in await connection.fetch(_ADMINS)]


def _outcome(done: str) -> Changed:
    return "done" if done == "UPDATE 1" else "unknown"


def _user(record: asyncpg.Record) -> ConsoleUser:
    id_, name, role, projects, *rest = record
    return ConsoleUser(id_, name, role, tuple(projects), *rest)

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from libs.common import postgres as under_test
from libs.common.lifecycle import Backoff, Fatal
from libs.common.postgres import Connection, Postgres, PostgresAway, postgres_pool, until_available

ROLE, SCHEMA = "carillon_test_pool", "test_pool"


@pytest.fixture
async def owner(postgres_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A plain connection, with the role and the schema made."""
    connection = await asyncpg.connect(postgres_url)
    if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", ROLE):
        await connection.execute(f"CREATE ROLE {ROLE} NOLOGIN")
        await connection.execute(f"GRANT {ROLE} TO CURRENT_USER")
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    await connection.execute(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {ROLE}")
    try:
        yield connection
    finally:
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await connection.close()


def pool_of(url: str, *, role: str = ROLE, max_size: int = 10) -> AbstractAsyncContextManager[Postgres]:
    return postgres_pool(url, role=role, schema=SCHEMA, application_name="test", max_size=max_size)


@pytest.fixture
async def postgres(postgres_url: str, owner: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[Postgres]:
    async with pool_of(postgres_url) as opened:
        yield opened


def changed(url: str, *, login: str | None = None, at: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(url)
    old_login, _, old_at = parts.netloc.rpartition("@")
    netloc = f"{login or old_login}@{at or old_at}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path))


async def terminate(owner: "asyncpg.Connection[asyncpg.Record]", victim: Connection) -> None:
    pid = await victim.fetchval("SELECT pg_backend_pid()")
    await owner.execute("SELECT pg_terminate_backend($1, 5000)", pid)


async def test_a_connection_is_the_role_in_its_schema_with_its_limits(postgres: Postgres) -> None:
    async with postgres.acquire() as connection:
        row = await connection.fetchrow(
            """SELECT current_user::text AS who, current_schema() AS schema,
                      current_setting('TimeZone') AS zone,
                      current_setting('application_name') AS application,
                      current_setting('statement_timeout') AS statement,
                      current_setting('lock_timeout') AS lock,
                      current_setting('idle_in_transaction_session_timeout') AS idle"""
        )

    assert row is not None
    assert dict(row) == {
        "who": ROLE,
        "schema": SCHEMA,
        "zone": "UTC",
        "application": "test",
        "statement": "10s",
        "lock": "2s",
        "idle": "5s",
    }


async def test_role_and_schema_survive_the_return_of_a_connection_to_the_pool(
    postgres_url: str, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    seen = []
    async with pool_of(postgres_url, max_size=1) as postgres:
        for _ in range(2):
            async with postgres.acquire() as connection:
                seen.append(
                    await connection.fetchval(
                        "SELECT concat(pg_backend_pid(), current_user, current_schema(), "
                        "current_setting('statement_timeout'))"
                    )
                )
                await connection.execute("SET search_path = pg_catalog; SET statement_timeout = 1234")

    assert seen[0] == seen[1]


async def test_a_pool_opens_while_postgres_is_away_and_says_so_when_used(postgres_url: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"127.0.0.1:{unused.getsockname()[1]}"
        async with pool_of(changed(postgres_url, at=away)) as postgres:
            with pytest.raises(PostgresAway, match=away):
                await postgres.ping()


async def test_a_pool_whose_connection_was_lost_connects_again(
    postgres: Postgres, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async def lose_the_connection() -> None:
        async with postgres.acquire() as connection:
            await terminate(owner, connection)
            await connection.execute("SELECT 1")

    with pytest.raises(PostgresAway):
        await lose_the_connection()

    await postgres.ping()


async def test_a_connection_lost_in_a_transaction_and_used_again_is_away(
    postgres: Postgres, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async def go_on_after_the_loss() -> None:
        async with postgres.acquire() as connection, connection.transaction():
            await terminate(owner, connection)
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await connection.execute("SELECT 1")
            await connection.execute("SELECT 2")  # InterfaceError: the connection is closed

    with pytest.raises(PostgresAway):
        await go_on_after_the_loss()


@asynccontextmanager
async def slow_to_hang_up(url: str) -> AsyncIterator[str]:
    """The database behind a proxy that passes on at once what the server says, and a second later that it hung up."""
    parts = urlsplit(url)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pass_on(reader, server_writer), pass_on(server_reader, writer))

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        await asyncio.sleep(1)
        writer.close()

    handlers: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        lambda reader, writer: handlers.add(asyncio.create_task(connected(reader, writer))), "127.0.0.1", 0
    )
    try:
        yield changed(url, at=f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()


@pytest.mark.parametrize("is_used_again", [True, False])
async def test_a_connection_whose_server_has_said_goodbye_but_not_hung_up_is_away(
    postgres_url: str, owner: "asyncpg.Connection[asyncpg.Record]", is_used_again: bool
) -> None:
    """The FATAL of a dying server arrives a moment before the end of the stream; asyncpg calls that its own fault."""

    async def meet_the_end(postgres: Postgres) -> None:
        async with postgres.acquire() as connection:
            await terminate(owner, connection)
            await asyncio.sleep(0.05)  # no event tells that asyncpg has read it
            if is_used_again:
                await connection.fetchval("SELECT 1")

    async with slow_to_hang_up(postgres_url) as url, pool_of(url, max_size=1) as postgres:
        with pytest.raises(PostgresAway, match="another operation"):
            await meet_the_end(postgres)
        await postgres.ping()


async def test_a_pool_whose_connections_are_all_in_use_says_so_in_time(
    postgres_url: str,
    owner: "asyncpg.Connection[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "ACQUIRE_S", 0.05)

    async with pool_of(postgres_url, max_size=1) as postgres, postgres.acquire():
        with pytest.raises(PostgresAway, match="Timeout"):
            async with postgres.acquire():
                pass


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SET statement_timeout = 20; SELECT pg_sleep(5)", id="statement_timeout"),
        pytest.param("SET lock_timeout = 20; LOCK TABLE busy", id="lock_timeout"),
    ],
)
async def test_a_server_that_gives_up_waiting_counts_as_away(
    postgres: Postgres, owner: "asyncpg.Connection[asyncpg.Record]", statement: str
) -> None:
    await owner.execute(f"CREATE TABLE {SCHEMA}.busy (); ALTER TABLE {SCHEMA}.busy OWNER TO {ROLE}")

    async with owner.transaction():
        await owner.execute(f"LOCK TABLE {SCHEMA}.busy")
        with pytest.raises(PostgresAway):
            async with postgres.acquire() as connection:
                await connection.execute(statement)


async def test_a_deadlock_counts_as_away_for_one_and_passes_for_the_other(postgres: Postgres) -> None:
    async with postgres.acquire() as connection:
        await connection.execute("CREATE TABLE pair (id int PRIMARY KEY); INSERT INTO pair VALUES (1), (2)")
    both_hold_one = asyncio.Barrier(2)

    async def lock(first: int, second: int) -> None:
        async with postgres.acquire() as connection, connection.transaction():
            await connection.execute("SELECT FROM pair WHERE id = $1 FOR UPDATE", first)
            await both_hold_one.wait()
            await connection.execute("SELECT FROM pair WHERE id = $1 FOR UPDATE", second)

    outcomes = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "PostgresAway"]


@pytest.mark.parametrize(
    ("statement", "arguments", "mistake"),
    [
        ("SELEKT", (), asyncpg.PostgresSyntaxError),
        ("SELECT 1 / 0", (), asyncpg.DivisionByZeroError),
        ("SELECT $1::int", (), asyncpg.InterfaceError),
        ("SELECT $1::int", ("x",), asyncpg.DataError),
        ("SELECT set_config('role', 'nobody', false)", (), asyncpg.InvalidParameterValueError),
    ],
)
async def test_a_mistake_of_the_caller_passes_as_it_is(
    postgres: Postgres, statement: str, arguments: tuple[object, ...], mistake: type[Exception]
) -> None:
    with pytest.raises(mistake):
        async with postgres.acquire() as connection:
            await connection.fetch(statement, *arguments)


async def test_what_waiting_cannot_mend_is_fatal_and_names_the_place_without_the_password(
    postgres_url: str, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    weak = f"weak_{uuid4().hex}"
    await owner.execute(f"CREATE ROLE {weak} LOGIN PASSWORD 'hunter2'")
    refused = {
        "or its password is refused": (changed(postgres_url, login="nobody:hunter2"), ROLE),
        "no such database": (changed(postgres_url, database="no_such_db"), ROLE),
        "role carillon_nobody does not exist": (postgres_url, "carillon_nobody"),
        "may not take the role": (changed(postgres_url, login=f"{weak}:hunter2"), ROLE),
        "cannot be read": (changed(postgres_url, login="a:hunter2", at="host:port"), ROLE),
    }

    try:
        for what, (url, role) in refused.items():
            async with pool_of(url, role=role) as postgres:
                with pytest.raises(Fatal, match=what) as fatal:
                    await postgres.ping()
                assert "hunter2" not in str(fatal.value)
                assert "CARILLON_POSTGRES_URL" in str(fatal.value)
    finally:
        await owner.execute(f"DROP ROLE {weak}")


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgres://u:p@db:5432/carillon?sslmode=require", "db:5432/carillon"),
        ("postgres://u:p#a/s?s@w@db/carillon", "db/carillon"),
        ("postgres://db/carillon", "db/carillon"),
    ],
)
def test_the_place_is_named_without_login_even_where_the_password_is_not_escaped(url: str, where: str) -> None:
    assert under_test._where(url) == where


async def test_a_unit_is_repeated_as_a_whole_until_postgres_is_back() -> None:
    tries: list[int] = []
    waits: list[str] = []

    async def unit() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise PostgresAway("shutting down")
        return "done"

    result = await until_available(unit, backoff=Backoff(0.001, 0.001), on_wait=lambda away: waits.append(str(away)))

    assert (result, len(tries), waits) == ("done", 3, ["shutting down"] * 2)


async def test_a_unit_with_a_bug_is_not_repeated() -> None:
    tries: list[int] = []

    async def unit() -> None:
        tries.append(1)
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        await until_available(unit)

    assert len(tries) == 1

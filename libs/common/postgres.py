"""The way to a service's own tables: connections with the right role, schema and patience.

Answers for: a limit on every wait, and the translation of asyncpg's errors into what the caller must do:
`PostgresAway` (repeat the whole idempotent unit) or `Fatal` (end, saying why). A COMMIT whose answer is lost
is *unknown*: that is why the whole unit is repeated, and why it must be idempotent.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
import structlog
from asyncpg import exceptions
from prometheus_client import Counter

from libs.common.clock import SystemClock
from libs.common.lifecycle import Backoff, Fatal
from libs.common.metrics import REGISTRY
from libs.common.tls import tls_trouble

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
"""What `Postgres.acquire` gives."""

CONNECT_S = 5.0
ACQUIRE_S = 5.0
"""asyncpg waits forever for a free connection by default."""
CLOSE_S = 5.0
STATEMENT_MS = 10_000
COMMAND_S = 15.0
"""Above STATEMENT_MS: the server gives up first and says why; this one is for a server that fell silent."""
LOCK_MS = 2_000
IDLE_IN_TRANSACTION_MS = 5_000
"""A replica frozen inside a transaction loses its row locks after this long."""
AWAY_FIRST_S, AWAY_CAP_S = 0.05, 1.0

_AWAY = (
    OSError,  # refused, reset, no such host; TimeoutError is one of them
    exceptions.PostgresConnectionError,
    exceptions.OperatorInterventionError,  # shutdown, crash, starting up, statement_timeout
    exceptions.InsufficientResourcesError,  # disk full, too many connections
    exceptions.TransactionRollbackError,  # serialization failure, deadlock
    exceptions.LockNotAvailableError,  # lock_timeout
    exceptions.IdleInTransactionSessionTimeoutError,
    exceptions.ReadOnlySQLTransactionError,  # the primary became a standby
    exceptions.InvalidCachedStatementError,  # a migration ran under us
    exceptions.OutdatedSchemaCacheError,
    asyncpg.InternalClientError,  # a server that died between two protocol messages confuses the client's states
)
_REFUSED: dict[type[Exception], str] = {
    exceptions.InvalidAuthorizationSpecificationError: "the login or its password is refused",
    exceptions.InvalidCatalogNameError: "there is no such database",
    exceptions.InvalidParameterValueError: "role {role} does not exist; run the set-up step first",
    exceptions.InsufficientPrivilegeError: "the login may not take the role {role}; grant it",
    exceptions.ClientConfigurationError: "the URL cannot be used (sslmode=verify-full needs sslrootcert=)",
    ValueError: "the URL cannot be read",
}

AWAY = Counter(
    "carillon_postgres_away_total", "Uses of Postgres that found it away, restarting, full or locked", registry=REGISTRY
)

T = TypeVar("T")
log = structlog.get_logger()


class PostgresAway(Exception):
    """Postgres is lost, busy or restarting: wait and repeat the whole idempotent unit."""


class Postgres:
    """The database as one service sees it. Made by `postgres_pool`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, where: str) -> None:
        self._pool = pool
        self._where = where

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for the block, within 5 s.

        Raises `PostgresAway` for what is lost inside the block too, and `Fatal` when Postgres refuses us; the
        caller's own mistakes (bad SQL, a violated constraint) pass as they are. An OSError or TimeoutError of
        something else awaited in the block would count as Postgres': translate it before it gets here.
        """
        try:
            async with self._pool.acquire(timeout=ACQUIRE_S) as connection:
                with _closed_is_away(connection):
                    yield connection
        except _AWAY as error:
            AWAY.inc()
            why = tls_trouble(error) or f"{type(error).__name__}: {error}"
            raise PostgresAway(f"PostgreSQL at {self._where}: {why}") from error

    async def ping(self) -> None:
        """Return when Postgres answers; raises as `acquire` does. A readiness check."""
        async with self.acquire() as connection:
            await connection.execute("SELECT 1")


@asynccontextmanager
async def postgres_pool(
    url: str, *, role: str, schema: str, application_name: str, max_size: int = 10
) -> AsyncIterator[Postgres]:
    """A pool whose connections act as `role` in `schema`, in UTC; it connects when used.

    `max_size` should be at least the number of loops that hold a connection: asyncpg's waiters are not fair.
    """
    where = _where(url)
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=max_size,
        connect=_connector(where, role),
        timeout=CONNECT_S,
        command_timeout=COMMAND_S,
        server_settings=_server_settings(role, schema, application_name),
    )
    await pool
    try:
        yield Postgres(pool, where=where)
    finally:
        await _close(pool)


async def until_available(
    unit: Callable[[], Awaitable[T]],
    *,
    backoff: Backoff | None = None,
    on_wait: Callable[[PostgresAway], None] | None = None,
) -> T:
    """What `unit` returns, repeating it as a whole while it raises `PostgresAway`; everything else passes.

    `on_wait` is called before each wait. By default waits grow from 50 ms to 1 s.
    """
    backoff = backoff or Backoff(AWAY_FIRST_S, AWAY_CAP_S)
    clock, lost_at = SystemClock(), None
    while True:
        try:
            result = await unit()
        except PostgresAway as error:
            if lost_at is None:
                lost_at = clock.monotonic()
                log.warning("postgres.lost", reason=str(error))
            if on_wait is not None:
                on_wait(error)
            await asyncio.sleep(backoff.next())
        else:
            if lost_at is not None:
                log.info("postgres.recovered", waited_s=round(clock.monotonic() - lost_at, 3))
            return result


def _server_settings(role: str, schema: str, application_name: str) -> dict[str, str]:
    # Given when connecting and not by SET afterwards: the pool's RESET ALL on release goes back to these
    # (and leaves a role alone).
    return {
        "role": role,
        "search_path": schema,
        "timezone": "UTC",
        "application_name": application_name,
        "statement_timeout": str(STATEMENT_MS),
        "lock_timeout": str(LOCK_MS),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
    }


def _connector(where: str, role: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    # Here and not around the block: the same SQLSTATEs inside a block are the caller's mistakes.
    async def connect(*args: Any, **options: Any) -> Any:
        try:
            return await asyncpg.connect(*args, **options)
        except ssl.SSLError:  # a refused certificate is a ValueError too, and can be renewed
            raise
        except tuple(_REFUSED) as error:
            what = next(text for refused, text in _REFUSED.items() if isinstance(error, refused))
            raise Fatal(
                f"PostgreSQL at {where}: {what.format(role=role)}; else correct CARILLON_POSTGRES_URL"
            ) from error

    return connect


@contextmanager
def _closed_is_away(connection: Connection) -> Iterator[None]:
    # InterfaceError means a lost connection or a caller's mistake, such as a wrong number of arguments.
    try:
        yield
    except asyncpg.InterfaceError as error:
        if _is_lost(connection):
            AWAY.inc()
            raise PostgresAway(f"the connection to PostgreSQL is lost: {error}") from error
        raise


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # asyncpg takes a lost connection away from whoever holds it
        return True


async def _close(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await pool.close()
    except (TimeoutError, *_AWAY):
        pool.terminate()


def _where(url: str) -> str:
    # The last @ ends the password even where it was not escaped; a parser would cut elsewhere and show it.
    return url.partition("://")[2].rpartition("@")[2].partition("?")[0]

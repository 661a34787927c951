"""The way to a service's own tables: a pool of connections that are who, where and as patient as they should be.

Answers for: the role and schema of every connection, a limit on every wait, and the translation of asyncpg's
errors into what the caller must do: `PostgresAway` (repeat the whole idempotent unit) or `Fatal` (end, saying why).
A COMMIT whose answer is lost is *unknown*: that is why the whole unit is repeated, and why it must be idempotent.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg
import structlog
from asyncpg import exceptions

from libs.common.clock import SystemClock
from libs.common.lifecycle import Backoff, Fatal

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
)
_REFUSED = {
    exceptions.InvalidPasswordError: "the password is wrong; correct CARILLON_POSTGRES_URL",
    exceptions.InvalidAuthorizationSpecificationError: "the login is refused; correct CARILLON_POSTGRES_URL",
    exceptions.InvalidCatalogNameError: "no such database; create it or correct CARILLON_POSTGRES_URL",
    exceptions.ClientConfigurationError: "the URL cannot be read; correct CARILLON_POSTGRES_URL",
}

T = TypeVar("T")
log = structlog.get_logger()


class PostgresAway(Exception):
    """Postgres is lost, busy or restarting: wait and repeat the whole idempotent unit."""


class Postgres:
    """The database as one service sees it. Made by `postgres_pool`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, role: str, where: str) -> None:
        self._pool = pool
        self._role = role
        self._where = where

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for the block, within 5 s.

        Raises `PostgresAway` or `Fatal` for what goes wrong inside too, except the caller's own mistakes (bad SQL,
        constraint violations), which pass. An OSError or TimeoutError of something else awaited in the block would
        count as Postgres': translate it before it gets here.
        """
        with self._translating():
            async with self._pool.acquire(timeout=ACQUIRE_S) as connection:
                with _closed_is_away(connection):
                    yield connection

    async def ping(self) -> None:
        """Return when Postgres answers; raises as `acquire` does. A readiness check."""
        async with self.acquire() as connection:
            await connection.execute("SELECT 1")

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except tuple(_REFUSED) as error:
            advice = next(text for refused, text in _REFUSED.items() if isinstance(error, refused))
            raise Fatal(f"PostgreSQL at {self._where}: {advice}") from error
        except _AWAY as error:
            raise PostgresAway(f"PostgreSQL at {self._where}: {type(error).__name__}: {error}") from error

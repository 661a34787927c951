"""The way to Redis or Valkey: a client that answers within seconds and never repeats a command by itself.

redis-py retries ten times by default, and a repeated INCR or lock counts twice; here the caller decides.
Redis holds nothing of ours that may not be lost (marks, limits, pauses), so `RedisAway` means: go on without. What
others push into ingest's list is theirs to keep: there it means wait.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import structlog
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from libs.common.lifecycle import Fatal
from libs.common.tls import tls_trouble

CONNECTIONS_MAX = 32
"""Above what one replica has in flight at once; more wait their turn."""
CONNECTION_WAIT_S = 2.0
SOCKET_S = 2.0

_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_AWAY = (
    OSError,
    exceptions.ConnectionError,  # BusyLoadingError is one of them
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,  # the primary became a replica
    exceptions.OutOfMemoryError,  # refuses writes until something expires
    exceptions.MasterDownError,  # a replica without its primary
)
# It cannot serve now: a script runs for ever, its disk is full, its replicas are gone. redis-py knows no such classes.
_NOT_NOW = ("BUSY ", "MISCONF ", "NOREPLICAS ")

log = structlog.get_logger(__name__)


class RedisAway(Exception):
    """Redis is lost, loading, full or cannot serve now: go on without it, or wait."""


def redis_client(url: str) -> Redis:
    """A client of `url` that connects when used and answers bytes. Close it with `aclose`.

    Raises `Fatal` when the URL cannot be read.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=CONNECTION_WAIT_S,
            socket_timeout=SOCKET_S,
            socket_connect_timeout=SOCKET_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
            # A command of Redis Cloud that others answer with an error, sent on each connection.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError:  # whose text may quote the password
        raise Fatal("the Redis URL cannot be read; correct CARILLON_REDIS_URL") from None
    kept = _RereadingConnection if issubclass(pool.connection_class, SSLConnection) else pool.connection_class
    pool.connection_class = type(kept.__name__, (_NoticesResets, kept), {})
    return Redis.from_pool(pool)


@asynccontextmanager
async def opened_redis(url: str) -> AsyncIterator[Redis]:
    """The client of a process. A wrong login ends it now (`Fatal`); Redis away does not."""
    client = redis_client(url)
    try:
        try:
            await ping(client)
        except RedisAway as error:
            log.warning("redis.lost", reason=str(error))
        yield client
    finally:
        await client.aclose()


@contextmanager
def translating() -> Iterator[None]:
    """Around every use of the client: raises `RedisAway` or `Fatal` in place of what the library raises.

    Mistakes of the caller (a wrong type, a script's error) pass as they are.
    """
    try:
        yield
    except _REFUSED as error:
        raise Fatal(f"Redis refuses us: {error}; correct the login in CARILLON_REDIS_URL") from error
    except (*_AWAY, exceptions.ResponseError) as error:
        if not isinstance(error, _AWAY) and not str(error).startswith(_NOT_NOW):
            raise
        trouble = tls_trouble(error)
        why = f"{error}; {trouble}" if trouble else str(error)  # its text names the server
        raise RedisAway(f"Redis: {type(error).__name__}: {why}") from error


async def ping(client: Redis) -> None:
    """Return when Redis answers; raises as `translating` does. A readiness check."""
    with translating():
        await client.ping()


class _NoticesResets(AbstractConnection):
    """Before it uses a connection again redis-py looks whether it has ended, but not whether it was reset: the command
    would fail, and Redis pass for away although it is there.
    """

    async def can_read(self) -> bool:
        """The pool makes a connection anew where this is true."""
        stream = self._reader
        return (stream is not None and stream.exception() is not None) or await super().can_read()


class _RereadingConnection(SSLConnection):
    """Reads the certificate files at each connect, as the other clients do; redis-py would keep the first ones."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        return super()._connection_arguments()

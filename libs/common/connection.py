"""One AMQP connection, kept: connect, check, open, wait for the loss, back off with jitter, again.

Plain aio-pika connections under our own loop, not the robust ones: those restore what they remember (a stale
consumer, a leaked declaration) and retry what can never work. Here everything is opened afresh each time.
A lost broker never ends the process; wrong credentials, a missing virtual host or queue do (`Fatal`).
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from prometheus_client import Counter, Gauge
from yarl import URL

from libs.common.declaration import check
from libs.common.lifecycle import Backoff, Fatal
from libs.common.metrics import REGISTRY
from libs.common.tls import tls_trouble
from libs.common.topology import Topology

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
VHOST_REFUSALS_MAX = 6
# Twice the default would find a half-open link after 183 s, this after 33 ((heartbeat + 1) * 3).
HEARTBEAT_S = 10
# What the library raises when a link is gone; besides a bare CancelledError, for which there is `is_being_cancelled`.
LINK_ERRORS = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError)

CONNECTED = Gauge("carillon_broker_connected", "1 while this connection is up", ["connection"], registry=REGISTRY)
LOST = Counter("carillon_broker_lost_total", "Connections lost", ["connection"], registry=REGISTRY)

log = structlog.get_logger(__name__)


class Party(Protocol):
    """Who lives on a connection: a publisher, a consumer."""

    async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        """The connection is up. Set `lost` when your channel dies, and the whole connection is made anew."""

    def closed(self) -> None:
        """The connection is gone; channels and delivery tags with it."""


class Link:
    """A context that keeps one connection, and a worker that ends the process when keeping it is hopeless."""

    def __init__(self, url: str, name: str, topology: Topology) -> None:
        self.name = name
        self._url = str(URL(url).update_query(heartbeat=HEARTBEAT_S))
        self._topology = topology
        self._parties: list[Party] = []
        self._vhost_refusals = 0
        self._up = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        CONNECTED.labels(name).set(0)  # there to be seen before the first connection, and when none ever comes

    def join(self, *parties: Party) -> None:
        """Before the link is entered."""
        self._parties += parties

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.create_task(self._keep(), name=self.name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})

    async def run(self, stopping: asyncio.Event) -> None:
        """Raises: Fatal when waiting cannot mend it."""
        assert self._keeping is not None, "enter the link before you run it"
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({stop, self._keeping}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._keeping.done():
            self._keeping.result()

    async def ping(self) -> None:
        """Raises: ConnectionError while the connection is down."""
        if not self._up.is_set():
            raise ConnectionError(f"the RabbitMQ connection '{self.name}' is down")

    async def up(self) -> None:
        await self._up.wait()

    async def _keep(self) -> None:
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        while True:
            try:
                await self._hold(backoff)
                log.warning("connection.lost", connection=self.name)
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                log.warning("connection.lost", connection=self.name, reason="half-open link")
            except LINK_ERRORS as error:
                self._refuse_the_hopeless(error)
                log.warning("connection.failed", connection=self.name, reason=self._reason(error))
            LOST.labels(self.name).inc()
            await asyncio.sleep(backoff.next())

    async def _hold(self, backoff: Backoff) -> None:
        # Not `wait_for`, here and below: until Python 3.12 it swallows a cancellation that meets its result.
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await aio_pika.connect(self._url, client_properties={"connection_name": self.name})
        lost = asyncio.Event()
        connection.close_callbacks.add(lambda *_: lost.set())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await check(connection, self._topology)
            for party in self._parties:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await party.opened(connection, lost)
            self._up.set()
            CONNECTED.labels(self.name).set(1)
            log.info("connection.opened", connection=self.name)
            backoff.reset()
            await lost.wait()
        finally:
            self._up.clear()
            CONNECTED.labels(self.name).set(0)
            for party in self._parties:
                party.closed()
            await _close(connection)

    def _refuse_the_hopeless(self, error: BaseException) -> None:
        if is_wrong_login(error):
            raise Fatal(
                f"RabbitMQ at {self._where} refused the login '{URL(self._url).user}': check user and password in"
                " CARILLON_AMQP_URL"
            ) from error
        # A broker that is still starting closes in the same way, so it takes more than one refusal to believe it.
        self._vhost_refusals = self._vhost_refusals + 1 if is_refused_vhost(error) else 0
        if self._vhost_refusals >= VHOST_REFUSALS_MAX:
            raise Fatal(
                f"RabbitMQ at {self._where} refuses the virtual host: create it and give the user its permissions, or"
                " correct the path of CARILLON_AMQP_URL"
            ) from error

    def _reason(self, error: BaseException) -> str:
        trouble = tls_trouble(error)
        return f"RabbitMQ at {self._where}: {trouble}" if trouble else repr(error)

    @property
    def _where(self) -> str:
        return str(URL(self._url).with_user(None).with_query(None))


def is_wrong_login(error: BaseException) -> bool:
    return isinstance(error, AuthenticationError | ProbableAuthenticationError) and "ACCESS_REFUSED" in str(error)


def is_refused_vhost(error: BaseException) -> bool:
    """The library expects OpenOk, gets Close, and keeps the reason to itself."""
    return isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error)


def is_being_cancelled() -> bool:
    """Ask it of a CancelledError: False when nobody cancelled us and a link died half-open inside the library."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


@contextmanager
def link_may_be_gone() -> Iterator[None]:
    """What is done here needs no doing when the link is gone."""
    try:
        yield
    except LINK_ERRORS:
        pass
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise


def watch(channel: AbstractChannel, lost: asyncio.Event) -> None:
    """A channel that dies takes its connection along: one way to heal instead of two."""
    channel.close_callbacks.add(lambda *_: lost.set())


async def _close(connection: AbstractConnection) -> None:
    with link_may_be_gone():
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()

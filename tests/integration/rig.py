"""What the tests of the AMQP layer share: a proxy that fails on demand, parties on a link, a look at the broker."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage, HeadersType
from pamqp import commands, frame
from yarl import URL

from libs.common.connection import Link
from libs.common.consumer import BatchConsumer, ItemConsumer
from libs.common.intake import Intake, decoder
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.topology import topology
from tests.conftest import RETRY_SCHEDULE_S

Consumer = ItemConsumer[int] | BatchConsumer[int]


async def until(what: str, is_so: Callable[[], object], within_s: float = 10) -> None:
    """Wait for a predicate, awaitable or not; say what was waited for."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        answer = is_so()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert asyncio.get_running_loop().time() < deadline, f"waited {within_s} s for {what}"
        await asyncio.sleep(0.01)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def held(queue: str) -> float:
    return metric("carillon_consumer_messages_held", queue=queue)


def stale(queue: str) -> float:
    return metric("carillon_consumer_stale_acks_total", queue=queue)


def a_link(url: str, name: str = "test") -> Link:
    return Link(url, name, topology(RETRY_SCHEDULE_S))


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[Publisher]:
    publisher, link = Publisher(), a_link(url, "test publishes")
    link.join(publisher)
    async with link:
        await asyncio.wait_for(link.up(), 10)
        yield publisher


@dataclass
class Running:
    link: Link
    stopping: asyncio.Event
    workers: list[asyncio.Task[None]]

    async def ended(self) -> None:
        """All consumers have returned, none with an error."""
        await asyncio.wait_for(asyncio.gather(*self.workers), 10)


@asynccontextmanager
async def consuming(url: str, *consumers: Consumer, name: str = "test consumes") -> AsyncIterator[Running]:
    """As a service does, cancelled without mercy at the end."""
    link = a_link(url, name)
    for consumer in consumers:
        link.join(consumer.intake)
    async with link:
        await asyncio.wait_for(link.up(), 10)
        stopping = asyncio.Event()
        running = Running(link, stopping, [asyncio.create_task(consumer.run(stopping)) for consumer in consumers])
        yield running
        for worker in running.workers:
            worker.cancel()
        results = await asyncio.gather(*running.workers, return_exceptions=True)
    failures = [result for result in results if isinstance(result, Exception)]
    assert not failures, failures


@dataclass
class Handler:
    """Counts what begins and what ends; holds it while `gate` is closed; raises what it is told to."""

    begun: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    raises: dict[int, BaseException] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def item(self, item: int) -> None:
        self.begun.append(item)
        await self.gate.wait()
        if item in self.raises:
            raise self.raises[item]
        self.done.append(item)

    async def batch(self, items: Sequence[int]) -> None:
        self.batches.append(list(items))
        self.begun += items
        await self.gate.wait()
        for item in items:
            if item in self.raises:
                raise self.raises[item]
        self.done += items

    async def has_begun(self, *items: int) -> None:
        await until(f"{items} begun, {self.begun} have", lambda: set(items) <= set(self.begun))

    async def has_done(self, *items: int) -> None:
        await until(f"{items} done, {self.done} are", lambda: set(items) <= set(self.done))


def one_by_one(
    queue: str, handler: Handler, publisher: Publisher, *, slots: asyncio.Semaphore | None = None, prefetch: int = 64
) -> ItemConsumer[int]:
    intake = Intake(queue, decoder(int), publisher, prefetch=prefetch)
    return ItemConsumer(intake, handler.item, slots or asyncio.Semaphore(100))


def in_batches(queue: str, handler: Handler, publisher: Publisher, *, linger_s: float = 0.02) -> BatchConsumer[int]:
    intake = Intake(queue, decoder(int), publisher, prefetch=64)
    return BatchConsumer(intake, handler.batch, linger_s=linger_s)


# --- the broker, looked at and spoken to directly


async def ready(connection: AbstractConnection, queue: str) -> int:
    """Messages of `queue` that no consumer holds."""
    async with connection.channel() as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


async def put(connection: AbstractConnection, queue: str, *bodies: bytes, crashes: int | None = None) -> None:
    """Straight into the queue, one message per body."""
    headers: HeadersType = {} if crashes is None else {"carillon-crashes": crashes}
    async with connection.channel() as channel:
        for body in bodies:
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, headers=headers)
            await channel.default_exchange.publish(message, queue, timeout=5)


async def take(connection: AbstractConnection, queue: str) -> AbstractIncomingMessage:
    """The next message of `queue`, waited for, acked."""
    taken: list[AbstractIncomingMessage] = []

    async def came() -> bool:
        async with connection.channel() as channel:
            source = await channel.get_queue(queue, ensure=False)
            message = await source.get(fail=False)
            if message is not None:
                await message.ack()
                taken.append(message)
        return message is not None

    await until(f"a message in {queue}", came)
    return taken[0]


async def send_back(connection: AbstractConnection, queue: str, times: int) -> None:
    """Take the next message and return it, as a consumer that dies would, so that its deliveries count."""
    for _ in range(times):
        async with connection.channel() as channel:
            source = await channel.get_queue(queue, ensure=False)
            message = await source.get(timeout=5)
            assert message is not None
            await message.nack(requeue=True)
        await until("the message to be back", lambda: _is_one(connection, queue))


async def _is_one(connection: AbstractConnection, queue: str) -> bool:
    return await ready(connection, queue) >= 1


class Proxy:
    """Stands between a client and the broker; a connection can freeze, be cut, or hear what the broker never said."""

    def __init__(self, url: str) -> None:
        self._broker = URL(url)
        self._server: asyncio.Server | None = None
        self._ways: set[_Way] = set()
        self._port = 0
        self.is_mute = False  # accepts, and answers nothing

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        return str(self._broker.with_host("127.0.0.1").with_port(self._port))

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    def freeze(self) -> None:
        """Not a byte more on the connections there are, in either direction; new ones flow."""
        for way in self._ways:
            way.flows.clear()

    def cut(self) -> None:
        for way in list(self._ways):
            way.cut()

    def say_blocked(self) -> None:
        """What the broker says at the first publish under an alarm."""
        for way in self._ways:
            way.to_client.write(frame.marshal(commands.Connection.Blocked(reason="test"), 0))

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(self._broker.host, self._broker.port)
        way = _Way(to_client, to_broker)
        if self.is_mute:
            way.flows.clear()
        self._ways.add(way)
        try:
            await asyncio.gather(way.pump(from_client, to_broker), way.pump(from_broker, to_client))
        finally:
            self._ways.discard(way)
            way.cut()


class _Way:
    def __init__(self, to_client: asyncio.StreamWriter, to_broker: asyncio.StreamWriter) -> None:
        self.to_client = to_client
        self.to_broker = to_broker
        self.flows = asyncio.Event()
        self.flows.set()
        self._is_cut = False

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self._is_cut:
            try:
                data = await reader.read(65536)
            except OSError:
                data = b""
            await self.flows.wait()
            if not data:
                return self.cut()
            writer.write(data)

    def cut(self) -> None:
        self._is_cut = True
        self.flows.set()
        for writer in (self.to_client, self.to_broker):
            writer.transport.abort()

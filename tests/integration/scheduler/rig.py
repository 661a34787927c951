"""A scheduler without its process: tasks to hand in, a publisher that answers as told, and looks at the tables."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from libs.common.clock import SystemClock
from libs.common.contracts import AnyMessage, Call, Task, encode
from libs.common.postgres import Postgres, PostgresAway, postgres_pool
from libs.common.publisher import NotPublished, Publisher, PublishUnknown, Refused
from libs.common.topology import Route
from services.scheduler.accept import Acceptor
from services.scheduler.fire import Firing
from services.scheduler.lateness import Causes
from services.scheduler.store import Accepted, DueRow, Emit, Emitted, Row, Store

CALL = msgspec.Raw(encode(Call(url="https://example.org/bell")))
SECOND = timedelta(seconds=1)
Order = tuple[int, int, int]
_read = msgspec.json.Decoder(AnyMessage).decode


def a_task(due_in_s: float = -1, *, order: Order = (1, 1, 0), body_bytes: int = 0, **fields: Any) -> Task:
    """A task that fell due a second ago, unless told otherwise."""
    generation, attempt, hop = order
    now = datetime.now(UTC).replace(microsecond=0)
    call = msgspec.Raw(encode(Call(url="https://example.org/bell", body=b"x" * body_bytes))) if body_bytes else CALL
    known = {
        "id": uuid4(),
        "project": "acme",
        "created_at": now,
        "due_at": now + due_in_s * SECOND,
        "fingerprint": "a",
        "call": call,
    }
    return Task(**{**known, **fields}, generation=generation, attempt=attempt, hop=hop)


def at(task: Task, *order: int) -> Task:
    """The same task, further on its way."""
    generation, attempt, hop = order
    return msgspec.structs.replace(task, generation=generation, attempt=attempt, hop=hop)


def a_row(task: Task, due_at: datetime | None = None) -> Row:
    return Row(
        task.id, *task.order, due_at or task.due_at, task.expires_at, task.project, task.fingerprint, encode(task)
    )


async def confirm_all(rows: Sequence[DueRow]) -> Emitted:
    return Emitted([row.id for row in rows], [])


async def confirm_none(_rows: Sequence[DueRow]) -> Emitted:
    return Emitted([], [])


@dataclass
class Recorder:
    """An emit that confirms all and remembers."""

    rows: list[DueRow] = field(default_factory=list)

    async def __call__(self, rows: Sequence[DueRow]) -> Emitted:
        self.rows += rows
        return await confirm_all(rows)

    @property
    def ids(self) -> list[UUID]:
        return [row.id for row in self.rows]


class FakePublisher(Publisher):
    """Keeps what it is given; `refuses` says which items the broker turns away, `flows` whether it listens at all."""

    def __init__(self, refuses: Callable[[bytes], bool] = lambda _item: False) -> None:
        super().__init__()
        self.refuses = refuses
        self.error: BaseException = Refused("full")
        self.flows = True
        self.sent: list[AnyMessage] = []

    async def publish(self, route: Route, item: bytes) -> None:
        if self.refuses(item):
            raise self.error
        self.sent.append(_read(item))

    async def publish_many(
        self, route: Route, items: Sequence[bytes], *, within_s: float = 5
    ) -> list[NotPublished | None]:
        sending = [asyncio.create_task(self.publish(route, item)) for item in items]
        if sending:
            await asyncio.wait(sending, timeout=within_s)
        return [_failure(task) for task in sending]

    async def insist(
        self, route: Route, item: bytes, headers: Mapping[str, str | int] | None = None, **_unless: Any
    ) -> None:
        while True:
            try:
                return await self.publish(route, item)
            except NotPublished:
                await asyncio.sleep(0.01)

    async def flowing(self) -> None:
        if not self.flows:
            await asyncio.Event().wait()

    def take(self) -> list[AnyMessage]:
        sent, self.sent = self.sent, []
        return sent


def _failure(sending: "asyncio.Task[None]") -> NotPublished | None:
    if not sending.done():
        sending.cancel()
    if not sending.done() or sending.cancelled():
        return PublishUnknown("no answer in time")
    error = sending.exception()
    return error if error is None or isinstance(error, NotPublished) else PublishUnknown(repr(error))


@dataclass
class Held:
    """What the wheel was told."""

    dues: dict[UUID, datetime] = field(default_factory=dict)

    def __call__(self, task_id: UUID, due_at: datetime) -> None:
        self.dues[task_id] = due_at


class LosesAnswers(Store):
    """A store whose next COMMITs succeed, and whose answers get lost."""

    losses = 1

    async def accept(self, rows: Sequence[Row]) -> Accepted:
        accepted = await super().accept(rows)
        if self.losses:
            self.losses -= 1
            raise PostgresAway("the answer is lost")
        return accepted


def an_acceptor(store: Store, publisher: Publisher | None = None, held: Held | None = None) -> Acceptor:
    return Acceptor(store, publisher or FakePublisher(), held or Held(), SystemClock())


def a_firing(store: Store, publisher: Publisher) -> Firing:
    """Of a scheduler that has run for a day."""
    return Firing(store, publisher, Causes(datetime.now(UTC) - timedelta(days=1)), SystemClock())


def a_pool(url: str, name: str = "replica-1") -> AbstractAsyncContextManager[Postgres]:
    return postgres_pool(url, role="carillon_scheduler", schema="scheduler", application_name=name)


@dataclass
class Tables:
    """The scheduler's tables as a bystander sees them."""

    connection: "asyncpg.Connection[asyncpg.Record]"

    async def orders(self, task_id: UUID) -> list[Order]:
        return await self._orders("task", task_id)

    async def tombstones(self, task_id: UUID) -> list[Order]:
        return await self._orders("task_done", task_id)

    async def causes(self, task_id: UUID) -> list[str]:
        rows = await self.connection.fetch("SELECT cause FROM scheduler.task_done WHERE id = $1", task_id)
        return [row["cause"] for row in rows]

    async def state(self, task_id: UUID) -> tuple[list[tuple[Order, datetime]], list[Order]]:
        """The row and the tombstones of one id, in one look."""
        rows = await self.connection.fetch(
            "SELECT generation, attempt, hop, due_at FROM scheduler.task WHERE id = $1 UNION ALL"
            " SELECT generation, attempt, hop, NULL FROM scheduler.task_done WHERE id = $1 ORDER BY 1, 2, 3",
            task_id,
        )
        orders = [((g, a, h), due) for g, a, h, due in rows]
        return [pair for pair in orders if pair[1] is not None], [order for order, due in orders if due is None]

    async def message(self, task_id: UUID) -> bytes:
        message: bytes = await self.connection.fetchval("SELECT message FROM scheduler.task WHERE id = $1", task_id)
        return message

    async def due_at(self, task_id: UUID) -> datetime:
        due: datetime = await self.connection.fetchval("SELECT due_at FROM scheduler.task WHERE id = $1", task_id)
        return due

    async def waiting(self) -> int:
        count: int = await self.connection.fetchval("SELECT count(*) FROM scheduler.task")
        return count

    async def gone(self) -> int:
        count: int = await self.connection.fetchval("SELECT count(*) FROM scheduler.task_done")
        return count

    async def someone_waits_for_a_lock(self) -> bool:
        waits: bool = await self.connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return waits

    async def kill_those_in_a_transaction(self) -> int:
        killed: int = await self.connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        return killed

    async def need_no_disk(self) -> None:
        """Commits return before they are on disk: no test here turns the machine off."""
        name = await self.connection.fetchval("SELECT current_database()")
        await self.connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')

    async def has_been_empty_for_long(self, tombstones: int) -> None:
        """What the planner knows of `task` was found out in a quiet moment."""
        await self.connection.execute(
            """
            INSERT INTO scheduler.task
            SELECT gen_random_uuid(), 1, 1, 0, now(), NULL, 1, 9, 'p', 'f', NULL, repeat('x', 300)::bytea
            FROM generate_series(1, 1500);
            DELETE FROM scheduler.task;
            ANALYZE scheduler.task;
            """
        )
        await self.connection.execute(
            """
            INSERT INTO scheduler.task_done (id, generation, attempt, hop, cause, fingerprint, project)
            SELECT gen_random_uuid(), 1, 1, 0, 'fired', 'f', 'p' FROM generate_series(1, $1)
            """,
            tombstones,
        )

    async def empty(self) -> None:
        tables = await self.connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'scheduler'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition AND relname <> 'schema_migrations'"
        )
        await self.connection.execute(";".join(f"DELETE FROM scheduler.{table['relname']}" for table in tables))

    async def drop_days(self) -> None:
        for name in await self.days():
            await self.connection.execute(f'DROP TABLE scheduler."{name}"')

    async def days(self) -> list[str]:
        rows = await self.connection.fetch(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'scheduler.task_done'::regclass ORDER BY 1"
        )
        return [row["relname"] for row in rows]

    async def now(self) -> datetime:
        now: datetime = await self.connection.fetchval("SELECT clock_timestamp()")
        return now

    async def _orders(self, table: str, task_id: UUID) -> list[Order]:
        rows = await self.connection.fetch(
            f"SELECT generation, attempt, hop FROM scheduler.{table} WHERE id = $1 ORDER BY 1, 2, 3", task_id
        )
        return [(row["generation"], row["attempt"], row["hop"]) for row in rows]


@asynccontextmanager
async def bystander(url: str) -> AsyncIterator[Tables]:
    connection = await asyncpg.connect(url)
    try:
        yield Tables(connection)
    finally:
        await connection.close()


class Gate:
    """An emit that stands between publish and commit until it is opened."""

    def __init__(self, emit: Emit = confirm_all) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._emit = emit

    async def __call__(self, rows: Sequence[DueRow]) -> Emitted:
        self.reached.set()
        await self.opened.wait()
        return await self._emit(rows)


async def until(what: str, is_so: Callable[[], Any], within_s: float = 10) -> None:
    """Wait for a predicate (plain or async) with a deadline, or say what was waited for."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        answer = is_so()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        assert asyncio.get_running_loop().time() < deadline, f"waited {within_s} s for {what}"
        await asyncio.sleep(0.01)


@dataclass
class Proxy:
    """A TCP port in front of a server, that can be cut and healed while the server itself stays up."""

    host: str
    target_port: int
    port: int = 0
    _server: asyncio.Server | None = None
    _links: set[asyncio.Task[None]] = field(default_factory=set)

    async def heal(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    def reset(self) -> None:
        """Break what is connected; new connections are welcome."""
        for link in self._links:
            link.cancel()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self.host, self.target_port)
        link = asyncio.create_task(self._both(reader, writer, there_reader, there_writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader,
        there_writer: asyncio.StreamWriter,
    ) -> None:
        ways = [asyncio.create_task(_pump(reader, there_writer)), asyncio.create_task(_pump(there_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.transport.abort()
            there_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

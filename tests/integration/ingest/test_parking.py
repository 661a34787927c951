"""What nobody could process, from the real parking queue into the table, the history and the digest."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import msgspec
import pytest
from aio_pika.abc import AbstractConnection

from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.contracts import (
    Call,
    CreateTask,
    FailedTask,
    Notice,
    Task,
    TaskDue,
    TaskFinished,
    TaskParked,
    encode,
)
from libs.common.intake import CAUSE_HEADER, ORIGIN_HEADER
from libs.common.postgres import Postgres
from libs.common.publisher import Publisher
from libs.common.topology import FALLBACK, INGEST_HISTORY, PARKING, PARKING_EXCHANGE, SCHEDULER_TASKS, topology
from services.ingest.parking import Parking, parking_consumer, stuck_tasks
from services.ingest.store import Store

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def task(id_: UUID, call: bytes | None = None) -> Task:
    raw = call if call is not None else encode(Call(url="http://example.com/"))
    return Task(
        id=id_, project="default", generation=2, attempt=3, hop=4, created_at=NOW, due_at=NOW, fingerprint="f",
        labels={"order": "42"}, call=msgspec.Raw(raw),
    )  # fmt: skip


def due(id_: UUID) -> bytes:
    return encode(TaskDue(task=msgspec.Raw(encode(task(id_))), due_at=NOW, emitted_at=NOW))


def finished(id_: UUID) -> bytes:
    return encode(
        TaskFinished(id=id_, project="default", generation=1, attempt=1, hop=1, state="cancelled", finished_at=NOW)
    )


@asynccontextmanager
async def running(amqp_url: str, store: Store) -> AsyncIterator[None]:
    publisher = Publisher()
    consumer = parking_consumer(Parking(store, publisher, SystemClock()), publisher)
    stopping = asyncio.Event()
    out, into = Link(amqp_url, "out", topology()), Link(amqp_url, "in", topology())
    out.join(publisher)
    into.join(consumer.intake)
    async with out, into:
        work = asyncio.create_task(consumer.run(stopping))
        yield
        stopping.set()
        await asyncio.wait_for(work, 5)


async def park(amqp: AbstractConnection, body: bytes, headers: dict[str, Any] | None = None) -> str:
    message_id = uuid4().hex
    channel = await amqp.channel()
    exchange = await channel.get_exchange(PARKING_EXCHANGE)
    await exchange.publish(aio_pika.Message(body, message_id=message_id, headers=headers or {}), "")
    await channel.close()
    return message_id


async def eventually(what: str, look: Callable[[], Any], within_s: float = 10.0) -> Any:
    answer = None
    try:
        async with asyncio.timeout(within_s):
            while not (answer := await look()):  # noqa: ASYNC110 - the broker and Postgres have no event for it
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{what}: not within {within_s:g} s; last seen: {answer!r}")
    return answer


async def stored(postgres: Postgres, message_id: str) -> asyncpg.Record:
    async def look() -> asyncpg.Record | None:
        async with postgres.acquire() as connection:
            return await connection.fetchrow("SELECT * FROM parked WHERE message_id = $1", message_id)

    record: asyncpg.Record = await eventually(f"message {message_id} in ingest.parked", look)
    return record


async def taken(amqp: AbstractConnection, queue: str, kind: Any) -> Any:
    """The one item of the next message of `queue`."""
    channel = await amqp.channel()
    source = await channel.get_queue(queue)
    async with (
        asyncio.timeout(10),
        source.iterator(no_ack=True) as messages,
    ):  # no get: one has a single active consumer
        message = await anext(messages)
    [item] = msgspec.json.decode(message.body, type=list[kind])
    await channel.close()
    return item


async def depth(amqp: AbstractConnection, queue: str) -> int:
    channel = await amqp.channel()
    declared = await channel.declare_queue(queue, passive=True)
    await channel.close()
    return declared.declaration_result.message_count or 0


async def test_a_parked_task_is_stored_and_told_in_history_and_digest(
    amqp_url: str, amqp: AbstractConnection, store: Store, postgres: Postgres
) -> None:
    id_ = uuid4()
    body = b"[" + due(id_) + b"]"
    async with running(amqp_url, store):
        message_id = await park(amqp, body, {ORIGIN_HEADER: "dispatcher.due", CAUSE_HEADER: "crashed 5 times"})
        record = await stored(postgres, message_id)
        event = await taken(amqp, INGEST_HISTORY, TaskParked)
        line = await taken(amqp, FALLBACK, FailedTask)
    assert (record["origin"], record["cause"], record["body"]) == ("dispatcher.due", "crashed 5 times", body)
    assert (event.id, event.generation, event.attempt, event.hop) == (id_, 2, 3, 4)
    assert "crashed 5 times" in event.cause
    assert (line.id, line.state, line.url, line.labels) == (id_, "parked", "http://example.com/", {"order": "42"})
    assert await depth(amqp, PARKING) == 0


async def test_what_the_broker_dead_lettered_says_where_it_comes_from(
    amqp_url: str, amqp: AbstractConnection, store: Store, postgres: Postgres
) -> None:
    channel = await amqp.channel()
    body = b"[" + encode(CreateTask(task=task(uuid4()))) + b"]"
    exchange = await channel.get_exchange("carillon.tasks")
    await exchange.publish(aio_pika.Message(body, message_id="dead"), "create")
    message = await (await channel.get_queue(SCHEDULER_TASKS)).get()
    assert message is not None
    await message.reject(requeue=False)
    async with running(amqp_url, store):
        record = await stored(postgres, "dead")
    assert (record["origin"], record["cause"]) == (SCHEDULER_TASKS, "rejected")
    assert b"x-first-death-queue" in record["headers"]


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"nope", b"[nope]", b"[" * 9999, b'["\xff"]', b"[{}]", b"[]"])
async def test_what_nobody_can_read_is_stored_as_it_is(
    amqp_url: str, amqp: AbstractConnection, store: Store, postgres: Postgres, body: bytes
) -> None:
    async with running(amqp_url, store):
        record = await stored(postgres, await park(amqp, body, {"x": datetime.now(UTC), CAUSE_HEADER: "a\0b"}))
    assert record["body"] == body
    assert await depth(amqp, PARKING) == await depth(amqp, FALLBACK) == 0


async def test_a_message_that_comes_twice_is_stored_once(
    amqp_url: str, amqp: AbstractConnection, store: Store, postgres: Postgres
) -> None:
    channel = await amqp.channel()
    exchange = await channel.get_exchange(PARKING_EXCHANGE)
    for _ in range(2):
        await exchange.publish(aio_pika.Message(b"[]", message_id="twice"), "")
    async with running(amqp_url, store):
        await stored(postgres, "twice")
        await eventually("an empty parking queue", lambda: _is_empty(amqp, PARKING))
    async with postgres.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM parked") == 1


def test_every_readable_item_of_a_message_is_found() -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    notice = Notice(id=uuid4(), project="p", created_at=NOW, subject="s", message="m")
    create = encode(CreateTask(task=task(second, b"[]")))
    items = [due(first), b"{}", encode(notice), create, finished(third)]
    found = list(stuck_tasks(b"[" + b",".join(items) + b"]"))
    assert [stuck.task.id for stuck in found] == [first, second, third]
    assert [stuck.call is None for stuck in found] == [False, True, True]


async def _is_empty(amqp: AbstractConnection, queue: str) -> bool:
    return await depth(amqp, queue) == 0

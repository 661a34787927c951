"""The list door on a real Redis, with a broker that confirms, refuses or is away as a test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import pytest
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis
from structlog.testing import capture_logs

from libs.common.clock import SystemClock
from libs.common.contracts import CreateTask, Task, decode_call
from libs.common.egress import EgressRules
from libs.common.publisher import NotPublished, PublishUnknown, Refused
from libs.common.redis import redis_client
from libs.common.topology import CREATE, SCHEDULER_TASKS, Route
from services.ingest import list_door
from services.ingest.legacy import LegacyRules
from services.ingest.list_door import LANES, MANY, READ_AT_ONCE, ListDoor, PublishesMany
from services.ingest.list_entry import EntryReader
from services.ingest.list_store import ListStore
from tests.integration.rig import Proxy, metric, publishing, ready, take, until

KEY = "calls"
REJECTED = f"{KEY}:rejected"

_decode = msgspec.json.Decoder(CreateTask).decode


@dataclass
class FakeBroker:
    """Confirms; while `error` is set, nothing."""

    error: NotPublished | None = None
    is_connected: bool = True
    awaited: int = 0
    goes_away_with: NotPublished | None = None
    """After a whole batch."""
    refuse_next: int = 0
    tried: list[bytes] = field(default_factory=list)
    confirmed: list[bytes] = field(default_factory=list)

    async def ping(self) -> None:
        if not self.is_connected:
            raise ConnectionError("down")

    async def publish_many(self, route: Route, items: Sequence[bytes]) -> list[NotPublished | None]:
        assert route == CREATE
        self.tried += items
        await asyncio.sleep(0)
        if self.error is not None:
            return [self.error] * len(items)
        refused, self.refuse_next = min(self.refuse_next, len(items)), 0
        self.confirmed += items[refused:]
        if len(self.confirmed) > MANY:
            self.error, self.goes_away_with = self.goes_away_with, None
        return [Refused("a queue is full")] * refused + [None] * (len(items) - refused)

    @property
    def tasks(self) -> list[Task]:
        return [_decode(item).task for item in self.confirmed]

    @property
    def numbers(self) -> list[int]:
        return sorted(int(decode_call(task.call).url.rpartition("/")[2]) for task in self.tasks)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


def a_door(redis: Redis, broker: PublishesMany, replica: str = "one", *, lease_s: float = 0.5) -> ListDoor:
    reader = EntryReader("shop", LegacyRules("shop", 10, is_json_success=False), EgressRules(), 4096)
    return ListDoor(ListStore(redis, KEY, replica, lease_s=lease_s), reader, broker, SystemClock(), lease_s=lease_s)


@asynccontextmanager
async def running(door: ListDoor) -> AsyncIterator[list[asyncio.Task[None]]]:
    """As a process does: asked to stop, then given its time, then it leaves."""
    stopping = asyncio.Event()
    workers = [asyncio.create_task(worker.run(stopping)) for worker in door.workers()]
    try:
        yield workers
    finally:
        stopping.set()
        await asyncio.wait_for(asyncio.gather(*workers), 10)
        await door.leave()


@asynccontextmanager
async def killed(door: ListDoor) -> AsyncIterator[None]:
    """As kill -9 does: what it was about to do it never does."""
    workers = [asyncio.create_task(worker.run(asyncio.Event())) for worker in door.workers()]
    yield
    while not all(worker.done() for worker in workers):  # wait_for in redis-py swallows some, before Python 3.12
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers, timeout=0.1)


def entry(number: int) -> str:
    fields = {"notify_url": f"https://example.com/{number}", "plan_time": "2027-03-01T09:00:00Z"}
    return json.dumps(fields if number % 2 else {"url": f"https://example.com/{number}", "delay": 3600})


async def push(redis: Redis, numbers: range) -> None:
    await redis.rpush(KEY, *map(entry, numbers))


async def is_empty(redis: Redis) -> bool:
    return not await redis.exists(KEY) and not await redis.keys(f"{KEY}:taken:*")


async def taken(redis: Redis) -> int:
    return sum([await redis.hlen(key) for key in await redis.keys(f"{KEY}:taken:*")])


async def test_what_is_pushed_reaches_the_scheduler_and_nothing_stays_in_redis(
    redis: Redis, amqp_url: str, amqp: AbstractConnection
) -> None:
    before = metric("carillon_ingest_list_published_total")
    async with publishing(amqp_url) as publisher, running(a_door(redis, publisher)):
        await push(redis, range(250))
        await until("all to be published", lambda: is_empty(redis))
        messages: list[CreateTask] = []
        while await ready(amqp, SCHEDULER_TASKS):
            messages += msgspec.json.decode((await take(amqp, SCHEDULER_TASKS)).body, type=list[CreateTask])
    assert len({message.task.id for message in messages}) == 250
    assert {message.task.project for message in messages} == {"shop"}
    assert metric("carillon_ingest_list_published_total") - before == 250
    assert metric("carillon_ingest_list_held_entries") == 0
    assert await redis.keys("*") == []


async def test_a_bad_entry_is_in_the_rejected_list_with_its_reason_and_the_others_pass(
    redis: Redis, broker: FakeBroker
) -> None:
    before = metric("carillon_ingest_list_rejected_total")
    await redis.rpush(KEY, entry(1), '{"notify_url":"ftp://x/"}', "{", entry(2))
    async with running(a_door(redis, broker)):
        await until("all to be settled", lambda: is_empty(redis))
    assert broker.numbers == [1, 2]
    records = [json.loads(record) for record in await redis.lrange(REJECTED, 0, -1)]
    assert [record["entry"] for record in records] == ['{"notify_url":"ftp://x/"}', "{"]
    assert records[0]["errors"] == [
        {
            "pointer": "/url",
            "code": "bad_scheme",
            "detail": "begins with another scheme; only http and https are called",
        }
    ]
    assert records[1]["code"] == "malformed_json"
    assert metric("carillon_ingest_list_rejected_total") - before == 2


async def test_an_entry_that_our_code_cannot_bear_stops_nobody(
    redis: Redis, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = EntryReader.task

    def crash(self: EntryReader, id_: UUID, raw: bytes) -> Task:
        if raw == b"crash":
            raise ZeroDivisionError
        return read(self, id_, raw)

    monkeypatch.setattr(EntryReader, "task", crash)
    await redis.rpush(KEY, entry(1), "crash", entry(2))
    async with running(a_door(redis, broker)):
        await until("all to be settled", lambda: is_empty(redis))
    assert broker.numbers == [1, 2]
    assert [json.loads(record)["code"] for record in await redis.lrange(REJECTED, 0, -1)] == ["internal_error"]


@pytest.mark.parametrize("error", [Refused("full"), PublishUnknown("not connected")])
async def test_while_the_broker_takes_nothing_only_so_many_entries_are_held(
    redis: Redis, broker: FakeBroker, error: NotPublished
) -> None:
    total = 6 * LANES * MANY
    broker.goes_away_with = error
    await push(redis, range(total))
    async with running(a_door(redis, broker)):
        await until("several tries", lambda: len(broker.tried) > total)
        assert MANY < await taken(redis) <= LANES * MANY
        assert await redis.llen(KEY) == total - len(broker.confirmed) - await taken(redis)
        broker.error = None
        await until("all to be published", lambda: is_empty(redis))
    assert broker.numbers == list(range(total))
    assert len({task.id for task in broker.tasks}) == total


async def test_who_has_no_broker_takes_nothing_from_who_has_one(redis: Redis, broker: FakeBroker) -> None:
    cut_off = FakeBroker(is_connected=False)
    async with running(a_door(redis, cut_off)), running(a_door(redis, broker, "two")):
        await push(redis, range(40))
        await until("all to be published by the other", lambda: is_empty(redis))
    assert broker.numbers == list(range(40))
    assert cut_off.tried == []


async def test_of_a_batch_only_what_was_refused_is_published_again(redis: Redis, broker: FakeBroker) -> None:
    broker.refuse_next = 3
    await push(redis, range(10))
    async with running(a_door(redis, broker)):
        await until("all to be published", lambda: is_empty(redis))
    assert broker.numbers == list(range(10))
    assert len(broker.tried) == 13


async def test_redis_away_ends_nothing_and_is_told_once(redis: Redis, redis_url: str, broker: FakeBroker) -> None:
    async with Proxy(redis_url) as proxy:
        client = redis_client(proxy.url)
        with capture_logs() as logs:
            async with running(a_door(client, broker, lease_s=0.2)) as workers:
                await push(redis, range(5))
                await until("the first to be published", lambda: is_empty(redis))
                await proxy.close()
                await until("it to be noticed", lambda: metric("carillon_ingest_list_redis_away") == 1)
                await push(redis, range(5, 10))
                assert not [worker for worker in workers if worker.done()]
                await proxy.open()
                await until("the others to be published", lambda: is_empty(redis))
                await until("its return to be noticed", lambda: metric("carillon_ingest_list_redis_away") == 0)
        await client.aclose()
    assert broker.numbers == list(range(10))
    assert [log["event"] for log in logs if log["event"].startswith("list.")][:2] == ["list.lost", "list.recovered"]


async def test_a_confirm_that_redis_does_not_hear_of_is_told_again(
    redis: Redis, redis_url: str, broker: FakeBroker
) -> None:
    async with Proxy(redis_url) as proxy:
        client = redis_client(proxy.url)
        broker.error = Refused("full")
        async with running(a_door(client, broker, lease_s=60)):
            await push(redis, range(5))
            await until("a try", lambda: broker.tried)
            await proxy.close()
            broker.error = None
            await until("the confirm", lambda: len(broker.confirmed) == 5)
            assert await taken(redis) == 5
            await proxy.open()
            await until("all to be forgotten", lambda: is_empty(redis))
        await client.aclose()
    assert len(broker.confirmed) == 5


async def test_what_a_killed_replica_held_is_published_by_another_as_the_same_tasks(
    redis: Redis, broker: FakeBroker
) -> None:
    died = FakeBroker(error=PublishUnknown("it may be there or not"))
    before = metric("carillon_ingest_list_adopted_total")
    await push(redis, range(20))
    async with killed(a_door(redis, died, "died")):
        await until("all to be taken and tried", lambda: len(set(died.tried)) == 20)
    async with running(a_door(redis, broker)):
        await until("all to be adopted and published", lambda: is_empty(redis))
    assert sorted(broker.confirmed) == sorted(set(died.tried))
    assert metric("carillon_ingest_list_adopted_total") - before == 20


async def test_who_stops_while_the_broker_is_away_leaves_what_it_holds_to_another_at_once(
    redis: Redis, broker: FakeBroker
) -> None:
    stopped = FakeBroker(error=PublishUnknown("not connected"))
    await push(redis, range(20))
    async with running(a_door(redis, stopped, "stopped", lease_s=60)):
        await until("all to be taken and tried", lambda: len(set(stopped.tried)) == 20)
    assert await taken(redis) == 20
    async with running(a_door(redis, broker, lease_s=60)):
        await until("all to be adopted and published", lambda: is_empty(redis))
    assert sorted(broker.confirmed) == sorted(set(stopped.tried))


async def test_who_stops_publishes_what_it_holds_and_takes_nothing_more(redis: Redis, broker: FakeBroker) -> None:
    held = asyncio.Event()
    go_on = asyncio.Event()
    confirm = broker.publish_many

    async def publish_many(route: Route, items: Sequence[bytes]) -> list[NotPublished | None]:
        held.set()
        await go_on.wait()
        return await confirm(route, items)

    broker.publish_many = publish_many  # type: ignore[method-assign]
    await push(redis, range(5))
    door = a_door(redis, broker)
    stopping = asyncio.Event()
    workers = [asyncio.create_task(worker.run(stopping)) for worker in door.workers()]
    await asyncio.wait_for(held.wait(), 5)
    stopping.set()
    await until("the idle ones to end", lambda: sum(worker.done() for worker in workers) == len(workers) - 1)
    await push(redis, range(5, 10))
    go_on.set()
    await asyncio.wait_for(asyncio.gather(*workers), 5)
    await door.leave()
    assert broker.numbers == list(range(5))
    assert await redis.llen(KEY) == 5
    assert await redis.keys(f"{KEY}:taken:*") == []


async def test_between_two_turns_of_the_loop_only_so_many_entries_are_read(
    redis: Redis, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = EntryReader.task
    since_a_turn, most = 0, 0

    def count(self: EntryReader, id_: UUID, raw: bytes) -> Task:
        nonlocal since_a_turn, most
        since_a_turn += 1
        most = max(most, since_a_turn)
        return read(self, id_, raw)

    async def turn() -> None:
        nonlocal since_a_turn
        while True:
            since_a_turn = 0
            await asyncio.sleep(0)

    monkeypatch.setattr(EntryReader, "task", count)
    await push(redis, range(3 * MANY))
    turning = asyncio.create_task(turn())
    async with running(a_door(redis, broker)):
        await until("all to be published", lambda: is_empty(redis))
    turning.cancel()
    assert READ_AT_ONCE <= most <= LANES * READ_AT_ONCE


async def test_while_requests_wait_a_lane_goes_on_once_a_second(
    redis: Redis, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_door, "YIELD_S", 0.01)
    broker.awaited = list_door.REQUESTS_MAX + 1
    await push(redis, range(4 * MANY))
    async with running(a_door(redis, broker, lease_s=60)):
        began = asyncio.get_running_loop().time()
        await until("some progress", lambda: len(broker.confirmed) > MANY, within_s=20)
        assert asyncio.get_running_loop().time() - began > 2 * 0.9 * list_door.YIELDS_MAX * 0.01
        broker.awaited = list_door.REQUESTS_MAX
        await until("all to be published", lambda: is_empty(redis))
    assert broker.numbers == list(range(4 * MANY))


async def test_an_idle_door_asks_redis_a_few_times_a_second(redis: Redis, broker: FakeBroker) -> None:
    async with running(a_door(redis, broker, lease_s=10)):
        await until("both lanes to wait", lambda: _blocked(redis, LANES))
        before = (await redis.info("stats"))["total_commands_processed"]
        await asyncio.sleep(2)
        asked = (await redis.info("stats"))["total_commands_processed"] - before
    assert asked < 60


async def _blocked(redis: Redis, clients: int) -> bool:
    return int((await redis.info("clients"))["blocked_clients"]) == clients


def test_a_lane_is_asked_for_fewer_than_it_can_hold() -> None:
    assert list_door.FEW < MANY

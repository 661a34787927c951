"""A publisher meets a real broker that says yes, says no, says nothing, or goes away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection
from aiormq.connection import Connection as LibraryConnection

from libs.common import connection, publisher
from libs.common.publisher import NotPublished, Publisher, PublishUnknown, Refused, Unroutable
from libs.common.topology import CREATE, PARKED, RETURN, SCHEDULER_RETURNS, SCHEDULER_TASKS, Route
from tests.integration.rig import Proxy, a_link, metric, publishing, ready, take, until

NOBODY = Route("carillon.tasks", "nobody-bound-this")


@pytest.fixture
def fast_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open link is found after 2 s instead of 33."""
    monkeypatch.setattr(connection, "HEARTBEAT_S", 1)
    monkeypatch.setattr(LibraryConnection, "HEARTBEAT_GRACE_MULTIPLIER", 1)


@asynccontextmanager
async def small_queue(amqp: AbstractConnection, messages_max: int) -> AsyncIterator[Route]:
    name = "test.small"
    async with amqp.channel() as channel:
        exchange = await channel.declare_exchange(name, ExchangeType.DIRECT, durable=True)
        queue = await channel.declare_queue(
            name,
            durable=True,
            arguments={"x-queue-type": "quorum", "x-max-length": messages_max, "x-overflow": "reject-publish"},
        )
        await queue.bind(exchange, "key")
        try:
            yield Route(name, "key")
        finally:
            await queue.delete(if_unused=False, if_empty=False)
            await exchange.delete()


async def in_flight(messages: float, counted: Callable[[], float]) -> None:
    await until(f"{messages} publishes under way", lambda: counted() >= messages)


async def test_a_publish_that_returns_is_in_the_queue_and_persistent(amqp_url: str, amqp: AbstractConnection) -> None:
    async with publishing(amqp_url) as made:
        await made.publish(CREATE, b'{"a":1}')
    assert await ready(amqp, SCHEDULER_TASKS) == 1
    message = await take(amqp, SCHEDULER_TASKS)
    assert message.body == b'[{"a":1}]'
    assert message.delivery_mode == 2
    assert message.message_id


async def test_what_callers_wait_for_is_counted_until_they_have_their_answer(amqp_url: str) -> None:
    async with publishing(amqp_url) as made:
        sending = [asyncio.create_task(made.publish(route, b"{}")) for route in (CREATE, CREATE, RETURN, NOBODY)]
        await asyncio.sleep(0)
        assert made.awaited == 4
        await asyncio.gather(*sending, return_exceptions=True)
        assert made.awaited == 0


async def test_an_unroutable_publish_says_so_and_harms_nobody_beside_it(
    amqp_url: str, amqp: AbstractConnection
) -> None:
    async with publishing(amqp_url) as made:
        results = await asyncio.gather(
            made.publish(CREATE, b"1"),
            made.publish(NOBODY, b"2"),
            made.publish(RETURN, b"3"),
            made.publish_alone(NOBODY, b"4", {}),
            return_exceptions=True,
        )
    assert [type(result) for result in results] == [type(None), Unroutable, type(None), Unroutable]
    assert "nobody-bound-this" in str(results[1])
    assert await ready(amqp, SCHEDULER_TASKS) == await ready(amqp, SCHEDULER_RETURNS) == 1


async def test_a_full_queue_refuses(amqp_url: str, amqp: AbstractConnection) -> None:
    async with small_queue(amqp, messages_max=1) as route, publishing(amqp_url) as made:
        while await ready(amqp, "test.small") < 2:  # a quorum queue overshoots by what was under way
            if not await accepted(made, route):
                break
        with pytest.raises(Refused, match="a queue is full"):
            await made.publish(route, b"1")
        while await ready(amqp, "test.small"):
            await take(amqp, "test.small")
        await until("room after the take", lambda: accepted(made, route))


async def accepted(made: Publisher, route: Route) -> bool:
    return await made.publish_many(route, [b"2"]) == [None]


async def test_publish_many_says_which_were_confirmed(amqp_url: str) -> None:
    async with publishing(amqp_url) as made:
        assert await made.publish_many(CREATE, [b"1", b"2", b"3"]) == [None] * 3
        assert [type(failure) for failure in await made.publish_many(NOBODY, [b"1", b"2"])] == [Unroutable] * 2
        assert await made.publish_many(CREATE, []) == []


async def test_under_an_alarm_a_publish_is_unknown_and_the_flow_is_heard_of_when_it_ends(
    amqp_url: str, rabbitmqctl: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "PUBLISH_TIMEOUT_S", 0.5)
    async with publishing(amqp_url) as made:
        await made.ping()
        await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            with pytest.raises(PublishUnknown, match=r"no confirm from RabbitMQ within 0\.5 s"):
                await made.publish(CREATE, b"1")
            with pytest.raises(ConnectionError, match="blocked by an alarm"):
                await made.ping()
            flowing = asyncio.create_task(made.flowing())
        finally:
            await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "0.6")
        await asyncio.wait_for(flowing, 10)
        await made.ping()
        await asyncio.wait_for(made.insist(CREATE, b"2"), 10)


async def test_who_waits_for_the_flow_does_not_wait_for_a_connection_that_died_blocked(amqp_url: str) -> None:
    async with Proxy(amqp_url) as proxy, publishing(proxy.url) as made:
        proxy.say_blocked()
        await until("the connection to be blocked", lambda: is_blocked(made))
        waiting = asyncio.create_task(made.flowing())
        await asyncio.sleep(0)
        proxy.cut()
        await asyncio.wait_for(waiting, 10)
        await made.publish(CREATE, b"1")


async def is_blocked(made: Publisher) -> bool:
    try:
        await made.ping()
    except ConnectionError as error:
        return "blocked" in str(error)
    return False


@pytest.mark.usefixtures("fast_heartbeat")
async def test_a_publish_on_a_half_open_link_is_unknown_and_the_next_link_takes_it(amqp_url: str) -> None:
    async with Proxy(amqp_url) as proxy, publishing(proxy.url) as made:
        await made.publish(CREATE, b"1")
        proxy.freeze()
        packed = asyncio.create_task(made.publish(CREATE, b"2"))
        alone = asyncio.create_task(made.publish_alone(PARKED, b"3", {}))
        await asyncio.wait({packed, alone}, timeout=20)
        for publish in (packed, alone):
            with pytest.raises(PublishUnknown, match="half-open"):
                publish.result()
        await asyncio.wait_for(made.insist(CREATE, b"2"), 10)


@pytest.mark.parametrize("way", ["packed", "alone"])
async def test_a_caller_that_is_cancelled_stays_cancelled(
    amqp_url: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT_S", 0.1)  # of a link that is frozen to the end
    async with Proxy(amqp_url) as proxy, publishing(proxy.url) as made:
        proxy.freeze()
        publish = made.publish(CREATE, b"1") if way == "packed" else made.publish_alone(CREATE, b"1", {})
        caller = asyncio.create_task(publish)
        before = confirmed()
        for _ in range(10):
            await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(caller, 2)
        assert caller.cancelled()
        assert confirmed() == before, "a cancelled publish was counted as confirmed"


def confirmed() -> float:
    return metric("carillon_publisher_messages_total", exchange=CREATE.exchange, outcome="confirmed")


async def test_many_at_once_travel_in_few_messages_and_none_is_lost(amqp_url: str, amqp: AbstractConnection) -> None:
    items = [str(number).encode() for number in range(1000)]
    async with publishing(amqp_url) as made:
        await asyncio.gather(*(made.publish(CREATE, item) for item in items))
    messages = await ready(amqp, SCHEDULER_TASKS)
    assert messages <= 12, "at most 100 items share a message"
    found = [item for _ in range(messages) for item in msgspec.json.decode((await take(amqp, SCHEDULER_TASKS)).body)]
    assert found == list(range(1000))


async def test_an_idle_publisher_keeps_nobody_waiting_for_company(
    amqp_url: str, amqp: AbstractConnection
) -> None:  # fmt: skip
    async with publishing(amqp_url) as made:
        for number in range(3):
            await asyncio.wait_for(made.publish(CREATE, str(number).encode()), 2)
    assert await ready(amqp, SCHEDULER_TASKS) == 3


async def test_no_message_outgrows_the_byte_limit_of_its_route(amqp_url: str, amqp: AbstractConnection) -> None:
    item = b'"' + b"x" * 20_000 + b'"'
    async with publishing(amqp_url) as made:
        await asyncio.gather(*(made.publish(CREATE, item) for _ in range(9)))
    assert await ready(amqp, SCHEDULER_TASKS) == 3
    for _ in range(3):
        assert len((await take(amqp, SCHEDULER_TASKS)).body) <= CREATE.bytes_max


async def test_without_a_connection_a_publish_is_unknown_at_once() -> None:
    made = Publisher()
    with pytest.raises(PublishUnknown, match="not connected"):
        await asyncio.wait_for(made.publish(CREATE, b"1"), 1)
    with pytest.raises(ConnectionError, match="down"):
        await made.ping()


async def test_what_was_under_way_when_the_link_was_cut_is_unknown_and_insisting_gets_it_there(
    amqp_url: str, amqp: AbstractConnection
) -> None:
    async with Proxy(amqp_url) as proxy, publishing(proxy.url) as made:
        proxy.freeze()
        unknown = asyncio.create_task(made.publish(CREATE, b"1"))
        insisting = asyncio.create_task(made.insist(RETURN, b"2"))
        alone = asyncio.create_task(made.insist(PARKED, b"3", {"why": "test"}))
        for _ in range(10):
            await asyncio.sleep(0)
        proxy.cut()
        with pytest.raises(PublishUnknown):
            await asyncio.wait_for(unknown, 2)
        await asyncio.wait_for(asyncio.gather(insisting, alone), 10)
    assert await ready(amqp, SCHEDULER_RETURNS) >= 1


async def test_an_exchange_that_is_not_there_costs_the_link_and_the_link_comes_back(amqp_url: str) -> None:
    async with publishing(amqp_url) as made:
        with pytest.raises(NotPublished):
            await made.publish(Route("carillon.no-such-exchange", "key"), b"1")
        await asyncio.wait_for(made.insist(CREATE, b"2"), 10)


async def test_a_publisher_does_not_remember_who_has_left(amqp_url: str) -> None:
    link, made = a_link(amqp_url), Publisher()
    link.join(made)
    async with link:
        await asyncio.wait_for(made.flowing(), 10)
    with pytest.raises(PublishUnknown, match="not connected"):
        await made.publish(CREATE, b"1")

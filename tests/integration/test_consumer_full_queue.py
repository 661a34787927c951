"""A full queue is emptied by taking: what it refuses to take back holds up nothing else.

RabbitMQ refuses publishes to a full quorum queue until what is ready has fallen to 0.8 of the bound.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count

import pytest
from aio_pika.abc import AbstractConnection

from libs.common import intake
from libs.common.consumer import BatchConsumer, ItemConsumer
from libs.common.declaration import declare
from libs.common.intake import Intake, decoder
from libs.common.publisher import Publisher, PublishUnknown, Refused
from libs.common.topology import PARKING, SCHEDULER_TASKS, Queue, Route, Topology, topology
from tests.integration.rig import (
    Consumer,
    Handler,
    consuming,
    held,
    metric,
    publishing,
    put,
    ready,
    send_back,
    take,
    until,
)

NAME = "test.bounded"
BOUND = 20
AGAIN = Route("", NAME, items_max=1)
Kind = Callable[[Handler, Publisher, int], Consumer]


def one_by_one(handler: Handler, publisher: Publisher, prefetch: int) -> Consumer:
    return ItemConsumer(Intake(NAME, decoder(int), publisher, prefetch=prefetch), handler.item, asyncio.Semaphore(1))


def in_batches(handler: Handler, publisher: Publisher, prefetch: int) -> Consumer:
    return BatchConsumer(Intake(NAME, decoder(int), publisher, prefetch=prefetch), handler.batch)


both_kinds = pytest.mark.parametrize("kind", [one_by_one, in_batches])


@pytest.fixture
async def publisher(amqp_url: str) -> AsyncIterator[Publisher]:
    async with publishing(amqp_url) as made:
        yield made


@pytest.fixture(autouse=True)
async def _bounded(amqp: AbstractConnection, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Like scheduler.tasks, but for `BOUND` messages."""
    [alike] = [queue for queue in topology().queues if queue.name == SCHEDULER_TASKS]
    await declare(amqp, Topology((), (Queue(NAME, {**alike.arguments, "x-max-length": BOUND}),), ()))
    monkeypatch.setattr(intake, "REPUBLISH", {NAME: AGAIN})
    monkeypatch.setattr(intake, "CRASH_PAUSE_S", 0.01)
    monkeypatch.setattr(intake, "_unpacking", set())
    intake.HELD.clear()
    yield
    async with amqp.channel() as channel:
        await channel.queue_delete(NAME)


async def filled(publisher: Publisher, first: int) -> list[int]:
    """What it took until it refused."""
    for number in count(first):
        try:
            await publisher.publish(AGAIN, b"%d" % number)
        except Refused:
            return list(range(first, number))
    raise AssertionError


async def taken_and_given_back(amqp: AbstractConnection, messages: int) -> None:
    """By a consumer that dies with all of them in hand."""
    async with amqp.channel() as channel:
        source = await channel.get_queue(NAME, ensure=False)
        for _ in range(messages):
            assert await source.get(timeout=5) is not None
    await until("them to be back", lambda: _is_ready(amqp, messages))


async def _is_ready(amqp: AbstractConnection, messages: int) -> bool:
    return await ready(amqp, NAME) == messages


async def drained(amqp: AbstractConnection) -> None:
    await until("every message settled", lambda: held(NAME) == 0)
    await until("an empty queue", lambda: _is_ready(amqp, 0))


def unpacked() -> float:
    return metric("carillon_consumer_items_total", queue=NAME, result="unpacked")


@both_kinds
async def test_a_full_queue_whose_messages_have_all_come_back_twice_is_emptied(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind
) -> None:
    handler = Handler()
    for first in range(0, 3 * BOUND, 3):
        await put(amqp, NAME, b"[%d,%d,%d]" % (first, first + 1, first + 2))
    single = await filled(publisher, 3 * BOUND)
    for _ in range(2):
        await taken_and_given_back(amqp, BOUND + len(single))
    async with consuming(amqp_url, kind(handler, publisher, 2)):
        await handler.has_done(*range(3 * BOUND), *single)
        await drained(amqp)


@both_kinds
async def test_what_is_left_when_the_queue_is_full_of_its_neighbours_is_handled_from_the_hand(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind
) -> None:
    handler, items, before = Handler(), list(range(3 * BOUND)), unpacked()
    await put(amqp, NAME, str(items).encode())
    await send_back(amqp, NAME, times=2)
    async with consuming(amqp_url, kind(handler, publisher, 1)):
        await handler.has_done(*items)
        await drained(amqp)
    assert sorted(handler.done) == items, "each once: what has been published again is not in the rest"
    assert BOUND <= unpacked() - before <= BOUND + 2
    assert handler.done[0] == unpacked() - before, "the rest is handled first, then what has been published again"


@both_kinds
async def test_an_item_that_crashed_and_that_the_full_queue_refuses_holds_up_no_other(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind
) -> None:
    handler = Handler(raises={0: ValueError("boom")})
    numbers = await filled(publisher, 0)
    async with consuming(amqp_url, kind(handler, publisher, 2)):
        await handler.has_done(*numbers[1:])
        parked = await take(amqp, PARKING)
        await drained(amqp)
    assert parked.body == b"[0]"
    assert parked.headers["carillon-cause"] == "crashed its handler 5 times: ValueError('boom')"


@both_kinds
async def test_an_item_that_crashed_and_was_refused_until_it_was_held_too_long_comes_again(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "HOLD_MAX_S", 0.4)
    handler = Handler(raises={0: ValueError("once")})
    numbers = await filled(publisher, 0)
    async with consuming(amqp_url, kind(handler, publisher, 1)):  # it is all that the consumer may have in hand
        await handler.has_begun(0)
        handler.raises.clear()
        await handler.has_done(*numbers)
        await drained(amqp)


async def test_a_publish_that_is_not_answered_is_repeated_when_a_message_is_taken_apart(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, tries = publisher.publish_alone, list[bytes]()

    async def unknown_at_first(route: Route, item: bytes, headers: Mapping[str, str | int]) -> None:
        tries.append(item)
        if len(tries) == 1:
            raise PublishUnknown("no answer")
        await publish(route, item, headers)

    monkeypatch.setattr(publisher, "publish_alone", unknown_at_first)
    handler = Handler()
    await put(amqp, NAME, b"[1,2]")
    await send_back(amqp, NAME, times=2)
    async with consuming(amqp_url, one_by_one(handler, publisher, 8)):
        await handler.has_done(1, 2)
        await drained(amqp)
    assert tries == [b"1", b"1", b"2"]

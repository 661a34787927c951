"""When a batch is handed over: at once in a quiet queue, at most every so often under load, never held at its limit."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from libs.common.consumer import BatchConsumer
from libs.common.intake import Delivery, Intake, Item

EVERY_S = 0.3


class Queue:
    """The part of `Intake` that a batch consumer asks; a message has one item."""

    queue = "a queue"

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()

    def bring(self, messages: int) -> None:
        for _ in range(messages):
            self._arrived.put_nowait(cast("Delivery", _Message()))

    async def next(self) -> Delivery:
        return await self._arrived.get()

    async def decoded(self, delivery: Delivery, raw: bytes) -> Item[bytes]:
        return Item(raw, raw, delivery)

    async def done(self, item: Item[bytes]) -> None:
        pass


class _Message:
    raws = (b"item",)


class Handler:
    def __init__(self) -> None:
        self.batches: list[tuple[float, int]] = []

    async def handle(self, items: Sequence[bytes]) -> None:
        self.batches.append((asyncio.get_running_loop().time(), len(items)))


async def batch_of(consumer: BatchConsumer[bytes], queue: Queue) -> None:
    await consumer.one_pass(await queue.next())


@pytest.fixture
def handler() -> Handler:
    return Handler()


def consuming(queue: Queue, handler: Handler) -> BatchConsumer[bytes]:
    return BatchConsumer(cast("Intake[bytes]", queue), handler.handle, linger_s=0.001, every_s=EVERY_S)


async def test_the_first_batch_of_a_quiet_queue_waits_for_nobody(handler: Handler) -> None:
    queue = Queue(prefetch=64)
    consumer, began = consuming(queue, handler), asyncio.get_running_loop().time()
    queue.bring(1)

    await batch_of(consumer, queue)

    assert handler.batches[0][0] - began < EVERY_S / 2


async def test_under_load_the_next_batch_takes_all_that_comes_until_its_time(handler: Handler) -> None:
    queue = Queue(prefetch=64)
    consumer = consuming(queue, handler)
    queue.bring(1)
    await batch_of(consumer, queue)
    queue.bring(1)
    batch = asyncio.create_task(batch_of(consumer, queue))
    for _ in range(5):
        await asyncio.sleep(0)
    queue.bring(5)

    await batch

    (first_at, _), (second_at, items) = handler.batches
    assert items == 6
    assert second_at - first_at >= EVERY_S * 0.99


async def test_a_batch_is_not_held_when_the_broker_may_give_no_more(handler: Handler) -> None:
    queue = Queue(prefetch=8)
    consumer = consuming(queue, handler)
    queue.bring(1)
    await batch_of(consumer, queue)
    queue.bring(4)

    await batch_of(consumer, queue)

    (first_at, _), (second_at, items) = handler.batches
    assert items == 4
    assert second_at - first_at < EVERY_S / 2

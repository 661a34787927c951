"""Hands the items of a queue to a handler: one by one, or in batches.

A handler returns to say "done", raises `Poison` for what can never be processed, `NotBegun` for what it leaves to
another and anything else for a bug; it never acks, nacks or requeues. All of that is `intake.py`'s.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from libs.common.connection import is_being_cancelled
from libs.common.intake import Delivery, Intake, Item, NotBegun
from libs.common.lifecycle import Fatal

M = TypeVar("M")


class ItemConsumer(Generic[M]):
    """Hands over items one by one, as many at a time as `slots` allows (shared between consumers if wanted)."""

    def __init__(self, intake: Intake[M], handle: Callable[[M], Awaitable[None]], slots: asyncio.Semaphore) -> None:
        self.name = f"consumer of {intake.queue}"
        self.intake = intake
        self._handle = handle
        self._slots = slots
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        feeding = asyncio.create_task(self._feed())
        ageing = asyncio.create_task(self.intake.watch_age())
        stop = asyncio.create_task(stopping.wait())
        waited: list[asyncio.Task[Any]] = [feeding, ageing, stop]
        try:
            await asyncio.wait({feeding, ageing, stop}, return_when=asyncio.FIRST_COMPLETED)
            feeding.cancel()  # first, or it goes on beginning items while the broker answers
            await self.intake.stop()
            if self._running:
                await asyncio.wait(self._running)
            for task in waited:
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            for task in (*waited, *self._running):
                task.cancel()

    async def _feed(self) -> None:
        """In order, one item per free slot; what waits stays undecoded."""
        while True:
            delivery = await self.intake.next()
            for raw in delivery.raws:
                await self._slots.acquire()
                if delivery.is_abandoned:
                    self._slots.release()
                    self.intake.drop(delivery)
                    break
                task = asyncio.create_task(self._one(delivery, raw))
                self._running.add(task)
                task.add_done_callback(self._ended)
                task.add_done_callback(partial(self.intake.ended, delivery))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._slots.release()
        self._running.discard(task)

    async def _one(self, delivery: Delivery, raw: bytes) -> None:
        item = await self.intake.decoded(delivery, raw)
        if item is None:
            return
        try:
            await self._handle(item.message)
        except NotBegun:
            self.intake.leave(delivery)
        except (Exception, asyncio.CancelledError) as error:
            if is_being_cancelled():
                raise
            await self.intake.failed(item, error)
        else:
            await self.intake.done(item)


class BatchConsumer(Generic[M]):
    """Hands over whole batches: up to `items_max` items (whole messages), or what came within `linger_s`.

    Under load no batch is handed over sooner than `every_s` after the one before, unless half of what the broker gives
    at once is in hand: fewer and larger batches cost less, and in a quiet queue nothing waits for them.
    A batch whose handler raises is halved until the item at fault stands alone.
    """

    def __init__(
        self,
        intake: Intake[M],
        handle: Callable[[Sequence[M]], Awaitable[None]],
        *,
        items_max: int = 500,
        linger_s: float = 0.005,
        every_s: float = 0.0,
    ) -> None:
        self.name = f"consumer of {intake.queue}"
        self.intake = intake
        self._handle = handle
        self._items_max = items_max
        self._linger_s = linger_s
        self._every_s = every_s
        self._handed_over_at = float("-inf")

    async def run(self, stopping: asyncio.Event) -> None:
        passes = asyncio.create_task(self._passes(stopping))
        ageing = asyncio.create_task(self.intake.watch_age())
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({passes, ageing, stop}, return_when=asyncio.FIRST_COMPLETED)
            await self.intake.stop()
            if ageing.done():
                ageing.result()
            await passes
        finally:
            tasks: list[asyncio.Task[Any]] = [passes, ageing, stop]
            for task in tasks:
                task.cancel()

    async def _passes(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait())
        first: asyncio.Task[Delivery] | None = None
        try:
            while not stopping.is_set():
                first = asyncio.create_task(self.intake.next())
                await asyncio.wait({first, stop}, return_when=asyncio.FIRST_COMPLETED)
                if first.done():
                    await self.one_pass(first.result())
        finally:
            stop.cancel()
            if first is not None:
                first.cancel()

    async def one_pass(self, first: Delivery) -> None:
        """Gather, handle and settle one batch."""
        items = await self._gather(first)
        if items:
            failures = await self._handled(items)
            # Side by side: each waits a moment before its next try.
            await asyncio.gather(*(self.intake.failed(item, error) for item, error in failures))

    async def _gather(self, first: Delivery) -> list[Item[M]]:
        deliveries = [first]
        count = len(first.raws)
        loop = asyncio.get_running_loop()
        soon, paced = loop.time() + self._linger_s, self._handed_over_at + self._every_s
        with suppress(TimeoutError):
            while count < self._items_max:
                is_half = len(deliveries) >= self.intake.prefetch // 2  # the broker may give no more until we ack
                async with asyncio.timeout_at(soon if is_half else max(soon, paced)):
                    delivery = await self.intake.next()
                deliveries.append(delivery)
                count += len(delivery.raws)
        self._handed_over_at = loop.time()
        decoded = [await self.intake.decoded(delivery, raw) for delivery in deliveries for raw in delivery.raws]
        return [item for item in decoded if item is not None]

    async def _handled(self, items: Sequence[Item[M]]) -> list[tuple[Item[M], BaseException]]:
        """Settle what was handled; gives what was not, and why."""
        try:
            await self._handle([item.message for item in items])
        except Fatal:
            raise  # no item is at fault: parking them all would not help
        except (Exception, asyncio.CancelledError) as error:
            if is_being_cancelled():
                raise
            if len(items) == 1:
                return [(items[0], error)]
            middle = len(items) // 2
            return [*await self._handled(items[:middle]), *await self._handled(items[middle:])]
        for item in items:
            await self.intake.done(item)
        return []

"""Calls that wait at the same time travel together: at once when idle, in batches under load.

The shape is Nagle's algorithm (RFC 896) without its delay: the first call goes at once; what arrives while it is
under way goes when it returns, when a batch is full, or after `linger_s`, whichever is first. Measured reason: a
confirmed publish costs about 100 microseconds of Python alone and 1.5 per item when 100 share it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Coalescer(Generic[T, R]):
    """`await submit(item)` gives the item's own result of the batch that it travelled in.

    `flush` takes the items of one batch and gives one result per item, in order; a result that is an exception is
    raised at that item's caller, and an exception of `flush` itself at every caller of the batch. A caller that is
    cancelled before its batch leaves takes its item out.
    """

    def __init__(
        self,
        flush: Callable[[list[T]], Awaitable[Sequence[R | BaseException]]],
        *,
        items_max: int,
        weigh: Callable[[T], int] = lambda _item: 0,
        weight_max: int = 1,
        linger_s: float = 0.005,
    ) -> None:
        self._flush = flush
        self._items_max = items_max
        self._weigh = weigh
        self._weight_max = weight_max
        self._linger_s = linger_s
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._weight = 0
        self._in_flight: set[asyncio.Task[None]] = set()
        self._departure: asyncio.Handle | None = None

    async def submit(self, item: T) -> R:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[R] = loop.create_future()
        weight = self._weigh(item)
        if self._waiting and self._weight + weight > self._weight_max > 1:
            self._depart()
        self._waiting.append((item, result))
        self._weight += weight
        if len(self._waiting) >= self._items_max or self._weight >= self._weight_max > 1:
            self._depart()
        elif self._departure is None:
            self._departure = (
                loop.call_later(self._linger_s, self._depart)
                if self._in_flight
                else loop.call_soon(self._depart)  # the others that are ready in this turn of the loop come along
            )
        return await result

    def _depart(self) -> None:
        if self._departure is not None:
            self._departure.cancel()
            self._departure = None
        batch = [(item, result) for item, result in self._waiting if not result.cancelled()]
        self._waiting.clear()
        self._weight = 0
        if batch:
            task = asyncio.get_running_loop().create_task(self._carry(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._waiting and not self._in_flight:
            self._depart()

    async def _carry(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            outcomes = await self._flush([item for item, _result in batch])
            answered = list(zip(batch, outcomes, strict=True))
        except asyncio.CancelledError:
            for _item, result in batch:
                result.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - not swallowed: every caller of the batch gets it
            answered = [(waiting, error) for waiting in batch]
        for (_item, result), outcome in answered:
            if result.done():
                continue
            if isinstance(outcome, BaseException):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)

"""One queue's deliveries in, decoded items out, every message settled in the end, and settled only here.

A message is acked when all its items are settled: handled, parked or published again. What dies in between is
redelivered by the broker. `consumer.py` decides how many items are handled at a time.

    message --split--> items --decode--> handler        item is undecodable     -> parking, alone
       |                                                handler raised          -> published again alone, `crashes` + 1
       |                                                the fifth crash         -> parking
       +-- third delivery of a packed message           each item published again alone: poison sinks no neighbour

Meanwhile nothing else begins in the process: the poison among them comes back at once, and would end it before the
message that it came in is settled, again and again.
A full queue is emptied by taking, not by giving back: what it refuses holds up nothing else.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from prometheus_client import Counter, Gauge

from libs.common.connection import LINK_ERRORS, is_being_cancelled, link_may_be_gone, watch
from libs.common.lifecycle import Backoff
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher, Refused
from libs.common.topology import PARKED, REPUBLISH

CRASHES_HEADER = "carillon-crashes"
ORIGIN_HEADER = "carillon-origin"
CAUSE_HEADER = "carillon-cause"
CRASHES_MAX = 5
CRASH_PAUSE_S = 0.5
# The broker counts a delivery each time it comes back; the third time a packed message is taken apart.
UNPACK_AT_REDELIVERIES = 2
UNPACKED_LOOK_S = 0.005
# A consumer that has just connected may hold a message that kills it: begin small, so that few neighbours count too.
# What kills does so at once; messages that are only slow must not hold up the rest for longer than this.
FIRST_PREFETCH = 8
FIRST_S = 2.0
CANCEL_TIMEOUT_S = 5.0
# The broker closes a channel that holds a delivery for 30 minutes and counts all of it; be first, and once.
HOLD_MAX_S = 600.0
# What msgspec raises for bytes it cannot read: bad JSON or types, bad UTF-8 in a string, brackets nested too deep.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

ITEMS = Counter("carillon_consumer_items_total", "Items settled, by result", ["queue", "result"], registry=REGISTRY)
HELD = Gauge("carillon_consumer_messages_held", "AMQP messages taken and not yet settled", ["queue"], registry=REGISTRY)
STALE = Counter(
    "carillon_consumer_stale_acks_total", "Acks that came after the channel was gone", ["queue"], registry=REGISTRY
)

M = TypeVar("M")

log = structlog.get_logger(__name__)
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


_unpacking: set["Delivery"] = set()
"""Of all consumers of the process."""


class Poison(Exception):
    """Raised by a handler: this item can never be processed, park it now. The text is the cause."""


class NotBegun(Exception):
    """Raised by a handler that is asked to stop before it did anything: the item is for another consumer."""


class Delivery:
    """One AMQP message in hand, and how many of its items are still open."""

    __slots__ = ("_ack", "is_abandoned", "is_left", "message", "open_items", "raws", "taken_at")

    def __init__(self, message: AbstractIncomingMessage, ack: Callable[["Delivery"], Awaitable[None]]) -> None:
        self.message = message
        self.raws: list[bytes] = []
        self.open_items = 0
        self.taken_at = time.monotonic()
        self.is_abandoned = False  # its channel is gone: what has not begun comes again
        self.is_left = False  # nobody will settle it: it comes again when its channel closes
        self._ack = ack

    @property
    def redeliveries(self) -> int:
        return _header(self.message, "x-delivery-count")

    @property
    def crashes(self) -> int:
        return _header(self.message, CRASHES_HEADER)

    async def settle(self, items: int = 1) -> None:
        self.open_items -= items
        if self.open_items == 0:
            await self._ack(self)


class Item(NamedTuple, Generic[M]):
    """One decoded item, its exact bytes, and the delivery it must settle."""

    message: M
    raw: bytes
    delivery: Delivery


def split_items(message: AbstractIncomingMessage) -> list[bytes]:
    """The items of a packed message. Raises: one of `UNREADABLE`."""
    return [bytes(raw) for raw in _split(message.body)]


def decoder(kind: type[M]) -> Callable[[bytes, AbstractIncomingMessage], M]:
    """Reads one item as `kind`, a contract or a union of them."""
    decode = msgspec.json.Decoder(kind).decode
    return lambda raw, _message: decode(raw)


class Intake(Generic[M]):
    """What one consumer has taken from `queue`, at most `prefetch` messages.

    `split` gives a message's items and `decode` one item's meaning; both raise one of `UNREADABLE` for what
    they cannot read, and that goes to parking. A queue that has no way back (`REPUBLISH`) keeps what crashed unsettled.
    """

    def __init__(
        self,
        queue: str,
        decode: Callable[[bytes, AbstractIncomingMessage], M],
        publisher: Publisher,
        *,
        prefetch: int,
        split: Callable[[AbstractIncomingMessage], list[bytes]] = split_items,
    ) -> None:
        self.queue = queue
        self._decode = decode
        self._split = split
        self._publisher = publisher
        self.prefetch = prefetch
        self._items_done = ITEMS.labels(queue, "done")
        self._held: set[Delivery] = set()
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        self._channel: AbstractChannel | None = None
        self._source: AbstractQueue | None = None
        self._tag: str | None = None
        self._subscribing = asyncio.Lock()
        self._settled = 0
        self._first_settled = asyncio.Event()
        self._widening: asyncio.Task[None] | None = None
        self._aside: set[asyncio.Task[None]] = set()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._held_too_long = False
        self._stopped = False

    # --- the connection's side

    async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        channel = await connection.channel(publisher_confirms=False)
        watch(channel, lost)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _frame: lost.set())  # its queue was deleted
        self._source = await channel.get_queue(self.queue, ensure=False)
        self._channel, self._tag = channel, None
        if self._held_too_long:
            self._widening = asyncio.create_task(self._consume_when_empty())
        else:
            await self._begin_small()
            self._widening = asyncio.create_task(self._widen_soon())

    def closed(self) -> None:
        """What waits unstarted comes again by redelivery; what is in a handler goes on to its end."""
        if self._widening is not None:
            self._widening.cancel()
        self._channel = self._source = self._tag = None
        for delivery in self._held:
            delivery.is_abandoned = True
        for delivery in [delivery for delivery in self._held if delivery.is_left]:
            self.drop(delivery)
        self._forget_arrived()

    async def stop(self) -> None:
        """Take nothing new; what has arrived but not begun stays unsettled, for another consumer."""
        self._stopped = True
        with link_may_be_gone():
            await self._consume(0)
        self._forget_arrived()

    async def watch_age(self) -> None:
        """Close the channel once when a delivery has been held for `HOLD_MAX_S`; consume again when all is settled."""
        while True:
            await asyncio.sleep(HOLD_MAX_S / 60)
            oldest = min((delivery.taken_at for delivery in self._held), default=None)
            if oldest is None or self._held_too_long or time.monotonic() - oldest < HOLD_MAX_S:
                continue
            log.error("consumer.held-too-long", queue=self.queue, messages=len(self._held), limit_s=HOLD_MAX_S)
            self._held_too_long = True
            if self._channel is not None:
                with link_may_be_gone():
                    await self._channel.close()

    async def _consume_when_empty(self) -> None:
        await self._emptied.wait()
        self._held_too_long = False
        with link_may_be_gone():
            await self._begin_small()
            await self._widen_soon()

    async def _begin_small(self) -> None:
        self._settled = 0
        self._first_settled.clear()
        await self._consume(min(FIRST_PREFETCH, self.prefetch))

    async def _widen_soon(self) -> None:
        if self.prefetch <= FIRST_PREFETCH:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_S):
                await self._first_settled.wait()
        with link_may_be_gone():
            await self._consume(self.prefetch)

    async def _consume(self, prefetch: int) -> None:
        """Subscribe, in place of the subscription there was: the broker applies a prefetch to new ones only.

        When stopped, subscribe no more. One change at a time, so that `stop` misses none that is being made.
        """
        async with self._subscribing:
            channel, source, tag = self._channel, self._source, self._tag
            if channel is None or source is None:
                return
            if tag is not None:
                self._tag = None
                await source.cancel(tag, timeout=CANCEL_TIMEOUT_S)
            if not self._stopped:
                await channel.set_qos(prefetch_count=prefetch)
                self._tag = await source.consume(self._receive)

    # --- a message's way

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        if self._stopped or self._channel is None:
            return  # a straggler: it comes again
        delivery = Delivery(message, self._ack)
        self._held.add(delivery)
        self._emptied.clear()
        HELD.labels(self.queue).inc()
        while _unpacking:  # noqa: ASYNC110  seldom, and an Event of the process would belong to one loop
            await asyncio.sleep(UNPACKED_LOOK_S)
        self._hand_over(delivery)

    def _hand_over(self, delivery: Delivery) -> None:
        if delivery.is_abandoned or self._stopped:
            self.drop(delivery)
        else:
            self._arrived.put_nowait(delivery)

    async def next(self) -> Delivery:
        """The next delivery that has items for the handler; others are settled on the way, aside."""
        while True:
            delivery = await self._arrived.get()
            if delivery.raws:
                return delivery  # the rest of one that could not be taken apart
            try:
                delivery.raws = self._split(delivery.message)
            except UNREADABLE as error:
                delivery.open_items = 1
                self._do_aside(delivery, self._park(delivery, delivery.message.body, f"not a JSON array: {error}"))
                continue
            delivery.open_items = len(delivery.raws)
            if not delivery.raws:
                self._do_aside(delivery, self._ack(delivery))
            elif self._is_suspect(delivery):
                log.warning("message.unpacked", queue=self.queue, items=len(delivery.raws))
                _unpacking.add(delivery)
                self._do_aside(delivery, self._unpack(delivery))
            else:
                return delivery

    def _is_suspect(self, delivery: Delivery) -> bool:
        is_packed = len(delivery.raws) > 1 and self.queue in REPUBLISH
        return is_packed and delivery.redeliveries >= UNPACK_AT_REDELIVERIES

    async def decoded(self, delivery: Delivery, raw: bytes) -> Item[M] | None:
        """None when it was undecodable, and parked."""
        try:
            return Item(self._decode(raw, delivery.message), raw, delivery)
        except UNREADABLE as error:
            await self._park(delivery, raw, f"undecodable: {error}")
            return None

    async def done(self, item: Item[M]) -> None:
        self._items_done.inc()
        await item.delivery.settle()

    async def failed(self, item: Item[M], error: BaseException) -> None:
        """The handler raised: give the item another try, alone, or park it."""
        crashes = item.delivery.crashes + 1
        if isinstance(error, Poison):
            await self._park(item.delivery, item.raw, str(error))
        elif crashes >= CRASHES_MAX:
            await self._park(item.delivery, item.raw, f"crashed its handler {crashes} times: {error!r}")
        else:
            log.error("handler.crashed", queue=self.queue, crashes=crashes, exc_info=error)
            if self.queue not in REPUBLISH:
                return self.leave(item.delivery)
            await asyncio.sleep(CRASH_PAUSE_S)
            try:
                await self._again(item, crashes)
            except Refused:
                self._do_aside(item.delivery, self._again_when_there_is_room(item, crashes))

    def _do_aside(self, delivery: Delivery, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        task.add_done_callback(partial(self.ended, delivery))
        task.add_done_callback(lambda _task: _unpacking.discard(delivery))

    def ended(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        """The task that was to settle an item of `delivery` has ended, well or not."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("consumer.lost-an-item", queue=self.queue, exc_info=error)
        if task.cancelled() or error is not None:
            self.leave(delivery)

    async def _again(self, item: Item[M], crashes: int) -> None:
        """Raises: Refused."""
        await self._republish(item.raw, crashes)
        ITEMS.labels(self.queue, "crashed").inc()
        await item.delivery.settle()

    async def _again_when_there_is_room(self, item: Item[M], crashes: int) -> None:
        """Or not: what is held too long keeps the queue from being consumed, and comes again anyhow."""
        backoff = Backoff(first_s=0.05, cap_s=1.0)
        while not item.delivery.is_abandoned:
            await asyncio.sleep(backoff.next())
            with suppress(Refused):
                return await self._again(item, crashes)
        self.leave(item.delivery)

    async def _unpack(self, delivery: Delivery) -> None:
        """What a full queue refuses goes to the handler as it is, or the queue would never be emptied."""
        try:
            while delivery.raws:
                await self._republish(delivery.raws[0], delivery.crashes)
                del delivery.raws[0]
                ITEMS.labels(self.queue, "unpacked").inc()
                await delivery.settle()
        except Refused as error:
            log.warning("message.not-unpacked", queue=self.queue, items=len(delivery.raws), reason=str(error))
            self._hand_over(delivery)

    async def _republish(self, raw: bytes, crashes: int) -> None:
        """Publish an item again, alone, until there is an answer. Raises: Refused, its queue is full."""
        await self._publisher.insist(REPUBLISH[self.queue], raw, {CRASHES_HEADER: crashes}, unless=(Refused,))

    async def _park(self, delivery: Delivery, raw: bytes, cause: str) -> None:
        log.error("item.parked", queue=self.queue, cause=cause)
        await self._publisher.insist(PARKED, raw, {ORIGIN_HEADER: self.queue, CAUSE_HEADER: cause[:1000]})
        ITEMS.labels(self.queue, "parked").inc()
        await delivery.settle()

    async def _ack(self, delivery: Delivery) -> None:
        try:
            await delivery.message.ack()
        except (*LINK_ERRORS, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            STALE.labels(self.queue).inc()  # it will come again; handlers absorb that
        else:
            self._settled += 1
            if self._settled == FIRST_PREFETCH:
                self._first_settled.set()
        self.drop(delivery)

    def leave(self, delivery: Delivery) -> None:
        """Nobody will settle it; it comes again when its channel closes, `watch_age` sees to that."""
        delivery.is_left = True
        if delivery.is_abandoned:
            self.drop(delivery)

    def _forget_arrived(self) -> None:
        while not self._arrived.empty():
            self.drop(self._arrived.get_nowait())

    def drop(self, delivery: Delivery) -> None:
        """It is settled, or comes again by redelivery."""
        if delivery in self._held:
            self._held.discard(delivery)
            HELD.labels(self.queue).dec()
        if not self._held:
            self._emptied.set()


def _header(message: AbstractIncomingMessage, name: str) -> int:
    value = message.headers.get(name, 0)
    return value if isinstance(value, int) else 0

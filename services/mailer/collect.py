"""One run: what waits in the fallback queue becomes pages in the mailer's outbox.

    count N --> consume --> gather a page --> publish it, confirmed --> ack its messages --+--> until N were seen
                                ^                                                          |
                                +----------------------------------------------------------+

A crash between publish and ack repeats one page's lines in the next digest; nothing is lost. The queue is never
consumed between runs: waiting there is what makes many failures one mail.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import AMQPError, ChannelInvalidStateError
from prometheus_client import Gauge

from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import FailedTask, FallbackEntry, Notice, encode
from libs.common.intake import CAUSE_HEADER, ITEMS, ORIGIN_HEADER, UNREADABLE, split_items
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.topology import DIGEST_PAGE, FALLBACK, PARKED
from services.mailer.pages import ITEMS_MAX, Batch, Line

# Messages; a page of messages with one item each. The broker's largest answer is then 500 times 64 KiB.
PREFETCH = ITEMS_MAX
SILENCE_S = 1.0
# The broker closes a channel that holds a delivery for 30 minutes.
RUN_S = 600.0
CAUSE_CHARACTERS_MAX = 1000

WAITING = Gauge(
    "carillon_mailer_waiting_messages", "AMQP messages in the fallback queue when last looked at", registry=REGISTRY
)

log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder[FallbackEntry](FailedTask | Notice).decode


class Interrupted(Exception):
    """RabbitMQ went away: what was not acked comes again. Look again later."""


class Occupied(Exception):
    """Another replica is collecting; leave the run to it. Of two that start in the same milliseconds the broker
    serves one (`x-single-active-consumer`), and the other finds nothing."""


class FallbackQueue:
    """A party on the link that consumes; it keeps the connection and opens a channel per look and per run."""

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher = publisher
        self._clock = clock
        self._connection: AbstractConnection | None = None

    async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        self._connection = connection

    def closed(self) -> None:
        self._connection = None

    async def waiting(self) -> int:
        """Messages that nobody has taken. Raises: Interrupted."""
        async with self._channel() as channel:
            queue = await channel.declare_queue(FALLBACK, passive=True)
        count = queue.declaration_result.message_count or 0
        WAITING.set(count)
        return count

    async def collect(self, messages_max: int, stopping: asyncio.Event) -> int:
        """Take up to `messages_max` and return how many pages they made.

        Raises: Occupied, Interrupted.
        """
        async with self._channel() as channel:
            return await self._collect(channel, messages_max, stopping)

    async def _collect(self, channel: AbstractChannel, messages_max: int, stopping: asyncio.Event) -> int:
        arrived = await _consume(channel, messages_max)
        deadline = self._clock.monotonic() + RUN_S
        batch, pages = Batch(), 0
        for _ in range(messages_max):
            message = await _next(arrived)
            if message is None or stopping.is_set() or self._clock.monotonic() > deadline:
                break
            lines = await self._readable(message)
            if not batch.has_room_for(lines):
                pages += await self._publish(batch, pages + 1)
                batch = Batch()
            batch.add(lines, partial(message.ack, multiple=True))
        return pages + await self._publish(batch, pages + 1)

    async def _publish(self, batch: Batch, number: int) -> int:
        """The batch is settled when this returns, and never before its pages are confirmed."""
        pages = batch.pages(number, ceil_to_ms(self._clock.now()))
        for page in pages:
            await self._publisher.insist(DIGEST_PAGE, encode(page))
            log.info("page.published", page_id=page.id, failed=len(page.failed), notices=len(page.notices))
        await batch.settle()
        ITEMS.labels(FALLBACK, "done").inc(len(batch.lines))
        return len(pages)

    async def _readable(self, message: AbstractIncomingMessage) -> list[Line]:
        """The message's entries; what cannot be read is parked and holds up nobody."""
        try:
            raws = split_items(message)
        except UNREADABLE as error:
            await self._park(message.body, f"not a JSON array: {error}")
            return []
        lines = []
        for raw in raws:
            try:
                lines.append(Line(_decode(raw), len(raw)))
            except UNREADABLE as error:
                await self._park(raw, f"undecodable: {error}")
        return lines

    async def _park(self, raw: bytes, cause: str) -> None:
        log.error("item.parked", queue=FALLBACK, cause=cause)
        await self._publisher.insist(PARKED, raw, {ORIGIN_HEADER: FALLBACK, CAUSE_HEADER: cause[:CAUSE_CHARACTERS_MAX]})
        ITEMS.labels(FALLBACK, "parked").inc()

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel of its own: closing it gives back what was not acked. The library's exceptions end here."""
        if self._connection is None:
            raise Interrupted("not connected to RabbitMQ")
        try:
            async with self._connection.channel(publisher_confirms=False) as channel:
                yield channel
        except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError) as error:
            raise Interrupted(f"the link to RabbitMQ died: {error!r}") from error
        except asyncio.CancelledError:
            # A half-open link shows up as a bare CancelledError inside the library: nobody cancelled us.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Interrupted("the link to RabbitMQ died half-open") from None


async def _consume(channel: AbstractChannel, messages_max: int) -> "asyncio.Queue[AbstractIncomingMessage]":
    queue = await channel.declare_queue(FALLBACK, passive=True)
    # `exclusive=True` would be the question to ask, but quorum queues let a second exclusive consumer in.
    if queue.declaration_result.consumer_count:
        raise Occupied("another consumer is at work on the fallback queue")
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    await channel.set_qos(prefetch_count=min(PREFETCH, messages_max))
    await queue.consume(arrived.put)
    return arrived


async def _next(arrived: "asyncio.Queue[AbstractIncomingMessage]") -> AbstractIncomingMessage | None:
    """None when nothing came for `SILENCE_S`."""
    try:
        return await asyncio.wait_for(arrived.get(), SILENCE_S)
    except TimeoutError:
        return None

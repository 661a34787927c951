"""One run: what waits in the fallback queue becomes pages in the mailer's outbox.

    count N --> recall the last digest --> consume up to N, counting --> publish the pages, confirmed
            --> remember this digest --> ack all of it

A crash before the ack repeats what was published in the next digest; nothing is lost. The queue is never consumed
between runs: waiting there is what makes many failures one mail.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import AMQPError, ChannelInvalidStateError
from prometheus_client import Gauge

from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import FailedTask, FallbackEntry, LastDigest, Notice, encode
from libs.common.intake import CAUSE_HEADER, ITEMS, ORIGIN_HEADER, UNREADABLE, split_items
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.topology import DIGEST_MEMORY, DIGEST_PAGE, FALLBACK, MAILER_MEMORY, PARKED
from services.mailer.pages import Gathering, Recipients

HELD_MAX = 60_000
"""Messages that one digest tells of at most: they are not acked before it is in the outbox, and a channel lets 65,535
wait for that. The rest is another digest."""
# A frozen broker, or another consumer that got there first, gives nothing.
SILENCE_S = 1.0
LOOK_AGAIN_S = 0.5
# The broker closes a channel that holds a delivery for 30 minutes.
RUN_S = 600.0
CAUSE_CHARACTERS_MAX = 1000

WAITING = Gauge(
    "carillon_mailer_waiting_messages", "AMQP messages in the fallback queue when last looked at", registry=REGISTRY
)

log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder[FallbackEntry](FailedTask | Notice).decode
_decode_memory = msgspec.json.Decoder(list[LastDigest]).decode


class Interrupted(Exception):
    """RabbitMQ went away: what was not acked comes again. Look again later."""


class Occupied(Exception):
    """Another replica is collecting; leave the run to it, and look again: it may die. Of two that start in the same
    milliseconds the broker serves one (`x-single-active-consumer`), and the other gets nothing."""


class Collected(NamedTuple):
    """What one digest took."""

    messages: int
    pages: int


class FallbackQueue:
    """A party on the link that consumes; it keeps the connection and opens a channel per look and per run.

    `routes`: who reads of a project's failures instead of everybody.
    """

    def __init__(self, publisher: Publisher, clock: Clock, routes: Mapping[str, Recipients] | None = None) -> None:
        self._publisher = publisher
        self._routes = routes or {}
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

    async def last(self) -> LastDigest | None:
        """The digest before, or the last time that nothing waited for one; None when nobody remembers.

        Raises: Interrupted.
        """
        async with self._channel() as channel:
            before, _held = await _recalled(channel)
        return before

    async def note_empty(self) -> None:
        """Nothing waits at the time of a digest: remember that it was looked for. Raises: Occupied, Interrupted."""
        async with self._channel() as channel:
            if await _is_occupied(channel):
                raise Occupied("another consumer has what waited in the fallback queue")
            before, held = await _recalled(channel)
            await self._remember(before.causes if before else ())
            if held is not None:
                await held.ack()

    async def collect(self, messages_max: int, stopping: asyncio.Event) -> Collected:
        """Take up to `messages_max`, or `HELD_MAX`, and make a digest of them.

        Raises: Occupied, Interrupted.
        """
        async with self._channel() as channel:
            return await self._collect(channel, min(messages_max, HELD_MAX), stopping)

    async def _collect(self, channel: AbstractChannel, messages_max: int, stopping: asyncio.Event) -> Collected:
        before, _held = await _recalled(channel)
        arrived = await _consume(channel, messages_max)
        deadline = self._clock.monotonic() + RUN_S
        gathering, taken, last = Gathering(self._routes), 0, None
        while taken < messages_max and not stopping.is_set() and self._clock.monotonic() < deadline:
            message = await _next(arrived)
            if message is None:
                break
            gathering.add(await self._readable(message, gathering))
            taken, last = taken + 1, message
        if last is None:
            return Collected(0, 0)
        pages = gathering.pages(ceil_to_ms(self._clock.now()), frozenset(before.causes) if before else None)
        for page in pages:
            await self._publisher.insist(DIGEST_PAGE, encode(page))
            log.info("page.published", page_id=page.id, causes=len(page.failed), notices=len(page.notices))
        await self._remember(gathering.causes())
        await last.ack(multiple=True)  # and of the memory held
        return Collected(taken, len(pages))

    async def _remember(self, causes: tuple[str, ...]) -> None:
        memory = LastDigest(collected_at=ceil_to_ms(self._clock.now()), causes=causes)
        await self._publisher.insist(DIGEST_MEMORY, encode(memory))

    async def _readable(self, message: AbstractIncomingMessage, gathering: Gathering) -> list[FallbackEntry]:
        """The message's entries; what cannot be read is parked and holds up nobody."""
        try:
            raws = split_items(message)
        except UNREADABLE as error:
            await self._park(message.body, f"not a JSON array: {error}")
            gathering.unreadable += 1
            return []
        entries = []
        for raw in raws:
            try:
                entries.append(_decode(raw))
            except UNREADABLE as error:
                await self._park(raw, f"undecodable: {error}")
                gathering.unreadable += 1
        ITEMS.labels(FALLBACK, "done").inc(len(entries))
        return entries

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


async def _is_occupied(channel: AbstractChannel) -> bool:
    # `exclusive=True` would be the question to ask, but quorum queues let a second exclusive consumer in.
    queue = await channel.declare_queue(FALLBACK, passive=True)
    return bool(queue.declaration_result.consumer_count)


async def _consume(channel: AbstractChannel, messages_max: int) -> "asyncio.Queue[AbstractIncomingMessage]":
    if await _is_occupied(channel):
        raise Occupied("another consumer is at work on the fallback queue")
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    await channel.set_qos(prefetch_count=messages_max)
    queue = await channel.get_queue(FALLBACK, ensure=False)
    await queue.consume(arrived.put)
    return arrived


async def _next(arrived: "asyncio.Queue[AbstractIncomingMessage]") -> AbstractIncomingMessage | None:
    """None when nothing came for `SILENCE_S`."""
    try:
        return await asyncio.wait_for(arrived.get(), SILENCE_S)
    except TimeoutError:
        return None


async def _recalled(channel: AbstractChannel) -> tuple[LastDigest | None, AbstractIncomingMessage | None]:
    """The memory, and its message, which is given back with the channel unless it is acked."""
    queue = await channel.get_queue(MAILER_MEMORY, ensure=False)
    message = await queue.get(no_ack=False, fail=False)
    if message is None:  # there is none, or another replica is just looking at it
        await asyncio.sleep(LOOK_AGAIN_S)
        message = await queue.get(no_ack=False, fail=False)
    if message is None:
        return None, None
    try:
        return _decode_memory(message.body)[0], message
    except (*UNREADABLE, IndexError) as error:
        log.warning("memory.unreadable", reason=str(error))
        return None, message

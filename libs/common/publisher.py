"""Publishes: persistent, mandatory, confirmed, with a time limit, many items in one AMQP message.

An item is the JSON of one contract; a message body is a JSON array of items. Callers see items only.
A publish that failed or timed out is unknown, not no: its caller repeats it with the same content.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from uuid import uuid4

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import DeliveryError, PublishError
from prometheus_client import Counter, Gauge, Histogram

from libs.common.coalescing import Coalescer
from libs.common.connection import LINK_ERRORS, is_being_cancelled, link_may_be_gone, watch
from libs.common.lifecycle import Backoff
from libs.common.metrics import REGISTRY
from libs.common.topology import Route

PUBLISH_TIMEOUT_S = 5.0
PING_TIMEOUT_S = 0.5
# Between the channel's end and the link's word of it.
CLOSING_PAUSE_S = 0.01
LOOK_AGAIN_S = 1.0
# For so long a link that flowed is believed to flow: the broker's word that it does not is no faster.
FLOWS_S = 0.01
# A confirm with `multiple` costs the library time in proportion to what is outstanding on the channel.
MESSAGES_IN_FLIGHT_MAX = 1_000

MESSAGES = Counter(
    "carillon_publisher_messages_total", "AMQP messages published", ["exchange", "outcome"], registry=REGISTRY
)
ITEMS = Counter("carillon_publisher_items_total", "Items published", ["exchange", "outcome"], registry=REGISTRY)
HELD = Gauge(
    "carillon_publisher_held_items", "Items published again and again until they are confirmed", registry=REGISTRY
)
CONFIRM_SECONDS = Histogram(
    "carillon_publisher_confirm_seconds",
    "From the publish to the broker's confirm",
    ["exchange"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)

log = structlog.get_logger(__name__)


class NotPublished(Exception):
    """There is no confirm for this item."""

    outcome = "unknown"


class PublishUnknown(NotPublished):
    """No answer, or no connection: it may be there or not. Repeat it with the same content."""


class Refused(NotPublished):
    """The broker said no (a queue is full). It is not there: repeat it later, or go another way."""

    outcome = "refused"


class Unroutable(NotPublished):
    """No queue takes this key: the topology is not what this code was written for."""

    outcome = "unroutable"


class Publisher:
    """One confirm-mode channel on a link of its own."""

    def __init__(self) -> None:
        self._channel: AbstractChannel | None = None
        self._opened = asyncio.Event()
        self._flows_until = 0.0
        self._lanes: dict[Route, Coalescer[bytes, None]] = {}
        self._held = 0
        self._awaited = 0
        self._window = asyncio.Semaphore(MESSAGES_IN_FLIGHT_MAX)

    async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        watch(self._channel, lost)
        self._opened.set()

    def closed(self) -> None:
        self._opened.clear()
        self._flows_until = 0.0
        self._channel = None

    async def flowing(self) -> None:
        """Wait until there is a connection that the broker has not blocked (memory or disk alarm)."""
        while time.monotonic() >= self._flows_until:
            await self._opened.wait()
            channel = self._channel
            assert channel is not None
            # A connection that dies blocked is never unblocked: look now and then whether it is still ours.
            with suppress(TimeoutError), link_may_be_gone():
                async with asyncio.timeout(LOOK_AGAIN_S):
                    underlay = await channel.get_underlay_channel()
                    await underlay.connection.ready()
                if self._channel is channel and not channel.is_closed:
                    self._flows_until = time.monotonic() + FLOWS_S
                    return
            await asyncio.sleep(CLOSING_PAUSE_S)

    async def ping(self) -> None:
        """Raises: ConnectionError while a publish would wait."""
        try:
            await asyncio.wait_for(self.flowing(), PING_TIMEOUT_S)
        except TimeoutError:
            state = "blocked by an alarm" if self._opened.is_set() else "down"
            raise ConnectionError(f"the RabbitMQ connection for publishing is {state}") from None

    @property
    def awaited(self) -> int:
        """Items that callers of `publish` wait for now."""
        return self._awaited

    async def publish(self, route: Route, item: bytes) -> None:
        """Return when the broker has confirmed the message that `item` travelled in.

        Raises: NotPublished (`Refused`, `Unroutable` or `PublishUnknown`).
        """
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = Coalescer(
                partial(self._publish_packed, route), items_max=route.items_max, weigh=len, weight_max=route.bytes_max
            )
        self._awaited += 1
        try:
            await lane.submit(item)
        finally:
            self._awaited -= 1

    async def publish_many(
        self, route: Route, items: Sequence[bytes], *, within_s: float = PUBLISH_TIMEOUT_S
    ) -> list[NotPublished | None]:
        """Publish a whole batch now, packed: for each item None, or why there is no confirm for it.

        Cheaper than so many `publish`: nobody waits for a single item. Raises nothing of its own.
        """
        if not items:
            return []
        packed = list(_packed(route, items))
        sending = [asyncio.create_task(self._publish_packed(route, some)) for some in packed]
        try:
            await asyncio.wait(sending, timeout=within_s)
        finally:
            for task in sending:
                task.cancel()
        return [_failure(task) for task, some in zip(sending, packed, strict=True) for _item in some]

    async def publish_alone(self, route: Route, item: bytes, headers: Mapping[str, str | int]) -> None:
        """Publish `item` as the only one of its message. Raises: NotPublished."""
        await self._confirm(route, b"[" + item + b"]", 1, headers)

    async def insist(
        self,
        route: Route,
        item: bytes,
        headers: Mapping[str, str | int] | None = None,
        *,
        unless: tuple[type[NotPublished], ...] = (),
    ) -> None:
        """Publish until it is confirmed. Ends only with the confirm, or cancelled. Raises: `unless`."""
        try:
            return await self._publish(route, item, headers)
        except unless:
            raise
        except NotPublished as error:
            first = error
        backoff = Backoff(first_s=0.05, cap_s=1.0)
        with self._holding(first):
            while True:
                await asyncio.sleep(backoff.next())
                try:
                    return await self._publish(route, item, headers)
                except unless:
                    raise
                except NotPublished:
                    continue

    async def insist_many(self, route: Route, items: Sequence[bytes]) -> None:
        """`insist` for a whole batch, at the price of `publish_many`."""
        failures = await self.publish_many(route, items)
        unconfirmed = [item for item, failure in zip(items, failures, strict=True) if failure is not None]
        if unconfirmed:
            await asyncio.gather(*(self.insist(route, item) for item in unconfirmed))

    async def _publish(self, route: Route, item: bytes, headers: Mapping[str, str | int] | None) -> None:
        if headers is None:
            await self.publish(route, item)
        else:
            await self.publish_alone(route, item, headers)

    @contextmanager
    def _holding(self, error: NotPublished) -> Iterator[None]:
        """Thousands of items may be held in one outage: one line when it begins, one when it ends."""
        self._held += 1
        HELD.set(self._held)
        if self._held == 1:
            log.warning("publish.held", outcome=error.outcome, reason=str(error))
        try:
            yield
        finally:
            self._held -= 1
            HELD.set(self._held)
            if self._held == 0:
                log.info("publish.resumed")

    async def _publish_packed(self, route: Route, items: list[bytes]) -> list[None]:
        await self._confirm(route, b"[" + b",".join(items) + b"]", len(items), {})
        return [None] * len(items)

    async def _confirm(self, route: Route, body: bytes, items: int, headers: Mapping[str, str | int]) -> None:
        outcome = NotPublished.outcome
        started = time.monotonic()
        try:
            async with self._window:
                await self._send(route, body, headers)
            outcome = "confirmed"
        except NotPublished as error:
            outcome = error.outcome
            raise
        finally:
            CONFIRM_SECONDS.labels(route.exchange).observe(time.monotonic() - started)
            MESSAGES.labels(route.exchange, outcome).inc()
            ITEMS.labels(route.exchange, outcome).inc(items)

    async def _send(self, route: Route, body: bytes, headers: Mapping[str, str | int]) -> None:
        if self._channel is None:
            raise PublishUnknown("not connected to RabbitMQ")
        await send(self._channel, route, body, headers)


def _packed(route: Route, items: Sequence[bytes]) -> Iterator[list[bytes]]:
    """In order, as many in one message as the route allows; a heavier item goes alone."""
    some: list[bytes] = []
    weight = 0
    for item in items:
        if some and (len(some) == route.items_max or weight + len(item) > route.bytes_max):
            yield some
            some, weight = [], 0
        some.append(item)
        weight += len(item)
    if some:
        yield some


def _failure(sending: "asyncio.Task[list[None]]") -> NotPublished | None:
    if not sending.done() or sending.cancelled():
        return PublishUnknown("no confirm from RabbitMQ in time")
    error = sending.exception()
    if error is None or isinstance(error, NotPublished):
        return error
    log.error("publish.crashed", exc_info=error)  # a bug of ours or the library's: the item may be there or not
    return PublishUnknown(repr(error))


async def send(
    channel: AbstractChannel, route: Route, body: bytes, headers: Mapping[str, str | int], **properties: str
) -> None:
    """Publish persistent and mandatory on a channel in confirm mode, and wait for the confirm.

    The library's exceptions are translated here, once. Raises: NotPublished.
    """
    message = Message(
        body,
        delivery_mode=DeliveryMode.PERSISTENT,
        content_type="application/json",
        # The library matches returns by message_id, so it is never a task's id and never used twice.
        message_id=uuid4().hex,
        headers=dict(headers),
        **properties,  # type: ignore[arg-type]  # reply_to and correlation_id are strings
    )
    try:
        exchange = await channel.get_exchange(route.exchange, ensure=False)
        await exchange.publish(message, route.key, mandatory=True, timeout=PUBLISH_TIMEOUT_S)
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        raise PublishUnknown("the link to RabbitMQ died half-open") from None
    except PublishError as error:
        raise Unroutable(f"no queue for {route.exchange} '{route.key}'") from error
    except DeliveryError as error:
        raise Refused(f"RabbitMQ refused a message for {route.exchange} '{route.key}': a queue is full") from error
    except TimeoutError as error:
        raise PublishUnknown(f"no confirm from RabbitMQ within {PUBLISH_TIMEOUT_S:g} s") from error
    except LINK_ERRORS as error:
        raise PublishUnknown(f"the link to RabbitMQ died: {error!r}") from error

"""Commands that want an answer: RabbitMQ's direct reply-to, on both sides.

    Asker   --command, mandatory, confirmed--> queue of the service --> handler
      ^                                                                    | commit
      +------------- amq.rabbitmq.reply-to, unconfirmed <---------------- Replier

The command is as safe as any message; the answer is not, and need not be: who hears nothing asks again, and the
handler answers the same. Source: rabbitmq.com/docs/direct-reply-to.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import uuid4

import msgspec
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from prometheus_client import Counter

from libs.common.connection import link_may_be_gone, watch
from libs.common.intake import UNREADABLE
from libs.common.metrics import REGISTRY
from libs.common.publisher import PublishUnknown, send
from libs.common.topology import Route

REPLY_TO = "amq.rabbitmq.reply-to"
ANSWER_S = 5.0

ASKED = Counter("carillon_asker_asked_total", "Commands sent that want an answer", ["outcome"], registry=REGISTRY)

C = TypeVar("C")
A = TypeVar("A", bound=msgspec.Struct)


class Asked(NamedTuple, Generic[C]):
    """A command in its handler's hands, and whom to answer; empty when nobody waits."""

    command: C
    reply_to: str
    correlation_id: str


class Asker(Generic[A]):
    """A party on a link: sends commands, and waits for answers of the type `answer` on the same channel."""

    def __init__(self, answer: type[A]) -> None:
        self._decode = msgspec.json.Decoder(answer).decode
        self._channel: AbstractChannel | None = None
        self._waiting: dict[str, asyncio.Future[A | None]] = {}

    async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        # One channel for both: the broker refuses a reply-to that another one consumes (406).
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        watch(channel, lost)
        answers = await channel.get_queue(REPLY_TO, ensure=False)
        await answers.consume(self._heard, no_ack=True)
        self._channel = channel

    def closed(self) -> None:
        self._channel = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)  # it went to a channel that is no more

    async def ask(self, route: Route, command: msgspec.Struct, *, timeout_s: float = ANSWER_S) -> A | None:
        """The answer, or None when it is not known: none in `timeout_s`, or the connection was lost meanwhile.

        Raises: NotPublished when there is no confirm for the command itself.
        """
        channel = self._channel
        if channel is None:
            raise PublishUnknown("not connected to RabbitMQ")
        number = uuid4().hex
        answer: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            body = b"[" + msgspec.json.encode(command) + b"]"
            await send(channel, route, body, {}, reply_to=REPLY_TO, correlation_id=number)
            async with asyncio.timeout(timeout_s):
                heard = await answer
        except TimeoutError:
            heard = None
        finally:
            del self._waiting[number]
        ASKED.labels("unanswered" if heard is None else "answered").inc()
        return heard

    async def _heard(self, message: AbstractIncomingMessage) -> None:
        answer = self._waiting.get(message.correlation_id or "")
        if answer is None or answer.done():
            return  # too late: its asker has gone
        try:
            answer.set_result(self._decode(message.body))
        except UNREADABLE as error:
            answer.set_exception(error)


class Replier:
    """A party on a link: sends answers, on a channel without confirms."""

    def __init__(self) -> None:
        self._channel: AbstractChannel | None = None

    async def opened(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        self._channel = await connection.channel(publisher_confirms=False)
        watch(self._channel, lost)

    def closed(self) -> None:
        self._channel = None

    async def reply(self, asked: Asked[C], answer: msgspec.Struct) -> None:
        """Send it, or not: after what it tells of has been committed, never before."""
        channel = self._channel
        if channel is None or not asked.reply_to:
            return
        message = Message(
            msgspec.json.encode(answer),
            delivery_mode=DeliveryMode.NOT_PERSISTENT,
            content_type="application/json",
            correlation_id=asked.correlation_id,
        )
        with link_may_be_gone():
            # Not mandatory: an asker that has gone would cost us a returned message.
            await channel.default_exchange.publish(message, asked.reply_to, mandatory=False, timeout=ANSWER_S)


def asked_decoder(kind: Any) -> Callable[[bytes, AbstractIncomingMessage], Asked[Any]]:
    """For an `Intake`: one item as `kind`, a command or a union of them, with whom to answer."""
    decode = msgspec.json.Decoder(kind).decode
    return lambda raw, message: Asked(decode(raw), message.reply_to or "", message.correlation_id or "")

"""Commands with an answer, on a real broker: None when it is not known, and never somebody else's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractConnection

from libs.common import topology
from libs.common.asking import REPLY_TO, Asked, Asker, Replier, asked_decoder
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import CancelTask, RescheduleTask, TaskAnswer, TaskCommand, encode
from libs.common.intake import Intake
from libs.common.publisher import NotPublished, Publisher, PublishUnknown, Refused, Unroutable
from libs.common.topology import SCHEDULER_COMMAND, SCHEDULER_COMMANDS, Route
from tests.integration.rig import Proxy, a_link, consuming, metric, put, ready, take, until


def a_cancel(id_: UUID | None = None) -> CancelTask:
    return CancelTask(id=id_ or uuid4(), project="acme", command_id=uuid4())


def an_answer(command: TaskCommand) -> TaskAnswer:
    return TaskAnswer(command_id=command.command_id, id=command.id, result="cancelled", generation=1)


def asked(outcome: str) -> float:
    return metric("carillon_asker_asked_total", outcome=outcome)


@dataclass
class Service:
    """Who is asked: answers at once, unless told to wait at `gate`."""

    replier: Replier
    heard: list[Asked[TaskCommand]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Callable[[TaskCommand], msgspec.Struct] = an_answer
    is_silent: bool = False
    crashes: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def handle(self, asked: Asked[TaskCommand]) -> None:
        self.heard.append(asked)
        await self.gate.wait()
        if self.crashes:
            self.crashes -= 1
            raise ZeroDivisionError
        if self.is_silent:
            return
        await self.replier.reply(asked, self.answer(asked.command))


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[Service]:
    """A consumer of the scheduler's commands, and its replier on a link that publishes, as in the scheduler."""
    publisher, replier, link = Publisher(), Replier(), a_link(url, "service publishes")
    link.join(publisher)
    link.join(replier)
    service = Service(replier)
    intake = Intake(SCHEDULER_COMMANDS, asked_decoder(TaskCommand), publisher, prefetch=64)
    async with link:
        await asyncio.wait_for(link.up(), 10)
        async with consuming(url, ItemConsumer(intake, service.handle, asyncio.Semaphore(100))):  # type: ignore[arg-type]
            yield service


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[tuple[Asker[TaskAnswer], Link]]:
    asker, link = Asker(TaskAnswer), a_link(url, "asks")
    link.join(asker)
    async with link:
        await asyncio.wait_for(link.up(), 10)
        yield asker, link


async def is_drained(amqp: AbstractConnection) -> bool:
    return await ready(amqp, SCHEDULER_COMMANDS) == 0


# --- the answer


async def test_an_answer_comes_back_to_who_asked(amqp_url: str) -> None:
    before = asked("answered")
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        commands: list[TaskCommand] = [a_cancel(), RescheduleTask(id=uuid4(), project="acme", command_id=uuid4())]
        for command in commands:
            assert await asker.ask(SCHEDULER_COMMAND, command) == an_answer(command)
    assert [each.command for each in service.heard] == commands
    assert all(each.reply_to.startswith(REPLY_TO) and each.correlation_id for each in service.heard)
    assert asked("answered") == before + 2


async def test_many_who_ask_at_once_each_get_their_own_answer(amqp_url: str) -> None:
    async with serving(amqp_url) as service, asking(amqp_url) as (one, _), asking(amqp_url) as (other, _):
        service.gate.clear()
        commands = [a_cancel() for _ in range(200)]
        asks = [
            asyncio.create_task((one, other)[n % 2].ask(SCHEDULER_COMMAND, command))
            for n, command in enumerate(commands)
        ]
        await until("some to be heard", lambda: len(service.heard) >= 8)
        service.gate.set()
        assert await asyncio.gather(*asks) == [an_answer(command) for command in commands]


async def test_answers_that_come_in_another_order_find_their_askers(amqp_url: str) -> None:
    commands = [a_cancel() for _ in range(5)]
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        service.is_silent = True
        asks = [asyncio.create_task(asker.ask(SCHEDULER_COMMAND, command)) for command in commands]
        await until("all to be heard", lambda: len(service.heard) == 5)
        for each in reversed(service.heard):
            await service.replier.reply(each, an_answer(each.command))
        assert await asyncio.gather(*asks) == [an_answer(command) for command in commands]


async def test_an_answer_may_take_its_time(amqp_url: str) -> None:
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        service.gate.clear()
        ask = asyncio.create_task(asker.ask(SCHEDULER_COMMAND, command := a_cancel()))
        await until("it to be heard", lambda: service.heard)
        assert not ask.done()
        service.gate.set()
        assert await ask == an_answer(command)


async def test_a_command_published_again_after_a_crash_is_handled_though_nobody_hears_the_answer(
    amqp_url: str, amqp: AbstractConnection
) -> None:
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        service.crashes = 1
        assert await asker.ask(SCHEDULER_COMMAND, a_cancel(), timeout_s=2) is None
        await until("its second try", lambda: len(service.heard) == 2)
        assert service.heard[1].reply_to == ""
        await until("it to be settled", lambda: is_drained(amqp))


# --- no answer


async def test_where_nobody_answers_it_is_not_known_and_the_command_is_kept(
    amqp_url: str, amqp: AbstractConnection
) -> None:
    before = asked("unanswered")
    async with asking(amqp_url) as (asker, _):
        assert await asker.ask(SCHEDULER_COMMAND, command := a_cancel(), timeout_s=0.2) is None
    assert asked("unanswered") == before + 1
    assert (await take(amqp, SCHEDULER_COMMANDS)).body == b"[" + encode(command) + b"]"


async def test_a_late_answer_is_not_taken_for_that_of_a_later_ask(amqp_url: str) -> None:
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        service.gate.clear()
        assert await asker.ask(SCHEDULER_COMMAND, a_cancel(), timeout_s=0.1) is None
        await until("it to be heard", lambda: service.heard)
        ask = asyncio.create_task(asker.ask(SCHEDULER_COMMAND, command := a_cancel()))
        await until("the next one to be heard", lambda: len(service.heard) == 2)
        service.gate.set()
        assert await ask == an_answer(command)


async def test_an_ask_that_is_cancelled_leaves_nothing_behind(amqp_url: str) -> None:
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        service.gate.clear()
        ask = asyncio.create_task(asker.ask(SCHEDULER_COMMAND, a_cancel()))
        await until("it to be heard", lambda: service.heard)
        ask.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ask
        assert asker._waiting == {}
        service.gate.set()
        assert await asker.ask(SCHEDULER_COMMAND, command := a_cancel()) == an_answer(command)


async def test_what_nobody_can_read_ends_its_own_ask_only(amqp_url: str) -> None:
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        service.answer = lambda command: command  # a tag that an asker does not know
        service.gate.clear()
        asks = [asyncio.create_task(asker.ask(SCHEDULER_COMMAND, a_cancel())) for _ in range(2)]
        await until("both to be heard", lambda: len(service.heard) == 2)
        service.gate.set()
        for ask in asks:
            with pytest.raises(msgspec.ValidationError):
                await ask
        service.answer = an_answer
        assert await asker.ask(SCHEDULER_COMMAND, command := a_cancel()) == an_answer(command)


# --- the connection of who asks


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(amqp_url) as proxy:
        yield proxy


async def test_a_lost_connection_ends_the_wait_at_once_and_the_next_one_asks_again(amqp_url: str, proxy: Proxy) -> None:
    async with serving(amqp_url) as service, asking(proxy.url) as (asker, _):
        service.gate.clear()
        asks = [asyncio.create_task(asker.ask(SCHEDULER_COMMAND, a_cancel(), timeout_s=60)) for _ in range(3)]
        await until("all to be heard", lambda: len(service.heard) == 3)
        proxy.cut()
        assert await asyncio.wait_for(asyncio.gather(*asks), 5) == [None] * 3
        service.gate.set()
        await until("the link to be up again", lambda: asker._channel is not None)
        assert await asker.ask(SCHEDULER_COMMAND, command := a_cancel()) == an_answer(command)


async def test_without_a_connection_nothing_is_published_and_that_is_said(amqp_url: str, proxy: Proxy) -> None:
    with pytest.raises(PublishUnknown):
        await Asker(TaskAnswer).ask(SCHEDULER_COMMAND, a_cancel())
    async with asking(proxy.url) as (asker, _):
        await proxy.close()
        await until("the link to be down", lambda: asker._channel is None)
        with pytest.raises(NotPublished):
            await asker.ask(SCHEDULER_COMMAND, a_cancel())


async def test_a_full_queue_refuses_the_command(amqp_url: str, amqp: AbstractConnection) -> None:
    channel = await amqp.channel()

    async def one() -> bool:
        try:
            await channel.default_exchange.publish(aio_pika.Message(b"[]"), topology.DISPATCHER_DUE)
        except aio_pika.exceptions.DeliveryError:
            return False
        return True

    while all(await asyncio.gather(*(one() for _ in range(250)))):
        pass
    async with asking(amqp_url) as (asker, _):
        with pytest.raises(Refused):
            await asker.ask(topology.DUE, a_cancel())
        assert asker._waiting == {}


async def test_a_route_without_a_queue_is_said_to_be_one(amqp_url: str) -> None:
    async with asking(amqp_url) as (asker, _):
        with pytest.raises(Unroutable):
            await asker.ask(Route("carillon.tasks", "nobody"), a_cancel())


# --- who answers


async def test_an_asker_that_has_died_costs_who_answers_nothing(amqp_url: str, amqp: AbstractConnection) -> None:
    lost = metric("carillon_broker_lost_total", connection="service publishes")
    async with serving(amqp_url) as service:
        service.gate.clear()
        async with asking(amqp_url) as (dies, _):
            ask = asyncio.create_task(dies.ask(SCHEDULER_COMMAND, a_cancel()))
            await until("it to be heard", lambda: service.heard)
        assert await ask is None
        service.gate.set()
        await until("the command to be settled", lambda: is_drained(amqp))
        async with asking(amqp_url) as (asker, _):
            assert await asker.ask(SCHEDULER_COMMAND, command := a_cancel()) == an_answer(command)
    assert metric("carillon_broker_lost_total", connection="service publishes") == lost


@pytest.mark.parametrize("reply_to", ["", "nobody", f"{REPLY_TO}.no-such-thing", "x" * 255])
async def test_an_address_that_leads_nowhere_costs_who_answers_nothing(amqp_url: str, reply_to: str) -> None:
    async with serving(amqp_url) as service, asking(amqp_url) as (asker, _):
        await service.replier.reply(Asked(a_cancel(), reply_to, "1"), an_answer(a_cancel()))
        assert await asker.ask(SCHEDULER_COMMAND, command := a_cancel()) == an_answer(command)


async def test_who_answers_without_a_connection_drops_the_answer(amqp_url: str, proxy: Proxy) -> None:
    replier, question = Replier(), Asked(a_cancel(), f"{REPLY_TO}.x", "1")
    await replier.reply(question, an_answer(question.command))
    link = a_link(proxy.url, "answers")
    link.join(replier)
    async with link:
        await asyncio.wait_for(link.up(), 10)
        await proxy.close()
        await asyncio.wait_for(replier.reply(question, an_answer(question.command)), 10)  # not yet noticed
        await until("the link to be down", lambda: replier._channel is None)
        await replier.reply(question, an_answer(question.command))


async def test_a_command_that_nobody_can_read_is_parked_and_the_next_one_is_answered(
    amqp_url: str, amqp: AbstractConnection
) -> None:
    async with serving(amqp_url), asking(amqp_url) as (asker, _):
        await put(amqp, SCHEDULER_COMMANDS, b'[{"type":"CancelTask.9"}]')
        assert await asker.ask(SCHEDULER_COMMAND, command := a_cancel()) == an_answer(command)
        parked = await take(amqp, topology.PARKING)
    assert parked.body == b'[{"type":"CancelTask.9"}]'

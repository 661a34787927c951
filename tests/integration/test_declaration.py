"""The topology meets a real broker."""

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ChannelNotFoundEntity

from libs.common.declaration import check, declare
from libs.common.lifecycle import Fatal
from libs.common.topology import Queue, Topology, topology
from tests.conftest import RETRY_SCHEDULE_S


async def test_declaring_twice_changes_nothing(amqp: AbstractConnection) -> None:
    await declare(amqp, topology(RETRY_SCHEDULE_S))
    await check(amqp, topology(RETRY_SCHEDULE_S))


async def test_a_missing_queue_is_named_with_the_remedy(amqp: AbstractConnection) -> None:
    with pytest.raises(Fatal, match=r"no queue 'dispatcher\.retry\.777000'.*deploy\.setup"):
        await check(amqp, topology((777.0,)))


async def test_a_queue_whose_node_is_down_is_not_taken_for_a_missing_one(
    amqp: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_down(*_: object, **__: object) -> None:
        raise ChannelNotFoundEntity("NOT_FOUND - home node 'b' of durable queue 'x' is down or inaccessible")

    monkeypatch.setattr(aio_pika.Channel, "declare_queue", is_down)
    with pytest.raises(ChannelNotFoundEntity):  # the link waits and tries again
        await check(amqp, topology())


async def test_a_queue_with_another_ttl_is_named_with_both_values(amqp: AbstractConnection) -> None:
    name = "drifted"
    channel = await amqp.channel()
    await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum", "x-message-ttl": 7000})
    drifted = Topology((), (Queue(name, {"x-queue-type": "quorum", "x-message-ttl": 5000}),), ())
    try:
        with pytest.raises(Fatal, match=r"'drifted'.*5000.*7000"):
            await declare(amqp, drifted)
    finally:
        await channel.queue_delete(name)


async def test_the_set_up_step_waits_for_no_one_when_the_login_is_wrong(amqp_url: str) -> None:
    from deploy.setup import connect

    with pytest.raises(Fatal, match="refused the login"):
        await connect(amqp_url.replace("guest:guest", "guest:wrong"))


async def test_every_rung_dead_letters_into_the_queue_that_is_consumed(amqp: AbstractConnection) -> None:
    channel = await amqp.channel(on_return_raises=True)
    exchange = await channel.get_exchange("carillon.retry", ensure=False)
    await exchange.publish(aio_pika.Message(b"[]"), "200", timeout=5)
    queue = await channel.get_queue("dispatcher.retry-due", ensure=False)
    async with queue.iterator(timeout=5) as messages:
        async for message in messages:
            assert message.body == b"[]"
            await message.ack()
            return

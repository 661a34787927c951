"""Declares the topology (set-up step) or checks that it is there (every service, at each connect).

Each question gets a channel of its own: the broker's refusal closes the channel it was asked on.
"""

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ChannelClosed, ChannelNotFoundEntity

from libs.common.lifecycle import Fatal
from libs.common.topology import Exchange, Queue, Topology


async def declare(connection: AbstractConnection, topology: Topology) -> None:
    """Make what is missing.

    Raises: Fatal when something of that name is there with other properties; the text holds the broker's own
    words, which name the object, the argument and both values.
    """
    for exchange in topology.exchanges:
        await _declare_one(connection, exchange)
    for queue in topology.queues:
        await _declare_one(connection, queue)
    async with connection.channel() as channel:
        for binding in topology.bindings:
            queue_of = await channel.get_queue(binding.queue, ensure=False)
            await queue_of.bind(binding.exchange, binding.key)


async def check(connection: AbstractConnection, topology: Topology) -> None:
    """Raises: Fatal naming the first exchange or queue that is not there; waiting may mend whatever else it is."""
    channel = await connection.channel()
    things: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    for thing in things:
        try:
            if isinstance(thing, Exchange):
                await channel.declare_exchange(thing.name, aio_pika.ExchangeType(thing.type), passive=True)
            else:
                await channel.declare_queue(thing.name, passive=True)
        except ChannelNotFoundEntity as error:
            if "NOT_FOUND - no " not in str(error):
                raise  # it is there, but its node is down or its process has crashed: the same code, other words
            kind = "exchange" if isinstance(thing, Exchange) else "queue"
            raise Fatal(
                f"RabbitMQ has no {kind} '{thing.name}': run the set-up step (python -m deploy.setup) with the same"
                f" CARILLON_AMQP_URL and CARILLON_RETRY_SCHEDULE_S as this service. RabbitMQ says: {error}"
            ) from error
    await channel.close()


async def _declare_one(connection: AbstractConnection, thing: Exchange | Queue) -> None:
    channel = await connection.channel()
    try:
        if isinstance(thing, Exchange):
            await channel.declare_exchange(thing.name, aio_pika.ExchangeType(thing.type), durable=True)
        else:
            await channel.declare_queue(thing.name, durable=True, arguments=dict(thing.arguments))
    except ChannelClosed as error:
        raise Fatal(
            f"RabbitMQ already has '{thing.name}' with other properties: {error}. Empty it and delete it, or point"
            " CARILLON_AMQP_URL at another virtual host; then run the set-up step again."
        ) from error
    await channel.close()

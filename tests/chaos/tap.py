"""A queue beside dispatcher.due: what the schedulers emit, kept by the broker until the run is over.

It has no bound and no reader meanwhile, so each message is read once. A publish is confirmed only when both queues have
it.
"""

import aio_pika
import msgspec

from libs.common import topology
from libs.common.clock import to_ms
from libs.common.contracts import TaskDue, decode_task
from tests.chaos.duplicates import Emission

QUEUE = "chaos.emissions"
_decode = msgspec.json.Decoder(list[TaskDue]).decode


async def open_tap(amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(topology.DUE.exchange, topology.DUE.key)


async def emissions(amqp_url: str) -> list[Emission]:
    """All since the tap was opened."""
    made: list[Emission] = []
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue(QUEUE, ensure=False)
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            made += map(_emission, _decode(message.body))
    return made


def _emission(due: TaskDue) -> Emission:
    task = decode_task(due.task)
    return Emission(str(task.id), *task.order, to_ms(due.emitted_at))

# mypy: ignore-errors
"""Dramatiq on RabbitMQ: messages with a delay, acknowledged after they ran (its only way), published with confirms."""

# Its documentation, as followed here:
# - "User Guide, Workers": one process per core, eight threads each, which are the defaults.
# - "Guide, Scheduling Messages": `send_with_options(delay=...)`; delayed messages wait in the workers' memory, and on
#   the broker until they are acknowledged.
# - Reference of `RabbitmqBroker`: `confirm_delivery`, so that RabbitMQ says that a message is committed.

import sys
import time

import common
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=common.AMQP_URL, confirm_delivery=True)
dramatiq.set_broker(broker)
connections = common.pool()


@dramatiq.actor
def call(id_: str, body: dict) -> None:
    common.post(connections, id_, body)


def submit_one(id_: str, body: dict, due_ms: int) -> None:
    delay_ms = max(0, due_ms - int(time.time() * 1000))
    call.send_with_options(args=(id_, body), delay=delay_ms)


if __name__ == "__main__":
    if sys.argv[1] == "submit":
        common.submit_in_threads(submit_one)

# mypy: ignore-errors
"""Celery on RabbitMQ: tasks with an ETA, acknowledged after they ran, published with confirms."""

# Its documentation, as followed here:
# - "Workers Guide, Concurrency": the prefork pool with a process per core, which is the default. Not gevent, which
#   "Concurrency" advises for what waits for the network: in a trial on a busy machine it called up to 2.3 s before the
#   ETA, and cost no less CPU.
# - "Optimizing": many short tasks want a large prefetch multiplier; no results that nobody reads; the pool of broker
#   connections as large as there are threads.
# - "FAQ, Should I use retry or acks_late?": late acknowledgement, so that a killed worker's tasks are delivered again.
# - kombu's reference (transport.pyamqp): `confirm_publish`, without which a publish is not known to have arrived.

import sys

import common
from celery import Celery

app = Celery("celery_tasks", broker=common.AMQP_URL)
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=common.AT_ONCE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    task_serializer="json",
)
connections = common.pool()


@app.task(name="call")
def call(id_: str, body: dict) -> None:
    common.post(connections, id_, body)


def submit_one(id_: str, body: dict, due_ms: int) -> None:
    call.apply_async((id_, body), eta=common.moment(due_ms))


if __name__ == "__main__":
    if sys.argv[1] == "submit":
        common.submit_in_threads(submit_one)

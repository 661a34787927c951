"""Who has been heard of: from a heartbeat through the real broker into the table, and out of it again."""

from datetime import timedelta
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractConnection

from libs.common.clock import SystemClock
from libs.common.contracts import ServiceSeen, TaskFinished, encode
from libs.common.heartbeat import Heartbeat
from libs.common.ids import new_id
from libs.common.postgres import Postgres
from libs.common.topology import INGEST_HISTORY, PARKING, REPLICA_SEEN, TASK_EVENT
from services.ingest.replicas import Replicas, replicas_consumer
from services.ingest.store_replicas import ReplicaStore
from tests.integration.rig import consuming, publishing, ready, until

NOW = SystemClock().now().replace(microsecond=0)


def seen(second: int = 0, *, is_last: bool = False, started: int = -60, service: str = "scheduler") -> ServiceSeen:
    return ServiceSeen(
        service=service, replica="one", version="1.2.3", started_at=NOW + timedelta(seconds=started),
        at=NOW + timedelta(seconds=second), vitals={"waiting": 7.0, "overdue": float(second)}, is_last=is_last,
    )  # fmt: skip


@pytest.fixture
def replicas(postgres: Postgres) -> ReplicaStore:
    return ReplicaStore(postgres)


async def test_what_a_process_said_last_is_kept_whatever_overtakes_it(replicas: ReplicaStore) -> None:
    for second in (-9, -5, -7):
        await replicas.keep(seen(second))
    await replicas.keep(seen(-8, service="mailer"))
    mailer, scheduler = await replicas.all()
    assert (scheduler.service, scheduler.name, scheduler.version) == ("scheduler", "one", "1.2.3")
    assert (scheduler.vitals, scheduler.seen_at) == ({"waiting": 7.0, "overdue": -5.0}, NOW - timedelta(seconds=5))
    assert 5 <= scheduler.age_s < mailer.age_s


async def test_a_process_that_ended_as_it_should_is_not_missed(replicas: ReplicaStore) -> None:
    await replicas.keep(seen(-9))
    await replicas.keep(seen(-8, is_last=True))
    assert await replicas.all() == []


async def test_the_last_word_of_a_process_does_not_end_the_one_after_it(replicas: ReplicaStore) -> None:
    await replicas.keep(seen(-9, started=-10))
    await replicas.keep(seen(-8, is_last=True, started=-60))
    [left] = await replicas.all()
    assert left.started_at == NOW - timedelta(seconds=10)


async def test_a_clock_that_is_ahead_makes_nobody_seem_alive(replicas: ReplicaStore) -> None:
    await replicas.keep(seen(7_200))
    [ahead] = await replicas.all()
    assert 0 <= ahead.age_s < 5
    await replicas.keep(seen(7_200, started=-30))
    assert len(await replicas.all()) == 1


async def test_who_was_not_heard_of_for_a_day_is_forgotten(replicas: ReplicaStore) -> None:
    await replicas.keep(seen(-90_000))
    await Replicas(replicas).handle(seen(-80_000, service="mailer"))
    assert [replica.service for replica in await replicas.all()] == ["mailer"]


async def test_a_heartbeat_goes_through_the_broker_and_what_cannot_be_read_is_dropped(
    amqp_url: str, amqp: AbstractConnection, replicas: ReplicaStore
) -> None:
    async with publishing(amqp_url) as publisher:
        for odd in (b'{"type":"ServiceSeen.2"}', b'{"no":"heartbeat"}', b"17"):
            await publisher.publish(REPLICA_SEEN, odd)
        async with consuming(amqp_url, cast("Any", replicas_consumer(Replicas(replicas), publisher))):
            beats = Heartbeat("scheduler", "scheduler-1", publisher, SystemClock(), {})
            await beats.beat()
            await until("the heartbeat in the table", replicas.all)
            await beats.beat(is_last=True)

            async def is_gone() -> bool:
                return await replicas.all() == []

            await until("the row to go", is_gone)
    assert await ready(amqp, PARKING) == 0


async def test_the_consumer_of_the_release_before_never_gets_one(amqp_url: str, amqp: AbstractConnection) -> None:
    """It would park each: it reads ingest.history, and knows no such event."""
    event = TaskFinished(
        id=new_id(), project="p", generation=1, attempt=1, hop=1, state="cancelled", finished_at=NOW
    )  # fmt: skip
    async with publishing(amqp_url) as publisher:
        for _ in range(3):
            await publisher.publish(REPLICA_SEEN, encode(seen()))
        await publisher.publish(TASK_EVENT, encode(event))
    await until("the event in its queue", lambda: ready(amqp, INGEST_HISTORY))
    assert await ready(amqp, INGEST_HISTORY) == 1

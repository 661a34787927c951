"""Canaries on real rungs: how long each of them really holds a message."""

import asyncio
from collections import Counter

import pytest
from redis.asyncio import Redis

from libs.common import topology
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import TaskDue, decode_task
from libs.common.intake import Intake, decoder
from libs.common.lifecycle import Worker
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.redis import redis_client
from services.dispatcher import canary as canary_module
from services.dispatcher.canary import Canaries
from services.dispatcher.marks import Marks, Settled
from tests.conftest import RETRY_SCHEDULE_S
from tests.integration.rig import until
from tests.unit.dispatcher.samples import a_task, due

RUNGS_MS = tuple(topology.rung_ms(delay_s) for delay_s in RETRY_SCHEDULE_S)


def measured(rung_ms: int, within_s: float = float("inf")) -> float:
    bound = "+Inf" if within_s == float("inf") else str(within_s)
    labels = {"rung_ms": str(rung_ms), "le": bound}
    return REGISTRY.get_sample_value("carillon_dispatcher_rung_error_seconds_bucket", labels) or 0.0


async def test_each_rung_is_measured_by_one_canary_for_all_replicas(
    amqp_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_module, "LOOK_EVERY_S", 0.05)
    sent, send = Counter[int](), Canaries._send

    async def counted(self: Canaries, rung_ms: int) -> None:
        await send(self, rung_ms)
        sent[rung_ms] += 1

    monkeypatch.setattr(Canaries, "_send", counted)
    link, publisher = Link(amqp_url, "test canaries", topology.topology(RETRY_SCHEDULE_S)), Publisher()
    came: list[TaskDue] = []
    replicas = [Canaries(RUNGS_MS, redis, publisher, SystemClock()) for _ in range(2)]

    async def handle(message: TaskDue) -> None:
        came.append(message)
        replicas[0].back(message)

    intake = Intake(topology.DISPATCHER_RETRY_DUE, decoder(TaskDue), publisher, prefetch=10)
    link.join(publisher)
    link.join(intake)
    before = {rung_ms: (measured(rung_ms), measured(rung_ms, 1.0)) for rung_ms in RUNGS_MS}
    stopping = asyncio.Event()
    async with link:
        await link.up()
        workers: list[Worker] = [*replicas, ItemConsumer(intake, handle, asyncio.Semaphore(10))]
        running = [asyncio.create_task(worker.run(stopping)) for worker in workers]
        await until("all to be back", lambda: len(came) == len(RUNGS_MS))
        again = sent.total() + 4 * len(RUNGS_MS)
        await until("both to have looked again", lambda: sent.total() >= again)
        stopping.set()
        await asyncio.gather(*running)
    assert {message.rung_ms for message in came} == set(RUNGS_MS)
    for message in came:
        task = decode_task(message.task)
        assert await Marks(redis, "one").claim(task) == Settled(), "whoever gets it drops it"
        assert task.expires_at is not None, "and calls nobody when the marks are lost"
        assert task.expires_at <= message.emitted_at
    assert len(came) == len(RUNGS_MS)
    for rung_ms, (all_before, soon_before) in before.items():
        assert measured(rung_ms) == all_before + 1
        assert measured(rung_ms, 1.0) == soon_before + 1


async def test_without_broker_or_redis_there_are_none_and_nobody_waits(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_module, "FLOW_S", 0.01)
    flowing = Publisher()
    monkeypatch.setattr(flowing, "flowing", _at_once)
    for publisher, server in ((Publisher(), redis), (flowing, redis_client("redis://127.0.0.1:1/0"))):
        canaries = Canaries(RUNGS_MS, server, publisher, SystemClock())
        stopping = asyncio.Event()
        stopping.set()
        await asyncio.wait_for(canaries.run(stopping), 5)
    assert await redis.keys("*canary*") == []


async def _at_once() -> None:
    pass


def test_what_waited_on_no_rung_measures_none() -> None:
    canaries = Canaries(RUNGS_MS, redis_client("redis://127.0.0.1:1/0"), Publisher(), SystemClock())
    before = [measured(rung_ms) for rung_ms in RUNGS_MS]
    canaries.back(due(a_task()))
    assert [measured(rung_ms) for rung_ms in RUNGS_MS] == before

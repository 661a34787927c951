"""The faults of the chaos run, on real servers: each is really there while it lasts, and gone afterwards."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractConnection, AbstractExchange
from aiormq.exceptions import ChannelNotFoundEntity, DeliveryError
from redis.asyncio import Redis

from deploy.local import readiness
from deploy.local.errors import StackError
from deploy.local.layout import Layout
from deploy.local.processes import read_pid
from libs.common import topology
from tests.chaos.faults import broker, cache, processes
from tests.chaos.faults.clock import Clocks
from tests.conftest import PORT_OFFSET, RETRY_SCHEDULE_S, STACK

SILENT_S = 0.5
WITHIN_S = 30.0
# Not with time.sleep, which libfaketime breaks; the services wait in an event loop.
LOOK_TWICE = """
import asyncio, time
for pause_s in (3, 0):
    print(time.time(), time.monotonic())
    asyncio.run(asyncio.sleep(pause_s))
"""


@pytest.fixture
def layout(servers: dict[str, str]) -> Layout:
    return Layout(STACK.resolve(), PORT_OFFSET)


@pytest.fixture
async def due(amqp: AbstractConnection) -> AbstractExchange:
    channel = await amqp.channel(publisher_confirms=True, on_return_raises=True)
    return await channel.get_exchange(topology.DUE.exchange, ensure=False)


async def publish(exchange: AbstractExchange, times: int = 1) -> None:
    for _ in range(times):
        await exchange.publish(aio_pika.Message(b"[]"), topology.DUE.key, mandatory=True)


@pytest.mark.parametrize("fault", [processes.killed, processes.restarted])
async def test_a_process_that_dies_or_is_restarted_is_another_one_afterwards(
    layout: Layout, redis_url: str, fault: Callable[[Layout, str], AbstractAsyncContextManager[None]]
) -> None:
    before = read_pid(layout.pid_file("redis"))
    async with fault(layout, "redis"):
        pass
    await until(readiness.valkey(redis_url))
    assert read_pid(layout.pid_file("redis")) not in (before, None)


async def test_postgres_leaves_although_clients_are_connected(layout: Layout, servers: dict[str, str]) -> None:
    url = servers["CARILLON_POSTGRES_URL"]
    client = await asyncpg.connect(url)
    async with asyncio.timeout(WITHIN_S):
        async with processes.restarted(layout, "postgres"):
            pass
    await until(readiness.postgres(url))
    assert client.is_closed()


async def test_a_frozen_postgres_answers_nobody_and_then_answers_late(layout: Layout, postgres_url: str) -> None:
    client = await asyncpg.connect(postgres_url)
    async with processes.frozen(layout, "postgres"):
        answer = asyncio.create_task(client.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([answer], timeout=SILENT_S)
        assert not done, "a backend worked on"
    assert await asyncio.wait_for(answer, WITHIN_S) == 1
    await client.close()


async def test_nothing_stays_frozen_when_a_run_is_cut_off(layout: Layout, redis_url: str) -> None:
    async def freeze() -> None:
        async with processes.frozen(layout, "redis"):
            await asyncio.Event().wait()

    freezing = asyncio.create_task(freeze())
    await until(readiness.valkey(redis_url), is_so=False)
    freezing.cancel()
    await asyncio.wait([freezing])
    assert await readiness.valkey(redis_url)() is None


async def test_a_broker_out_of_memory_confirms_when_it_has_memory_again(layout: Layout, due: AbstractExchange) -> None:
    async with broker.out_of_memory(layout):
        confirmed = asyncio.create_task(publish(due))
        done, _ = await asyncio.wait([confirmed], timeout=2.0)
        assert not done, "it was confirmed"
    await asyncio.wait_for(confirmed, WITHIN_S)


async def test_a_full_queue_refuses_and_then_takes_again(layout: Layout, due: AbstractExchange) -> None:
    async with broker.full(layout, topology.DISPATCHER_DUE):
        with pytest.raises(DeliveryError):
            await publish(due, times=10)  # it refuses a little late
    async with asyncio.timeout(WITHIN_S):
        await is_taken(due)  # and takes again a little late


async def test_a_missing_queue_is_gone_and_then_back(layout: Layout, amqp_url: str, servers: dict[str, str]) -> None:
    settings = servers | {"CARILLON_RETRY_SCHEDULE_S": ",".join(map(str, RETRY_SCHEDULE_S))}
    async with await aio_pika.connect(amqp_url) as connection:
        async with broker.missing(layout, settings, topology.INGEST_REPLICAS):
            with pytest.raises(ChannelNotFoundEntity):
                await (await connection.channel()).get_queue(topology.INGEST_REPLICAS)
        await (await connection.channel()).get_queue(topology.INGEST_REPLICAS)


async def test_a_flushed_redis_is_empty(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        await client.set("claim", "1")
        async with cache.flushed(redis_url):
            assert await client.dbsize() == 0


async def test_a_stepped_clock_is_off_by_that_much_and_then_right(tmp_path: Path) -> None:
    clocks = the_clocks(tmp_path)
    assert abs(off_s(clocks)) < 1.0
    async with clocks.stepped("scheduler-1", -3600):
        assert abs(off_s(clocks) + 3600) < 1.0
    assert abs(off_s(clocks)) < 1.0


async def test_a_step_meets_a_process_that_runs_and_leaves_its_monotonic_clock_alone(tmp_path: Path) -> None:
    clocks = the_clocks(tmp_path)
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-uc",
        LOOK_TWICE,
        env=os.environ | clocks.environ("scheduler-1"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert running.stdout is not None
    before = await running.stdout.readline()
    async with clocks.stepped("scheduler-1", 3600):
        after = await running.stdout.readline()
    await running.communicate()  # its end: a transport that outlives its loop complains at any time later
    wall_s, monotonic_s = (
        float(late) - float(early) for early, late in zip(before.split(), after.split(), strict=True)
    )
    assert 3602 < wall_s < 3610
    assert 2 < monotonic_s < 10


async def is_taken(due: AbstractExchange) -> None:
    while True:
        with suppress(DeliveryError):
            return await publish(due)
        await asyncio.sleep(0.05)


def the_clocks(folder: Path) -> Clocks:
    try:
        return Clocks(folder, ["scheduler-1"])
    except StackError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def off_s(clocks: Clocks) -> float:
    """How far the wall clock of a process is off that starts now; between two looks at ours, it is right."""
    begun = time.time()
    show = [sys.executable, "-c", "import time; print(time.time())"]
    told = subprocess.run(
        show, env=os.environ | clocks.environ("scheduler-1"), capture_output=True, text=True, check=True
    )
    return float(told.stdout) - min(max(float(told.stdout), begun), time.time())


async def until(question: readiness.Question, *, is_so: bool = True) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if (await question() is None) == is_so:
                return
            await asyncio.sleep(0.1)

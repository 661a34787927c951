"""Real servers: killed without warning they come back, with what they had confirmed."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import asyncpg
import pytest
from redis.asyncio import Redis

from deploy.local import stack
from deploy.local.errors import StackError
from deploy.local.layout import Layout
from deploy.local.processes import ours, read_pid
from tests.local.offsets import free_offset

SERVERS = ("postgres", "redis", "rabbitmq", "smtp", "epmd")
MESSAGE = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


@pytest.fixture
def request_(tmp_path: Path) -> Iterator[stack.Request]:
    layout = Layout(tmp_path.resolve(), port_offset=free_offset())
    yield stack.Request(layout, servers_only=True)
    stack.down(layout)
    assert ours(layout) == set()


def test_servers_killed_at_once_come_back_with_their_data(request_: stack.Request) -> None:
    urls = up(request_)
    asyncio.run(write(urls))
    wait_until_registered(request_.layout, "kept")
    before = {name: read_pid(request_.layout.pid_file(name)) for name in SERVERS}
    for pid in before.values():
        os.kill(pid or 0, signal.SIGKILL)
    assert up(request_) == urls
    asyncio.run(read(urls))
    assert all(read_pid(request_.layout.pid_file(name)) != pid for name, pid in before.items())


def up(request: stack.Request) -> dict[str, str]:
    try:
        return stack.up(request, {}, print).shared
    except StackError as error:
        if os.environ.get("CI") == "true" or "RabbitMQ" not in str(error):
            raise
        pytest.skip(f"no broker to test with: {error}")


def wait_until_registered(layout: Layout, queue: str) -> None:
    """RabbitMQ writes the name of a new quorum queue down about a second late: killed before, the queue is lost."""
    registers = layout.data("rabbitmq").glob("nodes/*/quorum/*/names.dets")
    register, deadline = next(registers), time.monotonic() + 10
    while f"%2F_{queue}".encode() not in register.read_bytes():
        assert time.monotonic() < deadline, f"waited 10 s for {queue} in {register}"
        time.sleep(0.05)


async def write(urls: dict[str, str]) -> None:
    """Something durable into each server, confirmed."""
    postgres = await asyncpg.connect(urls["CARILLON_POSTGRES_URL"])
    await postgres.execute("CREATE TABLE kept AS SELECT 'ü' AS value")
    await postgres.close()
    async with Redis.from_url(urls["CARILLON_REDIS_URL"]) as client:
        await client.set("kept", "yes")
        await client.waitaof(1, 0, 2000)
    async with await aio_pika.connect(urls["CARILLON_AMQP_URL"]) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(MESSAGE, "kept")


async def read(urls: dict[str, str]) -> None:
    """Is it still there?"""
    postgres = await asyncpg.connect(urls["CARILLON_POSTGRES_URL"])
    assert await postgres.fetchval("SELECT upper(value) FROM kept") == "Ü"
    await postgres.close()
    async with Redis.from_url(urls["CARILLON_REDIS_URL"]) as client:
        assert await client.get("kept") == b"yes"
    async with await aio_pika.connect(urls["CARILLON_AMQP_URL"]) as connection:
        queue = await (await connection.channel()).get_queue("kept")
        assert (await queue.get(timeout=10)).body == b"kept"

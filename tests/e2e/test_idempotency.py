"""One key, one task, one call: fifty at once, again after the call, again when all that remembers is lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis
from yarl import URL

from tests.e2e.conftest import REPLICAS, STACK, Receiver, create, eventually, task_in

AT_ONCE = 50
REPLICA_STEP = 10
"""Between the ports of two replicas."""


@pytest.fixture
async def replicas(stack: dict[str, str]) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """A client of each ingest."""
    first = URL(stack["CARILLON_URL"])
    assert first.port is not None
    headers = {"Authorization": f"Bearer {stack['CARILLON_API_KEY']}"}
    urls = [first.with_port(first.port + REPLICA_STEP * number) for number in range(REPLICAS)]
    sessions = [aiohttp.ClientSession(url, headers=headers) for url in urls]
    yield sessions
    for session in sessions:
        await session.close()


async def insist(api: aiohttp.ClientSession, path: str, key: str, **body: Any) -> tuple[dict[str, Any], str | None]:
    """As a client should: the same request until it is neither in progress nor unavailable."""
    while True:
        try:
            async with api.post(path, json=body, headers={"Idempotency-Key": key}) as response:
                if response.status not in (409, 503):
                    assert response.status in (200, 201), await response.text()
                    return await response.json(), response.headers.get("Idempotency-Replayed")
                assert response.headers["Retry-After"] == "1"
        except aiohttp.ClientConnectionError:
            pass  # it is being restarted
        await asyncio.sleep(0.05)


async def at_once(replicas: list[aiohttp.ClientSession], key: str, **task: Any) -> set[str]:
    """The ids that fifty requests over all replicas were answered."""
    asking = [insist(replicas[number % REPLICAS], "/v1/tasks", key, **task) for number in range(AT_ONCE)]
    return {answer["id"] for answer, _replayed in await asyncio.gather(*asking)}


async def everything_before_is_called(api: aiohttp.ClientSession, receiver: Receiver, name: str) -> None:
    """A task made now is called after any double made before it."""
    fence = await create(api, url=f"{receiver.url}/fence-{name}", delay=1)
    await task_in(api, fence["id"], "succeeded")


async def forget_redis(stack: dict[str, str]) -> None:
    async with Redis.from_url(stack["CARILLON_REDIS_URL"]) as redis:
        await redis.flushall()


async def restart_ingest() -> None:
    files = [STACK / "pids" / f"ingest-{number + 1}" for number in range(REPLICAS)]
    pids = [int(file.read_text()) for file in files]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    def are_new() -> bool:
        return all(int(file.read_text()) != pid for file, pid in zip(files, pids, strict=True))

    await eventually("both ingests restarted", are_new)


async def forget_history(stack: dict[str, str], task_id: str) -> None:
    connection = await asyncpg.connect(stack["CARILLON_POSTGRES_URL"])
    try:
        assert await connection.execute("DELETE FROM ingest.task WHERE id = $1", task_id) == "DELETE 1"
    finally:
        await connection.close()


async def test_a_key_makes_one_task_and_one_call_whatever_is_lost(
    stack: dict[str, str], api: aiohttp.ClientSession, replicas: list[aiohttp.ClientSession], receiver: Receiver
) -> None:
    key, task = os.urandom(8).hex(), {"url": f"{receiver.url}/once", "delay": 1}
    [task_id] = await at_once(replicas, key, **task)
    await task_in(api, task_id, "succeeded")

    assert await at_once(replicas, key, **task) == {task_id}
    answer, replayed = await insist(replicas[1], "/v1/tasks", key, **task)
    assert (answer["id"], answer["status"], replayed) == (task_id, "succeeded", "true")

    await asyncio.gather(forget_redis(stack), restart_ingest())
    assert await at_once(replicas, key, **task) == {task_id}
    answer, replayed = await insist(replicas[1], "/v1/tasks", key, **task)
    assert (answer["id"], answer["status"], replayed) == (task_id, "succeeded", "true")

    await asyncio.gather(forget_redis(stack), restart_ingest(), forget_history(stack, task_id))
    assert await at_once(replicas, key, **task) == {task_id}

    await everything_before_is_called(api, receiver, "once")
    assert len(receiver.calls["once"]) == 1


async def test_a_key_with_another_body_is_refused_by_every_replica(
    replicas: list[aiohttp.ClientSession], receiver: Receiver
) -> None:
    key, url = os.urandom(8).hex(), f"{receiver.url}/body"
    answer, _replayed = await insist(replicas[0], "/v1/tasks", key, url=url, delay=600)
    await task_in(replicas[1], answer["id"], "scheduled")
    for api in replicas:
        async with api.post("/v1/tasks", json={"url": url, "delay": 601}, headers={"Idempotency-Key": key}) as response:
            assert (response.status, (await response.json())["code"]) == (422, "idempotency_key_reused")


async def test_a_batch_that_is_sent_twice_to_both_replicas_at_once_calls_each_task_once(
    api: aiohttp.ClientSession, replicas: list[aiohttp.ClientSession], receiver: Receiver
) -> None:
    key, names = os.urandom(8).hex(), [f"batch-{number}" for number in range(300)]
    tasks = [{"url": f"{receiver.url}/{name}", "delay": 1} for name in names]
    asking = [insist(replicas[number % REPLICAS], "/v1/tasks/batch", key, tasks=tasks) for number in range(4)]
    answers = [answer["results"] for answer, _replayed in await asyncio.gather(*asking)]
    assert all(answer == answers[0] for answer in answers)
    assert {each["status"] for each in answers[0]} == {201}
    ids = [each["id"] for each in answers[0]]
    assert len(set(ids)) == len(names)
    await asyncio.gather(*(task_in(api, id_, "succeeded") for id_ in ids))
    await everything_before_is_called(api, receiver, "batch")
    assert [len(receiver.calls[name]) for name in names] == [1] * len(names)

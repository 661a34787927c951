"""kill -9 and SIGSTOP of ingest while entries pass through the Redis list: each is one task, none is lost or doubled.

    LIST_ENTRIES=20000 LIST_KILLS=40 pytest -s tests/integration/ingest/test_list_kill.py

Two replicas of ingest and a scheduler, real processes on real servers. Each time one dies that holds entries, at any
moment of the `KILL_WITHIN_S` that follow.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

from libs.common.contracts import decode_call, decode_task
from libs.common.ports import ADMIN_PORTS
from tests.integration.ingest.processes import LOOPBACK, Process, Processes, metric_of, processes
from tests.integration.rig import until

ENTRIES = int(os.environ.get("LIST_ENTRIES", "7500"))
KILLS = int(os.environ.get("LIST_KILLS", "15"))
BAD_SHARE = 0.01
KILL_WITHIN_S = 0.1
"""Some turns of a lane: take, read, publish, forget."""
KEY = "delay_queue_task"
PORT = str(ADMIN_PORTS["ingest"] + 20_000)
ADMIN = f"http://{LOOPBACK}:{PORT}"
"""Of the one process that is asked for its metrics."""

pytestmark = pytest.mark.timeout(max(120, 10 * KILLS + ENTRIES // 100))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def started(
    amqp_url: str, migrated_postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Processes]:
    servers = {
        "CARILLON_AMQP_URL": amqp_url,
        "CARILLON_POSTGRES_URL": migrated_postgres_url,
        "CARILLON_REDIS_URL": redis_url,
    }
    async with processes(servers, tmp_path) as made:
        yield made


@pytest.fixture
async def postgres(migrated_postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(migrated_postgres_url)
    yield connection
    await connection.close()


def entry(number: int, *, is_good: bool = True) -> str:
    scheme = "https" if is_good else "ftp"
    if number % 2:
        return json.dumps({"notify_url": f"{scheme}://example.com/{number}", "plan_time": "2035-01-01T00:00:00+08:00"})
    return json.dumps({"url": f"{scheme}://example.com/{number}", "delay": "30d", "body": {"n": number}})


async def held(redis: Redis) -> dict[str, int]:
    """How many entries each owner holds, by replica."""
    keys = await redis.keys(f"{KEY}:taken:*")
    return {key.split(b":")[2].decode(): await redis.hlen(key) for key in keys if isinstance(key, bytes)}


async def is_through(redis: Redis) -> bool:
    return not await redis.exists(KEY) and not await held(redis)


async def numbers_of_tasks(postgres: asyncpg.Connection) -> Counter[int]:
    rows = await postgres.fetch("SELECT message FROM scheduler.task")
    return Counter(_number(decode_call(decode_task(row["message"]).call).url) for row in rows)


def _number(url: str) -> int:
    return int(url.rpartition("/")[2])


async def at_work(redis: Redis, replicas: list[Process]) -> list[Process]:
    """Those who hold entries, as soon as there is one."""
    found: list[Process] = []

    async def is_one() -> bool:
        holding = await held(redis)
        found[:] = [process for process in replicas if process.replica in holding]
        return bool(found)

    await until("somebody to hold entries", is_one, within_s=60)
    return found


async def kill_who_holds(redis: Redis, replicas: list[Process], dice: random.Random) -> tuple[Process, int]:
    """The replica that died, and how many entries it left behind."""
    victim = dice.choice(await at_work(redis, replicas))
    await asyncio.sleep(dice.uniform(0, KILL_WITHIN_S))
    await victim.kill()
    return victim, (await held(redis)).get(victim.replica, 0)


async def test_each_entry_is_one_task_whenever_ingest_is_killed(
    redis: Redis, postgres: asyncpg.Connection, started: Processes
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}: {ENTRIES} entries, {KILLS} kills")
    dice = random.Random(seed)
    bad = set(dice.sample(range(ENTRIES), round(BAD_SHARE * ENTRIES)))
    portions = [range(part * ENTRIES // KILLS, (part + 1) * ENTRIES // KILLS) for part in range(KILLS)]
    began = time.monotonic()

    await started.start("scheduler", CARILLON_ADMIN_PORT=PORT)
    replicas = [await started.start("ingest") for _ in range(2)]
    left: list[int] = []
    for portion in portions:
        await redis.rpush(KEY, *(entry(number, is_good=number not in bad) for number in portion))
        victim, entries = await kill_who_holds(redis, replicas, dice)
        left.append(entries)
        replicas.remove(victim)
        replicas.append(await started.start("ingest"))
    await until("the list and what was taken from it to be empty", lambda: is_through(redis), within_s=120)

    good = set(range(ENTRIES)) - bad
    await until("every task to be in the table", lambda: _are_as_many(postgres, len(good)), within_s=60)
    created = await metric_of(ADMIN, 'carillon_scheduler_accepted_total{kind="create"')
    records = [json.loads(record) for record in await redis.lrange(f"{KEY}:rejected", 0, -1)]
    rejected = Counter(
        _number(next(url for url in json.loads(record["entry"]).values() if "://" in str(url))) for record in records
    )
    print(
        f"{time.monotonic() - began:.0f} s; kills that left entries behind: {sum(map(bool, left))} of {KILLS}, "
        f"{sum(left)} entries in all; creates that reached the scheduler: {created:.0f} for {len(good)} tasks"
    )
    assert await numbers_of_tasks(postgres) == Counter(good)  # each once: 0 lost, 0 doubled
    assert rejected == Counter(bad)
    assert sum(left), "no kill met an entry under way: the test shows nothing"


async def test_a_replica_that_freezes_and_wakes_up_later_loses_and_doubles_nothing(
    redis: Redis, postgres: asyncpg.Connection, started: Processes
) -> None:
    await started.start("scheduler", CARILLON_ADMIN_PORT=PORT)
    frozen = await started.start("ingest")
    await frozen.said("connection.opened", times=2)
    pushed = await _freeze_at_work(redis, frozen)
    heir = await started.start("ingest")
    await until("the other to adopt and publish it all", lambda: is_through(redis), within_s=60)
    frozen.thaw()
    await redis.rpush(KEY, *map(entry, range(pushed, pushed + 500)))
    await until("the rest to be taken", lambda: is_through(redis), within_s=60)
    await heir.kill()
    await redis.rpush(KEY, *map(entry, range(pushed + 500, pushed + 600)))
    await until("the one that woke up to serve alone", lambda: is_through(redis), within_s=60)
    await until("every task to be in the table", lambda: _are_as_many(postgres, pushed + 600), within_s=60)
    assert await numbers_of_tasks(postgres) == Counter(range(pushed + 600))
    assert not await redis.exists(f"{KEY}:rejected")


async def test_without_redis_ingest_is_ready_all_the_same_and_stops_when_asked(started: Processes) -> None:
    ingest = await started.start("ingest", CARILLON_REDIS_URL="redis://127.0.0.1:1/0", CARILLON_ADMIN_PORT=PORT)
    await ingest.said("list.lost")
    await until("ingest to be ready", lambda: _is_ready(ADMIN), within_s=30)
    assert await metric_of(ADMIN, "carillon_ingest_list_redis_away") == 1
    ingest.running.terminate()
    assert await ingest.ended() == 0


async def _is_ready(admin_url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _freeze_at_work(redis: Redis, process: Process) -> int:
    """Freezes it while it holds entries; gives how many have been pushed."""
    pushed = 0
    while True:
        await redis.rpush(KEY, *map(entry, range(pushed, pushed + 1000)))
        pushed += 1000
        await at_work(redis, [process])
        process.freeze()
        if process.replica in await held(redis):
            return pushed
        process.thaw()


async def _are_as_many(postgres: asyncpg.Connection, tasks: int) -> bool:
    return bool(await postgres.fetchval("SELECT count(*) >= $1 FROM scheduler.task", tasks))

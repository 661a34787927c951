# mypy: ignore-errors
"""What every Python peer does alike: the call it makes, and how it is given the tasks of one measurement.

The clients are the leanest that are in common use: urllib3 (what `requests` is built on) and aiohttp.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

SINK_URL = os.environ.get("BENCH_SINK_URL", "")
AMQP_URL = os.environ.get("BENCH_AMQP_URL", "")
POSTGRES_URL = os.environ.get("BENCH_POSTGRES_URL", "")
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "")
AT_ONCE = 64
"""Submissions under way at once; Carillon is asked over as many connections."""
BULK = 1000
"""Tasks in one bulk submission, where there is one; as in Carillon's batches."""
TIMEOUT_S = 10


@dataclass(frozen=True)
class Job:
    """The tasks of one measurement: ids `<prefix>-<number>`, each due `step_ms` after the one before."""

    prefix: str
    tasks: int
    first_ms: int
    step_ms: float
    bulk: bool

    def __iter__(self) -> Iterator[tuple[str, dict, int]]:
        """Id, body, and when it is due in ms since 1970."""
        for number in range(self.tasks):
            body = {"number": number, "text": "x" * 64}
            yield f"{self.prefix}-{number}", body, self.first_ms + int(number * self.step_ms)


def job() -> Job:
    """As the harness names it: `submit '<json>'`."""
    return Job(**json.loads(sys.argv[2]))


def moment(due_ms: int) -> datetime:
    return datetime.fromtimestamp(due_ms / 1000, UTC)


def headers(id_: str) -> dict[str, str]:
    return {"webhook-id": id_, "Content-Type": "application/json"}


def report(began: float) -> None:
    print(json.dumps({"seconds": time.monotonic() - began}), flush=True)


def submit_in_threads(one: Callable[[str, dict, int], object], threads: int = AT_ONCE) -> None:
    """For clients that block."""
    tasks = list(job())
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: time.sleep(0.05), range(threads)))  # the threads are there
        began = time.monotonic()
        for _ in pool.map(lambda task: one(*task), tasks):
            pass
        report(began)


async def submit_concurrently(one: Callable[[str, dict, int], Awaitable[object]]) -> None:
    """For clients of asyncio."""
    tasks = iter(list(job()))

    async def worker() -> None:
        for task in tasks:
            await one(*task)

    began = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    report(began)


def pool():
    """Keep-alive connections for threads and forked processes."""
    import urllib3  # noqa: PLC0415  not every peer needs it

    return urllib3.PoolManager(num_pools=1, maxsize=128, retries=False, timeout=TIMEOUT_S)


def post(connections, id_: str, body: dict) -> None:
    answer = connections.request("POST", SINK_URL, body=json.dumps(body), headers=headers(id_))
    if answer.status != 204:
        raise RuntimeError(f"the sink answered {answer.status}")


def session():
    """Keep-alive connections for asyncio."""
    import aiohttp  # noqa: PLC0415  not every peer needs it

    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


async def post_async(client, id_: str, body: dict) -> None:
    async with client.post(SINK_URL, data=json.dumps(body), headers=headers(id_)) as answer:
        if answer.status != 204:
            raise RuntimeError(f"the sink answered {answer.status}")

"""`python -m benchmarks.console`: how long pages of the console take among ten million tasks, and what open ones cost.

    python -m benchmarks.console [pages open] [--rows 10000000] [--consoles 50] [--per-s 100] [--seconds 30]

    pages       the overview by each span, and the first page of some searches: milliseconds from request to last byte
    open        CPU of ingest and PostgreSQL without and with so many consoles open on the overview and on the list of
                tasks, while nothing happens and while tasks are called at a steady rate

A console is a stream of events and, as in a browser, what its page fetches when it hears "changed". On a stack of its
own, from nothing, one process per service: ten million rows take some ten minutes and 15 GB below `.local`.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from benchmarks.called import SinkProcess, sink_process
from benchmarks.cpu import Usage, pids_of, usage
from benchmarks.history_rows import PROJECT, fill
from benchmarks.machine import description, load_average
from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.redis import opened_redis
from services.ingest.console.guard import Cookie
from services.ingest.console.sessions import Sessions

FOLDER = Path(".local") / "console"
TIMES = 7
SETTLE_S = 5.0
CONSOLE = "/console"
SEARCHES = (
    "",
    "status:failed",
    "status:failed ended-after:1h",
    "host:host3.example.com status:failed",
    "label.customer:42",
    "label.needle:1",
    "url:https://needle.example.com/",
    "url:https://nobody.example.com/",
    "after:1h",
    "status:scheduled due-after:1h",
)
THROTTLES = {"overview": (f"{CONSOLE}", 30.0), "tasks": (f"{CONSOLE}/tasks", 3.0)}
"""What a page fetches when it hears "changed", and how often at most: as in its template."""
# 8 days of minutes, a month of hours, 20 hosts; with three dozen buckets in use, as those of a busy project.
_CALLS = """
    INSERT INTO ingest.calls (project, host, every_s, at, succeeded, failed, retried, lateness, duration)
    SELECT $1, host, every_s, at, 200, 3, 5, array_fill(6, ARRAY[36]), array_fill(6, ARRAY[44])
    FROM (SELECT '' AS host, 60 AS every_s, generate_series(date_trunc('minute', now()) - interval '8 days',
                                                            now(), interval '1 minute') AS at
          UNION ALL
          SELECT CASE WHEN n = 0 THEN '' ELSE format('host%s.example.com', n - 1) END, 3600,
                 generate_series(date_trunc('hour', now()) - interval '30 days', now(), interval '1 hour')
          FROM generate_series(0, 20) AS n) AS spans
    ON CONFLICT DO NOTHING
"""
_USER = """
    INSERT INTO ingest.console_user (id, name, role, projects, created_at, changed_at)
    VALUES ($1, 'benchmark', 'operator', '{}', now(), now()) ON CONFLICT (name) DO UPDATE SET name = 'benchmark'
    RETURNING id
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console")
    parser.add_argument("scenarios", nargs="*", default=["pages", "open"])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--consoles", type=int, default=50)
    parser.add_argument("--per-s", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--port-offset", type=int, default=2_800)
    options = parser.parse_args()
    try:
        with private_stack(FOLDER, port_offset=options.port_offset, replicas=1, settings={}) as stack:
            asyncio.run(measure(stack, options))
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)  # gigabytes
    return 0


def say(line: str) -> None:
    print(line, flush=True)


async def measure(stack: PrivateStack, options: argparse.Namespace) -> None:
    await prepare(stack, options.rows)
    machine = await description(stack.variables)
    say("  ".join(f"{name} {value}" for name, value in machine.items()) + f"  load before {load_average():.2f}")
    cookies = await log_in(stack)
    async with aiohttp.ClientSession(stack.api_urls()[0], connector=aiohttp.TCPConnector(limit=0)) as session:
        session.headers["Cookie"] = cookies
        if "pages" in options.scenarios:
            await pages(session)
        if "open" in options.scenarios:
            async with sink_process(session) as sink:
                await opened(Open(stack, session, sink, options))


async def prepare(stack: PrivateStack, rows: int) -> None:
    url = stack.variables["CARILLON_POSTGRES_URL"]
    await fill(url, rows, say)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_CALLS, PROJECT)
        await connection.execute("VACUUM ANALYZE ingest.calls")
    finally:
        await connection.close()


async def log_in(stack: PrivateStack) -> str:
    """The cookie of an operator, by whichever name this stack reads it."""
    connection = await asyncpg.connect(stack.variables["CARILLON_POSTGRES_URL"])
    try:
        user_id = await connection.fetchval(_USER, new_id())
    finally:
        await connection.close()
    async with opened_redis(stack.variables["CARILLON_REDIS_URL"]) as redis:
        token = await Sessions(redis, SystemClock()).begin(user_id, 1)
    return "; ".join(f"{Cookie(is_secure).name}={token}" for is_secure in (True, False))


async def pages(session: aiohttp.ClientSession) -> None:
    for span in ("1h", "24h", "7d"):
        await _page(session, f"overview, {span}", CONSOLE, {"span": span})
    for search in SEARCHES:
        await _page(session, f"tasks: {search or 'all'}", f"{CONSOLE}/tasks", {"q": search})


async def _page(session: aiohttp.ClientSession, name: str, path: str, query: Mapping[str, str]) -> None:
    taken_ms, length = [], 0
    for _ in range(TIMES):
        begun = time.perf_counter()
        length = len(await _get(session, path, query))
        taken_ms.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.3)
    say(f"{name:48} {length:7} bytes, first {taken_ms[0]:6.1f} ms, median {statistics.median(taken_ms):6.1f} ms")


async def _get(session: aiohttp.ClientSession, path: str, query: Mapping[str, str]) -> bytes:
    async with session.get(path, params=query, allow_redirects=False) as response:
        body = await response.read()
    if response.status != 200:
        raise StackError(f"{path} {dict(query)} answered {response.status}")
    return body


class Open:
    """What the measurement of open consoles needs."""

    def __init__(
        self, stack: PrivateStack, session: aiohttp.ClientSession, sink: SinkProcess, options: argparse.Namespace
    ) -> None:
        self.stack = stack
        self.session = session
        self.sink = sink
        self.consoles: int = options.consoles
        self.per_s: int = options.per_s
        self.seconds: int = options.seconds
        self.events = self.fetches = 0

    async def console(self, of: str) -> None:
        path, every_s = THROTTLES[of]
        fetching: asyncio.Task[None] | None = None
        try:
            async for line in self._lines(of):
                self.events += line == b"\n"
                if line == b"event: changed\n" and (fetching is None or fetching.done()):
                    fetching = asyncio.create_task(self._fetch(path, every_s))
        finally:
            if fetching is not None:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)

    async def _lines(self, of: str) -> AsyncIterator[bytes]:
        async with self.session.get(f"{CONSOLE}/live", params={"of": of}, timeout=aiohttp.ClientTimeout()) as stream:
            if stream.status != 200:
                raise StackError(f"{CONSOLE}/live answered {stream.status}")
            async for line in stream.content:
                yield line

    async def _fetch(self, path: str, every_s: float) -> None:
        self.fetches += 1
        await _get(self.session, path, {})
        await asyncio.sleep(every_s)

    async def work(self) -> None:
        """Tasks that are due at once, in batches, at a steady rate."""
        headers = {"Authorization": f"Bearer {self.stack.api_key}"}
        tasks = {"tasks": [{"url": f"{self.sink.url}/called"}] * max(1, self.per_s // 5)}
        begun, number = time.monotonic(), 0
        while True:
            async with self.session.post("/v1/tasks/batch", json=tasks, headers=headers) as response:
                response.raise_for_status()
            number += 1
            await asyncio.sleep(max(0.0, begun + number * 0.2 - time.monotonic()))


async def opened(rig: Open) -> None:
    for is_busy in (False, True):
        async with _running(rig.work() if is_busy else None):
            for of, consoles in (("overview", 0), ("overview", rig.consoles), ("tasks", rig.consoles)):
                async with _consoles(rig, of, consoles):
                    await _measured(rig, f"{consoles} on {of}" if consoles else "none", is_busy)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None] | None) -> AsyncIterator[None]:
    task = asyncio.create_task(work) if work is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _consoles(rig: Open, of: str, count: int) -> AsyncIterator[None]:
    watching = [asyncio.create_task(rig.console(of)) for _ in range(count)]
    try:
        yield
    finally:
        ended = [task for task in watching if task.done()]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        if ended:
            raise StackError(f"{len(ended)} consoles ended by themselves: {ended[0]!r}")


async def _measured(rig: Open, name: str, is_busy: bool) -> None:
    await asyncio.sleep(SETTLE_S)
    pids = pids_of(rig.stack.layout)
    before, begun = usage(pids), time.monotonic()
    events, fetches = rig.events, rig.fetches
    await asyncio.sleep(rig.seconds)
    used, seconds = usage(pids).since(before), time.monotonic() - begun
    busy = f"{rig.per_s} tasks/s" if is_busy else "nothing happens"
    shares = ", ".join(f"{process} {_share(used, process, seconds)}" for process in ("ingest-1", "postgres", "redis"))
    rates = f"{(rig.events - events) / seconds:.0f} events/s, {(rig.fetches - fetches) / seconds:.1f} pages/s"
    say(f"open consoles: {name:16} {busy:16} CPU of one core: {shares}; {rates}")


def _share(used: Usage, process: str, seconds: float) -> str:
    return f"{used.processes.get(process, 0.0) / seconds:.1%}"


if __name__ == "__main__":
    sys.exit(main())

"""Schedulers of the benchmark's own beside servers only, rows put into their table by SQL, and a sink of due tasks.

So that what is measured is the scheduler: no ingest before it, no dispatcher behind it.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import aiohttp
import asyncpg
import msgspec
from aio_pika.abc import AbstractIncomingMessage
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks.phases import Stuck
from deploy.local.layout import LOOPBACK, PROJECT
from deploy.local.private import PrivateStack
from libs.common import topology
from libs.common.clock import from_ms, to_ms
from libs.common.contracts import Call, Task, encode
from libs.common.ids import new_id
from services.scheduler.store import shard_of

COPY_ROWS = 50_000
_COLUMNS = (
    "id", "generation", "attempt", "hop", "due_at", "shard", "size", "project", "fingerprint", "message",
)  # fmt: skip
NOWHERE = "http://receiver.example/hook/payment-reminder"


class _Due(msgspec.Struct):
    task: "_Task"
    due_at: datetime
    emitted_at: datetime
    late_because: str | None = None


class _Task(msgspec.Struct):
    id: UUID


_decode = msgspec.json.Decoder(list[_Due]).decode


class Sink:
    """Takes everything from dispatcher.due and notes when it came. `lateness_ms` is up to its arrival here."""

    def __init__(self) -> None:
        self.lateness_ms: list[float] = []
        self.ids: dict[UUID, int] = {}
        self.early = 0
        self.last_at = 0.0
        self.because: dict[str, int] = {}

    async def take(self, message: AbstractIncomingMessage) -> None:
        self.last_at = now = time.time()
        for due in _decode(message.body):
            self.ids[due.task.id] = self.ids.get(due.task.id, 0) + 1
            self.lateness_ms.append((now - due.due_at.timestamp()) * 1000)
            self.early += due.emitted_at < due.due_at
            if due.late_because:
                self.because[due.late_because] = self.because.get(due.late_because, 0) + 1

    @property
    def duplicates(self) -> int:
        return sum(times - 1 for times in self.ids.values())

    async def has(self, tasks: int, within_s: float) -> None:
        """Raises: Stuck."""
        deadline = time.monotonic() + within_s
        while len(self.ids) < tasks:
            if time.monotonic() > deadline:
                raise Stuck(f"{len(self.ids)} of {tasks} tasks emitted after {within_s:.0f} s")
            await asyncio.sleep(0.05)


@asynccontextmanager
async def sink(stack: PrivateStack) -> AsyncIterator[Sink]:
    """Beginning with empty queues."""
    taking = Sink()
    async with await aio_pika.connect(stack.variables["CARILLON_AMQP_URL"]) as connection:
        channel = await connection.channel(publisher_confirms=False)
        queue = await channel.get_queue(topology.DISPATCHER_DUE, ensure=False)
        await queue.purge()
        await (await channel.get_queue(topology.INGEST_HISTORY, ensure=False)).purge()
        await queue.consume(taking.take, no_ack=True)
        yield taking


class Schedulers:
    """`python -m services.scheduler`, as many as asked for."""

    def __init__(self, stack: PrivateStack) -> None:
        self._stack = stack
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: str) -> int:
        """With these variables besides. Gives its number, from 0."""
        number = len(self.processes)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")}
        environ |= {name: self._stack.variables[name] for name in ("CARILLON_AMQP_URL", "CARILLON_POSTGRES_URL")}
        environ |= {"CARILLON_REPLICA": f"scheduler-{number}", "CARILLON_ADMIN_HOST": LOOPBACK}
        environ |= {"CARILLON_ADMIN_PORT": str(self.admin_port(number)), **settings}
        with Path(self._stack.layout.root / f"scheduler-{number}.log").open("ab") as log:
            command = [sys.executable, "-m", "services.scheduler"]
            self.processes.append(subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=log, stderr=log))  # noqa: S603
        return number

    def admin_port(self, number: int) -> int:
        return self._stack.layout.admin_port("scheduler", number + 1)

    async def ready(self, number: int, within_s: float = 30) -> float:
        """Seconds until it says so. Raises: Stuck."""
        begun = time.monotonic()
        async with aiohttp.ClientSession() as session:
            while time.monotonic() - begun < within_s:
                if await _is_ok(session, f"http://{LOOPBACK}:{self.admin_port(number)}/readyz"):
                    return time.monotonic() - begun
                await asyncio.sleep(0.02)
        raise Stuck(f"scheduler {number} is not ready after {within_s:.0f} s")

    async def confirmed(self, number: int) -> str:
        """Its own histogram of lateness, up to the broker's confirm: the share within each bound."""
        name = "carillon_scheduler_lateness_seconds_bucket"
        buckets = {each.labels["le"]: each.value for each in await self._samples(number) if each.name == name}
        return ", ".join(
            f"{float(bound) * 1000:g} ms {100 * tasks / (buckets['+Inf'] or 1):.2f} %"
            for bound, tasks in buckets.items()
            if bound in ("0.005", "0.0075", "0.01", "0.02", "0.05", "0.1")
        )

    async def held(self, number: int) -> int:
        """Tasks on its wheel."""
        name = "carillon_scheduler_wheel_tasks"
        return sum(int(each.value) for each in await self._samples(number) if each.name == name)

    async def _samples(self, number: int) -> list[Sample]:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{LOOPBACK}:{self.admin_port(number)}/metrics") as response:
                page = await response.text()
        return [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def rss_mib(self, number: int) -> tuple[float, float]:
        """Resident memory of one now, and at most so far."""
        status = Path(f"/proc/{self.processes[number].pid}/status").read_text()
        sizes = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Vm")}
        return int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024

    def pids(self) -> dict[str, int]:
        return {f"scheduler-{number}": process.pid for number, process in enumerate(self.processes)}


@contextmanager
def schedulers(stack: PrivateStack, count: int = 0) -> Iterator[Schedulers]:
    running = Schedulers(stack)
    try:
        for _ in range(count):
            running.start()
        yield running
    finally:
        for process in running.processes:
            process.terminate()
        for process in running.processes:
            process.wait(timeout=40)


def rows(
    count: int, first_ms: int, step_ms: float, url: str = NOWHERE, **different: Any
) -> Iterator[tuple[object, ...]]:
    """Tasks due from `first_ms` on, each `step_ms` after the one before; `different` are fields of their calls."""
    now = from_ms(to_ms(datetime.now(UTC)))
    call = msgspec.Raw(encode(Call(url=url, body=b'{"order": 4711}', **different)))
    for number in range(count):
        due_at, id_ = from_ms(round(first_ms + number * step_ms)), new_id()
        task = Task(id=id_, project="bench", created_at=now, due_at=due_at, fingerprint="f" * 64, call=call)
        message = encode(task)
        yield (id_, 1, 1, 0, due_at, shard_of(id_), len(message), "bench", "f" * 64, message)


async def insert(
    stack: PrivateStack, count: int, due_at: datetime, step_ms: float, url: str = NOWHERE, **different: Any
) -> dict[str, int]:
    """Gives when each is due, by id, in ms since 1970."""
    due_ms: dict[str, int] = {}
    connection = await asyncpg.connect(stack.variables["CARILLON_POSTGRES_URL"])
    try:
        waiting = rows(count, to_ms(due_at), step_ms, url, **different)
        while batch := [row for _, row in zip(range(COPY_ROWS), waiting, strict=False)]:
            await connection.copy_records_to_table("task", schema_name="scheduler", columns=_COLUMNS, records=batch)
            due_ms |= {str(row[0]): to_ms(row[4]) for row in batch if isinstance(row[4], datetime)}
    finally:
        await connection.close()
    return due_ms


async def fill(stack: PrivateStack, count: int, spread: timedelta, after: timedelta = timedelta(days=1)) -> float:
    """`count` rows due over `spread`, beginning `after` now, made by the server. Gives bytes per row, with indexes."""
    [row] = list(rows(1, to_ms(datetime.now(UTC)), 0))
    connection = await asyncpg.connect(stack.variables["CARILLON_POSTGRES_URL"])
    try:
        await connection.execute(
            f"""
            INSERT INTO scheduler.task ({", ".join(_COLUMNS)})
            SELECT gen_random_uuid(), 1, 1, 0, now() + $5::interval + $1::interval * (n::float8 / $2), n % 1024,
                   $3, 'bench', repeat('f', 64), $4
            FROM generate_series(1, $2::bigint) AS n
            """,  # noqa: S608  our own words
            spread,
            count,
            len(row[-1]) if isinstance(row[-1], bytes) else 0,
            row[-1],
            after,
            timeout=3600,
        )
        await connection.execute("VACUUM (ANALYZE) scheduler.task", timeout=1200)
        await connection.execute("CHECKPOINT", timeout=1200)
        size: int = await connection.fetchval("SELECT pg_total_relation_size('scheduler.task')")
        return size / count
    finally:
        await connection.close()


async def empty(stack: PrivateStack) -> None:
    connection = await asyncpg.connect(stack.variables["CARILLON_POSTGRES_URL"])
    try:
        await connection.execute("TRUNCATE scheduler.task")
    finally:
        await connection.close()


async def _is_ok(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False

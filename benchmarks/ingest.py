"""`python -m benchmarks.ingest`: how fast tasks are taken in, one by one and in batches, and how late an answer is.

A stack of its own, one process per service, everything at its default; this process is the client. Each scenario starts
when the history knows every task of the one before. All tasks are due in a day, so nothing is called.
"""

import argparse
import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.cpu import Usage, pids_of, usage
from benchmarks.machine import description, load_average
from benchmarks.phases import EVENTS, Stuck, reach
from benchmarks.posts import NotTaken, closed_loop, open_loop, request
from benchmarks.scrape import ITEMS, Counts, scrape
from deploy.demo.table import percentile
from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from libs.common.clock import format_utc
from libs.common.topology import CREATE

FOLDER = Path(".local") / "bench-ingest"
JSON, NDJSON = "application/json", "application/x-ndjson"
TASKS, BATCH = "/v1/tasks", "/v1/tasks/batch"
WARM_UP = 2_000
BATCH_ITEMS = 1_000
BATCH_CONNECTIONS = 8
PACED_PER_S, PACED_CONNECTIONS = 500, 32


@dataclass
class Measured:
    """One scenario: what was asked, how long it took, and whose CPU it took per task."""

    name: str
    tasks: int
    seconds: float = 0.0
    confirmed: int = 0
    projected_after_s: float = 0.0
    cores: Mapping[str, float] = field(default_factory=dict)
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    latency_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        return self.tasks / self.seconds


def main() -> int:
    options = _parser().parse_args()
    load_before = load_average()
    try:
        with private_stack(FOLDER, port_offset=options.port_offset, replicas=1, settings={}) as stack:
            told = asyncio.run(measure(stack, options))
            machine = asyncio.run(description(stack.variables))
    except (StackError, Stuck, NotTaken) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text(machine, load_before, told))
    summary = {"machine": machine, "load_before": load_before, "scenarios": [asdict(each) for each in told]}
    (FOLDER / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1))
    return 1 if any(each.confirmed != each.tasks for each in told) else 0


async def measure(stack: PrivateStack, options: argparse.Namespace) -> list[Measured]:
    """Raises: Stuck, NotTaken."""
    async with aiohttp.ClientSession() as session:
        bench = Bench(stack, session)
        await bench.singles("warm-up", WARM_UP, options.connections)
        return [
            await bench.paced(options.paced_s),
            await bench.singles("single POSTs", options.singles, options.connections),
            await bench.batches("batches, JSON", options.batched, JSON),
            await bench.batches("batches, NDJSON", options.batched, NDJSON),
        ]


class Bench:
    """What every scenario needs."""

    def __init__(self, stack: PrivateStack, session: aiohttp.ClientSession) -> None:
        self._stack = stack
        self._session = session
        self._url = stack.api_urls()[0]
        self._pids = {**pids_of(stack.layout), "client": os.getpid()}
        self._due_at = format_utc(datetime.now(UTC) + timedelta(days=1))
        self._numbers = itertools.count()
        self._asked = 0

    async def paced(self, seconds: float) -> Measured:
        """A POST every 2 ms, whatever became of those before."""
        count = round(PACED_PER_S * seconds)
        measured = Measured(f"POSTs at {PACED_PER_S}/s", count)
        requests = list(self._posts(count))
        async with self._measuring(measured):
            latencies = await open_loop(self._url, PACED_CONNECTIONS, requests, PACED_PER_S, b"201")
        ms = [latency * 1000 for latency in latencies]
        measured.latency_ms = {f"p{p:g}": percentile(ms, p / 100) for p in (50, 90, 99)} | {"max": max(ms)}
        return measured

    async def singles(self, name: str, count: int, connections: int) -> Measured:
        measured = Measured(f"{name}, {connections} connections", count)
        requests = list(self._posts(count))
        async with self._measuring(measured):
            await closed_loop(self._url, connections, iter(requests), b"201")
        return measured

    async def batches(self, name: str, count: int, kind: str) -> Measured:
        measured = Measured(f"{name}, {BATCH_ITEMS} each, {BATCH_CONNECTIONS} connections", count)
        requests = [self._batch(kind) for _ in range(count // BATCH_ITEMS)]
        async with self._measuring(measured):
            bodies = await closed_loop(self._url, BATCH_CONNECTIONS, iter(requests), b"200")
        taken = sum(body.count(b'"status":201,') for body in bodies)
        if taken != count:
            raise NotTaken(f"{name}: {taken} of {count} items have status 201")
        return measured

    @asynccontextmanager
    async def _measuring(self, measured: Measured) -> AsyncIterator[None]:
        """From the first request to the last answer; the CPU until the history knows every task."""
        counts, used, began = await self._counts(), usage(self._pids), time.perf_counter()
        yield
        ended = time.perf_counter()
        measured.seconds = ended - began
        measured.cores = _cores(usage(self._pids).since(used), measured.seconds)
        self._asked += measured.tasks
        await reach("tasks in the history", self._asked, self._projected)
        measured.projected_after_s = time.perf_counter() - ended
        grown = (await self._counts()).since(counts)
        measured.confirmed = grown.total(ITEMS, exchange=CREATE.exchange, outcome="confirmed")
        measured.cpu_us = self._cpu_us(used, measured.tasks)

    def _cpu_us(self, before: Usage, tasks: int) -> Mapping[str, float]:
        spent = usage(self._pids).since(before)
        return {name: seconds / tasks * 1e6 for name, seconds in spent.processes.items()}

    async def _counts(self) -> Counts:
        return await scrape(self._session, [url for name, url in self._stack.admin_urls().items() if "ingest" in name])

    async def _projected(self) -> int:
        return (await self._counts()).total(EVENTS, type="TaskAccepted")

    def _posts(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield request(self._url, self._stack.api_key, TASKS, JSON, self._task())

    def _batch(self, kind: str) -> bytes:
        tasks = [self._task() for _ in range(BATCH_ITEMS)]
        body = b"\n".join(tasks) if kind == NDJSON else b'{"tasks":[' + b",".join(tasks) + b"]}"
        return request(self._url, self._stack.api_key, BATCH, kind, body)

    def _task(self) -> bytes:
        number = next(self._numbers)
        body = {"number": number, "text": "x" * 64}
        return msgspec.json.encode(
            {"url": f"https://hooks.example.com/orders/{number}", "due_at": self._due_at, "body": body}
        )


def _cores(spent: Usage, seconds: float) -> Mapping[str, float]:
    """How many were busy, with us and with others (the kernel's own work among them)."""
    ours = sum(spent.processes.values())
    return {"ours": ours / seconds, "not ours": (spent.machine - ours) / seconds}


def text(machine: Mapping[str, str], load_before: float, told: list[Measured]) -> str:
    head = [f"  {name:<12} {value}" for name, value in machine.items()]
    head.append(f"  {'load before':<12} {load_before:.2f} (one-minute average; above 0 others were at work)")
    return "\n".join([*head, "", *(line for each in told for line in _lines(each))])


def _lines(measured: Measured) -> Iterator[str]:
    yield f"  {measured.name}"
    yield f"    {measured.tasks} tasks in {measured.seconds:.2f} s: {measured.per_s:.0f} tasks/s"
    yield f"    confirmed {measured.confirmed}; all in the history {measured.projected_after_s:.1f} s later"
    if measured.latency_ms:
        yield "    answered in ms: " + ", ".join(f"{name} {ms:.1f}" for name, ms in measured.latency_ms.items())
    yield "    busy cores meanwhile: " + ", ".join(f"{name} {cores:.2f}" for name, cores in measured.cores.items())
    yield "    CPU us/task: " + ", ".join(f"{name} {us:.0f}" for name, us in measured.cpu_us.items() if us >= 0.5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--singles", type=int, default=20_000, help="single POSTs (%(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="of the single POSTs (%(default)s)")
    parser.add_argument("--batched", type=int, default=100_000, help="tasks in batches of 1,000 (%(default)s)")
    parser.add_argument("--paced-s", type=float, default=20.0, help="seconds of 500 POSTs/s (%(default)s)")
    parser.add_argument("--port-offset", type=int, default=2600, help="added to every port (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

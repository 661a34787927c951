"""`python -m benchmarks.lists`: how long a page takes among ten million tasks, and what the projection costs.

    python -m benchmarks.lists [pages projection visible] [--rows 10000000] [--per-s 1000] [--seconds 20]

    pages       the first page of 50 by each filter, alone and with each status: milliseconds, and whether it was full
    projection  a task's two events (accepted, succeeded), in batches of 500: CPU of Python and of PostgreSQL per task
    visible     from the publish of an event, at a steady rate through RabbitMQ and the real consumer, to the list

On a stack of its own (servers only), from nothing: ten million rows take some ten minutes and 15 GB below `.local`.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from benchmarks.cpu import pids_of, usage
from benchmarks.history_rows import NEEDLE_LABEL, NEEDLE_URL, OLD_URL, PROJECT, fill
from benchmarks.machine import description, load_average
from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from deploy.setup import connect, migrate, migrations
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.contracts import AttemptFinished, Call, Task, TaskAccepted, encode
from libs.common.declaration import declare
from libs.common.ids import new_id
from libs.common.postgres import Postgres, postgres_pool
from libs.common.publisher import Publisher
from libs.common.topology import TASK_EVENT, topology
from services.ingest.creation import this_millisecond
from services.ingest.cursor import NEWEST
from services.ingest.history import History, history_consumer
from services.ingest.maintenance import Maintenance
from services.ingest.store import Store
from services.ingest.store_filter import Asked
from services.ingest.store_lists import Lists
from services.ingest.task_filter import Status, TaskFilter

FOLDER = Path(".local") / "lists"
TIMES, LIMIT, BATCH = 7, 50, 500
PROJECTED = 20_000
NEEDLE = dict([NEEDLE_LABEL])
_CALL = msgspec.Raw(encode(Call(url="https://example.com/hooks/payment-reminder", body=b"x" * 200)))


def filters(now: datetime) -> dict[str, TaskFilter]:
    day, hour = timedelta(days=1), timedelta(hours=1)
    return {
        "all": TaskFilter(),
        "label, 1 has it": TaskFilter(labels=NEEDLE),
        "label, nobody has it": TaskFilter(labels={"nobody": "1"}),
        "label, 1 of 10,000 has it": TaskFilter(labels={"customer": "42"}),
        "label, half have it": TaskFilter(labels={"env": "prod"}),
        "url, 1 begins so": TaskFilter(url_prefix=NEEDLE_URL),
        "url, nobody": TaskFilter(url_prefix="https://nobody.example.com/"),
        "url, 1 of 1,000": TaskFilter(url_prefix="https://host3.example.com/hooks/503/"),
        "url, 1 of 20": TaskFilter(url_prefix="https://host3.example.com/"),
        "host, 1 of 20": TaskFilter(host="host3.example.com"),
        "host, nobody": TaskFilter(host="nobody.example.com"),
        "due within an hour": TaskFilter(due_from=now, due_to=now + hour),
        "due yesterday": TaskFilter(due_from=now - 2 * day, due_to=now - day),
        "due an hour last week": TaskFilter(due_from=now - 7 * day, due_to=now - 7 * day + hour),
        "due from tomorrow": TaskFilter(due_from=now + day),
        "url, 1 of 10, all long ago": TaskFilter(url_prefix=OLD_URL),
    }


STATUSES: tuple[Status, ...] = ("succeeded", "failed", "scheduled", "due", "retrying", "parked", "expired", "cancelled")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists")
    parser.add_argument("scenarios", nargs="*", default=["projection", "visible", "pages"])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--per-s", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--port-offset", type=int, default=2_700)
    options = parser.parse_args()
    load_before = load_average()
    try:
        with private_stack(FOLDER, port_offset=options.port_offset, replicas=0, settings={}) as stack:
            asyncio.run(measure(stack, options, load_before))
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)  # gigabytes
    return 0


def say(line: str) -> None:
    print(line, flush=True)


async def measure(stack: PrivateStack, options: argparse.Namespace, load_before: float) -> None:
    url = stack.variables["CARILLON_POSTGRES_URL"]
    for schema, folder in migrations():
        migrate(url, schema, folder)
    machine = await description(stack.variables)
    say("  ".join(f"{name} {value}" for name, value in machine.items()) + f"  load before {load_before:.2f}")
    scenarios: Mapping[str, Callable[[Postgres], Awaitable[None]]] = {
        "projection": lambda postgres: projection(stack, postgres),
        "visible": lambda postgres: visible(stack, postgres, options.per_s, options.seconds),
        "pages": lambda postgres: pages(url, postgres, options.rows),
    }
    async with postgres_pool(url, role="carillon_ingest", schema="ingest", application_name="benchmark") as postgres:
        for name in options.scenarios:
            await scenarios[name](postgres)


async def pages(url: str, postgres: Postgres, rows: int) -> None:
    await fill(url, rows, say)
    now, lists = datetime.now(UTC), Lists(postgres)
    alone = filters(now) | {f"status {status}": TaskFilter(status=(status,)) for status in STATUSES}
    both = {
        f"{name} + {status}": msgspec.structs.replace(wanted, status=(status,))
        for name, wanted in filters(now).items()
        if name != "all"
        for status in STATUSES
    }
    for name, wanted in (alone | both).items():
        taken_ms, told = await _page(lists, Asked(PROJECT, wanted, now))
        say(f"{name:40} {told:12} first {taken_ms[0]:7.1f} ms, median {statistics.median(taken_ms):7.1f} ms")


async def _page(lists: Lists, asked: Asked) -> tuple[list[float], str]:
    taken_ms, told = [], ""
    for _ in range(TIMES):
        begun = time.perf_counter()
        tasks, place = await lists.page(asked, NEWEST, LIMIT)
        taken_ms.append((time.perf_counter() - begun) * 1000)
        told = f"{len(tasks):3} {'and more' if place else 'all'}"
    return taken_ms, told


async def projection(stack: PrivateStack, postgres: Postgres) -> None:
    history = await _history(postgres)
    pids = pids_of(stack.layout)
    before, own_before = usage(pids), time.process_time()
    now = this_millisecond(SystemClock().now())
    for _ in range(PROJECTED // BATCH):
        ids = [new_id() for _ in range(BATCH)]
        await history.handle([accepted(id_, now) for id_ in ids])
        await history.handle([succeeded(id_, now) for id_ in ids])
    used = usage(pids).since(before).processes["postgres"]
    own = time.process_time() - own_before
    say(f"projection of a task with two labels: Python {own / PROJECTED * 1e6:.0f} us,"
        f" PostgreSQL {used / PROJECTED * 1e6:.0f} us")  # fmt: skip


async def visible(stack: PrivateStack, postgres: Postgres, per_s: int, seconds: int) -> None:
    amqp_url = stack.variables["CARILLON_AMQP_URL"]
    async with await connect(amqp_url) as connection:
        await declare(connection, topology())
    publisher, stopping = Publisher(), asyncio.Event()
    consumer = history_consumer(await _history(postgres), publisher)
    out, into = Link(amqp_url, "out", topology()), Link(amqp_url, "in", topology())
    out.join(publisher)
    into.join(consumer.intake)
    async with out, into:
        working = asyncio.create_task(consumer.run(stopping))
        await publisher.flowing()
        delays_ms = await watched(publisher, Lists(postgres), per_s, seconds)
        stopping.set()
        await working
    ordered = sorted(delays_ms)
    say(f"visible at {per_s} tasks/s: {len(ordered)} looked for, median {statistics.median(ordered):.0f} ms,"
        f" p99 {ordered[int(len(ordered) * 0.99)]:.0f} ms, max {ordered[-1]:.0f} ms")  # fmt: skip


async def watched(publisher: Publisher, lists: Lists, per_s: int, seconds: int) -> list[float]:
    """Milliseconds from the publish of a tick's last task until a list by its own label shows it."""
    tick_s, delays_ms, sending = 0.02, list[float](), list[asyncio.Task[None]]()
    watching: asyncio.Task[float] | None = None
    begun = time.monotonic()
    for tick in range(int(seconds / tick_s)):
        await asyncio.sleep(max(0.0, begun + tick * tick_s - time.monotonic()))
        now = this_millisecond(SystemClock().now())
        tasks = [accepted(new_id(), now) for _ in range(max(1, round(per_s * tick_s)))]
        if watching is None or watching.done():
            if watching is not None:
                delays_ms.append(watching.result())
            watching = asyncio.create_task(_until_listed(lists, tasks[-1].task.id, time.monotonic()))
        sending += [asyncio.create_task(publisher.insist(TASK_EVENT, encode(each))) for each in tasks]
    if watching is not None:
        delays_ms.append(await watching)
    await asyncio.gather(*sending)
    return delays_ms


async def _until_listed(lists: Lists, id_: UUID, since: float) -> float:
    asked = Asked(PROJECT, TaskFilter(labels={"order": str(id_)}), datetime.now(UTC))
    while True:
        tasks, _place = await lists.page(asked, NEWEST, 1)
        if tasks:
            return (time.monotonic() - since) * 1000
        await asyncio.sleep(0.005)


async def _history(postgres: Postgres) -> History:
    store, clock = Store(postgres), SystemClock()
    maintenance = Maintenance(store, clock, retention_days=30)
    await maintenance.prepare()
    return History(store, maintenance, clock)


def accepted(id_: UUID, now: datetime) -> TaskAccepted:
    labels = {"order": str(id_), "customer": str(id_.int % 1000)}
    task: dict[str, Any] = {"project": PROJECT, "created_at": now, "due_at": now, "fingerprint": "f" * 64}
    return TaskAccepted(task=Task(id=id_, labels=labels, call=_CALL, **task))


def succeeded(id_: UUID, now: datetime) -> AttemptFinished:
    return AttemptFinished(
        id=id_, project=PROJECT, generation=1, attempt=1, hop=1, due_at=now, started_at=now, duration_ms=12,
        outcome="succeeded", status_code=200, response_headers=(("Content-Type", "text/plain"),), response_body=b"ok",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

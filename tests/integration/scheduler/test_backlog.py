"""A backlog after an outage: it stays in Postgres while its queue is full, leaves oldest first, and holds up nobody."""

import asyncio
import json
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from uuid import UUID

import aiohttp
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from prometheus_client.parser import text_string_to_metric_families

from libs.common import topology
from libs.common.contracts import Task, decode_task
from services.scheduler.store import FIRE_ROWS_MAX, Row, shard_of
from tests.integration.rig import ready
from tests.integration.scheduler.rig import SECOND, Tables, a_row, a_task, until
from tests.integration.scheduler.test_service import Broker, House, Process, house

__all__ = ["house"]  # a fixture

TASKS = 20_000
MESSAGES = 400
"""In place of the 2,000 of `topology.py`, which would take 40,000 tasks, twenty in each."""
BATCH = FIRE_ROWS_MAX // topology.DUE.items_max
"""Messages of one fire. The broker refuses a little late, and the wheel fires beside the sweep."""
FRESH = 150
PACE_S = 0.005
MEMORY_MIB = 25
"""The backlog itself is 34 MiB of messages."""
HOUR = timedelta(hours=1)


@pytest.fixture
def short_queue(amqp: AbstractConnection, rabbitmqctl: Callable[..., str]) -> Iterator[None]:
    """dispatcher.due holds `MESSAGES`: the lesser of what its argument and a policy say."""
    name, pattern = "short-due", f"^{topology.DISPATCHER_DUE.replace('.', '[.]')}$"
    rabbitmqctl("set_policy", name, pattern, json.dumps({"max-length": MESSAGES}), "--apply-to", "queues")
    yield
    rabbitmqctl("clear_policy", name)


@dataclass
class Dispatcher(Broker):
    """Takes what is due, one message at a time, each for `PACE_S`: the backlog lasts for some seconds."""

    async def begin(self) -> None:
        channel = await self.connection.channel()
        await channel.set_qos(prefetch_count=1)
        await (await channel.get_queue(topology.DISPATCHER_DUE, ensure=False)).consume(self._keep_due)

    @property
    def came(self) -> list[UUID]:
        return [decode_task(due.task).id for due in self.due]

    async def _keep_due(self, message: AbstractIncomingMessage) -> None:
        await asyncio.sleep(PACE_S)
        await super()._keep_due(message)


@dataclass
class Observed:
    """A scheduler from outside: its metrics, and the memory it takes."""

    process: Process
    port: int

    async def metric(self, name: str, **labels: str) -> float:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
            text = await answer.text()
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name and sample.labels == labels)

    async def overdue(self) -> float:
        return await self.metric("carillon_scheduler_overdue_tasks")

    async def oldest_s(self) -> float:
        return await self.metric("carillon_scheduler_overdue_oldest_seconds")

    async def refused(self) -> float:
        return await self.metric("carillon_scheduler_fired_total", result="refused")

    async def sweeps_again(self) -> None:
        """At least one whole pass that began after this question: its gauges are set at the end of each."""
        times = self.process.log.read_text().count("sweep.found")
        await self.process.says("sweep.found", times + 2)

    def memory_mib(self, what: str) -> float:
        status = Path(f"/proc/{self.process.running.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what)) / 1024


@pytest.fixture
async def overdue(tables: Tables) -> list[Task]:
    """The oldest by an hour, each a tenth of a second after the one before; in the table as they were accepted."""
    first = (await tables.now()).replace(microsecond=0) - HOUR
    tasks = [a_task(due_at=first + n * SECOND / 10, body_bytes=700) for n in range(TASKS)]
    rows = random.Random(4).sample([a_row(task) for task in tasks], TASKS)
    records = [(*row, shard_of(row.id), len(row.message)) for row in rows]
    await tables.connection.copy_records_to_table(
        "task", schema_name="scheduler", columns=[*Row._fields, "shard", "size"], records=records
    )
    return tasks


@pytest.fixture
async def scheduler(house: House, overdue: list[Task], short_queue: None) -> Observed:
    """It begins with all that is overdue, and nobody takes anything."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    house.variables["CARILLON_ADMIN_PORT"] = str(port)
    process = await house.start()
    await process.is_up()
    return Observed(process, port)


async def test_a_backlog_stays_in_postgres_while_its_queue_is_full_and_leaves_oldest_first_beside_fresh_tasks(
    scheduler: Observed, amqp: AbstractConnection, tables: Tables, overdue: list[Task]
) -> None:
    at_rest_mib = scheduler.memory_mib("VmRSS")
    await until("the queue to refuse", scheduler.refused, 30)
    await scheduler.sweeps_again()
    waiting = await tables.waiting()
    assert MESSAGES <= await ready(amqp, topology.DISPATCHER_DUE) <= MESSAGES + 2 * BATCH
    assert TASKS - topology.DUE.items_max * (MESSAGES + 2 * BATCH) <= waiting <= TASKS - FIRE_ROWS_MAX
    assert await scheduler.overdue() == waiting
    assert abs(await scheduler.oldest_s() - await _oldest_s(tables)) < 10

    dispatcher, metric = Dispatcher(amqp), [float(waiting)]
    now = (await tables.now()).replace(microsecond=0)
    fresh = [a_task(due_at=now + (0.5 + n / 40) * SECOND) for n in range(FRESH)]
    await dispatcher.creates(*fresh)
    await dispatcher.begin()
    await until("nothing to wait", lambda: _is_drained(tables, scheduler, metric), 60)
    everything = {task.id for task in (*overdue, *fresh)}
    await until("everything to come", lambda: len(dispatcher.fired) >= len(everything), 60)
    assert any(0 < tasks < waiting for tasks in metric)
    await until("the metrics to say so", lambda: _is_zero(scheduler))

    assert set(dispatcher.fired) == everything
    assert dispatcher.fired.total() - len(dispatcher.fired) <= FIRE_ROWS_MAX  # a confirm may be late on a busy machine
    assert all(due.emitted_at >= due.due_at for due in dispatcher.due)
    peak_mib = scheduler.memory_mib("VmHWM")
    print(f"memory {at_rest_mib:.1f} MiB, at most {peak_mib:.1f}")
    assert peak_mib - at_rest_mib < MEMORY_MIB
    _came_oldest_first(dispatcher, overdue)
    _came_beside_the_backlog(dispatcher, fresh, overdue)
    assert await scheduler.process.terminate() == 0


def _came_oldest_first(dispatcher: Dispatcher, overdue: list[Task]) -> None:
    """But for what shared a batch."""
    place = {task.id: n for n, task in enumerate(overdue)}
    came = [place[id_] for id_ in dispatcher.came if id_ in place]
    assert all(newest - n <= FIRE_ROWS_MAX for n, newest in zip(came, accumulate(came, max), strict=True))


def _came_beside_the_backlog(dispatcher: Dispatcher, fresh: list[Task], overdue: list[Task]) -> None:
    last = dispatcher.came.index(overdue[-1].id)
    among = {task.id for task in fresh} & set(dispatcher.came[:last])
    ids = {task.id for task in fresh}
    late = sorted(due.emitted_at - due.due_at for due in dispatcher.due if decode_task(due.task).id in ids)
    print(f"fresh: {len(among)} of {FRESH} before the last of the backlog, late {late[len(late) // 2]}, {late[-1]}")
    assert len(among) > FRESH / 3
    assert late[len(late) // 2] < SECOND
    assert late[-1] < 10 * SECOND


async def _is_drained(tables: Tables, scheduler: Observed, metric: list[float]) -> bool:
    metric.append(await scheduler.overdue())
    return await tables.waiting() == 0


async def _is_zero(scheduler: Observed) -> bool:
    return not await scheduler.overdue() and not await scheduler.oldest_s()


async def _oldest_s(tables: Tables) -> float:
    oldest_s: float = await tables.connection.fetchval(
        "SELECT extract(epoch FROM clock_timestamp() - min(due_at))::float8 FROM scheduler.task"
    )
    return oldest_s

"""The real process between a real broker and a real Postgres, each behind a port that the test can cut."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from yarl import URL

from libs.common import topology
from libs.common.asking import Asker
from libs.common.connection import Link
from libs.common.contracts import (
    AnyMessage,
    CreateTask,
    ReturnTask,
    Task,
    TaskAccepted,
    TaskAnswer,
    TaskConflict,
    TaskDue,
    TaskFinished,
    decode_task,
    encode,
)
from libs.common.topology import Route
from services.scheduler.store import OVERDUE
from tests.conftest import ROOT
from tests.integration.scheduler.asker import a_cancel, a_reschedule
from tests.integration.scheduler.rig import SECOND, Proxy, Tables, a_task, at, until

PROMPTLY_S = 5.0
"""Far below the 30 s after which a drain is cut off, with room for two busy cores."""


@dataclass
class Broker:
    """The other services: publishes what they would, and takes what they would."""

    connection: AbstractConnection
    events: list[AnyMessage] = field(default_factory=list)
    accepted: Counter[UUID] = field(default_factory=Counter)
    due: list[TaskDue] = field(default_factory=list)
    fired: Counter[UUID] = field(default_factory=Counter)

    @property
    def cancelled(self) -> set[UUID]:
        return {event.id for event in self.events if isinstance(event, TaskFinished) and event.state == "cancelled"}

    async def listen(self) -> None:
        for queue, keep in ((topology.INGEST_HISTORY, self._keep_event), (topology.DISPATCHER_DUE, self._keep_due)):
            channel = await self.connection.channel()
            await channel.set_qos(prefetch_count=100)
            await (await channel.get_queue(queue, ensure=False)).consume(keep)

    async def _keep_event(self, message: AbstractIncomingMessage) -> None:
        events = msgspec.json.decode(message.body, type=list[AnyMessage])
        self.events += events
        self.accepted.update(event.task.id for event in events if isinstance(event, TaskAccepted))
        await message.ack()

    async def _keep_due(self, message: AbstractIncomingMessage) -> None:
        due = msgspec.json.decode(message.body, type=list[TaskDue])
        self.due += due
        self.fired.update(decode_task(one.task).id for one in due)
        await message.ack()

    async def puts(self, route: Route, *messages: CreateTask | ReturnTask) -> None:
        async with self.connection.channel(on_return_raises=True) as channel:
            exchange = await channel.get_exchange(route.exchange, ensure=False)
            for start in range(0, len(messages), 100):
                body = b"[" + b",".join(encode(message) for message in messages[start : start + 100]) + b"]"
                await exchange.publish(aio_pika.Message(body), route.key, mandatory=True)

    async def creates(self, *tasks: Task) -> None:
        await self.puts(topology.CREATE, *(CreateTask(task=task) for task in tasks))

    async def hears_of(self, *tasks: Task) -> None:
        await self._counts("TaskAccepted", self.accepted, tasks, 1)

    async def gets(self, *tasks: Task, times: int = 1) -> None:
        await self._counts("TaskDue", self.fired, tasks, times)

    async def _counts(self, what: str, counter: Counter[UUID], tasks: Sequence[Task], times: int) -> None:
        def missing() -> int:
            return sum(counter[task.id] < times for task in tasks)

        try:
            await until(f"{times} {what} of each task", lambda: not missing(), within_s=20)
        except AssertionError as error:
            raise AssertionError(f"{error}; {missing()} of {len(tasks)} are missing") from None


@dataclass
class Process:
    """One `python -m services.scheduler`."""

    running: asyncio.subprocess.Process
    log: Path

    async def says(self, text: str, times: int = 1) -> None:
        await until(f"'{text}' in {self.log.read_text()}", lambda: self.log.read_text().count(text) >= times, 20)

    async def is_up(self) -> None:
        await self.says("connection.opened", 2)

    async def ends(self, within_s: float = PROMPTLY_S) -> int:
        try:
            return await asyncio.wait_for(self.running.wait(), within_s)
        except TimeoutError:
            pytest.fail(f"still running after {within_s} s: {self.log.read_text()[-3000:]}")

    async def terminate(self, within_s: float = PROMPTLY_S) -> int:
        self.running.send_signal(signal.SIGTERM)
        return await self.ends(within_s)

    async def kill(self) -> None:
        self.running.kill()
        await self.running.wait()


@dataclass
class House:
    """Starts schedulers, and ends those that a test left."""

    amqp: Proxy
    postgres: Proxy
    variables: dict[str, str]
    folder: Path
    processes: list[Process] = field(default_factory=list)

    async def start(self) -> Process:
        name = f"scheduler-{len(self.processes) + 1}"
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CARILLON_")}
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.scheduler",
                cwd=ROOT, env=environ | self.variables | {"CARILLON_REPLICA": name}, stdout=out, stderr=out,
            )  # fmt: skip
        process = Process(running, log)
        self.processes.append(process)
        return process


@pytest.fixture
async def house(amqp_url: str, migrated_postgres_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as opened:
        amqp = await opened.enter_async_context(_proxy(URL(amqp_url)))
        postgres = await opened.enter_async_context(_proxy(URL(migrated_postgres_url)))
        variables = {
            "CARILLON_AMQP_URL": str(URL(amqp_url).with_host("127.0.0.1").with_port(amqp.port)),
            "CARILLON_POSTGRES_URL": str(URL(migrated_postgres_url).with_host("127.0.0.1").with_port(postgres.port)),
            "CARILLON_ADMIN_HOST": "127.0.0.1",
            "CARILLON_ADMIN_PORT": "0",
        }
        house = House(amqp, postgres, variables, tmp_path)
        yield house
        for process in house.processes:
            if process.running.returncode is None:
                await process.kill()


@asynccontextmanager
async def _proxy(url: URL) -> AsyncIterator[Proxy]:
    assert url.host
    assert url.port
    proxy = Proxy(url.host, url.port)
    await proxy.heal()
    yield proxy
    await proxy.cut()


@pytest.fixture
async def broker(amqp: AbstractConnection) -> Broker:
    broker = Broker(amqp)
    await broker.listen()
    return broker


async def _is_empty(tables: Tables) -> bool:
    return await tables.waiting() == 0


# --- the journey


async def test_a_task_is_accepted_fired_in_time_and_never_early_and_again_when_it_returns(
    house: House, broker: Broker, tables: Tables
) -> None:
    scheduler = await house.start()
    await scheduler.is_up()
    task = a_task(due_at=(await tables.now()).replace(microsecond=0) + 2 * SECOND)
    await broker.creates(task)
    await broker.hears_of(task)
    assert broker.events == [TaskAccepted(task=task)]
    await broker.gets(task)
    [due] = broker.due
    assert due.due_at == task.due_at <= due.emitted_at <= await tables.now()
    assert due.emitted_at - due.due_at < OVERDUE  # by the wheel, not by the sweep
    assert decode_task(due.task) == task

    not_before = (await tables.now()).replace(microsecond=0) + 2 * SECOND
    await broker.puts(topology.RETURN, ReturnTask(task=at(task, 1, 2, 1), not_before=not_before, reason="rung is full"))
    await broker.gets(task, times=2)
    assert broker.due[1].due_at == not_before <= broker.due[1].emitted_at
    assert decode_task(broker.due[1].task) == at(task, 1, 2, 1)

    await broker.creates(task, a_task(id=task.id, fingerprint="b"))  # a late redelivery, and another request
    await until("the events of both", lambda: len(broker.events) == 3)
    assert Counter(type(event) for event in broker.events) == {TaskAccepted: 2, TaskConflict: 1}
    assert await tables.waiting() == 0
    assert await scheduler.terminate() == 0
    assert broker.fired == {task.id: 2}


# --- commands


@pytest.fixture
async def asker(amqp_url: str) -> AsyncIterator[Asker[TaskAnswer]]:
    asker, link = Asker(TaskAnswer), Link(amqp_url, "asks", topology.topology())
    link.join(asker)
    async with link:
        await asyncio.wait_for(link.up(), 10)
        yield asker


async def test_run_now_calls_within_50_ms_of_the_question(
    house: House, broker: Broker, tables: Tables, asker: Asker[TaskAnswer]
) -> None:
    await (await house.start()).is_up()
    took: list[float] = []
    for _ in range(20):
        await broker.creates(task := a_task(3600))
        await broker.hears_of(task)
        asked_at = await tables.now()
        answer = await asker.ask(topology.SCHEDULER_COMMAND, a_reschedule(task))
        assert answer is not None
        assert (answer.result, answer.generation) == ("rescheduled", 2)
        await broker.gets(task)
        assert asked_at <= broker.due[-1].due_at <= broker.due[-1].emitted_at
        took.append((broker.due[-1].emitted_at - asked_at).total_seconds())
    print("ms:", [round(1000 * each) for each in sorted(took)])
    assert sorted(took)[len(took) // 2] < 0.05


async def test_what_was_cancelled_is_not_called_though_its_schedulers_die(
    house: House, broker: Broker, tables: Tables, asker: Asker[TaskAnswer]
) -> None:
    schedulers = [await house.start(), await house.start()]
    for scheduler in schedulers:
        await scheduler.is_up()
    due_at = await tables.now() + 4 * SECOND
    tasks = [a_task(due_at=due_at) for _ in range(60)]
    await broker.creates(*tasks)
    await broker.hears_of(*tasks)
    asks = [asyncio.create_task(asker.ask(topology.SCHEDULER_COMMAND, a_cancel(task))) for task in tasks[:40]]
    await until("some answers", lambda: sum(ask.done() for ask in asks) >= 10)
    await schedulers[0].kill()
    answers = await asyncio.gather(*asks)
    certain = {answer.id for answer in answers if answer is not None and answer.result == "cancelled"}
    assert len(certain) >= 10
    await broker.gets(*tasks[40:])
    await until("nothing to wait", lambda: _is_empty(tables))
    assert not certain & set(broker.fired)
    assert {task.id for task in tasks[40:]} <= set(broker.fired)
    await until("the end of each to be told", lambda: certain <= broker.cancelled)


# --- the end of a process


async def test_sigterm_ends_it_promptly_with_0(house: House, broker: Broker) -> None:
    scheduler = await house.start()
    await scheduler.is_up()
    await broker.creates(waits := a_task(3600))
    await broker.hears_of(waits)
    assert await scheduler.terminate() == 0


async def test_sigterm_ends_it_promptly_while_the_broker_is_down(house: House, broker: Broker, tables: Tables) -> None:
    scheduler = await house.start()
    await scheduler.is_up()
    due_at = await tables.now() + SECOND
    await broker.creates(*(tasks := [a_task(due_at=due_at) for _ in range(1200)]))
    await broker.hears_of(*tasks)
    await house.amqp.cut()
    await scheduler.says("connection.lost", 2)
    await until("them to be due", lambda: _is_past(tables, due_at))
    assert await scheduler.terminate() == 0


async def _is_past(tables: Tables, moment: Any) -> bool:
    return bool(await tables.now() > moment)


async def test_sigterm_ends_it_promptly_while_postgres_is_down(house: House, broker: Broker) -> None:
    house.variables["CARILLON_HORIZON_S"] = "0.3"  # a load is under way when the signal comes
    scheduler = await house.start()
    await scheduler.is_up()
    await house.postgres.cut()
    await scheduler.says("postgres.lost")
    assert await scheduler.terminate() == 0


async def test_it_waits_for_its_servers_and_begins_when_they_are_there(
    house: House, broker: Broker, tables: Tables
) -> None:
    await tables.drop_days()
    await house.postgres.cut()
    await house.amqp.cut()
    scheduler = await house.start()
    await scheduler.says("postgres.lost")
    await house.postgres.heal()
    await scheduler.says("connection.failed")
    assert len(await tables.days()) == 9  # before it consumes
    await house.amqp.heal()
    await broker.creates(task := a_task())
    await broker.gets(task)


# --- crashes


async def test_what_fell_due_while_it_was_dead_is_fired_by_the_sweep(
    house: House, broker: Broker, tables: Tables
) -> None:
    first = await house.start()
    task = a_task(3600)
    await broker.creates(task)
    await broker.hears_of(task)
    await first.kill()
    await tables.connection.execute("UPDATE scheduler.task SET due_at = clock_timestamp() - interval '10 s'")
    second = await house.start()
    await broker.gets(task)
    await second.says("sweep.found")
    await until("its tombstone", lambda: _is_empty(tables))
    assert broker.fired == {task.id: 1}


async def test_what_falls_due_after_a_restart_is_fired_by_the_wheel(
    house: House, broker: Broker, tables: Tables
) -> None:
    first = await house.start()
    await broker.creates(task := a_task(3600))
    await broker.hears_of(task)
    await first.kill()
    due_at = await tables.now() + 3 * SECOND
    await tables.connection.execute("UPDATE scheduler.task SET due_at = $1", due_at)
    await house.start()
    await broker.gets(task)
    assert 0 * SECOND <= broker.due[0].emitted_at - due_at < OVERDUE


async def test_a_scheduler_killed_again_and_again_under_load_loses_nothing(
    house: House, broker: Broker, tables: Tables
) -> None:
    now = await tables.now()
    tasks = [a_task(due_at=now + (n % 40) / 10 * SECOND) for n in range(2000)]
    survivor = await house.start()
    for start in range(0, len(tasks), 500):
        victim = await house.start()
        await broker.creates(*tasks[start : start + 500])
        reached = len(broker.due) + 100
        await until("some to be fired", lambda reached=reached: len(broker.due) > reached, 20)  # type: ignore[misc]
        await victim.kill()
    await broker.gets(*tasks)
    await broker.hears_of(*tasks)
    await until("all tombstones", lambda: _is_empty(tables))
    assert await tables.gone() == len(tasks)
    assert await survivor.terminate() == 0


async def test_a_broker_connection_that_breaks_again_and_again_loses_nothing_and_ends_nobody(
    house: House, broker: Broker, tables: Tables
) -> None:
    await _survives(house, broker, tables, house.amqp.reset)


async def test_a_postgres_that_breaks_again_and_again_loses_nothing_and_ends_nobody(
    house: House, broker: Broker, tables: Tables
) -> None:
    await _survives(house, broker, tables, house.postgres.reset)


async def _survives(house: House, broker: Broker, tables: Tables, shake: Callable[[], None]) -> None:
    scheduler = await house.start()
    await scheduler.is_up()
    now = await tables.now()
    tasks = [a_task(due_at=now + (n % 20) / 10 * SECOND) for n in range(900)]
    for start in range(0, len(tasks), 150):
        await broker.creates(*tasks[start : start + 150])
        reached = len(broker.due)
        await until("something to move", lambda reached=reached: len(broker.due) > reached, 20)  # type: ignore[misc]
        shake()
    try:
        await broker.gets(*tasks)
        await broker.hears_of(*tasks)
        await until("all tombstones", lambda: _is_empty(tables))
    except AssertionError as error:
        pytest.fail(f"{error}: {scheduler.log.read_text()[-6000:]}")
    assert await tables.gone() == len(tasks)
    assert await scheduler.terminate() == 0


# --- two replicas


async def test_two_replicas_fire_each_task_once(house: House, broker: Broker, tables: Tables) -> None:
    schedulers: Sequence[Process] = [await house.start(), await house.start()]
    for scheduler in schedulers:
        await scheduler.is_up()
    now = await tables.now()
    tasks = [a_task(due_at=now + (n % 30) / 10 * SECOND) for n in range(1000)]
    await broker.creates(*tasks)
    await broker.gets(*tasks)
    await until("all tombstones", lambda: _is_empty(tables))
    assert [await scheduler.terminate() for scheduler in schedulers] == [0, 0]
    assert broker.fired == {task.id: 1 for task in tasks}
    assert all(due.emitted_at >= due.due_at for due in broker.due)
    assert broker.accepted == {task.id: 1 for task in tasks}

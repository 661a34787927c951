"""The real process: what it calls, and how it stops and dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from aio_pika.abc import AbstractConnection
from aiohttp import web
from redis.asyncio import Redis

from libs.common import topology
from libs.common.contracts import AttemptFinished, Task, encode
from libs.common.publisher import Publisher
from libs.common.signing import secret, sign
from libs.common.version import VERSION
from services.dispatcher.marks import CLAIM_S, attempt_key
from tests.conftest import RETRY_SCHEDULE_S, ROOT
from tests.integration.dispatcher.rig import Received, Tap, depth, receiver
from tests.integration.rig import publishing, until
from tests.unit.dispatcher.samples import MASTER_KEY, a_call, a_task, due


class Process:
    """One `python -m services.dispatcher`, its log in a file."""

    def __init__(self, running: asyncio.subprocess.Process, log: Path) -> None:
        self.running = running
        self.log = log

    async def said(self, words: str, times: int = 1) -> None:
        def is_so() -> bool:
            assert self.running.returncode is None, self.log.read_text()
            return self.log.read_text().count(words) >= times

        await until(f"'{words}' in the log", is_so, within_s=30)

    async def ended(self, within_s: float = 10) -> int:
        async with asyncio.timeout(within_s):
            return await self.running.wait()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(amqp_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Process] = []

    async def starting(replica: str = "one", **settings: str) -> Process:
        environ = {
            "PATH": os.environ["PATH"],
            "CARILLON_AMQP_URL": amqp_url,
            "CARILLON_REDIS_URL": redis_url,
            "CARILLON_SIGNING_MASTER_KEY": MASTER_KEY,
            "CARILLON_REPLICA": replica,
            "CARILLON_ADMIN_HOST": "127.0.0.1",
            "CARILLON_ADMIN_PORT": "0",
            "CARILLON_ALLOW_NETWORKS": "127.0.0.0/8",
            "CARILLON_RETRY_SCHEDULE_S": ",".join(map(str, RETRY_SCHEDULE_S)),
            **settings,
        }
        log = tmp_path / f"{replica}.log"
        with log.open("w") as file:
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.dispatcher", cwd=ROOT, env=environ, stdout=file, stderr=file
            )
        process = Process(running, log)
        started.append(process)
        await process.said("connection.opened", times=2)
        return process

    yield starting
    for process in started:
        if process.running.returncode is None:
            process.running.kill()
            await process.running.wait()


@pytest.fixture
async def scheduler(amqp_url: str) -> AsyncIterator[Publisher]:
    async with publishing(amqp_url) as publisher:
        yield publisher


async def emit(scheduler: Publisher, *tasks: Task) -> None:
    assert not any(await scheduler.publish_many(topology.DUE, [encode(due(task)) for task in tasks]))


class Gate:
    """A receiver's answer that waits until it is opened, and counts who waits."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0
        self.waiting_max = 0

    async def __call__(self, _received: Received) -> web.StreamResponse:
        self.waiting += 1
        self.waiting_max = max(self.waiting_max, self.waiting)
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1
        return web.Response(text="ok")

    async def holds(self, count: int) -> None:
        await until(f"{count} calls to wait, {self.waiting} do", lambda: self.waiting >= count)
        assert self.waiting == count


async def test_a_due_task_is_called_with_what_is_documented(
    start: Start, scheduler: Publisher, events: Tap, redis: Redis
) -> None:
    await start()
    async with receiver() as made:
        due_at = datetime.now(UTC).replace(microsecond=123_000) - timedelta(seconds=1)
        wanted = a_call(
            url=made.url + "/hook?a=%2F",
            method="PUT",
            headers=(("Content-Type", "text/odd"), ("X-A", "b")),
            body=b"\x00\xff",
        )
        task = a_task(wanted, due_at=due_at)
        await emit(scheduler, task)
        await made.got(1)
        await events.has(1)
    [got] = made.requests
    assert (got.method, got.target, got.body) == ("PUT", "/hook?a=%2F", b"\x00\xff")
    headers = {name.lower(): value for name, value in got.headers}
    sent_s = int(headers.pop("webhook-timestamp"))
    assert headers.pop("webhook-signature") == sign(secret(MASTER_KEY, "shop", 1), str(task.id), sent_s, got.body)
    assert abs(datetime.now(UTC).timestamp() - sent_s) < 10
    assert headers == {
        "host": f"127.0.0.1:{made.port}",
        "content-length": "2",
        "content-type": "text/odd",
        "x-a": "b",
        "user-agent": f"Carillon/{VERSION}",
        "webhook-id": str(task.id),
        "idempotency-key": str(task.id),
        "carillon-attempt": "1/4",
        "carillon-due-at": due_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    [event] = events.of(AttemptFinished)
    assert (event.outcome, event.response_body, event.replica) == ("succeeded", b"ok", "one")


async def test_a_blocked_address_is_not_called_and_not_retried(start: Start, scheduler: Publisher, events: Tap) -> None:
    await start(CARILLON_ALLOW_NETWORKS="10.0.0.0/8")
    async with receiver() as made:
        for host in ("127.0.0.1", "localhost"):
            await emit(scheduler, a_task(a_call(url=f"http://{host}:{made.port}/")))
        await events.has(2)
    assert {(event.outcome, event.error) for event in events.of(AttemptFinished)} == {("failed", "blocked_address")}
    assert made.requests == []


async def test_asked_to_stop_it_finishes_the_call_in_hand_and_takes_no_other(
    start: Start, scheduler: Publisher, events: Tap, amqp: AbstractConnection
) -> None:
    process, gate = await start(CARILLON_CONCURRENCY="1"), Gate()
    async with receiver(gate) as made:
        tasks = [a_task(a_call(url=made.url, timeout_s=30.0)) for _ in range(3)]
        for task in tasks:
            await emit(scheduler, task)
        await gate.holds(1)
        process.running.send_signal(signal.SIGTERM)
        await process.said("drain.started")
        gate.opened.set()
        assert await process.ended() == 0
        await events.has(1)
        assert len(made.requests) == 1
    assert made.requests[0].header("webhook-id") == str(events.of(AttemptFinished)[0].id)

    async def waits_for_another() -> bool:
        return await depth(amqp, topology.DISPATCHER_DUE) == 2

    await until("the other two to be back in their queue", waits_for_another)


async def test_a_call_that_outlasts_the_drain_is_cut_off_and_made_again(
    start: Start, scheduler: Publisher, events: Tap, redis: Redis
) -> None:
    process, gate = await start(CARILLON_DRAIN_S="0.3"), Gate()
    async with receiver(gate) as made:
        task = a_task(a_call(url=made.url, timeout_s=30.0))
        await emit(scheduler, task)
        await gate.holds(1)
        process.running.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert await redis.get(attempt_key(task)) == b"cone"
        gate.opened.set()
        await redis.pexpire(attempt_key(task), 1)
        await start("two")
        await events.has(1)
        assert len(made.requests) == 2


async def test_killed_during_a_call_another_process_repeats_it_when_the_claim_has_ended(
    start: Start, scheduler: Publisher, events: Tap, redis: Redis, amqp: AbstractConnection
) -> None:
    first, gate = await start("one"), Gate()
    async with receiver(gate) as made:
        task = a_task(a_call(url=made.url, timeout_s=3.0), attempt=2)
        await emit(scheduler, task)
        await gate.holds(1)
        first.running.kill()
        await first.ended()
        assert await redis.get(attempt_key(task)) == b"cone"
        left_ms = await redis.pttl(attempt_key(task))
        assert 0 < left_ms <= CLAIM_S * 1000
        await redis.pexpire(attempt_key(task), 60_000)  # until it is seen on its rung
        await start("two")

        async def is_on_its_rung() -> bool:
            return await depth(amqp, topology.rung_queue_name(200)) == 1

        await until("it to be on its rung", is_on_its_rung)
        await asyncio.sleep(1.0)  # five times round
        gate.opened.set()
        await redis.pexpire(attempt_key(task), 1)  # instead of waiting for its end
        await made.got(2)
        await events.has(1)
    once, again = made.requests
    assert once.header("webhook-id") == again.header("webhook-id") == str(task.id)
    assert once.header("carillon-attempt") == again.header("carillon-attempt") == "2/4"
    [event] = events.of(AttemptFinished)
    assert (event.attempt, event.replica, event.outcome) == (2, "two", "succeeded")
    assert event.hop >= 2  # it waited on the rung meanwhile


async def test_killed_between_calls_nothing_is_called_twice(
    start: Start, scheduler: Publisher, events: Tap, redis: Redis, amqp: AbstractConnection
) -> None:
    first = await start("one")
    async with receiver() as made:
        tasks = [a_task(a_call(url=made.url)) for _ in range(60)]
        await emit(scheduler, *tasks)
        await events.has(60)

        async def are_settled() -> bool:
            return set(await redis.mget([attempt_key(task) for task in tasks])) == {b"e"}

        await until("all of them to be settled", are_settled)
        first.running.kill()
        await first.ended()
        await start("two")
        more = a_task(a_call(url=made.url))
        await emit(scheduler, more)
        await events.has(61)
        called = [UUID(received.header("webhook-id")) for received in made.requests]
    assert sorted(called) == sorted([*(task.id for task in tasks), more.id])


async def test_concurrency_is_counted_in_tasks_not_in_messages(start: Start, scheduler: Publisher, events: Tap) -> None:
    await start(CARILLON_CONCURRENCY="7")
    gate = Gate()
    async with receiver(gate) as made:
        await emit(scheduler, *(a_task(a_call(url=made.url, timeout_s=20.0)) for _ in range(100)))
        await gate.holds(7)
        gate.opened.set()
        await events.has(100)
        assert len(made.requests) == 100
    assert gate.waiting_max == 7


async def test_one_slow_receiver_does_not_hold_up_the_others(start: Start, scheduler: Publisher, events: Tap) -> None:
    await start(CARILLON_CONCURRENCY="5")
    gate = Gate()
    async with receiver(gate) as slow, receiver() as fast:
        await emit(scheduler, *(a_task(a_call(url=slow.url, timeout_s=20.0)) for _ in range(4)))
        await gate.holds(4)
        await emit(scheduler, *(a_task(a_call(url=fast.url)) for _ in range(100)))
        await fast.got(100)
        await events.has(100)
        gate.opened.set()
        await events.has(104)


async def test_a_retry_climbs_the_rungs_of_the_real_process(start: Start, scheduler: Publisher, events: Tap) -> None:
    statuses = iter([503, 503, 200])

    async def answer(_received: Received) -> web.StreamResponse:
        return web.Response(status=next(statuses))

    await start()
    async with receiver(answer) as made:
        await emit(scheduler, a_task(a_call(url=made.url)))
        await events.has(3)
    assert [received.header("carillon-attempt") for received in made.requests] == ["1/4", "2/4", "3/4"]
    assert len({received.header("webhook-id") for received in made.requests}) == 1


async def test_a_wrong_login_to_redis_ends_the_start_and_says_so(start: Start, redis_url: str) -> None:
    with pytest.raises(AssertionError, match=r"Redis refuses us.*CARILLON_REDIS_URL"):
        await start(CARILLON_REDIS_URL=redis_url.replace("redis://", "redis://nobody:wrong@"))


async def test_it_starts_and_calls_without_redis(start: Start, scheduler: Publisher, events: Tap) -> None:
    await start(CARILLON_REDIS_URL="redis://127.0.0.1:1/0")
    async with receiver() as made:
        await emit(scheduler, a_task(a_call(url=made.url)))
        await events.has(1)
        assert len(made.requests) == 1


# --- claims


async def test_killed_during_a_call_it_is_made_again_soon_whatever_its_time_limit(
    start: Start, scheduler: Publisher, events: Tap
) -> None:
    one, gate = await start("one"), Gate()
    async with receiver(gate) as made:
        task = a_task(a_call(url=made.url, timeout_s=60.0))
        await emit(scheduler, task)
        await gate.holds(1)
        await start("two")
        one.running.kill()
        gate.opened.set()  # for the second; the first has nobody to hear it
        await made.got(2, within_s=12)
        await events.has(1)
    assert {request.header("webhook-id") for request in made.requests} == {str(task.id)}


async def test_a_call_that_outlasts_a_claim_is_not_made_by_another(
    start: Start, scheduler: Publisher, events: Tap, amqp: AbstractConnection
) -> None:
    async def slowly(_received: Received) -> web.StreamResponse:
        await asyncio.sleep(CLAIM_S + 4)
        return web.Response(text="ok")

    await asyncio.gather(start("one"), start("two"))
    async with receiver(slowly) as made:
        task = a_task(a_call(url=made.url, timeout_s=60.0))
        for _ in range(4):  # each copy asks for the claim every 0.2 s
            await emit(scheduler, task)
        await made.got(1)
        await until("its end", lambda: bool(events.items), CLAIM_S + 10)
        for _ in range(5):  # the copies are between queues for a moment; none may be left to the next test
            await until("the copies to be absorbed", partial(_is_idle, amqp))
            await asyncio.sleep(0.1)
        assert len(made.requests) == 1
        # A copy that comes between the verdict and its settlement publishes the same again.
        assert all(item == events.items[0] for item in events.items), events.items


async def _is_idle(amqp: AbstractConnection) -> bool:
    rungs = [topology.rung_queue_name(topology.rung_ms(step_s)) for step_s in RETRY_SCHEDULE_S]
    queues = [topology.DISPATCHER_DUE, topology.DISPATCHER_RETRY_DUE, *rungs]
    return not any([await depth(amqp, queue) for queue in queues])

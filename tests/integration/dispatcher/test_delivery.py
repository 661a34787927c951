"""From a due task to everything that follows from its call, with the real broker and the real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis

from libs.common import topology
from libs.common.contracts import (
    AttemptFinished,
    FailedTask,
    ReturnTask,
    TargetRule,
    Task,
    TaskDue,
    TaskFinished,
    decode_task,
    encode,
)
from libs.common.ids import new_id
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.redis import redis_client
from services.dispatcher import marks as marks_module
from services.dispatcher.marks import Claimed, InFlight, Settled, Told, attempt_key, success_key
from services.dispatcher.outcome import Answer
from services.dispatcher.retry import Retry
from tests.integration.dispatcher.rig import FakeCaller, Tap, depth, dispatcher
from tests.integration.rig import until
from tests.unit.dispatcher.samples import a_call, a_task, an_answer, due

UNAVAILABLE = an_answer(503)


@pytest.fixture
async def parking(amqp: AbstractConnection) -> Tap:
    return await Tap(amqp, topology.PARKING).open()


def now() -> datetime:
    return datetime.now(UTC)


def repeated(mark: str) -> float:
    return REGISTRY.get_sample_value("carillon_dispatcher_deliveries_repeated_total", {"mark": mark}) or 0.0


async def settled(redis: Redis, task: Task) -> None:
    async def is_so() -> bool:
        return await redis.get(attempt_key(task)) in (b"d", b"e")

    await until(f"attempt {task.attempt} to be settled", is_so)


def task_in(item: dict[str, Any]) -> Task:
    return decode_task(msgspec.json.encode(item["task"]))


# --- the plain ways


async def test_a_success_is_told_and_settled(amqp_url: str, redis_url: str, redis: Redis, events: Tap) -> None:
    caller, task = FakeCaller([an_answer(204, b"done", server="s")]), a_task()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await events.has(1)
        await settled(redis, task)
    [event] = events.of(AttemptFinished)
    assert (event.id, event.outcome, event.attempt, event.hop) == (task.id, "succeeded", 1, 0)
    assert (event.due_at, event.status_code, event.response_body) == (task.due_at, 204, b"done")
    assert len(caller.requests) == 1


async def test_what_is_called_is_the_call_with_our_headers(amqp_url: str, redis_url: str, events: Tap) -> None:
    caller, wanted = FakeCaller(), a_call(method="PUT", body=b"\x00\xff", headers=(("X-A", "b"),))
    task = a_task(wanted, attempt=2)
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await events.has(1)
    [request] = caller.requests
    assert request.call == wanted
    headers = dict(request.headers)
    assert (headers["X-A"], headers["webhook-id"], headers["Carillon-Attempt"]) == ("b", str(task.id), "2/4")


async def test_a_503_comes_back_from_its_rung_as_the_next_attempt_exactly_then(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap
) -> None:
    caller, tasks = FakeCaller([UNAVAILABLE, UNAVAILABLE, an_answer(200)] * 3), [a_task(hop=3) for _ in range(3)]
    async with dispatcher(amqp_url, redis_url, caller) as made:
        for number, task in enumerate(tasks, 1):
            await made.due(task)
            await events.has(3 * number)
            await until("its success to be marked", partial(redis.exists, success_key(task)))
    told = events.of(AttemptFinished)
    waits_s: dict[float, list[float]] = {0.2: [], 0.5: []}
    for first, second, third in zip(told[::3], told[1::3], told[2::3], strict=True):
        assert [event.outcome for event in (first, second, third)] == ["retry", "retry", "succeeded"]
        assert [(event.attempt, event.hop) for event in (first, second, third)] == [(1, 3), (2, 4), (3, 5)]
        for earlier, later, rung_s in ((first, second, 0.2), (second, third, 0.5)):
            assert later.due_at == earlier.next_attempt_at
            assert later.started_at >= later.due_at
            waits_s[rung_s].append((later.started_at - earlier.started_at).total_seconds())
    for rung_s, waited_s in waits_s.items():
        assert rung_s <= min(waited_s) < rung_s + 0.25, "never early, and not later than a busy machine makes it"


@pytest.mark.parametrize(
    ("different", "answer", "wait_s"),
    [
        ({"schedule_s": (7.0,)}, UNAVAILABLE, 7.35),  # half of the jitter, which is the rig's dice
        ({}, an_answer(429, retry_after="60"), 60.0),
        ({"schedule_s": (0.0,)}, UNAVAILABLE, 0.0),
    ],
)
async def test_a_wait_that_has_no_rung_is_the_schedulers(
    amqp_url: str, redis_url: str, events: Tap, returns: Tap, different: dict[str, Any], answer: Answer, wait_s: float
) -> None:
    task = a_task(a_call(**different), hop=1, labels={"a": "b"})
    async with dispatcher(amqp_url, redis_url, FakeCaller([answer])) as made:
        await made.due(task)
        await events.has(1)
        await returns.has(1)
    [returned], [event] = returns.of(ReturnTask), events.of(AttemptFinished)
    assert returned.task == msgspec.structs.replace(task, attempt=2, hop=2)
    assert returned.not_before == event.next_attempt_at
    assert timedelta(0) <= returned.not_before - event.started_at - timedelta(seconds=wait_s) < timedelta(seconds=1)


async def test_a_ladder_that_is_exhausted_is_a_failure_that_a_person_hears_of(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, fallback: Tap
) -> None:
    caller = FakeCaller([an_answer(None, error="timeout")])
    task = a_task(a_call(method="PUT", url="http://there/x", schedule_s=(0.2,)), labels={"order": "42"})
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await events.has(2)
        await fallback.has(1)
        await settled(redis, msgspec.structs.replace(task, attempt=2))
    assert [event.outcome for event in events.of(AttemptFinished)] == ["retry", "failed"]
    [line] = fallback.of(FailedTask)
    assert (line.id, line.state, line.attempts, line.error) == (task.id, "failed", 2, "timeout")
    assert (line.method, line.url, line.labels, line.due_at) == ("PUT", "http://there/x", {"order": "42"}, task.due_at)
    assert len(caller.requests) == 2


async def test_a_410_fails_without_a_retry(amqp_url: str, redis_url: str, events: Tap, fallback: Tap) -> None:
    async with dispatcher(amqp_url, redis_url, FakeCaller([an_answer(410)])) as made:
        await made.due(a_task())
        await events.has(1)
        await fallback.has(1)
    assert events.of(AttemptFinished)[0].outcome == "failed"
    assert fallback.of(FailedTask)[0].error == "gone"


async def test_an_expired_task_is_not_called(amqp_url: str, redis_url: str, events: Tap, fallback: Tap) -> None:
    caller = FakeCaller()
    late = a_task(expires_at=now() - timedelta(seconds=1), attempt=3, hop=4)
    early = a_task(expires_at=now() + timedelta(seconds=60))
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(late, early)
        await events.has(2)
    [event] = events.of(TaskFinished)
    assert (event.id, event.state, event.attempt, event.hop) == (late.id, "expired", 3, 4)
    assert [dict(request.headers)["webhook-id"] for request in caller.requests] == [str(early.id)]
    assert fallback.items == []


async def test_a_task_that_expires_while_it_waits_is_not_called_again(
    amqp_url: str, redis_url: str, events: Tap
) -> None:
    over = asyncio.Event()
    caller = FakeCaller([UNAVAILABLE], gate=over)
    async with dispatcher(amqp_url, redis_url, caller) as made:
        expires_at = now() + timedelta(seconds=3)
        await made.due(a_task(expires_at=expires_at))
        await caller.called(1)
        await until("its expiry", lambda: now() >= expires_at)
        over.set()
        await events.has(2)
    assert [event.attempt for event in events.of(TaskFinished)] == [2]
    assert len(caller.requests) == 1


# --- rungs that do not take it


async def test_a_rung_that_is_full_is_the_schedulers(
    amqp_url: str, redis_url: str, events: Tap, returns: Tap, amqp: AbstractConnection, rabbitmqctl: Callable[..., str]
) -> None:
    rung = topology.rung_queue_name(5000)
    await asyncio.to_thread(rabbitmqctl, "set_policy", "full", f"^{rung}$".replace(".", "\\."), '{"max-length": 0}')
    try:
        async with amqp.channel(on_return_raises=True) as filling:

            async def is_full() -> bool:
                exchange = await filling.get_exchange("carillon.retry", ensure=False)
                with suppress(aio_pika.exceptions.DeliveryError):
                    await exchange.publish(aio_pika.Message(b"[]"), "5000", timeout=5)
                    return False
                return True

            await until("the rung to be full", is_full)
        task, begun = a_task(attempt=3, hop=2), now()
        async with dispatcher(amqp_url, redis_url, FakeCaller([UNAVAILABLE])) as made:
            await made.due(task)
            await events.has(1)
            await returns.has(1)
    finally:
        await asyncio.to_thread(rabbitmqctl, "clear_policy", "full")
    [returned], [event] = returns.of(ReturnTask), events.of(AttemptFinished)
    assert (returned.task.attempt, returned.task.hop, returned.not_before) == (4, 3, event.next_attempt_at)
    assert returned.not_before - begun >= timedelta(seconds=5)


async def test_a_rung_that_is_not_there_is_the_schedulers(
    amqp_url: str, redis_url: str, returns: Tap, amqp: AbstractConnection
) -> None:
    async with amqp.channel() as channel:
        rung = await channel.get_queue(topology.rung_queue_name(200), ensure=False)
        await rung.unbind("carillon.retry", "200")
        try:
            async with dispatcher(amqp_url, redis_url, FakeCaller([UNAVAILABLE])) as made:
                await made.due(a_task())
                await returns.has(1)
        finally:
            await rung.bind("carillon.retry", "200")
    assert returns.of(ReturnTask)[0].task.attempt == 2


# --- redeliveries


async def test_a_redelivery_during_the_call_waits_on_the_shortest_rung_as_the_same_attempt(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap
) -> None:
    caller, other, task = FakeCaller(gate=asyncio.Event()), FakeCaller(), a_task(attempt=2, hop=5)
    assert caller.gate is not None
    before = repeated("claim")
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as one:
        calling = asyncio.create_task(one.delivery.handle(due(task)))
        await caller.called(1)
        async with dispatcher(amqp_url, redis_url, other, replica="two") as two:
            await two.due(task)

            def has_come_twice() -> bool:
                return repeated("claim") >= before + 2

            begun = asyncio.get_running_loop().time()
            await until("the redelivery to have waited on the rung", has_come_twice)
            assert asyncio.get_running_loop().time() - begun > 0.15
            assert events.items == []
            caller.gate.set()
            await calling
            await settled(redis, task)
            was_done = repeated("done")

            def is_absorbed() -> bool:
                return repeated("done") == was_done + 1

            await until("the redelivery to find it done", is_absorbed)
    await events.has(1)
    assert (other.requests, len(caller.requests)) == ([], 1)
    assert events.of(AttemptFinished)[0].hop == 5


async def test_what_waits_for_a_claim_is_a_hop_further_and_keeps_its_own_time(
    amqp_url: str, redis_url: str, amqp: AbstractConnection
) -> None:
    task = a_task(attempt=2, hop=5)
    coming = await Tap(amqp, topology.DISPATCHER_RETRY_DUE).open()
    async with dispatcher(amqp_url, redis_url, FakeCaller(), consumes=False) as made:
        assert await made.marks.claim(task) == Claimed()
        await made.delivery.handle(due(task))
        [item] = await coming.has(1)
    assert task_in(item) == msgspec.structs.replace(task, hop=6)
    assert coming.of(TaskDue)[0].due_at == task.due_at


async def _dies(*_args: Any, **_kwargs: Any) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "answer", [an_answer(200, b"\x00\xff"), UNAVAILABLE, an_answer(410), an_answer(429, retry_after="60")]
)
async def test_a_verdict_that_died_unpublished_is_published_without_a_second_call(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, task = FakeCaller([answer]), FakeCaller(), a_task(a_call(schedule_s=(60.0,)))
    async with dispatcher(amqp_url, redis_url, first, consumes=False) as one:
        with monkeypatch.context() as patched:
            patched.setattr(type(one.delivery._outlet), "publish", _dies)
            with suppress(asyncio.CancelledError):
                await one.delivery.handle(due(task))
    verdict = await _told(redis_url, task)
    assert events.items == []
    async with dispatcher(amqp_url, redis_url, second, replica="two", consumes=False) as two:
        await two.delivery.handle(due(msgspec.structs.replace(task, hop=1)))
    await events.has(1)
    assert (len(first.requests), second.requests) == (1, [])
    assert events.of(AttemptFinished) == [verdict.event]
    assert await redis.get(attempt_key(task)) == (b"d" if isinstance(verdict, Retry) else b"e")


async def _told(redis_url: str, task: Task) -> Any:
    from services.dispatcher.marks import Marks

    client = redis_client(redis_url)
    told = await Marks(client, "asks").claim(task)
    await client.aclose()
    assert isinstance(told, Told)
    return told.verdict


async def test_a_verdict_whose_task_stands_on_its_rung_already_makes_no_second_call(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, task = FakeCaller([UNAVAILABLE, an_answer(200)]), a_task()
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as made:
        with monkeypatch.context() as patched:
            patched.setattr(type(made.marks), "settle", _dies)
            with suppress(asyncio.CancelledError):
                await made.delivery.handle(due(task))
        await made.delivery.handle(due(task))
    before = _repeated_at_all()
    async with dispatcher(amqp_url, redis_url, caller):
        await until("the second chain to be absorbed", lambda: _repeated_at_all() > before)
        await settled(redis, msgspec.structs.replace(task, attempt=2))
        await until("three events", lambda: len(events.items) >= 3)
    assert len(caller.requests) == 2
    # The second chain may come when the first has its verdict and is publishing it: then it publishes the same.
    outcomes = [(event.attempt, event.outcome) for event in events.of(AttemptFinished)]
    assert outcomes[:3] == [(1, "retry"), (1, "retry"), (2, "succeeded")]
    assert set(outcomes[3:]) <= {(2, "succeeded")}


def _repeated_at_all() -> float:
    return sum(repeated(mark) for mark in ("claim", "verdict", "done"))


@pytest.mark.parametrize("answer", [an_answer(200), UNAVAILABLE, an_answer(410)])
async def test_a_redelivery_after_the_end_publishes_nothing(
    amqp_url: str, redis_url: str, answer: Answer, events: Tap, returns: Tap, fallback: Tap
) -> None:
    caller, task = FakeCaller([answer]), a_task(a_call(schedule_s=(60.0,)))
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as made:
        for hop in (0, 0, 1):
            await made.delivery.handle(due(msgspec.structs.replace(task, hop=hop)))
    await events.has(1)
    if answer.status_code == 503:
        await returns.has(1)
    if answer.status_code == 410:
        await fallback.has(1)
    assert len(caller.requests) == 1
    assert len(returns.items) == (1 if answer.status_code == 503 else 0)
    assert len(fallback.items) == (1 if answer.status_code == 410 else 0)


async def test_a_call_that_died_is_made_again_when_its_claim_has_ended(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap
) -> None:
    dead, alive, task = FakeCaller(gate=asyncio.Event()), FakeCaller(), a_task()
    async with dispatcher(amqp_url, redis_url, dead, consumes=False) as one:
        calling = asyncio.create_task(one.delivery.handle(due(task)))
        await dead.called(1)
        calling.cancel()
        await asyncio.wait({calling})
        assert await one.marks.claim(task) == InFlight("one")
    before = repeated("claim")
    async with dispatcher(amqp_url, redis_url, alive, replica="two") as two:
        await two.due(task)
        await until("the claim to be waited for", lambda: repeated("claim") > before)
        await redis.pexpire(attempt_key(task), 300)
        await events.has(1)
    assert len(alive.requests) == 1
    assert events.of(AttemptFinished)[0].attempt == 1


async def test_the_claim_of_a_cancelled_call_is_kept_up_no_more(
    amqp_url: str, redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "RENEW_EVERY_S", 0.0)
    caller, task = FakeCaller(gate=asyncio.Event()), a_task()
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as one:
        calling = asyncio.create_task(one.delivery.handle(due(task)))
        await caller.called(1)
        calling.cancel()
        await asyncio.wait({calling})
        await redis.pexpire(attempt_key(task), 5_000)
        await one.marks.renew()
    assert await redis.pttl(attempt_key(task)) <= 5_000


async def test_a_success_ends_the_fork_that_climbs_beside_it(amqp_url: str, redis_url: str, events: Tap) -> None:
    caller, task = FakeCaller(), a_task(attempt=2)
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as made:
        await made.delivery.handle(due(task))
        await made.delivery.handle(due(msgspec.structs.replace(task, attempt=3)))
        assert await made.marks.claim(msgspec.structs.replace(task, attempt=4)) == Settled()
    await events.has(1)
    assert len(caller.requests) == 1


@pytest.mark.parametrize("was_success", [False, True])
async def test_a_verdict_that_comes_after_anothers_end_forks_nothing_and_a_success_is_told(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, amqp: AbstractConnection, was_success: bool
) -> None:
    """The first is frozen during its call for as long as a claim."""
    frozen = FakeCaller([an_answer(200) if was_success else UNAVAILABLE], gate=asyncio.Event())
    task = a_task(a_call(schedule_s=(77.0,)))
    assert frozen.gate is not None
    async with dispatcher(amqp_url, redis_url, frozen, consumes=False) as one:
        calling = asyncio.create_task(one.delivery.handle(due(task)))
        await frozen.called(1)
        await redis.delete(attempt_key(task))
        async with dispatcher(amqp_url, redis_url, FakeCaller(), replica="two", consumes=False) as two:
            await two.delivery.handle(due(task))
        frozen.gate.set()
        await calling
    await events.has(1 + was_success)
    assert {event.outcome for event in events.of(AttemptFinished)} == {"succeeded"}
    assert await depth(amqp, topology.SCHEDULER_RETURNS) == 0
    assert await redis.get(attempt_key(task)) == b"e"


# --- put off


PAUSED = TargetRule(project="shop", host="127.0.0.1", command_id=new_id(), is_paused=True)


@pytest.mark.parametrize("stands", ["settled", "told", "cancelled"])
async def test_what_needs_no_call_any_more_ends_although_its_target_is_paused(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, amqp: AbstractConnection, stands: str
) -> None:
    caller, task = FakeCaller(), a_task(hop=4)
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as made:
        match stands:
            case "settled":
                await made.delivery.handle(due(task))
            case "told":
                with pytest.MonkeyPatch.context() as patched, suppress(asyncio.CancelledError):
                    patched.setattr(type(made.delivery._outlet), "publish", _dies)
                    await made.delivery.handle(due(task))
            case "cancelled":
                await made.marks.cancel(task.id, task.generation)
        calls = len(caller.requests)
        made.control._targets["shop", "127.0.0.1"] = PAUSED
        for _ in range(2):
            await made.delivery.handle(due(msgspec.structs.replace(task, hop=5)))
        assert await depth(amqp, topology.SCHEDULER_RETURNS) == 0
    await events.has(1)
    assert len(caller.requests) == calls
    if stands == "cancelled":
        assert [(end.state, end.hop) for end in events.of(TaskFinished)] == [("cancelled", 5)]
    else:
        assert [event.outcome for event in events.of(AttemptFinished)] == ["succeeded"]
    assert await redis.get(attempt_key(task)) == b"e"


async def test_a_copy_of_a_call_under_way_is_put_off(amqp_url: str, redis_url: str, returns: Tap) -> None:
    async with dispatcher(amqp_url, redis_url, FakeCaller(), consumes=False) as made:
        task = a_task()
        await made.marks.claim(task)
        made.control._targets["shop", "127.0.0.1"] = PAUSED
        await made.delivery.handle(due(task))
        await returns.has(1)


async def test_without_redis_what_may_not_be_called_now_is_put_off(amqp_url: str, returns: Tap, events: Tap) -> None:
    caller = FakeCaller()
    async with dispatcher(amqp_url, "redis://127.0.0.1:1/0", caller, consumes=False) as made:
        made.control._targets["shop", "127.0.0.1"] = PAUSED
        await made.delivery.handle(due(a_task()))
        [item] = await returns.has(1)
    assert (item["reason"], item["task"]["hop"]) == ("paused", 1)
    assert (caller.requests, events.items) == ([], [])


# --- outcomes that cannot be told


@pytest.fixture
async def history_unbound(amqp: AbstractConnection, amqp_url: str) -> AsyncIterator[Callable[[], Any]]:
    """ingest.history takes no attempts, until the function given is awaited."""
    channel = await amqp.channel()
    queue = await channel.get_queue(topology.INGEST_HISTORY, ensure=False)
    await queue.unbind("carillon.events", "attempt.*")

    async def bind() -> None:
        await queue.bind("carillon.events", "attempt.*")

    yield bind
    await bind()


async def test_an_outcome_that_nobody_takes_is_held_and_repeated_and_its_slot_with_it(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, history_unbound: Callable[[], Any]
) -> None:
    caller, tasks = FakeCaller(), [a_task() for _ in range(5)]
    async with dispatcher(amqp_url, redis_url, caller, slots=2) as made:
        await made.due(*tasks)
        held = _held()
        await until("the outcomes to be repeated", lambda: _held() >= held + 6)
        assert len(caller.requests) == 2  # the two slots: no new call meanwhile
        assert not [task for task in tasks if await redis.get(attempt_key(task)) in (b"d", b"e")]
        await history_unbound()
        await events.has(5)
    assert {event.id for event in events.of(AttemptFinished)} == {task.id for task in tasks}
    assert len(caller.requests) == 5


def _held() -> float:
    labels = {"exchange": "carillon.events", "outcome": "unroutable"}
    return REGISTRY.get_sample_value("carillon_publisher_messages_total", labels) or 0.0


async def test_no_call_starts_while_its_outcome_could_not_be_told(
    amqp_url: str, redis_url: str, events: Tap, redis: Redis
) -> None:
    caller = FakeCaller()
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as made:
        publisher: Publisher = made.publisher
        channel = publisher._channel
        assert channel is not None
        publisher.closed()  # as the link says when the connection is lost
        task = a_task()
        handling = asyncio.create_task(made.delivery.handle(due(task)))
        await asyncio.wait({handling}, timeout=0.3)
        assert not handling.done()
        assert (caller.requests, await redis.exists(attempt_key(task))) == ([], 0)
        publisher._channel = channel
        publisher._opened.set()
        await asyncio.wait_for(handling, 5)
    await events.has(1)


async def test_no_call_starts_while_the_broker_is_blocked(
    amqp_url: str, redis_url: str, events: Tap, rabbitmqctl: Callable[..., str]
) -> None:
    caller = FakeCaller()
    async with dispatcher(amqp_url, redis_url, caller, consumes=False) as made:

        async def is_blocked() -> bool:
            try:
                await made.publisher.ping()
            except ConnectionError:
                return True
            return False

        await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "0.00001")
        try:
            # The broker says so to who publishes: one outcome has to meet the alarm.
            handling = [asyncio.create_task(made.delivery.handle(due(a_task())))]
            await until("the alarm to reach us", is_blocked)
            handling += [asyncio.create_task(made.delivery.handle(due(a_task()))) for _ in range(3)]
            await asyncio.wait(handling, timeout=0.3)
            assert len(caller.requests) == 1
            assert not any(task.done() for task in handling)
        finally:
            await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "0.4")
        await asyncio.wait_for(asyncio.gather(*handling), 15)
    assert len(caller.requests) == 4
    assert {event.outcome for event in events.of(AttemptFinished)} == {"succeeded"}


# --- poison and crashes


async def _publish(amqp: AbstractConnection, body: bytes) -> None:
    async with amqp.channel(on_return_raises=True) as channel:
        exchange = await channel.get_exchange("carillon.due", ensure=False)
        await exchange.publish(aio_pika.Message(body), "due", timeout=5)


def _broken(call: bytes) -> bytes:
    """An item whose call is `call`."""
    return encode(due(a_task())).replace(encode(a_call()), call)


@pytest.mark.parametrize(
    "item",
    [
        b'{"type":"TaskDue.1"}',
        b'{"type":"TaskDue.2","task":{},"due_at":"2027-03-01T09:00:00Z","emitted_at":"2027-03-01T09:00:00Z"}',
        b'{"type":"TaskDue.1","task":{"id":1},"due_at":"2027-03-01T09:00:00Z","emitted_at":"2027-03-01T09:00:00Z"}',
        _broken(b'{"url":7}'),
        _broken(b"[]"),
        _broken(b'{"url":"http://caf\xe9/"}'),
    ],
)
async def test_an_undecodable_item_is_parked_at_once_and_sinks_no_neighbour(
    amqp_url: str, redis_url: str, amqp: AbstractConnection, events: Tap, parking: Tap, item: bytes
) -> None:
    caller, good = FakeCaller(), a_task()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await _publish(amqp, b"[" + item + b"," + encode(due(good)) + b"]")
        await events.has(1)
        await until("the item in parking", lambda: parking.raws != [])
        assert made
    assert [event.id for event in events.of(AttemptFinished)] == [good.id]
    assert parking.raws == [b"[" + item + b"]"]
    assert b"undecodable" in str(parking.headers[0]).encode()
    assert parking.headers[0]["carillon-origin"] == topology.DISPATCHER_DUE


async def test_a_call_that_crashes_us_is_given_up_after_five_crashes(
    amqp_url: str, redis_url: str, parking: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.intake.CRASH_PAUSE_S", 0.01)

    class Broken(FakeCaller):
        async def call(self, request: Any) -> Answer:
            await super().call(request)
            raise ZeroDivisionError("a bug")

    caller, task = Broken(), a_task()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await until("the task in parking", lambda: parking.items != [], within_s=5)
    assert len(caller.requests) == 5
    assert task_in(parking.items[0]).id == task.id


async def test_nothing_is_left_unacked_when_all_is_told(
    amqp_url: str, redis_url: str, amqp: AbstractConnection, events: Tap
) -> None:
    caller = FakeCaller()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(*(a_task() for _ in range(300)))
        await events.has(300)
    for queue in (topology.DISPATCHER_DUE, topology.DISPATCHER_RETRY_DUE):
        await until(f"{queue} to be empty", lambda queue=queue: _is_empty(amqp, queue))  # type: ignore[misc]
    assert len(caller.requests) == 300
    assert caller.in_flight_max <= 100


async def _is_empty(amqp: AbstractConnection, queue: str) -> bool:
    return await depth(amqp, queue) == 0


# --- callbacks


@pytest.mark.parametrize(
    ("answer", "url"), [(an_answer(200), "https://example.com/done"), (an_answer(410), "https://example.com/failed")]
)
async def test_the_end_of_a_task_is_a_task_for_the_url_that_asked_for_it(
    amqp_url: str, redis_url: str, amqp: AbstractConnection, redis: Redis, answer: Any, url: str
) -> None:
    creates = await Tap(amqp, topology.SCHEDULER_TASKS).open()
    call = a_call(callback_success="https://example.com/done", callback_failure="https://example.com/failed")
    task = a_task(call)
    async with dispatcher(amqp_url, redis_url, FakeCaller([answer])) as made:
        await made.due(task)
        await settled(redis, task)
        await creates.has(1)
    [create] = creates.items
    assert create["type"] == "CreateTask.1"
    assert create["task"]["call"]["url"] == url
    assert create["task"]["labels"] == {"callback_of": str(task.id)}


async def test_nobody_is_called_back_who_did_not_ask(
    amqp_url: str, redis_url: str, amqp: AbstractConnection, redis: Redis
) -> None:
    creates = await Tap(amqp, topology.SCHEDULER_TASKS).open()
    task = a_task(a_call(callback_failure="https://example.com/failed"))
    async with dispatcher(amqp_url, redis_url, FakeCaller()) as made:
        await made.due(task)
        await settled(redis, task)
    assert creates.items == []


# --- urgent ones


async def test_an_urgent_failure_is_told_at_once_and_stands_in_the_digest_as_well(
    amqp_url: str, redis_url: str, amqp: AbstractConnection, redis: Redis, fallback: Tap
) -> None:
    outbox = await Tap(amqp, topology.MAILER_OUTBOX).open()
    urgent, other = a_task(labels={"severity": "critical"}), a_task(labels={"severity": "low"})
    caller = FakeCaller([an_answer(410), an_answer(410)])
    async with dispatcher(amqp_url, redis_url, caller, urgent_labels=[("severity", "critical")]) as made:
        await made.due(urgent, other)
        await settled(redis, urgent)
        await settled(redis, other)
        await outbox.has(1)
        await fallback.has(2)
    [page] = outbox.items
    assert (page["type"], page["is_urgent"], page["failed"][0]["id"]) == ("DigestPage.1", True, str(urgent.id))
    assert {entry["id"] for entry in fallback.items} == {str(urgent.id), str(other.id)}

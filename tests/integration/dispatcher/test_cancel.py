"""A task that is cancelled while the dispatcher has it: between two calls, during one, and after its end."""

import asyncio
from typing import Any

import msgspec
import pytest
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis

from libs.common import topology
from libs.common.asking import Asked, Replier
from libs.common.clock import SystemClock
from libs.common.contracts import CANCELLED_WHEN_DUE, AttemptFinished, CancelAnswer, CancelTask, Task, TaskFinished
from libs.common.ids import new_id
from services.dispatcher.commands import Commands
from services.dispatcher.control import Control
from services.dispatcher.marks import ENDED, SETTLED
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Expire
from services.ingest.projection import project
from tests.conftest import RETRY_SCHEDULE_S
from tests.integration.dispatcher.rig import Dispatcher, FakeCaller, Tap, depth, dispatcher
from tests.integration.rig import until
from tests.unit.dispatcher.samples import NOW, a_call, a_task, an_answer

UNAVAILABLE = an_answer(503)
# The attempt after which the longest rung comes, so that there is time to cancel.
LONGEST = RETRY_SCHEDULE_S.index(max(RETRY_SCHEDULE_S)) + 1


class Answers(Replier):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def reply(self, _asked: Asked[Any], answer: Any) -> None:
        self.heard.append(answer)


async def cancelled(made: Dispatcher, redis: Redis, task: Task) -> str:
    """What the asker hears."""
    answers, clock = Answers(), SystemClock()
    commands = Commands(Control(redis), made.marks, Outlet(made.publisher, clock, "one"), answers, clock)
    command = CancelTask(id=task.id, project=task.project, command_id=new_id(), generation=task.generation)
    await commands.handle(Asked(command, "somebody", "1"))
    [answer] = answers.heard
    assert isinstance(answer, CancelAnswer)
    assert (answer.command_id, answer.id) == (command.command_id, task.id)
    return answer.result


async def test_a_task_that_waits_on_its_rung_is_not_called_again(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, fallback: Tap
) -> None:
    caller, task = FakeCaller([UNAVAILABLE]), a_task(attempt=LONGEST)
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await caller.called(1)
        await until("its outcome to be settled", lambda: _has_mark(redis, SETTLED))
        assert await cancelled(made, redis, task) == "cancelled"
        await until("the rung to give it back", lambda: len(events.items) == 3)
    assert len(caller.requests) == 1
    assert [event.state for event in events.of(TaskFinished)] == ["cancelled", "cancelled"]
    assert fallback.items == []


async def test_a_repeated_cancel_gets_the_same_answer(amqp_url: str, redis_url: str, redis: Redis, events: Tap) -> None:
    task = a_task()
    async with dispatcher(amqp_url, redis_url, FakeCaller()) as made:
        assert [await cancelled(made, redis, task) for _ in range(2)] == ["cancelled"] * 2
        await events.has(2)


async def test_a_certain_cancel_stands_against_what_the_scheduler_tells_of_copies_that_come_back(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap
) -> None:
    task = a_task()
    async with dispatcher(amqp_url, redis_url, FakeCaller()) as made:
        assert await cancelled(made, redis, task) == "cancelled"
        await events.has(1)
    [certain] = events.of(TaskFinished)
    of_a_copy = msgspec.structs.replace(certain, attempt=7, hop=400_000, reason=CANCELLED_WHEN_DUE)
    for told in ([certain, of_a_copy], [of_a_copy, certain]):
        assert project(told).tasks[task.id].state.reason != CANCELLED_WHEN_DUE


@pytest.mark.parametrize("answer", [UNAVAILABLE, an_answer(410), an_answer(error="timeout", status=None)])
async def test_a_call_under_way_that_does_not_succeed_is_the_last(
    amqp_url: str, redis_url: str, amqp: AbstractConnection, redis: Redis, events: Tap, fallback: Tap, answer: Any
) -> None:
    caller, task = FakeCaller([answer], gate=asyncio.Event()), a_task()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await caller.called(1)
        assert await cancelled(made, redis, task) == "in-flight"
        assert caller.gate
        caller.gate.set()
        await events.has(2)
        await until("it to be settled", lambda: _has_mark(redis, ENDED))
        assert await depth(amqp, topology.rung_queue_name(topology.rung_ms(RETRY_SCHEDULE_S[0]))) == 0
    assert len(caller.requests) == 1
    [attempt], [end] = events.of(AttemptFinished), events.of(TaskFinished)
    assert len(events.raws) == 1, "in two messages it would for a moment be a task that has failed"
    assert (attempt.outcome, attempt.next_attempt_at, end.state) == ("failed", None, "cancelled")
    assert fallback.items == [], "nobody wants to hear of it any more"


async def test_a_call_under_way_that_succeeds_has_succeeded(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap
) -> None:
    caller, task = FakeCaller(gate=asyncio.Event()), a_task()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.due(task)
        await caller.called(1)
        assert await cancelled(made, redis, task) == "in-flight"
        assert caller.gate
        caller.gate.set()
        await events.has(1)
    assert events.of(AttemptFinished)[0].outcome == "succeeded"


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("answer", [an_answer(200), an_answer(410)])
async def test_what_has_ended_cannot_be_cancelled(
    amqp_url: str, redis_url: str, redis: Redis, events: Tap, answer: Any, attempt: int
) -> None:
    task = a_task(attempt=attempt)
    async with dispatcher(amqp_url, redis_url, FakeCaller([answer])) as made:
        await made.due(task)
        await until("it to be settled", lambda: _has_mark(redis, ENDED))
        assert await cancelled(made, redis, task) == "ended"
    assert events.of(TaskFinished) == []


async def test_the_next_generation_is_called(amqp_url: str, redis_url: str, redis: Redis, events: Tap) -> None:
    caller, task = FakeCaller(), a_task()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await cancelled(made, redis, task)
        await made.due(a_task(id=task.id, generation=2))
        await caller.called(1)
        await events.has(2)


async def test_a_verdict_that_was_not_told_is_in_flight(amqp_url: str, redis_url: str, redis: Redis) -> None:
    task = a_task(a_call())
    async with dispatcher(amqp_url, redis_url, FakeCaller()) as made:
        await made.marks.tell(task, Expire(NOW))
        assert await cancelled(made, redis, task) == "in-flight"


async def _has_mark(redis: Redis, mark: str) -> bool:
    keys = await redis.keys("carillon:dispatcher:attempt:*")
    return bool(keys) and mark.encode() in await redis.mget(keys)

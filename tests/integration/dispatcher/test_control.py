"""Pauses, limits and secrets' versions: set by a command, kept in a real Valkey, known to every replica."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis

from libs.common import topology
from libs.common.asking import Asker, Replier, asked_decoder
from libs.common.clock import SystemClock, ceil_to_ms
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import ControlAnswer, DispatcherCommand, SetControl, SigningRule, TargetRule
from libs.common.ids import new_id
from libs.common.intake import Intake
from libs.common.publisher import Publisher
from libs.common.redis import redis_client
from services.dispatcher.commands import Commands
from services.dispatcher.control import TARGETS, VERSION, Control
from services.dispatcher.limiter import HORIZON_S, Limiter
from services.dispatcher.marks import Marks
from services.dispatcher.outlet import Outlet
from services.dispatcher.signature import Versions
from tests.conftest import RETRY_SCHEDULE_S
from tests.integration.dispatcher.rig import FakeCaller, Tap, depth, dispatcher
from tests.integration.rig import until
from tests.unit.dispatcher.samples import NOW, a_call, a_task, an_answer

HOST = "api.example.com"


def a_rule(**different: Any) -> TargetRule:
    return TargetRule(**{"project": "shop", "host": HOST, "command_id": new_id(), **different})


def a_change(*targets: TargetRule, **different: Any) -> SetControl:
    return SetControl(command_id=new_id(), targets=targets, **different)


# --- rules


async def test_every_replica_knows_a_rule_that_one_has_stored(redis: Redis) -> None:
    one, two = Control(redis), Control(redis)
    rule = a_rule(is_paused=True)
    await one.write(a_change(rule))
    await two.read()
    assert two.target("shop", HOST) == rule
    assert two.target("shop", "another.example.com") is None
    assert two.target("another", HOST) is None


async def test_the_newest_rule_stands_whatever_comes_last(redis: Redis) -> None:
    control = Control(redis)
    old, new = a_rule(is_paused=True), a_rule(per_s=2.0)
    await control.write(a_change(new))
    await control.write(a_change(old))
    await control.read()
    assert control.target("shop", HOST) == new


async def test_the_whole_takes_away_what_is_not_among_it(redis: Redis) -> None:
    control = Control(redis)
    await control.write(a_change(a_rule(host="gone.example.com"), a_rule(is_paused=True)))
    kept = a_rule(per_s=1.0)
    whole = a_change(kept, is_all=True)
    younger = a_rule(host="younger.example.com")
    await control.write(a_change(younger))
    await control.write(whole)
    await control.read()
    assert control.target("shop", "gone.example.com") is None
    assert control.target("shop", HOST) == kept
    assert control.target("shop", "younger.example.com") == younger, "set after the whole was written down"


async def test_a_redis_that_has_lost_it_changes_nothing_until_it_is_sent_again(redis: Redis) -> None:
    control, rule = Control(redis), a_rule(is_paused=True)
    await control.write(a_change(rule))
    await control.read()
    await redis.flushdb()
    await control.read()
    assert control.target("shop", HOST) == rule
    fresh = Control(redis)
    await fresh.write(a_change(rule, is_all=True))
    await fresh.read()
    assert fresh.target("shop", HOST) == rule


async def test_a_replica_without_redis_goes_on_with_what_it_knows(redis: Redis) -> None:
    control, rule = Control(redis), a_rule(is_paused=True)
    await control.write(a_change(rule))
    await control.read()
    control._redis = redis_client("redis://127.0.0.1:1/0")
    await control.read()
    assert control.target("shop", HOST) == rule


async def test_nothing_is_read_again_while_nothing_has_changed(redis: Redis) -> None:
    control = Control(redis)
    await control.write(a_change(a_rule(is_paused=True)))
    await control.read()
    await redis.delete(TARGETS)
    await control.read()
    assert control.target("shop", HOST) is not None
    await redis.incr(VERSION)
    await control.read()
    assert control.target("shop", HOST) is None


async def test_a_rotation_reaches_the_signer(redis: Redis) -> None:
    control = Control(redis)
    assert control.versions("shop") == Versions(1, None)
    rule = SigningRule(project="shop", command_id=new_id(), version=2, previous_until=NOW + timedelta(hours=24))
    await control.write(a_change(signing=(rule,)))
    await control.read()
    assert control.versions("shop") == Versions(2, NOW + timedelta(hours=24))


# --- limits


async def waits(limiter: Limiter, count: int, rule: TargetRule) -> list[float]:
    return [await limiter.wait_s(a_task(), rule) for _ in range(count)]


async def test_a_limit_lets_its_burst_through_and_gives_each_of_the_rest_a_moment_of_its_own(redis: Redis) -> None:
    rule = a_rule(per_s=10.0, burst=3)
    begun = time.monotonic()
    got = await waits(Limiter(redis), 8, rule)
    took_s = time.monotonic() - begun
    assert got[:3] == [0, 0, 0]
    for number, wait_s in enumerate(got[3:], 1):
        assert number * 0.1 - took_s <= wait_s <= number * 0.1


async def test_replicas_share_a_limit(redis: Redis, redis_url: str) -> None:
    other = redis_client(redis_url)
    rule = a_rule(per_s=1.0, burst=4)
    both = await asyncio.gather(waits(Limiter(redis), 4, rule), waits(Limiter(other), 4, rule))
    await other.aclose()
    assert sum(wait_s == 0 for one in both for wait_s in one) == 4


async def test_who_comes_back_at_its_moment_is_let_through_once(redis: Redis) -> None:
    limiter, rule, task = Limiter(redis), a_rule(per_s=0.1), a_task()
    assert await limiter.wait_s(a_task(), rule) == 0
    assert 9 < await limiter.wait_s(task, rule) <= 10
    assert await limiter.wait_s(task, rule) == 0
    assert await limiter.wait_s(task, rule) > 10, "the moment was kept for one call"


async def test_nobody_is_given_a_moment_far_away(redis: Redis) -> None:
    limiter, rule = Limiter(redis, dice=lambda: 0.5), a_rule(per_s=1 / HORIZON_S)
    first, second, third, fourth = await waits(limiter, 4, rule)
    assert first == 0
    assert HORIZON_S - 1 < second <= HORIZON_S
    assert third == fourth == HORIZON_S * 0.75


async def test_targets_do_not_share_a_limit(redis: Redis) -> None:
    limiter = Limiter(redis)
    rules = [a_rule(per_s=0.1), a_rule(per_s=0.1, host="b.example.com"), a_rule(per_s=0.1, project="another")]
    assert [await limiter.wait_s(a_task(), rule) for rule in rules] == [0, 0, 0]


async def test_without_redis_there_is_no_limit() -> None:
    limiter = Limiter(redis_client("redis://127.0.0.1:1/0"))
    assert await waits(limiter, 3, a_rule(per_s=0.1)) == [0, 0, 0]


# --- the whole way


@asynccontextmanager
async def commanded(amqp_url: str, redis: Redis) -> AsyncIterator[Asker[ControlAnswer]]:
    """A replica that takes commands, and somebody who gives them."""
    link = Link(amqp_url, "test commands", topology.topology(RETRY_SCHEDULE_S))
    publisher, replier, asker = Publisher(), Replier(), Asker(ControlAnswer)
    intake = Intake(topology.DISPATCHER_COMMANDS, asked_decoder(DispatcherCommand), publisher, prefetch=4)
    for party in (publisher, replier, asker, intake):
        link.join(party)
    stopping = asyncio.Event()
    marks, clock = Marks(redis, "one"), SystemClock()
    commands = Commands(Control(redis), marks, Outlet(publisher, clock, "one"), replier, clock)
    consumer = ItemConsumer(intake, commands.handle, asyncio.Semaphore(4))
    async with link:
        await link.up()
        run = asyncio.create_task(consumer.run(stopping))
        yield asker
        stopping.set()
        await run


async def test_a_command_is_answered_when_it_is_stored(amqp_url: str, redis: Redis) -> None:
    async with commanded(amqp_url, redis) as asker:
        change = a_change(a_rule(is_paused=True))
        assert await asker.ask(topology.DISPATCHER_COMMAND, change) == ControlAnswer(command_id=change.command_id)
    control = Control(redis)
    await control.read()
    assert control.target("shop", HOST) is not None


async def test_a_paused_targets_task_goes_back_to_the_scheduler_as_the_same_attempt(
    amqp_url: str, redis_url: str, amqp: AbstractConnection, returns: Tap
) -> None:
    caller = FakeCaller()
    async with dispatcher(amqp_url, redis_url, caller) as made:
        await made.control.write(a_change(a_rule(host="127.0.0.1", is_paused=True)))
        await made.control.read()
        task = a_task(attempt=2, hop=3)
        await made.due(task)
        [item] = await returns.has(1)
        await until("it to be acked", lambda: _is_empty(amqp))
    assert caller.requests == []
    assert item["task"]["id"] == str(task.id)
    assert (item["task"]["attempt"], item["task"]["hop"], item["reason"]) == (2, 4, "paused")
    assert item["task"]["put_off_since"] == "2027-03-01T09:00:00Z"


async def test_the_next_attempt_forgets_that_the_last_was_put_off(amqp_url: str, redis_url: str, returns: Tap) -> None:
    caller = FakeCaller([an_answer(503)])
    async with dispatcher(amqp_url, redis_url, caller) as made:
        call = a_call(schedule_s=(77.0, 77.0))
        await made.due(a_task(call, put_off_since=NOW, hop=1))
        [item] = await returns.has(1)
    assert item["task"]["attempt"] == 2
    assert "put_off_since" not in item["task"]


async def test_a_task_that_is_put_off_past_its_end_comes_back_at_its_end(
    amqp_url: str, redis_url: str, returns: Tap
) -> None:
    expires_at = ceil_to_ms(SystemClock().now() + timedelta(seconds=100))
    async with dispatcher(amqp_url, redis_url, FakeCaller()) as made:
        await made.control.write(a_change(a_rule(host="127.0.0.1", is_paused=True)))
        await made.control.read()
        await made.due(a_task(put_off_since=NOW - timedelta(days=900), expires_at=expires_at))
        [item] = await returns.has(1)
    assert datetime.fromisoformat(item["not_before"]) == expires_at


async def test_a_breaker_that_opens_is_told_of_and_puts_the_rest_off(
    amqp_url: str, redis_url: str, events: Tap, returns: Tap
) -> None:
    caller = FakeCaller([an_answer(None, error="timeout")])
    call = a_call(schedule_s=())
    async with dispatcher(amqp_url, redis_url, caller, slots=1) as made:
        await made.due(*(a_task(call) for _ in range(30)))
        await returns.has(10)
        await events.has(21)
    assert len(caller.requests) == 20
    assert {item["reason"] for item in returns.items} == {"breaker"}
    [opened] = [item for item in events.items if item["type"] == "TargetChanged.1"]
    assert (opened["host"], opened["state"], opened["replica"]) == ("127.0.0.1", "open", "one")
    assert opened["until"] > opened["changed_at"]
    assert opened["reason"].startswith("20 of the last 20 calls got no answer (the last: ")


async def _is_empty(amqp: AbstractConnection) -> bool:
    return await depth(amqp, topology.DISPATCHER_DUE) == 0

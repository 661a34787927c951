"""What replicas tell each other through a real Valkey, and what they do without it."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from libs.common import settings
from libs.common.metrics import REGISTRY
from libs.common.redis import redis_client
from services.dispatcher import marks as marks_module
from services.dispatcher.marks import (
    Cancelled,
    Claimed,
    InFlight,
    Marks,
    Settled,
    Told,
    attempt_key,
    cancel_key,
    success_key,
)
from services.dispatcher.retry import Expire, Ladder, Verdict
from tests.integration.dispatcher.rig import OwnRedis
from tests.integration.rig import until
from tests.unit.dispatcher.samples import NOW, a_call, a_task, an_answer


def verdict_of(status: int, attempt: int = 1) -> Verdict:
    ladder = Ladder((5.0, 15.0), lambda: 0.0)
    return ladder.decide(a_task(attempt=attempt), a_call(), an_answer(status, b"\x00\xff"), NOW, NOW, "one")


def away(operation: str) -> float:
    return REGISTRY.get_sample_value("carillon_dispatcher_marks_away_total", {"operation": operation}) or 0.0


def lost(found: str) -> float:
    return REGISTRY.get_sample_value("carillon_dispatcher_claims_lost_total", {"found": found}) or 0.0


@asynccontextmanager
async def a_replica(url: str, name: str = "one") -> AsyncIterator[Marks]:
    client = redis_client(url)
    yield Marks(client, name)
    await client.aclose()


@pytest.fixture
async def one(redis_url: str) -> AsyncIterator[Marks]:
    async with a_replica(redis_url, "one") as marks:
        yield marks


@pytest.fixture
async def two(redis_url: str) -> AsyncIterator[Marks]:
    async with a_replica(redis_url, "two") as marks:
        yield marks


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """The test's own look at the keys."""
    client = redis_client(redis_url)
    yield client
    await client.aclose()


# --- claims


async def test_an_attempt_is_claimed_once_among_two_replicas(one: Marks, two: Marks) -> None:
    tasks = [a_task() for _ in range(500)]
    ones, twos = await asyncio.gather(
        asyncio.gather(*(one.claim(task) for task in tasks)),
        asyncio.gather(*(two.claim(task) for task in reversed(tasks))),
    )
    for first, second in zip(ones, reversed(twos), strict=True):
        assert {type(first), type(second)} == {Claimed, InFlight}
        assert InFlight("two" if second == Claimed() else "one") in (first, second)


async def test_a_claim_in_flight_is_in_flight_for_its_holder_too(one: Marks) -> None:
    task = a_task()
    assert await one.claim(task) == Claimed()
    assert await one.claim(task) == InFlight("one")


async def test_the_same_attempt_twice_in_one_batch_is_claimed_once(one: Marks) -> None:
    task = a_task()
    claims = await asyncio.gather(*(one.claim(task) for _ in range(10)))
    assert claims.count(Claimed()) == 1


async def test_each_attempt_and_each_generation_has_its_own_claim_and_a_hop_has_none(one: Marks) -> None:
    task = a_task()
    assert await one.claim(task) == Claimed()
    assert await one.claim(a_task(id=task.id, attempt=2)) == Claimed()
    assert await one.claim(a_task(id=task.id, generation=2)) == Claimed()
    assert await one.claim(a_task(id=task.id, hop=9)) == InFlight("one")
    assert await one.claim(a_task()) == Claimed()


async def test_a_claim_lives_for_eight_seconds(one: Marks, redis: Redis) -> None:
    task = a_task()
    await one.claim(task)
    assert 7_000 < await redis.pttl(attempt_key(task)) <= 8_000


async def test_a_claim_that_nobody_renews_expires_and_is_anothers(
    one: Marks, two: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "CLAIM_S", 0.4)
    task, begun = a_task(), time.monotonic()
    assert await one.claim(task) == Claimed()

    async def is_so() -> bool:
        return await two.claim(task) == Claimed()

    await until("the claim to expire", is_so)
    assert 0.39 < time.monotonic() - begun < 2


async def test_claims_are_renewed_by_beats_until_the_verdict(
    one: Marks, two: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "CLAIM_S", 0.8)
    monkeypatch.setattr(marks_module, "RENEW_EVERY_S", 0.1)
    tasks, stopping = [a_task() for _ in range(marks_module.BATCH_MAX + 1)], asyncio.Event()
    stopping.set()  # a process that drains has calls as well
    await asyncio.gather(*(one.claim(task) for task in tasks))
    renewing = asyncio.create_task(one.run(stopping))
    begun = time.monotonic()
    while time.monotonic() < begun + 2.0:
        assert set(await asyncio.gather(*(two.claim(task) for task in tasks))) == {InFlight("one")}
        await asyncio.sleep(0.05)
    verdict = verdict_of(200)
    await one.tell(tasks[0], verdict)
    assert await two.claim(tasks[0]) == Told(verdict)
    assert await two.claim(tasks[-1]) == InFlight("one")
    renewing.cancel()


async def test_a_call_that_ends_soon_has_its_claim_never_renewed(one: Marks, redis: Redis) -> None:
    task = a_task()
    await one.claim(task)
    await redis.pexpire(attempt_key(task), 5_000)
    await one.renew()
    assert await redis.pttl(attempt_key(task)) <= 5_000


async def test_what_is_no_claim_of_ours_any_more_is_not_renewed(
    one: Marks, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "RENEW_EVERY_S", 0.0)
    released, told, anothers = a_task(), a_task(), a_task()
    for task in (released, told, anothers):
        await one.claim(task)
    await one.release(released)
    verdict = verdict_of(200)
    await one.tell(told, verdict)
    await redis.set(attempt_key(anothers), "ctwo", px=5_000)
    before = lost("nothing"), lost("another")
    with capture_logs() as logs:
        await one.renew()
    assert await redis.exists(attempt_key(released)) == 0
    assert await one.claim(told) == Told(verdict)
    assert await redis.get(attempt_key(anothers)) == b"ctwo"
    assert await redis.pttl(attempt_key(anothers)) <= 5_000
    assert (lost("nothing"), lost("another")) == (before[0], before[1] + 1)
    assert [entry["event"] for entry in logs] == ["claims.lost"]


async def test_a_claim_that_redis_has_forgotten_is_written_again(
    one: Marks, two: Marks, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "RENEW_EVERY_S", 0.0)
    task = a_task()
    await one.claim(task)
    await redis.delete(attempt_key(task))
    before = lost("nothing")
    await one.renew()
    assert await two.claim(task) == InFlight("one")
    assert lost("nothing") == before + 1


async def test_a_claim_is_given_back_by_its_holder_alone(one: Marks, two: Marks) -> None:
    task = a_task()
    await one.claim(task)
    await two.release(task)
    assert await two.claim(task) == InFlight("one")
    await one.release(task)
    assert await two.claim(task) == Claimed()


async def test_no_verdict_is_given_back_with_a_claim(one: Marks) -> None:
    task, verdict = a_task(), verdict_of(503)
    await one.tell(task, verdict)
    await one.release(task)
    assert await one.claim(task) == Told(verdict)


# --- cancels


async def test_a_cancel_outlives_the_longest_rung_that_may_be_set(one: Marks, two: Marks, redis: Redis) -> None:
    task = a_task(attempt=2)
    assert await one.cancel(task.id, task.generation) == "cancelled"
    assert await redis.ttl(cancel_key(task)) > settings._DELAY_S_MAX + 12 * 3600
    assert await two.claim(task) == Cancelled()


# --- looks


async def test_a_look_says_what_a_claim_would_and_claims_nothing(one: Marks, two: Marks, redis: Redis) -> None:
    free, called, told, settled, cancelled, succeeded = (a_task(attempt=3) for _ in range(6))
    verdict = verdict_of(503, 3)
    await one.claim(called)
    await one.tell(told, verdict)
    await one.settle(settled, verdict, 60)
    await one.cancel(cancelled.id, cancelled.generation)
    await one.settle(a_task(id=succeeded.id, attempt=2), verdict_of(200, 2), 60)
    before, was_away = await redis.dbsize(), away("look")
    looks = [await two.look(task) for task in (free, called, told, settled, cancelled, succeeded)]
    assert looks == [None, InFlight("one"), Told(verdict), Settled(), Cancelled(), Settled()]
    assert (await redis.dbsize(), away("look")) == (before, was_away)


# --- verdicts and ends


@pytest.mark.parametrize("verdict", [verdict_of(200), verdict_of(503), verdict_of(410), Expire(NOW)])
async def test_a_verdict_is_told_again_to_whoever_asks(one: Marks, two: Marks, redis: Redis, verdict: Verdict) -> None:
    task = a_task()
    await one.claim(task)
    await one.tell(task, verdict)
    assert [await two.claim(task), await one.claim(task)] == [Told(verdict)] * 2
    assert await redis.ttl(attempt_key(task)) > 24 * 3600


@pytest.mark.parametrize("settled", [verdict_of(200), verdict_of(503), verdict_of(410), None])
async def test_a_late_verdict_is_not_written_over_what_another_told(
    one: Marks, two: Marks, redis: Redis, settled: Verdict | None
) -> None:
    task, others = a_task(), settled or verdict_of(200)
    await one.claim(task)
    await redis.delete(attempt_key(task))  # as it ends while its holder is frozen
    assert await two.claim(task) == Claimed()
    assert await two.tell(task, others) is None
    if settled is not None:
        await two.settle(task, settled, 60)
    stands = Told(others) if settled is None else Settled()
    mark, ttl = await redis.get(attempt_key(task)), await redis.ttl(attempt_key(task))
    assert await one.tell(task, verdict_of(503)) == stands
    assert await redis.get(attempt_key(task)) == mark
    assert await redis.ttl(attempt_key(task)) <= ttl


@pytest.mark.parametrize("claim", ["cone", "ctwo", None])
async def test_a_verdict_is_written_where_nobody_has_told_one(one: Marks, redis: Redis, claim: str | None) -> None:
    """The holder of another's claim may be dead."""
    task, verdict = a_task(), verdict_of(503)
    if claim is not None:
        await redis.set(attempt_key(task), claim, px=5_000)
    assert await one.tell(task, verdict) is None
    assert await one.claim(task) == Told(verdict)


async def test_a_settled_attempt_is_settled_for_an_hour(one: Marks, two: Marks, redis: Redis) -> None:
    task, verdict = a_task(), verdict_of(503)
    await one.tell(task, verdict)
    await one.settle(task, verdict, 7200)
    assert await two.claim(task) == Settled()
    assert 3590 < await redis.ttl(attempt_key(task)) <= 3600
    assert await two.claim(a_task(id=task.id, attempt=2)) == Claimed()


@pytest.mark.parametrize("others", [verdict_of(503), verdict_of(410)])
async def test_a_late_success_of_a_first_attempt_stops_what_anothers_verdict_has_sent_on(
    one: Marks, two: Marks, redis: Redis, others: Verdict
) -> None:
    task = a_task()
    await two.tell(task, others)
    await two.settle(task, others, 60)
    late = verdict_of(200)
    assert await one.tell(task, late) == Settled()
    assert not await redis.exists(success_key(task)), "a crash here must not leave it untold"
    await one.settle(task, late, 60)
    assert await two.claim(a_task(id=task.id, attempt=2)) == Settled()


async def test_a_success_of_a_first_attempt_alone_needs_no_mark_of_its_own(one: Marks, redis: Redis) -> None:
    task, verdict = a_task(), verdict_of(200)
    await one.claim(task)
    await one.tell(task, verdict)
    await one.settle(task, verdict, 60)
    assert not await redis.exists(success_key(task))


async def test_a_success_stops_the_later_attempts_of_a_fork(one: Marks, two: Marks) -> None:
    task = a_task(attempt=2)
    await one.settle(task, verdict_of(200, 2), 7200)
    for attempt in (1, 3, 7):
        assert await two.claim(a_task(id=task.id, attempt=attempt)) == Settled()
    assert await two.claim(a_task(id=task.id, attempt=1, generation=2)) == Claimed()


@pytest.mark.parametrize(("wait_s", "seconds"), [(0.0, 3600), (7200.0, 10_800), (86_400.0, 90_000), (1e6, 90_000)])
async def test_a_success_is_remembered_as_long_as_a_fork_may_wait(
    one: Marks, redis: Redis, wait_s: float, seconds: int
) -> None:
    task = a_task(attempt=2)
    await one.settle(task, verdict_of(200, 2), wait_s)
    assert seconds - 10 < await redis.ttl(success_key(task)) <= seconds


@pytest.mark.parametrize("status", [503, 410])
async def test_only_a_success_is_remembered(one: Marks, redis: Redis, status: int) -> None:
    task = a_task(attempt=2)
    await one.settle(task, verdict_of(status, 2), 7200)
    assert not await redis.exists(success_key(task))


async def test_a_verdict_is_heard_of_although_another_attempt_succeeded(one: Marks, two: Marks) -> None:
    verdict = verdict_of(503, 2)
    task = a_task(attempt=2)
    await one.tell(task, verdict)
    await one.settle(a_task(id=task.id, attempt=3), verdict_of(200, 3), 7200)
    assert await two.claim(task) == Told(verdict)


async def test_every_mark_ends_by_itself(one: Marks, redis: Redis) -> None:
    task = a_task(attempt=2)
    await one.claim(task)
    await one.claim(a_task())
    await one.tell(a_task(), verdict_of(200))
    await one.settle(task, verdict_of(200, 2), 7200)
    keys = await redis.keys("*")
    assert len(keys) == 4
    assert all([await redis.ttl(key) > 0 for key in keys])
    assert await redis.keys("carillon:dispatcher:*") == keys


async def test_the_scripts_are_loaded_again_into_a_redis_that_forgot_them(one: Marks, redis: Redis) -> None:
    await one.claim(a_task())
    await redis.script_flush()
    before = away("claim")
    assert await one.claim(a_task()) == Claimed()
    task = a_task()
    await one.claim(task)
    await one.release(task)
    assert await one.claim(task) == Claimed()
    assert away("claim") == before


# --- Redis away


async def test_a_dead_redis_grants_every_claim_at_once_and_a_new_one_is_used_again(own: OwnRedis) -> None:
    await own.start()
    task = a_task()
    async with a_replica(own.url) as marks:
        await marks.claim(task)
        own.send(signal.SIGKILL)
        assert own.process is not None
        own.process.wait()
        claims, verdicts, dones, begun = away("claim"), away("verdict"), away("done"), time.monotonic()
        assert await asyncio.gather(*(marks.claim(task) for _ in range(50))) == [Claimed()] * 50
        await marks.tell(task, verdict_of(200))
        await marks.settle(task, verdict_of(200), 60)
        await marks.release(task)
        assert time.monotonic() - begun < 1
        assert (away("claim"), away("verdict"), away("done")) == (claims + 50, verdicts + 1, dones + 1)

        await own.start()
        assert await marks.claim(task) == Claimed()
        assert await marks.claim(task) == InFlight("one")


async def test_a_claim_without_redis_is_written_when_it_is_back(own: OwnRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks_module, "RENEW_EVERY_S", 0.0)
    task = a_task()
    async with a_replica(own.url) as marks, a_replica(own.url, "two") as other:
        assert await marks.claim(task) == Claimed()
        before = away("renew")
        await marks.renew()
        assert away("renew") == before + 1
        await own.start()
        await marks.renew()
        assert await other.claim(task) == InFlight("one")


@pytest.mark.parametrize("was_asked", [False, True])
async def test_a_process_that_stood_still_while_it_asked_asks_again(
    one: Marks, two: Marks, monkeypatch: pytest.MonkeyPatch, was_asked: bool
) -> None:
    """Its time limit is over before it looks at the answer: else it would call as if Redis were away."""
    monkeypatch.setattr(marks_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(marks_module, "STOOD_STILL_S", 0.3)
    monkeypatch.setattr(marks_module, "SILENT_S", 0.1)
    ask, cancelled, mine = one._write_script, a_task(), a_task()

    async def stands_still(keys: list[str], arguments: list[bytes]) -> object:
        monkeypatch.setattr(one, "_write_script", ask)
        if was_asked:
            await ask(keys, arguments)
        else:
            await two.cancel(cancelled.id, cancelled.generation)
        time.sleep(0.4)  # noqa: ASYNC251  the whole process
        await asyncio.sleep(1)
        raise AssertionError("the time limit had passed before")

    monkeypatch.setattr(one, "_write_script", stands_still)
    if was_asked:
        assert await one.claim(mine) == Claimed(), "it had its claim"
        assert await two.claim(mine) == InFlight("one")
    else:
        assert await one.claim(cancelled) == Cancelled(), "others went on"


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_connection_that_dies_silently_silences_no_other(
    one: Marks, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """The other is answered before the silent one has reached its time limit, or just after that."""
    ask, asked, answer_it = one._write_script, asyncio.Event(), asyncio.Event()

    async def silent(_keys: list[str], _arguments: list[bytes]) -> object:
        monkeypatch.setattr(one, "_write_script", late)
        asked.set()
        return await asyncio.Event().wait()

    async def late(keys: list[str], arguments: list[bytes]) -> object:
        monkeypatch.setattr(one, "_write_script", ask)
        await answer_it.wait()
        return await ask(keys, arguments)

    monkeypatch.setattr(one, "_write_script", silent)
    task = a_task()
    dead = asyncio.create_task(one.claim(a_task()))
    await asyncio.wait_for(asked.wait(), 1)
    if is_late:
        await asyncio.sleep(1.0)  # so that its own time limit comes after that of the first
    alive = asyncio.create_task(one.claim(task))
    if is_late:
        assert await dead == Claimed()
    answer_it.set()
    assert await alive == Claimed()
    assert await dead == Claimed()
    assert await one.claim(task) == InFlight("one"), "it was granted without asking"


async def test_a_redis_that_is_lost_is_told_once_with_the_reason_and_so_is_its_return(own: OwnRedis) -> None:
    with capture_logs() as logs:
        async with a_replica(own.url) as marks:
            for _ in range(2):
                await marks.claim(a_task())
            assert [entry["event"] for entry in logs] == ["redis.lost"]
            assert str(own.port) in logs[0]["reason"]
            await own.start()
            for _ in range(2):
                await marks.claim(a_task())
    assert [entry["event"] for entry in logs] == ["redis.lost", "redis.recovered"]


async def test_a_frozen_redis_grants_claims_within_its_time_limit_however_many_wait(
    own: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "ANSWER_S", 1.0)
    monkeypatch.setattr(marks_module, "STOOD_STILL_S", 60.0)  # as a busy machine makes this process do
    await own.start()
    async with a_replica(own.url) as marks:
        await marks.claim(a_task())
        own.send(signal.SIGSTOP)
        before, begun = away("claim"), time.monotonic()

        async def claimed_later(after_s: float) -> float:
            await asyncio.sleep(after_s)  # as they come: spread, not in one batch
            asked = time.monotonic()
            assert await marks.claim(a_task()) == Claimed()
            return time.monotonic() - asked

        waits_s = await asyncio.gather(*(claimed_later(n / 200) for n in range(200)))
        assert max(waits_s) < 2.6
        assert time.monotonic() - begun < 3.6
        assert away("claim") == before + 200
        begun = time.monotonic()
        for _ in range(20):  # one wait is enough to know
            assert await marks.claim(a_task()) == Claimed()
        assert time.monotonic() - begun < 2.6
        own.send(signal.SIGCONT)

        async def is_so() -> bool:
            task = a_task()
            return [await marks.claim(task), await marks.claim(task)] == [Claimed(), InFlight("one")]

        await until("marks again after the thaw", is_so)


@pytest.mark.parametrize(
    "command",
    [
        "CONFIG SET maxmemory 1",
        "CONFIG SET requirepass changed",
        "REPLICAOF 127.0.0.1 1",
        "ACL SETUSER default -@all +config +acl",
        "CONFIG SET min-replicas-to-write 3",
    ],
)
async def test_a_redis_that_says_no_counts_as_away(own: OwnRedis, command: str) -> None:
    await own.start()
    async with a_replica(own.url) as marks, a_replica(own.url, "operator") as operator:
        await operator._redis.execute_command(*command.split())  # type: ignore[no-untyped-call]
        if "requirepass" in command:
            await marks._redis.connection_pool.disconnect()
        before = away("claim"), away("verdict"), away("done"), away("release")
        task = a_task()
        assert await marks.claim(task) == Claimed()
        await marks.tell(task, verdict_of(200))
        await marks.settle(task, verdict_of(200), 60)
        await marks.release(task)
        assert (away("claim"), away("verdict"), away("done")) == tuple(count + 1 for count in before[:3])


async def test_a_task_cancelled_while_it_claims_disturbs_no_other(one: Marks) -> None:
    tasks = [a_task() for _ in range(100)]
    asking = [asyncio.create_task(one.claim(task)) for task in tasks]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    assert await asyncio.gather(*asking[1::2]) == [Claimed()] * 50
    await asyncio.gather(*asking, return_exceptions=True)

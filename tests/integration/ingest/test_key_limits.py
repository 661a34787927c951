"""The rate limit of a key in a real Redis, shared by replicas."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from libs.common.clock import SystemClock
from libs.common.redis import redis_client
from services.ingest import key_limits
from services.ingest.key_limits import PREFIX, Allowance, KeyLimits, Limit
from tests.integration.rig import metric
from tests.unit.ingest.key_samples import HandClock

AWAY = "carillon_ingest_key_limits_away_total"


@pytest.fixture(autouse=True)
def _redis_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_limits, "ANSWER_S", 10.0)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_client(redis_url)
    yield client
    await client.aclose()


async def taken(limits: KeyLimits, count: int, limit: Limit, key_id: str = "one") -> list[Allowance]:
    allowances = [await limits.take(key_id, limit) for _ in range(count)]
    return [allowance for allowance in allowances if allowance is not None]


async def test_a_burst_is_let_in_and_counted_down_then_each_waits_for_the_next(redis: Redis) -> None:
    allowances = await taken(KeyLimits(redis, SystemClock()), 6, Limit(0.1, 4))
    assert [allowance.wait_s == 0 for allowance in allowances] == [True] * 4 + [False] * 2
    assert [allowance.left for allowance in allowances] == [3, 2, 1, 0, 0, 0]
    for allowance in allowances[4:]:
        assert 5 < allowance.wait_s <= 10
    assert 5 < allowances[3].next_s <= 10, "the last one is told when there is one again"


async def test_who_waits_as_told_is_let_in_and_who_does_not_waits_no_longer_for_it(redis: Redis) -> None:
    limits, limit = KeyLimits(redis, SystemClock()), Limit(2, 2)
    *_, refused = [allowance for allowance in await taken(limits, 10, limit) if allowance.wait_s]
    assert 0 < refused.wait_s <= 0.5
    await asyncio.sleep(refused.wait_s + 0.01)
    [let_in] = await taken(limits, 1, limit)
    assert let_in.wait_s == 0


async def test_the_pace_is_kept_by_all_replicas_together(redis: Redis, redis_url: str) -> None:
    other, limit = redis_client(redis_url), Limit(20, 20)
    let_in, begun = 0, time.monotonic()

    async def client(limits: KeyLimits) -> None:
        nonlocal let_in
        while time.monotonic() - begun < 1.5:
            [allowance] = await taken(limits, 1, limit)
            let_in += allowance.wait_s == 0
            await asyncio.sleep(0.002)

    await asyncio.gather(*(client(KeyLimits(each, SystemClock())) for each in (redis, other)))
    took_s = time.monotonic() - begun
    await other.aclose()
    assert 20 + 20 * 1.5 - 2 <= let_in <= 20 + 20 * took_s + 1


async def test_keys_do_not_share_a_limit_and_it_is_forgotten_when_it_is_full(redis: Redis) -> None:
    limits = KeyLimits(redis, SystemClock())
    for key_id in ("one", "two"):
        [allowance] = await taken(limits, 1, Limit(0.1, 4), key_id)
        assert allowance.left == 3
    assert sorted(await redis.keys()) == [f"{PREFIX}limit:one".encode(), f"{PREFIX}limit:two".encode()]
    assert 0 < await redis.pttl(f"{PREFIX}limit:one") <= 10_000


async def test_without_redis_nobody_is_limited_and_it_is_counted() -> None:
    limits, before = KeyLimits(redis_client("redis://127.0.0.1:1/0"), SystemClock()), metric(AWAY)
    assert await taken(limits, 5, Limit(0.1, 1)) == []
    assert metric(AWAY) - before == 5


async def test_a_redis_that_fell_silent_costs_one_request_a_moment(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = HandClock(), 0
    limits = KeyLimits(redis, clock)
    ask = limits._script

    async def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return await ask(*args)

    limits._script = counted  # type: ignore[assignment]
    monkeypatch.setattr(key_limits, "ANSWER_S", 0.25)
    await redis.client_pause(timeout=1000)
    assert await taken(limits, 50, Limit(0.1, 1)) == []
    assert asked == 1, "each waited"
    await redis.client_unpause()
    monkeypatch.setattr(key_limits, "ANSWER_S", 10.0)
    clock.passed_s = 2
    assert len(await taken(limits, 1, Limit(0.1, 1))) == 1

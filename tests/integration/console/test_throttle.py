"""How often a password may be tried, counted in a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from libs.common.redis import redis_client
from services.ingest.console import throttle
from services.ingest.console.throttle import PER_ADDRESS, PREFIX, WAIT_FIRST_S, WAIT_MAX_S, Throttle

HERE, THERE = "203.0.113.9", "198.51.100.1"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are longer than a slow machine needs for the next try."""
    monkeypatch.setattr(throttle, "WAIT_FIRST_S", 100)
    monkeypatch.setattr(throttle, "WAIT_MAX_S", 30_000)


def rounded(told: list[float]) -> list[int]:
    """In units of the first wait."""
    return [round(wait / 100) for wait in told]


def test_the_first_wait_is_a_second_and_the_longest_five_minutes() -> None:
    assert (WAIT_FIRST_S, WAIT_MAX_S) == (1, 300)


async def let_in_again(redis: Redis) -> None:
    """As if the account's wait were over; its tries stay counted."""
    async for key in redis.scan_iter(f"{PREFIX}account:*"):
        await redis.hset(key, "from", 0)


async def waits(redis: Redis, tries: int, name: str = "ann", address: str = HERE) -> list[float]:
    """What each of so many tries in a row has to wait for, once it is over for the one before."""
    told = []
    for _ in range(tries):
        assert await Throttle(redis).attempt(name, address) == 0
        told.append(await Throttle(redis).attempt(name, address))
        await let_in_again(redis)
    return told


async def test_the_wait_doubles_up_to_the_longest(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "PER_ADDRESS", 1000)
    told = await waits(redis, 11)
    assert rounded(told) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_a_try_that_has_to_wait_makes_the_wait_no_longer(redis: Redis) -> None:
    each = Throttle(redis)
    await each.attempt("ann", HERE)
    told = [await each.attempt("ann", HERE) for _ in range(20)]
    assert 0 < max(told) <= 100
    assert await each.attempt("bob", HERE) == 0, "nor does it count for the address"


async def test_who_waits_as_told_is_let_in(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "WAIT_FIRST_S", 0.1)
    each = Throttle(redis)
    await each.attempt("ann", HERE)
    await asyncio.sleep(await each.attempt("ann", HERE) + 0.01)
    assert await each.attempt("ann", HERE) == 0


async def test_of_many_tries_at_once_one_is_looked_at(redis: Redis) -> None:
    """On every replica together: each counts before it looks."""
    told = await asyncio.gather(*(Throttle(redis).attempt("ann", HERE) for _ in range(20)))
    assert sum(wait == 0 for wait in told) == 1


async def test_a_success_forgets_the_failures_before_it(redis: Redis) -> None:
    await waits(redis, 3)
    each = Throttle(redis)
    await each.attempt("ann", HERE)
    await each.succeeded("ann", HERE)
    assert rounded(await waits(redis, 2)) == [1, 2]


async def test_failures_are_forgotten_after_a_quarter_of_an_hour(redis: Redis) -> None:
    await waits(redis, 1)
    async for key in redis.scan_iter(f"{PREFIX}account:*"):
        assert 800 < await redis.ttl(key) <= 900
    async for key in redis.scan_iter(f"{PREFIX}address:*"):
        assert 200 < await redis.ttl(key) <= 300


async def test_an_address_has_twenty_failures_in_five_minutes_whoever_it_tries(redis: Redis) -> None:
    each = Throttle(redis)
    assert [await each.attempt(f"user-{number}", HERE) for number in range(PER_ADDRESS)] == [0] * PER_ADDRESS
    assert 200 < await each.attempt("another", HERE) <= 300
    assert await each.attempt("another", THERE) == 0


async def test_successes_do_not_count_for_the_address(redis: Redis) -> None:
    each = Throttle(redis)
    for number in range(3 * PER_ADDRESS):
        assert await each.attempt(f"user-{number}", HERE) == 0
        await each.succeeded(f"user-{number}", HERE)


async def test_who_guesses_from_elsewhere_does_not_lock_out_who_has_been_in_from_here(redis: Redis) -> None:
    each = Throttle(redis)
    assert await each.attempt("ann", HERE) == 0
    await each.succeeded("ann", HERE)
    assert await each.attempt("ann", THERE) == 0
    assert await each.attempt("ann", THERE) > 0
    assert await each.attempt("ann", HERE) == 0, "here she has tries of her own"
    assert await each.attempt("ann", HERE) > 0, "and waits between them as anybody does"


async def test_no_name_and_no_password_is_in_redis(redis: Redis) -> None:
    await Throttle(redis).attempt("ann", HERE)
    await Throttle(redis).succeeded("ann", HERE)
    keys = [key.decode() async for key in redis.scan_iter()]
    assert keys
    assert not [key for key in keys if "ann" in key]


async def test_nothing_stays_for_ever(redis: Redis) -> None:
    await waits(redis, 2)
    await Throttle(redis).succeeded("ann", HERE)
    begun = time.monotonic()
    ttls = {key: await redis.ttl(key) async for key in redis.scan_iter()}
    assert ttls
    assert min(ttls.values()) > 0, (ttls, begun)

"""Which connections are kept, which are given out, which are closed."""

from dataclasses import dataclass

import pytest

from services.dispatcher.http import pool as pools
from services.dispatcher.http.pool import IDLE_MAX_S, Pool
from services.dispatcher.http.target import Origin
from tests.integration.rig import until

HERE, THERE = Origin(False, "here.example", 80), Origin(True, "here.example", 80)


@dataclass(eq=False)
class Kept:
    idle_since: float = 0.0
    silent: bool = True
    is_open: bool = True

    def is_silent(self) -> bool:
        return self.is_open and self.silent

    def abort(self) -> None:
        self.is_open = False


@pytest.fixture
async def pool() -> Pool:
    return Pool()


def take(pool: Pool, origin: Origin = HERE) -> object:
    return pool.take(origin)


def put(pool: Pool, *kept: Kept, origin: Origin = HERE) -> None:
    for one in kept:
        pool.put(origin, one)  # type: ignore[arg-type]


async def test_the_latest_comes_back_first_and_only_to_its_origin(pool: Pool) -> None:
    first, second, other = Kept(), Kept(), Kept()
    put(pool, first, second)
    put(pool, other, origin=THERE)
    assert [take(pool) for _ in range(3)] == [second, first, None]
    assert take(pool, THERE) is other


async def test_one_that_has_something_to_say_is_closed_and_the_next_taken(pool: Pool) -> None:
    good, ended, talks = Kept(), Kept(is_open=False), Kept(silent=False)
    put(pool, good, ended, talks)
    assert take(pool) is good
    assert not talks.is_open


async def test_one_that_has_waited_too_long_is_closed(pool: Pool) -> None:
    old = Kept()
    put(pool, old)
    old.idle_since -= IDLE_MAX_S
    assert take(pool) is None
    assert not old.is_open


async def test_what_nobody_takes_is_closed_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "IDLE_MAX_S", 0.05)
    monkeypatch.setattr(pools, "IDLE_MAX", 2)
    pool, one, two = Pool(), Kept(), Kept()
    put(pool, one)
    put(pool, two, origin=THERE)
    await until("both to be closed", lambda: not (one.is_open or two.is_open), within_s=2)
    await until("nothing to be swept any more", lambda: pool._sweeping is None, within_s=2)
    assert not pool._idle
    third, fourth = Kept(), Kept()
    put(pool, third, fourth)
    assert third.is_open
    assert fourth.is_open
    pool.close()


async def test_one_too_many_is_closed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "IDLE_MAX", 2)
    kept = [Kept() for _ in range(3)]
    put(pool, *kept)
    assert [one.is_open for one in kept] == [True, True, False]
    assert take(pool) is kept[1]
    put(pool, kept[1])
    assert kept[1].is_open


async def test_closing_it_closes_all(pool: Pool) -> None:
    one, two = Kept(), Kept()
    put(pool, one)
    put(pool, two, origin=THERE)
    pool.close()
    assert [one.is_open, two.is_open] == [False, False]
    assert take(pool) is None

"""When a run begins, with a clock that the test moves and a queue of five lines."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from services.mailer.collect import Interrupted, Occupied
from services.mailer.runs import HALF_FULL_MESSAGES, Runs
from services.mailer.schedule import Schedule


class HandClock:
    def __init__(self) -> None:
        self.at = datetime(2027, 1, 1, 7, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


class FakeFallback:
    def __init__(self) -> None:
        self.count = 1
        self.runs: list[int] = []
        self.error: Exception | None = None

    async def waiting(self) -> int:
        return self.count

    async def collect(self, messages_max: int, stopping: asyncio.Event) -> int:
        self.runs.append(messages_max)
        if self.error is not None:
            raise self.error
        return 1


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def fallback() -> FakeFallback:
    return FakeFallback()


@pytest.fixture
def runs(fallback: FakeFallback, clock: HandClock) -> Runs:
    return Runs(fallback, Schedule("0 8 * * *", "UTC"), clock)


async def test_nothing_is_collected_before_its_time(runs: Runs, fallback: FakeFallback) -> None:
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == []


async def test_runs_missed_while_asleep_are_one(runs: Runs, fallback: FakeFallback, clock: HandClock) -> None:
    clock.at += timedelta(days=3, hours=2)
    await runs.one_pass(asyncio.Event())
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1]
    assert runs.next_at == datetime(2027, 1, 5, 8, 0, tzinfo=UTC)


async def test_a_queue_that_is_half_full_is_collected_early(runs: Runs, fallback: FakeFallback) -> None:
    fallback.count = HALF_FULL_MESSAGES + 1
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [2049]
    assert runs.next_at == datetime(2027, 1, 1, 8, 0, tzinfo=UTC)


async def test_nothing_waiting_starts_no_run(runs: Runs, fallback: FakeFallback, clock: HandClock) -> None:
    fallback.count = 0
    clock.at += timedelta(hours=1)
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == []
    assert runs.next_at == datetime(2027, 1, 2, 8, 0, tzinfo=UTC)


async def test_a_run_that_another_replica_makes_is_left_to_it(
    runs: Runs, fallback: FakeFallback, clock: HandClock
) -> None:
    fallback.error = Occupied()
    clock.at += timedelta(hours=1)
    await runs.one_pass(asyncio.Event())
    assert runs.next_at == datetime(2027, 1, 2, 8, 0, tzinfo=UTC)


async def test_an_interrupted_run_is_still_due(runs: Runs, fallback: FakeFallback, clock: HandClock) -> None:
    fallback.error = Interrupted()
    clock.at += timedelta(hours=1)
    with pytest.raises(Interrupted):
        await runs.one_pass(asyncio.Event())
    fallback.error = None
    clock.at += timedelta(seconds=1)
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1, 1]

"""When a run begins, with a clock that the test moves and a queue of five lines."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.contracts import LastDigest
from libs.common.metrics import REGISTRY
from services.mailer.collect import Collected, Interrupted, Occupied
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
        self.memory: LastDigest | None = LastDigest(collected_at=datetime(2027, 1, 1, 6, 59, tzinfo=UTC))
        self.empty_runs = 0
        self.at_most = 1_000_000

    async def waiting(self) -> int:
        return self.count

    async def last(self) -> LastDigest | None:
        return self.memory

    async def note_empty(self) -> None:
        if isinstance(self.error, Occupied):
            raise self.error
        self.empty_runs += 1

    async def collect(self, messages_max: int, stopping: asyncio.Event) -> Collected:
        self.runs.append(messages_max)
        if self.error is not None:
            raise self.error
        taken = min(messages_max, self.count, self.at_most)
        self.count -= taken
        return Collected(taken, 1)


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
    await runs.one_pass(asyncio.Event())
    clock.at += timedelta(days=3, hours=2)
    await runs.one_pass(asyncio.Event())
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1]
    assert runs.next_at == datetime(2027, 1, 5, 8, 0, tzinfo=UTC)


async def test_runs_missed_while_the_process_was_away_are_one_at_its_start(
    fallback: FakeFallback, clock: HandClock
) -> None:
    fallback.memory = LastDigest(collected_at=clock.at - timedelta(days=3))
    runs = Runs(fallback, Schedule("0 8 * * *", "UTC"), clock)
    await runs.one_pass(asyncio.Event())
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1]
    assert runs.next_at == datetime(2027, 1, 1, 8, 0, tzinfo=UTC)


async def test_where_nobody_remembers_a_digest_nothing_was_missed(runs: Runs, fallback: FakeFallback) -> None:
    fallback.memory = None
    await runs.one_pass(asyncio.Event())
    await runs.one_pass(asyncio.Event())
    assert (fallback.runs, fallback.empty_runs) == ([], 1), "and from now on somebody does"


async def test_a_time_at_which_nothing_waits_is_remembered(
    runs: Runs, fallback: FakeFallback, clock: HandClock
) -> None:
    fallback.count = 0
    clock.at += timedelta(hours=1)
    await runs.one_pass(asyncio.Event())
    await runs.one_pass(asyncio.Event())
    assert fallback.empty_runs == 1


async def test_a_digest_now_takes_all_that_waits_and_leaves_the_schedule(runs: Runs, fallback: FakeFallback) -> None:
    fallback.count, fallback.at_most = 250, 100
    assert await runs.now(asyncio.Event()) == Collected(250, 3)
    assert fallback.runs == [250, 150, 50]
    assert runs.next_at == datetime(2027, 1, 1, 8, 0, tzinfo=UTC)


async def test_since_when_it_waits_is_known(runs: Runs, fallback: FakeFallback, clock: HandClock) -> None:
    await runs.one_pass(asyncio.Event())
    assert waiting_since() == fallback.memory.collected_at.timestamp()  # type: ignore[union-attr]
    fallback.count = 0
    await runs.one_pass(asyncio.Event())
    assert waiting_since() == 0
    fallback.count, clock.at = 3, clock.at + timedelta(minutes=1)
    await runs.one_pass(asyncio.Event())
    clock.at += timedelta(minutes=1)
    await runs.one_pass(asyncio.Event())
    assert waiting_since() == (clock.at - timedelta(minutes=1)).timestamp()


def waiting_since() -> float | None:
    return REGISTRY.get_sample_value("carillon_mailer_waiting_since_timestamp_seconds")


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
    fallback.error = None
    fallback.memory = LastDigest(collected_at=clock.at)
    clock.at += timedelta(minutes=1)
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1], "what has come since is for the next"
    assert runs.next_at == datetime(2027, 1, 2, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize("seen", [[1, 0, 0], [0, 0, 0], [1, 1, 1]], ids=["some taken", "all taken", "none taken"])
@pytest.mark.parametrize("can_see_the_memory", [True, False])
async def test_a_run_that_another_replica_began_and_did_not_end_is_made(
    runs: Runs, fallback: FakeFallback, clock: HandClock, seen: list[int], can_see_the_memory: bool
) -> None:
    before, fallback.error = fallback.memory, Occupied()
    clock.at += timedelta(hours=1)
    for count in seen:  # of what the other has not taken, while the broker holds it for alive
        fallback.count = count
        await runs.one_pass(asyncio.Event())
        fallback.memory = before if can_see_the_memory else None
        clock.at += timedelta(minutes=1)
    fallback.error, fallback.count, fallback.runs = None, 1, []
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1]
    assert fallback.count == 0
    assert runs.next_at == datetime(2027, 1, 2, 8, 0, tzinfo=UTC)


async def test_a_run_to_which_the_broker_gives_nothing_is_still_due(
    runs: Runs, fallback: FakeFallback, clock: HandClock
) -> None:
    """Frozen, or another replica began in the same milliseconds."""
    fallback.at_most = 0
    clock.at += timedelta(hours=1)
    await runs.one_pass(asyncio.Event())
    fallback.at_most = 1_000
    clock.at += timedelta(minutes=1)
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1, 1]
    assert fallback.count == 0


async def test_who_starts_while_another_collects_waits_for_its_word(fallback: FakeFallback, clock: HandClock) -> None:
    fallback.memory, fallback.error = None, Occupied()
    runs = Runs(fallback, Schedule("0 8 * * *", "UTC"), clock)
    await runs.one_pass(asyncio.Event())
    assert runs.next_at == datetime(2027, 1, 1, 8, 0, tzinfo=UTC)


async def test_what_is_left_to_another_replica_is_looked_at_again_a_minute_later(
    runs: Runs, fallback: FakeFallback, clock: HandClock
) -> None:
    fallback.error = Occupied()
    clock.at += timedelta(hours=1)
    stopping = asyncio.Event()
    running = asyncio.create_task(runs.run(stopping))
    for _ in range(1_000):  # turns of the loop enough for many passes, were there no pause between them
        await asyncio.sleep(0)
    stopping.set()
    await running
    assert fallback.runs == [1]


async def test_an_interrupted_run_is_still_due(runs: Runs, fallback: FakeFallback, clock: HandClock) -> None:
    fallback.error = Interrupted()
    clock.at += timedelta(hours=1)
    with pytest.raises(Interrupted):
        await runs.one_pass(asyncio.Event())
    fallback.error = None
    clock.at += timedelta(seconds=1)
    await runs.one_pass(asyncio.Event())
    assert fallback.runs == [1, 1]

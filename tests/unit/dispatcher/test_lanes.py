"""No host gets more than its share, and none waits for another's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from libs.common.intake import NotBegun
from services.dispatcher import lanes as lanes_module
from services.dispatcher.lanes import AWAY_MAX_S, GUESS_S, ROOM_S, Lanes


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def the_lanes(total: int, per_host: int, time: Time | None = None) -> Lanes:
    return Lanes(total, per_host, time or Time(), dice=lambda: 0.0)


async def entered(lanes: Lanes, host: str, times: int) -> None:
    for _ in range(times):
        assert await lanes.enter(host) is None


def done(lanes: Lanes, host: str) -> None:
    lanes.hang_up(host)
    lanes.leave()


@asynccontextmanager
async def waiting(lanes: Lanes, *hosts: str) -> AsyncIterator[list["asyncio.Task[float | None]"]]:
    """Tasks that have begun to wait, in this order."""
    tasks = [asyncio.create_task(lanes.enter(host)) for host in hosts]
    await turns_over()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, NotBegun):
                await task


async def turns_over() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def in_turn(tasks: list["asyncio.Task[float | None]"]) -> list[bool]:
    return [task.done() and task.result() is None for task in tasks]


async def test_a_host_has_at_most_its_calls_and_the_next_waits_for_one_to_end() -> None:
    lanes = the_lanes(10, 2)
    await entered(lanes, "a", 2)
    async with waiting(lanes, "a", "a") as tasks:
        assert in_turn(tasks) == [False, False]
        done(lanes, "a")
        await turns_over()
        assert in_turn(tasks) == [True, False]


async def test_a_full_host_keeps_nobody_else_from_calling() -> None:
    lanes = the_lanes(10, 2)
    await entered(lanes, "a", 2)
    async with waiting(lanes, "a"):
        await entered(lanes, "b", 2)
        await entered(lanes, "c", 2)


async def test_all_together_have_at_most_the_total() -> None:
    lanes = the_lanes(3, 2)
    await entered(lanes, "a", 2)
    await entered(lanes, "b", 1)
    async with waiting(lanes, "b", "c") as tasks:
        assert in_turn(tasks) == [False, False]
        done(lanes, "a")
        await turns_over()
        assert in_turn(tasks) == [True, False]
        done(lanes, "a")
        await turns_over()
        assert in_turn(tasks) == [True, True]


async def test_a_call_that_has_ended_frees_its_host_and_what_followed_it_the_total() -> None:
    lanes = the_lanes(2, 1)
    await entered(lanes, "a", 1)
    lanes.note("a", GUESS_S)
    async with waiting(lanes, "a", "b", "c") as tasks:
        assert in_turn(tasks) == [False, True, False]
        lanes.hang_up("a")
        await turns_over()
        assert in_turn(tasks) == [False, True, False]
        lanes.leave()
        await turns_over()
        assert in_turn(tasks) == [True, True, False]


async def test_a_host_that_has_hung_up_may_be_called_while_the_outcome_is_told() -> None:
    lanes = the_lanes(2, 1)
    await entered(lanes, "a", 1)
    async with waiting(lanes, "a") as tasks:
        lanes.hang_up("a")
        await turns_over()
        assert in_turn(tasks) == [True]


async def test_hosts_that_wait_for_the_total_take_turns() -> None:
    lanes = the_lanes(2, 2)
    await entered(lanes, "a", 2)
    async with waiting(lanes, "a", "a", "a", "b", "c") as tasks:
        for _ in range(2):
            done(lanes, "a")
            await turns_over()
        assert in_turn(tasks) == [True, False, False, True, False]
        done(lanes, "a")
        await turns_over()
        assert in_turn(tasks) == [True, False, False, True, True]


async def test_who_waits_only_for_the_total_is_never_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "STAY_S", 0.01)
    lanes = the_lanes(1, 1)
    await entered(lanes, "a", 1)
    async with waiting(lanes, "b") as tasks:
        await asyncio.sleep(0.05)
        assert not tasks[0].done()
        done(lanes, "a")
        assert await tasks[0] is None


async def test_who_would_wait_long_is_sent_away_until_its_turn_is_likely() -> None:
    lanes = the_lanes(10, 2)
    lanes_of_a = 2
    await entered(lanes, "a", lanes_of_a)
    for _ in range(60):
        lanes.note("a", 4.0)  # a call takes four seconds, so there is a turn each two
    aways = [await lanes.enter("a") for _ in range(4)]
    assert aways == pytest.approx([2.0, 4.0, 6.0, 8.0], rel=0.01)


async def test_few_wait_for_a_host_that_has_answered_nobody_yet() -> None:
    lanes = the_lanes(100, 4)
    await entered(lanes, "a", 4)
    async with waiting(lanes, "a", "a") as tasks:
        assert await lanes.enter("a") is not None
        assert not any(task.done() for task in tasks)
        lanes.note("a", 0.01)
        async with waiting(lanes, "a") as another:
            assert not another[0].done()


async def test_who_comes_while_some_wait_here_is_told_a_time_after_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "ROOM_S", 2 * GUESS_S)
    lanes = the_lanes(10, 1)
    await entered(lanes, "a", 1)
    lanes.note("a", GUESS_S)
    async with waiting(lanes, "a", "a") as tasks:
        assert not any(task.done() for task in tasks)
        assert await lanes.enter("a") == pytest.approx(3 * GUESS_S)


async def test_a_host_that_does_not_move_is_no_faster_than_that() -> None:
    time = Time()
    lanes = the_lanes(10, 2, time)
    await entered(lanes, "a", 2)
    time.now += 8.0
    assert await lanes.enter("a") == pytest.approx(8.0 / 2)


async def test_nobody_is_sent_away_for_more_than_five_minutes_nor_all_to_one_instant() -> None:
    time, chances = Time(), iter([0.0, 0.5, 0.9])
    lanes = Lanes(10, 1, time, dice=lambda: next(chances))
    await entered(lanes, "a", 1)
    time.now += 400.0
    aways = [await lanes.enter("a") for _ in range(3)]
    assert aways == pytest.approx([AWAY_MAX_S / 2, AWAY_MAX_S * 0.75, AWAY_MAX_S * 0.95])


async def test_who_has_waited_here_in_vain_goes_away_and_its_place_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "STAY_S", 0.02)
    lanes = the_lanes(10, 1)
    await entered(lanes, "a", 1)
    async with waiting(lanes, "a") as tasks:
        away_s = await asyncio.wait_for(tasks[0], 1)
        assert away_s is not None
        assert away_s > 0
    done(lanes, "a")
    await entered(lanes, "a", 1)


async def test_a_cancelled_one_gives_its_turn_to_the_next() -> None:
    lanes = the_lanes(10, 1)
    await entered(lanes, "a", 1)
    lanes.note("a", GUESS_S)
    async with waiting(lanes, "a", "a") as tasks:
        tasks[0].cancel()
        await turns_over()
        done(lanes, "a")
        await turns_over()
        assert tasks[0].cancelled()
        assert in_turn(tasks[1:]) == [True]


async def test_one_that_is_cancelled_with_its_turn_just_given_gives_it_on() -> None:
    lanes = the_lanes(10, 1)
    await entered(lanes, "a", 1)
    lanes.note("a", GUESS_S)
    async with waiting(lanes, "a", "a") as tasks:
        done(lanes, "a")  # the turn is given, and the task has not yet run
        tasks[0].cancel()
        await turns_over()
        assert tasks[0].cancelled()
        assert in_turn(tasks[1:]) == [True]


async def test_a_short_wait_is_waited_here() -> None:
    lanes = the_lanes(10, 1)
    await entered(lanes, "a", 1)
    assert ROOM_S >= GUESS_S
    async with waiting(lanes, "a") as tasks:
        assert not tasks[0].done()


async def test_hosts_that_rest_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "LANES_MAX", 10)
    lanes = the_lanes(100, 2)
    await entered(lanes, "busy", 1)
    for n in range(50):
        await entered(lanes, f"host-{n}", 1)
        done(lanes, f"host-{n}")
    assert len(lanes._lanes) <= 10
    assert "busy" in lanes._lanes


async def test_asked_to_stop_it_gives_no_more_turns() -> None:
    lanes, stopping = the_lanes(10, 1), asyncio.Event()
    await entered(lanes, "a", 1)
    run = asyncio.create_task(lanes.run(stopping))
    async with waiting(lanes, "a") as tasks:
        stopping.set()
        await run
        with pytest.raises(NotBegun):
            await tasks[0]
        done(lanes, "a")
        with pytest.raises(NotBegun):
            await lanes.enter("a")

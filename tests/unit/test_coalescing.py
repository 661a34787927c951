"""Calls that wait at the same time travel together, and each gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from libs.common.coalescing import Coalescer

NEVER_S = 3600.0
"""A linger that no test waits for: what leaves, left for another reason."""


class Flush:
    """Notes the batches; holds them while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self._begun = asyncio.Condition()

    async def has_begun(self, batches: int) -> None:
        async with self._begun:
            await self._begun.wait_for(lambda: len(self.batches) >= batches)

    async def __call__(self, items: list[int]) -> Sequence[int | BaseException]:
        async with self._begun:
            self.batches.append(items)
            self._begun.notify_all()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [ValueError(item) if item < 0 else item * 10 for item in items]


async def turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_idle_one_goes_at_once() -> None:
    flush = Flush()
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    assert await asyncio.wait_for(lane.submit(1), 1) == 10
    assert await asyncio.wait_for(lane.submit(2), 1) == 20
    assert flush.batches == [[1], [2]]


async def test_those_that_are_ready_in_the_same_turn_travel_together() -> None:
    flush = Flush()
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    assert await asyncio.gather(*(lane.submit(item) for item in range(50))) == [item * 10 for item in range(50)]
    assert flush.batches == [list(range(50))]


async def test_what_arrives_on_the_way_leaves_together_when_the_first_returns() -> None:
    flush = Flush()
    flush.gate.clear()
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    first = asyncio.create_task(lane.submit(1))
    await turns()
    later = [asyncio.create_task(lane.submit(item)) for item in (2, 3)]
    await turns()
    assert flush.batches == [[1]]
    flush.gate.set()
    assert await asyncio.wait_for(asyncio.gather(first, *later), 1) == [10, 20, 30]
    assert flush.batches == [[1], [2, 3]]


async def test_a_slow_one_on_the_way_delays_the_next_by_the_linger_only() -> None:
    flush = Flush()
    flush.gate.clear()
    lane = Coalescer(flush, items_max=100, linger_s=0.01)
    waiting = [asyncio.create_task(lane.submit(1))]
    await turns()
    waiting.append(asyncio.create_task(lane.submit(2)))
    async with asyncio.timeout(1):
        await flush.has_begun(2)
    flush.gate.set()
    assert await asyncio.gather(*waiting) == [10, 20]


async def test_a_full_batch_does_not_wait_for_the_one_on_the_way() -> None:
    flush = Flush()
    flush.gate.clear()
    lane = Coalescer(flush, items_max=3, linger_s=NEVER_S)
    submitted = [asyncio.create_task(lane.submit(item)) for item in range(8)]
    await turns()
    assert flush.batches == [[0, 1, 2], [3, 4, 5]]
    flush.gate.set()
    assert await asyncio.wait_for(asyncio.gather(*submitted), 1) == [item * 10 for item in range(8)]
    assert flush.batches[2:] == [[6, 7]]


async def test_no_batch_weighs_more_than_the_limit_unless_it_is_one_item() -> None:
    flush = Flush()
    lane = Coalescer(flush, items_max=100, weigh=lambda item: item, weight_max=10, linger_s=NEVER_S)
    weights = [4, 4, 4, 25, 1, 9, 9, 2]
    assert await asyncio.wait_for(asyncio.gather(*map(lane.submit, weights)), 1) == [item * 10 for item in weights]
    assert flush.batches == [[4, 4], [4], [25], [1, 9], [9], [2]]


async def test_each_caller_gets_its_own_error() -> None:
    lane = Coalescer(Flush(), items_max=100, linger_s=NEVER_S)
    good, bad = await asyncio.gather(lane.submit(1), lane.submit(-2), return_exceptions=True)
    assert good == 10
    assert isinstance(bad, ValueError)
    assert bad.args == (-2,)


async def test_an_error_of_the_whole_batch_reaches_every_caller_and_the_next_batch_goes() -> None:
    flush = Flush()
    flush.error = RuntimeError("broken")
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    results = await asyncio.wait_for(
        asyncio.gather(lane.submit(1), lane.submit(2), return_exceptions=True), 1
    )  # fmt: skip
    assert [str(result) for result in results] == ["broken", "broken"]
    flush.error = None
    assert await asyncio.wait_for(lane.submit(3), 1) == 30


async def test_a_flush_that_forgets_an_answer_leaves_no_caller_waiting() -> None:
    async def forgetful(items: list[int]) -> list[int]:
        return items[1:]

    lane: Coalescer[int, int] = Coalescer(forgetful, items_max=100, linger_s=NEVER_S)
    submitted = asyncio.gather(lane.submit(1), lane.submit(2), return_exceptions=True)
    assert [type(result) for result in await asyncio.wait_for(submitted, 1)] == [ValueError, ValueError]


async def test_a_caller_cancelled_before_the_departure_takes_its_item_out() -> None:
    flush = Flush()
    flush.gate.clear()
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    first = asyncio.create_task(lane.submit(1))
    await turns()
    second, third = (asyncio.create_task(lane.submit(item)) for item in (2, 3))
    await turns()
    second.cancel()
    await turns()
    flush.gate.set()
    assert list(await asyncio.wait_for(asyncio.gather(first, third), 1)) == [10, 30]
    assert second.cancelled()
    assert flush.batches == [[1], [3]]


async def test_a_caller_cancelled_on_the_way_disturbs_no_other() -> None:
    flush = Flush()
    flush.gate.clear()
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    first, second = (asyncio.create_task(lane.submit(item)) for item in (1, 2))
    await turns()
    assert flush.batches == [[1, 2]]
    first.cancel()
    await turns()
    flush.gate.set()
    assert await asyncio.wait_for(second, 1) == 20
    assert first.cancelled()
    assert await asyncio.wait_for(lane.submit(3), 1) == 30


async def test_when_all_who_waited_were_cancelled_nothing_leaves_and_the_next_goes_at_once() -> None:
    flush = Flush()
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    gone = asyncio.create_task(lane.submit(1))
    await asyncio.sleep(0)
    gone.cancel()
    await turns()
    assert flush.batches == []
    assert await asyncio.wait_for(lane.submit(2), 1) == 20


async def test_nothing_is_lost_and_no_answer_mixed_up_in_a_crowd() -> None:
    async def flush(items: list[int]) -> list[int]:
        await asyncio.sleep(0.001 * (items[0] % 3))
        return [item * 10 for item in items]

    lane = Coalescer(flush, items_max=7, linger_s=0.001)

    async def caller(number: int) -> None:
        for step in range(20):
            item = number * 1000 + step
            assert await lane.submit(item) == item * 10

    async with asyncio.timeout(10):
        await asyncio.gather(*map(caller, range(40)))


async def test_a_flush_that_is_cancelled_from_outside_cancels_its_callers() -> None:
    """At the end of a process: nobody waits for a batch that will never return."""
    flush = Flush()
    flush.gate.clear()
    lane = Coalescer(flush, items_max=100, linger_s=NEVER_S)
    before = asyncio.all_tasks()
    caller = asyncio.create_task(lane.submit(1))
    await turns()
    [carrying] = asyncio.all_tasks() - before - {caller}
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, 1)

"""The wheel against a sorted list: same keys, same order, whatever the start, the steps and the wrap."""

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.scheduler.wheel import REACH, TimingWheel

TURN: Final = 64**6  # ticks until the top ring wraps
SPANS: Final = [64**level for level in range(6)]  # the width of a slot on each level
EPOCH_MS: Final = 1_763_000_000_000  # a `now` as production passes it: above TURN, in milliseconds


class SortedList:
    """The model: every key with its due tick and the order it was scheduled in, sorted when asked."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.order = 0
        self.held: dict[int, tuple[int, int]] = {}

    def schedule(self, key: int, due: int) -> bool:
        self.held.pop(key, None)
        self.order += 1
        if due > self.now:
            self.held[key] = (due, self.order)
        return due > self.now

    def cancel(self, key: int) -> bool:
        return self.held.pop(key, None) is not None

    def earliest(self) -> int | None:
        return min(self.held.values())[0] if self.held else None

    def advance(self, now: int) -> list[int]:
        self.now = now
        fired = sorted((place, key) for key, place in self.held.items() if place[0] <= now)
        for _, key in fired:
            del self.held[key]
        return [key for _, key in fired]


# A start around a multiple of 64^k: where digits carry, hands move together and the top ring wraps.
starts = st.one_of(
    st.builds(
        lambda span, multiple, offset: max(0, span * multiple + offset),
        st.sampled_from([*SPANS, TURN]),
        st.integers(0, 200),
        st.integers(-130, 130),
    ),
    st.integers(0, 4 * TURN),
    st.just(EPOCH_MS),
)
# A distance of any magnitude, with those around a slot's width and the full reach made likely.
distances = st.one_of(
    st.integers(0, 5),
    st.integers(0, 300),
    st.builds(
        lambda span, multiple, offset: min(REACH, max(0, span * multiple + offset)),
        st.sampled_from(SPANS),
        st.integers(1, 64),
        st.integers(-2, 2),
    ),
    st.integers(0, REACH),
)
keys = st.integers(0, 30)


class WheelAgainstSortedList(RuleBasedStateMachine):
    """Any mix of calls, each answer compared with the model's."""

    @initialize(now=starts)
    def start(self, now: int) -> None:
        self.wheel: TimingWheel[int] = TimingWheel(now)
        self.model = SortedList(now)

    @rule(key=keys, distance=distances)
    def schedule(self, key: int, distance: int) -> None:
        due = self.model.now + distance
        assert self.wheel.schedule(key, due) == self.model.schedule(key, due)

    @rule(batch=st.lists(keys, min_size=2, max_size=8), distance=distances)
    def schedule_many_at_one_tick(self, batch: list[int], distance: int) -> None:
        for key in batch:
            self.schedule(key, distance)

    @rule(key=keys, ticks_ago=st.integers(0, 100))
    def schedule_in_the_past(self, key: int, ticks_ago: int) -> None:
        self.schedule(key, -ticks_ago)

    @rule(key=keys)
    def cancel(self, key: int) -> None:
        assert self.wheel.cancel(key) == self.model.cancel(key)

    @rule(distance=st.one_of(distances, st.integers(REACH, 3 * TURN)))
    def advance(self, distance: int) -> None:
        now = self.model.now + distance
        assert self.wheel.advance(now) == self.model.advance(now)

    @precondition(lambda self: self.model.held)
    @rule(offset=st.integers(-1, 1))
    def advance_around_the_earliest(self, offset: int) -> None:
        earliest = self.model.earliest()
        assert earliest is not None
        self.advance(max(0, earliest + offset - self.model.now))

    @precondition(lambda self: self.model.held)
    @rule()
    def advance_to_the_next_wake(self) -> None:
        wake = self.wheel.next_wake()
        assert wake is not None
        self.advance(wake - self.model.now)

    @invariant()
    def holds_the_same_keys(self) -> None:
        assert len(self.wheel) == len(self.model.held)
        assert all((key in self.wheel) == (key in self.model.held) for key in range(31))

    @invariant()
    def wakes_in_the_future_and_in_time(self) -> None:
        wake, earliest = self.wheel.next_wake(), self.model.earliest()
        if earliest is None:
            assert wake is None
        else:
            assert wake is not None
            assert self.model.now < wake <= earliest

    def teardown(self) -> None:
        """Nothing is lost: what is still held comes out at the end, in order."""
        if hasattr(self, "wheel"):
            self.advance(2 * TURN)
            assert len(self.wheel) == 0
            assert self.wheel.next_wake() is None


WheelAgainstSortedList.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestWheelAgainstSortedList = WheelAgainstSortedList.TestCase


def sleep_through(wheel: TimingWheel[int]) -> list[tuple[int, int]]:
    """Run as the scheduler does, from wake to wake: (tick, key) for everything that came due."""
    fired: list[tuple[int, int]] = []
    last = -1
    while (wake := wheel.next_wake()) is not None:
        assert wake > last, "the wheel asks to be woken at the same tick for ever"
        last = wake
        fired += [(wake, key) for key in wheel.advance(wake)]
    return fired


@settings(max_examples=300)
@given(now=starts, ahead=st.lists(distances.filter(bool), max_size=60))
def test_sleeping_from_wake_to_wake_returns_every_key_on_its_own_tick(now: int, ahead: list[int]) -> None:
    wheel: TimingWheel[int] = TimingWheel(now)
    for key, distance in enumerate(ahead):
        assert wheel.schedule(key, now + distance)
    in_order = sorted((now + distance, key) for key, distance in enumerate(ahead))
    assert sleep_through(wheel) == in_order


@settings(max_examples=300)
@given(now=starts, ahead=st.lists(distances.filter(bool), max_size=40), naps=st.lists(distances, max_size=20))
def test_how_often_it_is_advanced_does_not_change_what_comes_out(now: int, ahead: list[int], naps: list[int]) -> None:
    at_once: TimingWheel[int] = TimingWheel(now)
    in_naps: TimingWheel[int] = TimingWheel(now)
    for key, distance in enumerate(ahead):
        at_once.schedule(key, now + distance)
        in_naps.schedule(key, now + distance)
    fired: list[int] = []
    tick = now
    for nap in [*naps, TURN]:
        tick += nap
        fired += in_naps.advance(tick)
    assert fired == at_once.advance(tick)


@pytest.mark.parametrize("now", [0, 63, TURN - 1, TURN, 7 * TURN - 100, EPOCH_MS])
def test_a_single_key_wakes_the_wheel_at_most_once_for_each_level(now: int) -> None:
    for distance in [1, *SPANS, REACH - 1, REACH]:
        wheel: TimingWheel[str] = TimingWheel(now)
        wheel.schedule("far", now + distance)
        wakes = 0
        while (wake := wheel.next_wake()) is not None:
            wakes += 1
            assert wakes <= 6
            fired = wheel.advance(wake)
            assert fired == (["far"] if wake == now + distance else [])


def test_a_key_is_returned_on_its_tick_and_not_one_before() -> None:
    wheel: TimingWheel[str] = TimingWheel(EPOCH_MS)
    wheel.schedule("bell", EPOCH_MS + 5_000)
    assert wheel.advance(EPOCH_MS + 4_999) == []
    assert wheel.advance(EPOCH_MS + 5_000) == ["bell"]
    assert "bell" not in wheel


def test_keys_due_at_one_tick_come_out_in_the_order_scheduled_whatever_the_distance_then() -> None:
    wheel: TimingWheel[str] = TimingWheel(0)
    wheel.schedule("from far away", 300_000)
    wheel.advance(299_000)
    wheel.schedule("from nearby", 300_000)
    wheel.advance(299_999)
    wheel.schedule("at the last tick", 300_000)
    assert wheel.advance(400_000) == ["from far away", "from nearby", "at the last tick"]


def test_scheduling_again_replaces_the_earlier_tick_and_goes_to_the_end_of_the_ties() -> None:
    wheel: TimingWheel[str] = TimingWheel(0)
    wheel.schedule("first", 10)
    wheel.schedule("moved", 5)
    wheel.schedule("second", 10)
    wheel.schedule("moved", 10)
    wheel.schedule("first", 10)
    assert len(wheel) == 3
    assert wheel.advance(9) == []
    assert wheel.advance(10) == ["second", "moved", "first"]


@pytest.mark.parametrize("due", [1_000, 999, 0, -1])
def test_a_key_already_due_is_refused_and_its_earlier_tick_forgotten(due: int) -> None:
    wheel: TimingWheel[str] = TimingWheel(1_000)
    wheel.schedule("bell", 2_000)
    assert wheel.schedule("bell", due) is False
    assert "bell" not in wheel
    assert wheel.next_wake() is None
    assert wheel.advance(3_000) == []


def test_a_cancelled_key_never_comes_out_and_does_not_wake_the_wheel() -> None:
    wheel: TimingWheel[str] = TimingWheel(0)
    wheel.schedule("kept", 9_000)
    wheel.schedule("cancelled", 50)
    assert wheel.cancel("cancelled") is True
    assert wheel.cancel("cancelled") is False
    assert wheel.cancel("never scheduled") is False
    assert wheel.next_wake() == 8_192  # only the cascade of the other: 2 x 4096
    assert wheel.advance(9_000) == ["kept"]
    assert wheel.cancel("kept") is False


@pytest.mark.parametrize("now", [0, 1, TURN - 1, 3 * TURN - 64**5, EPOCH_MS])
def test_a_key_at_the_full_reach_is_held_and_one_tick_more_is_refused(now: int) -> None:
    wheel: TimingWheel[str] = TimingWheel(now)
    assert wheel.schedule("far", now + REACH)
    with pytest.raises(ValueError, match="load it later"):
        wheel.schedule("far", now + REACH + 1)
    assert wheel.advance(now + REACH - 1) == []  # the refusal left the earlier tick in place
    assert wheel.advance(now + REACH) == ["far"]


def test_now_never_goes_back() -> None:
    wheel: TimingWheel[str] = TimingWheel(100)
    assert wheel.advance(100) == []
    with pytest.raises(ValueError, match="cannot go back"):
        wheel.advance(99)
    with pytest.raises(ValueError, match="not negative"):
        TimingWheel(-1)


def test_20_000_keys_due_at_one_tick_come_out_together_in_order() -> None:
    wheel: TimingWheel[int] = TimingWheel(EPOCH_MS)
    for key in range(20_000):
        wheel.schedule(key, EPOCH_MS + 30_000)
    assert sleep_through(wheel) == [(EPOCH_MS + 30_000, key) for key in range(20_000)]

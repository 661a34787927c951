"""When calls to a host are put off, and when they are tried again."""

from collections import Counter
from itertools import pairwise

import pytest

from services.dispatcher.breaker import (
    BACK_MAX_S,
    BACK_PER_S,
    CALLS_MIN,
    OPEN_FIRST_S,
    OPEN_MAX_S,
    WINDOW_S,
    Breaker,
)

NOW = 1000.0


def after(breaker: Breaker, failures: int, successes: int = 0, now: float = NOW) -> Breaker:
    for _ in range(successes):
        breaker.note(now, has_failed=False)
    for _ in range(failures):
        breaker.note(now, has_failed=True)
    return breaker


def an_open_one(now: float = NOW) -> Breaker:
    breaker = after(Breaker(), CALLS_MIN, now=now)
    assert breaker.state == "open"
    return breaker


def test_it_stays_closed_below_twenty_calls() -> None:
    breaker = after(Breaker(), CALLS_MIN - 1)
    assert breaker.state == "closed"
    assert breaker.wait_s(NOW) == 0


def test_the_call_that_opens_it_says_so_once() -> None:
    breaker = after(Breaker(), CALLS_MIN - 1)
    assert breaker.note(NOW, has_failed=True) == "open"
    assert breaker.note(NOW, has_failed=True) is None
    assert breaker.wait_s(NOW + 1) == OPEN_FIRST_S - 1


@pytest.mark.parametrize(("failures", "successes", "state"), [(79, 21, "closed"), (80, 20, "open")])
def test_it_opens_when_four_of_five_fail(failures: int, successes: int, state: str) -> None:
    assert after(Breaker(), failures, successes).state == state


def test_old_failures_are_forgotten() -> None:
    breaker = after(Breaker(), CALLS_MIN - 1)
    breaker = after(breaker, CALLS_MIN - 1, now=NOW + 2 * WINDOW_S + 1)
    assert breaker.state == "closed"


def test_those_of_the_window_before_count_half() -> None:
    breaker = after(Breaker(), CALLS_MIN - 2)
    later = NOW + WINDOW_S + 1
    assert after(breaker, CALLS_MIN // 2, now=later).state == "closed"
    assert breaker.note(later, has_failed=True) == "open"


def test_when_its_time_is_over_one_call_finds_out() -> None:
    breaker = an_open_one()
    later = NOW + OPEN_FIRST_S
    assert breaker.wait_s(later) == 0
    assert breaker.state == "half-open"
    assert breaker.wait_s(later) == OPEN_FIRST_S
    assert breaker.wait_s(later + 1) == OPEN_FIRST_S - 1


def test_a_probe_that_never_ends_is_followed_by_another() -> None:
    breaker = an_open_one()
    assert breaker.wait_s(NOW + OPEN_FIRST_S) == 0
    assert breaker.wait_s(NOW + 2 * OPEN_FIRST_S) == 0


def test_a_probe_that_succeeds_closes_it_with_nothing_held_against_the_host() -> None:
    breaker = an_open_one()
    later = NOW + OPEN_FIRST_S
    breaker.wait_s(later)
    assert breaker.note(later, has_failed=False) == "closed"
    assert breaker.wait_s(later) == 0
    assert after(breaker, CALLS_MIN - 1, now=later).state == "closed"


def test_each_probe_that_fails_doubles_the_time_up_to_a_minute() -> None:
    breaker, now, times = an_open_one(), NOW, []
    for _ in range(6):
        now += breaker.wait_s(now)
        assert breaker.wait_s(now) == 0
        assert breaker.note(now, has_failed=True) == "open"
        times.append(breaker.wait_s(now))
    assert times == [10, 20, 40, OPEN_MAX_S, OPEN_MAX_S, OPEN_MAX_S]


def test_after_a_success_it_begins_with_the_short_time_again() -> None:
    breaker, now = an_open_one(), NOW
    now += breaker.wait_s(now)
    breaker.wait_s(now)
    breaker.note(now, has_failed=True)
    now += breaker.wait_s(now)
    breaker.wait_s(now)
    breaker.note(now, has_failed=False)
    assert after(breaker, CALLS_MIN, now=now).wait_s(now) == OPEN_FIRST_S


def test_a_call_from_before_that_succeeds_closes_it_at_once() -> None:
    breaker = an_open_one()
    assert breaker.note(NOW + 1, has_failed=False) == "closed"


def test_a_call_from_before_that_fails_changes_nothing() -> None:
    breaker = an_open_one()
    assert breaker.note(NOW + 1, has_failed=True) is None
    assert breaker.wait_s(NOW + 1) == OPEN_FIRST_S - 1


def test_those_that_are_put_off_come_back_one_after_the_other_once_it_may_be_closed() -> None:
    breaker = an_open_one()
    waits = [breaker.back_s(NOW) for _ in range(1000)]
    assert waits[0] == pytest.approx(OPEN_FIRST_S, abs=0.1)
    steps = [later - sooner for sooner, later in pairwise(waits)]
    assert steps == pytest.approx([1 / BACK_PER_S] * 999)


def test_a_row_that_has_passed_begins_again_where_it_may_be_closed() -> None:
    breaker = an_open_one()
    for _ in range(1000):
        breaker.back_s(NOW)
    later = NOW + 60
    breaker.wait_s(later)
    assert breaker.back_s(later) == pytest.approx(OPEN_FIRST_S, abs=0.1)


def test_nobody_is_put_off_for_longer_than_five_minutes_and_no_instant_gets_them_all() -> None:
    breaker = an_open_one()
    waits = [breaker.back_s(NOW) for _ in range(100_000)]
    assert max(waits) <= BACK_MAX_S + 1 / BACK_PER_S
    by_second = Counter(map(int, waits))
    assert max(by_second.values()) <= 5 * BACK_PER_S

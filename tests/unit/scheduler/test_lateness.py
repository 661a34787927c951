"""Why a task leaves late: the nearest cause that was there between its time and its emission."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from libs.common.contracts import LateBecause
from libs.common.metrics import REGISTRY
from services.scheduler.lateness import LATE_S, Causes, observe

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MS = SECOND / 1000
LONG_AGO = NOON - timedelta(days=1)
What = Literal["broker", "postgres"]


def late(because: str) -> float:
    return REGISTRY.get_sample_value("carillon_scheduler_late_total", {"because": because}) or 0.0


def max_since_scrape() -> float:
    value = REGISTRY.get_sample_value("carillon_scheduler_lateness_max_seconds")
    assert value is not None
    return value


@pytest.mark.parametrize("late_by", [-SECOND, 0 * MS, MS, 100 * MS])
def test_up_to_a_tenth_of_a_second_nothing_needs_a_cause(late_by: timedelta) -> None:
    causes = Causes(NOON + SECOND)
    causes.met("broker", NOON + SECOND)
    assert causes.because(NOON, NOON + late_by) is None
    assert LATE_S == 0.1


def test_what_was_due_before_the_start_is_late_because_of_the_restart() -> None:
    causes = Causes(NOON)
    assert causes.because(NOON - MS, NOON + SECOND) == "restart"
    assert causes.because(NOON, NOON + SECOND) == "backlog"


@pytest.mark.parametrize("what", ["broker", "postgres"])
@pytest.mark.parametrize(("met_after", "is_it"), [(-MS, False), (0 * MS, True), (MS, True)])
def test_what_was_wrong_after_the_due_time_is_the_cause_and_what_was_wrong_before_is_not(
    what: What, met_after: timedelta, is_it: bool
) -> None:
    causes = Causes(LONG_AGO)
    causes.met(what, NOON + met_after)
    assert causes.because(NOON, NOON + SECOND) == (what if is_it else "backlog")


def test_the_last_time_counts_and_an_older_word_does_not_take_it_back() -> None:
    causes = Causes(LONG_AGO)
    causes.met("postgres", NOON + SECOND)
    causes.met("postgres", NOON - SECOND)
    assert causes.because(NOON, NOON + 2 * SECOND) == "postgres"


@pytest.mark.parametrize("order", [("broker", "postgres"), ("postgres", "broker")])
def test_with_both_away_it_is_the_broker_whoever_went_last(order: tuple[What, What]) -> None:
    causes = Causes(LONG_AGO)
    for n, what in enumerate(order):
        causes.met(what, NOON + n * SECOND)
    assert causes.because(NOON, NOON + 5 * SECOND) == "broker"


def test_an_outage_explains_more_than_the_restart_that_came_with_it() -> None:
    causes = Causes(NOON)
    causes.met("broker", NOON)
    assert causes.because(NOON - SECOND, NOON + SECOND) == "broker"


@pytest.mark.parametrize("because", ["restart", "broker", "postgres", "backlog"])
def test_each_late_task_is_counted_under_its_cause(because: LateBecause) -> None:
    before = late(because)
    observe(0.2, because)
    observe(0.05, None)
    assert late(because) == before + 1


def test_the_greatest_lateness_is_that_since_the_last_look() -> None:
    max_since_scrape()
    for lateness_s in (0.5, 3.25, 0.1):
        observe(lateness_s, None)
    assert max_since_scrape() == 3.25
    assert max_since_scrape() == 0
    observe(0.25, None)
    assert max_since_scrape() == 0.25


def test_the_histogram_tells_one_millisecond_from_two_and_ends_at_ten_seconds() -> None:
    def count(le: str) -> float:
        return REGISTRY.get_sample_value("carillon_scheduler_lateness_seconds_bucket", {"le": le}) or 0.0

    bounds = ("0.001", "0.002", "0.01", "10.0", "+Inf")
    before = [count(le) for le in bounds]
    for lateness_s in (0.0009, 0.0015, 0.004, 9.0, 11.0):
        observe(lateness_s, None)
    assert [count(le) - was for le, was in zip(bounds, before, strict=True)] == [1, 2, 3, 4, 5]

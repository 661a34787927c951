"""Histograms in buckets: percentiles are near enough to the true ones, and adding up loses nothing."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.calls import (
    BUCKETS,
    Calls,
    Tally,
    bucket_of,
    merged,
    middle_ms,
    percentile_ms,
    summed,
)

WITHIN = 0.09
NOW = datetime(2026, 11, 21, tzinfo=UTC)
DAYS_MS = 8 * 86_400_000
times = st.lists(st.integers(min_value=0, max_value=DAYS_MS) | st.integers(0, 300), min_size=1, max_size=200)


def histogram(times_ms: list[int]) -> list[int]:
    counts = [0] * BUCKETS
    for time_ms in times_ms:
        counts[bucket_of(time_ms)] += 1
    return counts


@given(times, st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_nine_percent_of_the_true_one(times_ms: list[int], share: float) -> None:
    true_ms = sorted(times_ms)[math.ceil(len(times_ms) * share) - 1]
    told_ms = percentile_ms(histogram(times_ms), share)
    assert told_ms is not None
    assert abs(told_ms - true_ms) <= WITHIN * true_ms


@given(times, times)
def test_the_percentile_of_two_sums_is_that_of_all(some: list[int], others: list[int]) -> None:
    assert summed([histogram(some), histogram(others)]) == histogram(some + others)


@given(st.integers(min_value=1, max_value=DAYS_MS))
def test_a_longer_time_is_in_no_lower_bucket(time_ms: int) -> None:
    assert bucket_of(time_ms) <= bucket_of(time_ms + 1)


@pytest.mark.parametrize("time_ms", [1, 2, 3, 4, 5, 6])
def test_a_few_milliseconds_are_exact(time_ms: int) -> None:
    assert middle_ms(bucket_of(time_ms)) == time_ms


def test_what_is_early_or_took_no_time_counts_as_nothing() -> None:
    assert [bucket_of(time_ms) for time_ms in (-5_000, 0, 1)] == [0, 0, 1]
    assert percentile_ms([3], 0.99) == 0


def test_what_takes_longer_than_any_bucket_is_in_the_last() -> None:
    assert bucket_of(10**15) == BUCKETS - 1


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile_ms([], 0.5) is None
    assert percentile_ms([0, 0], 0.5) is None


def test_parts_of_different_length_merge() -> None:
    one, two = Calls(NOW, 1, 2, 3, [1], [0, 0, 6]), Calls(NOW, 10, 20, 30, [0, 9], [])
    assert merged([one, two], NOW) == Calls(NOW, 11, 22, 33, [1, 9], [0, 0, 6])
    assert (one.made, one.success_ratio, merged([], NOW).success_ratio) == (6, 1 / 6, None)


def test_a_tally_adds_what_another_has_counted() -> None:
    tally, other = Tally(1, 2, 3, {0: 1}, {4: 2}), Tally(1, 1, 1, {0: 2, 5: 1}, {})
    tally.add(other)
    assert tally == Tally(2, 3, 4, {0: 3, 5: 1}, {4: 2})

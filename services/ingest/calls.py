"""How many calls ended well or not, and how late and how long they were: by minute, hour and host. Pure.

Times are counted in buckets that grow by 2^(1/4): four between a millisecond count and its double. A percentile is the
middle of its bucket, so it is within 9 % (and within half a millisecond) of the true one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from libs.common.clock import EPOCH
from libs.common.contracts import AttemptFinished
from services.ingest.projection import lateness_ms, storable

MINUTE_S, HOUR_S = 60, 3_600
ALL_HOSTS = ""
HOST_CHARS_KEPT = 253
"""The longest name there is; what was called by a longer one was not found."""

STEPS = 4
"""Buckets between a time and its double."""
BUCKETS = 30 * STEPS
"""The last one begins at 9 days, and takes what is longer."""

Histogram = Sequence[int]
"""Counts by bucket, up to the highest that is not empty."""


def bucket_of(time_ms: int) -> int:
    """0 is for what took no time, or less."""
    return min(int(math.log2(time_ms) * STEPS) + 1, BUCKETS - 1) if time_ms > 0 else 0


def middle_ms(bucket: int) -> float:
    """Of the whole milliseconds in a bucket: as far, in proportion, from the least as from the greatest."""
    if bucket == 0:
        return 0.0
    least = math.ceil(2 ** ((bucket - 1) / STEPS) - 1e-9)
    greatest = max(math.ceil(2 ** (bucket / STEPS) - 1e-9) - 1, least)
    return 2 * least * greatest / (least + greatest)


def percentile_ms(histogram: Histogram, share: float) -> float | None:
    """The time that `share` (0 to 1) of them took at most, about; None when there are none."""
    rank = math.ceil(sum(histogram) * share)
    for bucket, count in enumerate(histogram):
        rank -= count
        if rank <= 0 and count:
            return middle_ms(bucket)
    return None


def summed(histograms: Iterable[Histogram]) -> list[int]:
    total: list[int] = []
    for histogram in histograms:
        total.extend([0] * (len(histogram) - len(total)))
        for bucket, count in enumerate(histogram):
            total[bucket] += count
    return total


class Calls(NamedTuple):
    """Those that ended in a span of time, by what became of them; lateness of first attempts only."""

    at: datetime
    succeeded: int
    failed: int
    retried: int
    lateness: Histogram
    duration: Histogram

    @property
    def made(self) -> int:
        return self.succeeded + self.failed + self.retried

    @property
    def success_ratio(self) -> float | None:
        return self.succeeded / self.made if self.made else None


def merged(parts: Sequence[Calls], at: datetime) -> Calls:
    return Calls(
        at,
        sum(part.succeeded for part in parts),
        sum(part.failed for part in parts),
        sum(part.retried for part in parts),
        summed(part.lateness for part in parts),
        summed(part.duration for part in parts),
    )


class Span(NamedTuple):
    """What is counted apart from all else; rows are written in this order. `at` in seconds since 1970."""

    project: str
    host: str
    every_s: int
    at: int


@dataclass(slots=True)
class Tally:
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    lateness: dict[int, int] = field(default_factory=dict)
    duration: dict[int, int] = field(default_factory=dict)

    def count(self, attempt: AttemptFinished) -> None:
        if attempt.outcome == "succeeded":
            self.succeeded += 1
        elif attempt.outcome == "failed":
            self.failed += 1
        else:
            self.retried += 1
        bucket = bucket_of(attempt.duration_ms)
        self.duration[bucket] = self.duration.get(bucket, 0) + 1
        if attempt.attempt == 1:
            bucket = bucket_of(lateness_ms(attempt))
            self.lateness[bucket] = self.lateness.get(bucket, 0) + 1

    def add(self, other: "Tally") -> None:
        self.succeeded += other.succeeded
        self.failed += other.failed
        self.retried += other.retried
        for ours, theirs in ((self.lateness, other.lateness), (self.duration, other.duration)):
            for bucket, count in theirs.items():
                ours[bucket] = ours.get(bucket, 0) + count


def tallied(attempts: Iterable[AttemptFinished]) -> list[tuple[Span, Tally]]:
    """What these calls add to which rows, in the order of the rows: two writers in the same order cannot deadlock."""
    by_minute: dict[tuple[str, str, int], Tally] = {}
    for attempt in attempts:
        key = (attempt.project, attempt.host, _ended_s(attempt) // MINUTE_S)
        tally = by_minute.get(key)
        if tally is None:
            tally = by_minute[key] = Tally()
        tally.count(attempt)
    spans: dict[Span, Tally] = {}
    for (project, host, minute), tally in by_minute.items():
        for span in _spans(storable(project), storable(host)[:HOST_CHARS_KEPT], minute * MINUTE_S):
            spans.setdefault(span, Tally()).add(tally)
    return sorted(spans.items(), key=lambda item: item[0])


def span_row(span: Span, tally: Tally) -> tuple[object, ...]:
    at = EPOCH + timedelta(seconds=span.at)
    counts = (tally.succeeded, tally.failed, tally.retried)
    return (span.project, span.host, span.every_s, at, *counts, _array(tally.lateness), _array(tally.duration))


def _spans(project: str, host: str, minute: int) -> Iterable[Span]:
    hour = minute - minute % HOUR_S
    yield Span(project, ALL_HOSTS, MINUTE_S, minute)
    yield Span(project, ALL_HOSTS, HOUR_S, hour)
    if host != ALL_HOSTS:  # the dispatchers of the release before do not say it
        yield Span(project, host, HOUR_S, hour)


def _ended_s(attempt: AttemptFinished) -> int:
    return int(attempt.started_at.timestamp()) + (attempt.duration_ms + attempt.started_at.microsecond // 1000) // 1000


def _array(counts: dict[int, int]) -> str:
    """PostgreSQL's text of an array: arrays of many lengths do not travel in one array."""
    return "{" + ",".join(str(counts.get(bucket, 0)) for bucket in range(max(counts, default=-1) + 1)) + "}"

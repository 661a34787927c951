"""How fast a figure grows, so that neither noise nor a single step decides: Theil-Sen over the minutes. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

MINUTE_S = 60.0
HOUR_S, DAY_H = 3600.0, 24
POINTS_MIN = 3
NORMAL_95 = 1.96
Point = tuple[float, float]
"""Seconds since the run began, and the value."""


@dataclass(frozen=True)
class Trend:
    """Of one figure after the warm-up. The interval has the slope in 95 of 100 cases, if minutes are independent."""

    first: float
    last: float
    """Median of the first and of the last minute."""
    peak: float
    """The highest of the minutes' medians."""
    per_h: float
    low_per_h: float
    high_per_h: float

    @property
    def per_day(self) -> float:
        return self.per_h * DAY_H


def trend(points: Sequence[Point], from_s: float) -> Trend | None:
    """None when there are too few minutes after `from_s`."""
    minutes = by_minute([point for point in points if point[0] >= from_s])
    if len(minutes) < POINTS_MIN:
        return None
    slopes = sorted((y2 - y1) / (x2 - x1) * HOUR_S for (x1, y1), (x2, y2) in combinations(minutes, 2))
    low, high = _ranks(len(minutes), len(slopes))
    values = [value for _, value in minutes]
    return Trend(values[0], values[-1], max(values), statistics.median(slopes), slopes[low], slopes[high])


def by_minute(points: Sequence[Point]) -> list[Point]:
    """The median of each minute: what one sample sees of a spike or of a collector's rhythm is not growth."""
    minutes: dict[int, list[Point]] = {}
    for at_s, value in points:
        minutes.setdefault(int(at_s // MINUTE_S), []).append((at_s, value))
    return [
        (statistics.fmean(at_s for at_s, _ in group), statistics.median(value for _, value in group))
        for _, group in sorted(minutes.items())
    ]


def _ranks(points: int, slopes: int) -> tuple[int, int]:
    """Places of the interval's ends among the sorted slopes. Source: Sen 1968, by the variance of Kendall's S."""
    half = NORMAL_95 * math.sqrt(points * (points - 1) * (2 * points + 5) / 18)
    low, high = math.floor((slopes - half) / 2), math.ceil((slopes + half) / 2)
    return max(0, low), min(slopes - 1, high)

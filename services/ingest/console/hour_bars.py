"""The calls to a host by the hour, as rectangles of an SVG: the page needs no script for it. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from services.ingest.calls import Calls

HOURS = 25
WIDTH, HEIGHT, GAP = 16, 80, 2


class Bar(NamedTuple):
    """Heights, from the ground up. `calls` is None when there were none."""

    at: datetime
    x: int
    calls: Calls | None
    succeeded: float = 0.0
    retried: float = 0.0
    failed: float = 0.0


def hour_bars(hours: Iterable[Calls], now: datetime) -> list[Bar]:
    """One for each of the last `HOURS` hours, the one that has begun last."""
    by_hour = {calls.at: calls for calls in hours}
    scale = HEIGHT / max((calls.made for calls in by_hour.values()), default=1)
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    return [_bar(first + timedelta(hours=place), place * (WIDTH + GAP), by_hour, scale) for place in range(HOURS)]


def _bar(at: datetime, x: int, by_hour: Mapping[datetime, Calls], scale: float) -> Bar:
    calls = by_hour.get(at)
    if calls is None:
        return Bar(at, x, None)
    heights = (round(count * scale, 1) for count in (calls.succeeded, calls.retried, calls.failed))
    return Bar(at, x, calls, *heights)

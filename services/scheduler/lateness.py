"""How late tasks leave, and why: a fact that travels with each of them, not an estimate.

A cause is what was wrong at some moment between the due time and the emission. Told by who met it: the fire for the
broker, the loops for Postgres. All moments are by Postgres' clock.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from libs.common.clock import EPOCH
from libs.common.contracts import LateBecause
from libs.common.metrics import REGISTRY

LATE_S = 0.1
"""Below it a task counts as on time and carries no cause."""
_LATE = timedelta(seconds=LATE_S)

LATENESS = Histogram(
    "carillon_scheduler_lateness_seconds",
    "From due_at to the broker's confirm of the due task, by Postgres' clock",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
    registry=REGISTRY,
)
LATE = Counter(
    "carillon_scheduler_late_total",
    f"Tasks emitted more than {LATE_S} s late, by cause",
    ["because"],
    registry=REGISTRY,
)


class _MaxSinceScrape(Collector):
    """The greatest value since somebody looked. With two scrapers each sees a part of them."""

    def __init__(self) -> None:
        self._max = 0.0

    def observe(self, value: float) -> None:
        self._max = max(self._max, value)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        value, self._max = self._max, 0.0
        yield GaugeMetricFamily(
            "carillon_scheduler_lateness_max_seconds", "Greatest lateness since the last scrape", value=value
        )


_MAX_SINCE_SCRAPE = _MaxSinceScrape()
REGISTRY.register(_MAX_SINCE_SCRAPE)


class Causes:
    """What has kept this scheduler from its work lately."""

    def __init__(self, started_at: datetime) -> None:
        self._started_at = started_at
        self._last: dict[Literal["broker", "postgres"], datetime] = {"broker": EPOCH, "postgres": EPOCH}

    def met(self, what: Literal["broker", "postgres"], at: datetime) -> None:
        self._last[what] = max(self._last[what], at)

    def because(self, due_at: datetime, now: datetime) -> LateBecause | None:
        """Why what was due at `due_at` leaves only `now`; None when that is soon enough."""
        if now - due_at <= _LATE:
            return None
        for what in self._last:
            if due_at <= self._last[what]:
                return what
        return "restart" if due_at < self._started_at else "backlog"


def observe(lateness_s: float, because: LateBecause | None) -> None:
    """One task has left."""
    LATENESS.observe(lateness_s)
    _MAX_SINCE_SCRAPE.observe(lateness_s)
    if because is not None:
        LATE.labels(because).inc()

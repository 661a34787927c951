"""What may grow and by how much, what the run shows of it, and whether that will do. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.peers.figures import kind
from benchmarks.soak.book import Tally, Window
from benchmarks.soak.samples import TO_SINK, Sample
from benchmarks.soak.trend import Point, Trend, trend
from deploy.local.layout import SERVICES

WARM_UP_S = 300.0
"""Caches, pools and Postgres' shared buffers fill. Of a short run a third is left out."""
JUDGED_FROM_S = 1200.0
"""Growth of less than 15 minutes after the warm-up is noise: a shorter run is told and not judged."""
LATER_TIMES, LATER_MS = 1.5, 5.0
"""The last third's p99 (median of its minutes) may be so many times the first third's, and so much later."""


@dataclass(frozen=True)
class Rule:
    """A figure of each process of these kinds that may rise by at most `per_h`."""

    kinds: Sequence[str]
    measure: str
    per_h: float


RULES = (
    # At 300 tasks/s 8 MiB an hour are 8 bytes per task: less than the smallest object that could be forgotten per task.
    Rule(SERVICES, "anon MiB", 8.0),
    Rule(SERVICES, "descriptors", 12.0),
    Rule(SERVICES, "asyncio tasks", 12.0),
    Rule(SERVICES, "threads", 2.0),
    Rule(("postgres",), "connections", 12.0),
    Rule(("rabbitmq",), "messages", 600.0),
    Rule(("rabbitmq",), "descriptors", 60.0),
    Rule(("redis",), "keys for ever", 12.0),
)
TOLD = (
    ("dispatcher-1", TO_SINK),
    ("rabbitmq", "anon MiB"),
    ("rabbitmq", "failures for the digest"),
    ("postgres", "anon MiB"),
    ("postgres", "ingest MiB"),
    ("postgres", "scheduler MiB"),
    ("postgres", "dead rows"),
    ("redis", "used MiB"),
    ("redis", "keys"),
    ("disk", "logs MiB"),
    ("disk", "rabbitmq MiB"),
    ("disk", "postgres MiB"),
)
"""What grows because it is to be kept, or breathes: told, not judged. docs/soak.md says why of each."""


@dataclass(frozen=True)
class Line:
    process: str
    measure: str
    trend: Trend
    limit_per_h: float | None = None

    @property
    def is_ok(self) -> bool:
        return self.limit_per_h is None or self.trend.per_h <= self.limit_per_h


@dataclass(frozen=True)
class Third:
    """The medians of its minutes, and the greatest of all."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Run:
    """What was measured."""

    at: str
    machine: Mapping[str, str]
    load_before: float
    rate: float
    replicas: int
    seconds: float
    samples: Sequence[Sample]
    tally: Tally
    refused: Mapping[str, int]
    changed: Mapping[str, int]
    restarted: Sequence[str] = field(default_factory=tuple)
    left_open: Mapping[str, int] = field(default_factory=dict)
    """Connections to the sink by process, when no call had been made for seconds."""

    @property
    def warm_up_s(self) -> float:
        return min(WARM_UP_S, self.seconds / 3)

    @property
    def is_judged(self) -> bool:
        return self.seconds >= JUDGED_FROM_S


def course(samples: Sequence[Sample], process: str, measure: str) -> list[Point]:
    """One figure over time; samples without it are left out."""
    return [
        (sample.at_s, sample.figures[process][measure])
        for sample in samples
        if measure in sample.figures.get(process, {})
    ]


def lines(run: Run) -> list[Line]:
    """What is judged, then what is only told."""
    names = sorted({name for sample in run.samples for name in sample.figures})
    judged = [(name, rule.measure, rule.per_h) for rule in RULES for name in names if kind(name) in rule.kinds]
    told = [(name, measure, None) for name, measure in TOLD]
    found = [(*asked, trend(course(run.samples, asked[0], asked[1]), run.warm_up_s)) for asked in (*judged, *told)]
    return [Line(name, measure, slope, limit) for name, measure, limit, slope in found if slope is not None]


def measured(run: Run) -> list[Window]:
    """Whole minutes between warm-up and the end of the load."""
    return [w for w in run.tally.windows if w.minute * 60 >= run.warm_up_s and (w.minute + 1) * 60 <= run.seconds]


def thirds(windows: Sequence[Window]) -> list[Third]:
    """Of the run; none when there are fewer minutes than thirds."""
    size = len(windows) // 3
    groups = (windows[:size], windows[size:-size], windows[-size:]) if size else ()
    return [
        Third(median(w.p50_ms for w in group), median(w.p99_ms for w in group), max(w.max_ms for w in group))
        for group in groups
    ]


def failures(run: Run) -> list[str]:
    """Why the run is not passed; calls count however short it was."""
    return [*_of_calls(run), *(_of_growth(run) if run.is_judged else ())]


def _of_calls(run: Run) -> list[str]:
    counts = {
        "calls missing": run.tally.missing,
        "calls early": run.tally.early,
        "calls after a confirmed cancellation": run.tally.after_cancel,
        # Nothing is killed here, so there is no reason for a second call.
        "calls made twice": run.tally.duplicates,
        "requests not answered as they should": sum(run.refused.values()),
    }
    found = [f"{count} {what}" for what, count in counts.items() if count]
    found += [f"{name} has ended in between" for name in run.restarted]
    return found + [f"{name} keeps {count} unused connections to the sink" for name, count in run.left_open.items()]


def _of_growth(run: Run) -> list[str]:
    found = [
        f"{line.process}: {line.measure} rises by {line.trend.per_h:.1f} an hour, above {line.limit_per_h:g}"
        for line in lines(run)
        if not line.is_ok
    ]
    parts = thirds(measured(run))
    if parts and parts[-1].p99_ms > parts[0].p99_ms * LATER_TIMES + LATER_MS:
        found.append(f"p99 of lateness rises from {parts[0].p99_ms:.0f} to {parts[-1].p99_ms:.0f} ms")
    return found

"""What one run found, and the statistics of it. Nothing here is computed from anything but a measurement."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.demo.table import percentile

CURVE_POINTS = 200


@dataclass(frozen=True)
class Calls:
    """Of the tasks of one batch, as the sink saw them. Lateness is that of each task's first call."""

    tasks: int
    missing: int
    doubled: int
    """Calls beyond the first of a task."""
    early: int
    first_ms: float
    """The least lateness: below 0 it is how early the earliest was."""
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def per_s(self) -> float:
        """Of a burst: tasks by the time until the last was called."""
        return (self.tasks - self.missing) / (self.max_ms / 1000)


@dataclass(frozen=True)
class Load:
    """A burst or a spread: the submission of it and its calls. CPU in microseconds per task, by process."""

    bulk: bool
    """Was it submitted in bulk?"""
    submitted_per_s: float
    calls: Calls
    submit_cpu_us: Mapping[str, float]
    drain_cpu_us: Mapping[str, float]
    not_ours: float
    """Cores that were busy with others, and with the kernel's own work, while it was called."""
    curve: Sequence[tuple[int, int]]
    """When how many tasks had been called: ms since the first due time, and tasks."""

    def cpu_us(self) -> dict[str, float]:
        """Of the whole way of a task, by process."""
        names = [*self.submit_cpu_us, *(name for name in self.drain_cpu_us if name not in self.submit_cpu_us)]
        return {name: self.submit_cpu_us.get(name, 0.0) + self.drain_cpu_us.get(name, 0.0) for name in names}


@dataclass(frozen=True)
class Kill:
    tasks: int
    called_before: int
    lost: int
    """Not called when nothing had moved for the time that is waited."""
    doubled: int
    early: int
    last_after_s: float
    """From the kill to the last first call."""
    waited_for_operator: int | None = None
    """Tasks that were called only after what the documentation tells an operator to do."""


@dataclass
class Result:
    """Of one contestant. What is None is not measured, and `failures` says why."""

    name: str
    version: str
    configuration: str
    after_kill: str
    docs: Sequence[str]
    burst: Load | None = None
    spread: Load | None = None
    kill: Kill | None = None
    memory_mib: Mapping[str, float] = field(default_factory=dict)
    """At the peak of each: `own` processes, and the `servers` it uses."""
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def one_by_one_per_s(self) -> float | None:
        return self._rate(bulk=False)

    @property
    def bulk_per_s(self) -> float | None:
        return self._rate(bulk=True)

    def _rate(self, *, bulk: bool) -> float | None:
        loads = [load for load in (self.burst, self.spread) if load is not None and load.bulk == bulk]
        return loads[0].submitted_per_s if loads else None


@dataclass(frozen=True)
class Report:
    at: str
    machine: Mapping[str, str]
    load_before: float
    tasks: int
    kill_tasks: int
    limit_s: float
    results: Sequence[Result]


def calls(due_ms: Mapping[str, int], made: Iterable[tuple[str, int]]) -> Calls:
    """`made`: id and ms since 1970 of each call, in the order they came; of other tasks too, which do not count.

    Raises: ValueError when none of these tasks was called.
    """
    first, doubled, early = dict[str, int](), 0, 0
    for id_, at_ms in made:
        due = due_ms.get(id_)
        if due is not None:
            doubled += id_ in first
            early += at_ms < due
            first.setdefault(id_, at_ms)
    late = [at_ms - due_ms[id_] for id_, at_ms in first.items()]
    if not late:
        raise ValueError("none of these tasks was called")
    return Calls(
        tasks=len(due_ms),
        missing=len(due_ms) - len(first),
        doubled=doubled,
        early=early,
        first_ms=min(late),
        p50_ms=percentile(late, 0.5),
        p99_ms=percentile(late, 0.99),
        max_ms=max(late),
    )


def curve(due_ms: Mapping[str, int], made: Iterable[tuple[str, int]]) -> list[tuple[int, int]]:
    """Some points of it, the last task's among them."""
    first = dict[str, int]()
    for id_, at_ms in made:
        if id_ in due_ms:
            first.setdefault(id_, at_ms)
    begun = min(due_ms.values())
    at = sorted(at_ms - begun for at_ms in first.values())
    step = max(1, len(at) // CURVE_POINTS)
    counts = [*range(step, len(at), step), len(at)]
    return [(at[count - 1], count) for count in counts]


def kind(process: str) -> str:
    """`worker-2` and `dispatcher-1` without their numbers."""
    name, _, number = process.rpartition("-")
    return name if number.isdigit() else process


def by_kind(cpu_us: Mapping[str, float]) -> dict[str, float]:
    added = dict[str, float]()
    for process, us in cpu_us.items():
        added[kind(process)] = added.get(kind(process), 0.0) + us
    return added

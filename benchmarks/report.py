"""What was measured, as a table and as JSON. Nothing here is computed from anything but a measurement."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.phases import Phase
from deploy.demo.table import percentile

STACK_ORDER = ("ingest", "scheduler", "dispatcher", "mailer", "rabbitmq", "postgres", "redis", "client", "sink")


@dataclass(frozen=True)
class Called:
    """The calls of a burst as the sink saw them; lateness of each task's first call."""

    tasks: int
    missing: int
    duplicates: int
    early: int
    first_ms: int
    p50_ms: int
    p99_ms: int
    drained_ms: int
    """From the due instant to the first call of the last task: the greatest lateness too."""

    @property
    def per_s(self) -> float:
        return self.tasks / (self.drained_ms / 1000)


@dataclass(frozen=True)
class Burst:
    machine: Mapping[str, str]
    settings: Mapping[str, str]
    load_before: float
    lead_s: float
    submit_s: float
    called: Called
    submit: Phase
    drain: Phase

    def as_json(self) -> dict[str, Any]:
        rates = {"submitted_per_s": self.called.tasks / self.submit_s, "drained_per_s": self.called.per_s}
        return {**asdict(self), **rates}


def called(ids: Sequence[str], calls: Sequence[tuple[str, int]], due_ms: int) -> Called:
    """Raises: ValueError when none of `ids` was called."""
    wanted, first, repeats, early = set(ids), dict[str, int](), 0, 0
    for id_, at_ms in calls:
        if id_ in wanted:
            repeats += id_ in first
            first.setdefault(id_, at_ms)
            early += at_ms < due_ms
    late = [at_ms - due_ms for at_ms in first.values()]
    return Called(
        tasks=len(wanted),
        missing=len(wanted) - len(first),
        duplicates=repeats,
        early=early,
        first_ms=min(late),
        p50_ms=round(percentile(late, 0.5)),
        p99_ms=round(percentile(late, 0.99)),
        drained_ms=max(late),
    )


def text(burst: Burst) -> str:
    return "\n\n".join([_head(burst), _calls(burst), _cpu(burst), _packing(burst)])


def _head(burst: Burst) -> str:
    rows = [
        *burst.machine.items(),
        ("settings", ", ".join(f"{k}={v}" for k, v in burst.settings.items()) or "defaults"),
    ]
    rows.append(("load before", f"{burst.load_before:.2f} (one-minute average; above 0 others were at work)"))
    return "\n".join(f"  {name:<12} {value}" for name, value in rows)


def _calls(burst: Burst) -> str:
    seen = burst.called
    rows = [
        ("submitted", f"{seen.tasks} in {burst.submit_s:.2f} s: {seen.tasks / burst.submit_s:.0f} tasks/s (201s)"),
        ("drained", f"{seen.drained_ms / 1000:.2f} s after the due instant: {seen.per_s:.0f} tasks/s"),
        ("lateness", f"first {seen.first_ms} ms, p50 {seen.p50_ms} ms, p99 {seen.p99_ms} ms, max {seen.drained_ms} ms"),
        ("faults", f"{seen.early} early, {seen.duplicates} duplicates, {seen.missing} missing"),
    ]
    return "\n".join(f"  {name:<12} {value}" for name, value in rows)


def _cpu(burst: Burst) -> str:
    """Microseconds of CPU per task, by process."""
    tasks, phases = burst.called.tasks, (burst.submit, burst.drain)
    names = sorted(set(burst.drain.cpu_s) - {"machine"}, key=_place)
    lines = [f"  {'CPU us/task':<14}{'submit':>10}{'drain':>10}"]
    lines += [_row(name, *(phase.cpu_s[name] / tasks * 1e6 for phase in phases)) for name in names]
    stack = [name for name in names if name not in ("client", "sink")]
    lines.append(_row("the stack", *(sum(phase.cpu_s[name] for name in stack) / tasks * 1e6 for phase in phases)))
    lines.append(f"  {'phase, s':<14}{burst.submit.seconds:>10.2f}{burst.drain.seconds:>10.2f}")
    lines.append(_row("machine, cores", *(phase.cpu_s["machine"] / phase.seconds for phase in phases), digits=2))
    others = [phase.cpu_s["machine"] - sum(phase.cpu_s[name] for name in names) for phase in phases]
    used = [seconds / phase.seconds for seconds, phase in zip(others, phases, strict=True)]
    lines.append(_row("not ours", *used, digits=2))
    return "\n".join(lines)


def _packing(burst: Burst) -> str:
    lines = [f"  {'items in messages':<22}{'submit':>24}{'drain':>24}"]
    for exchange in sorted({*burst.submit.packing, *burst.drain.packing}):
        cells = [_packed(phase, exchange) for phase in (burst.submit, burst.drain)]
        lines.append(f"  {exchange:<22}{cells[0]:>24}{cells[1]:>24}")
    return "\n".join(lines)


def _packed(phase: Phase, exchange: str) -> str:
    travelled = phase.packing.get(exchange)
    if travelled is None:
        return "-"
    return f"{travelled.items} / {travelled.messages} = {travelled.items / travelled.messages:.1f}"


def _row(name: str, *values: float, digits: int = 0) -> str:
    return f"  {name:<14}" + "".join(f"{value:>10.{digits}f}" for value in values)


def _place(name: str) -> tuple[int, str]:
    kind = name.rpartition("-")[0] or name
    return (STACK_ORDER.index(kind) if kind in STACK_ORDER else len(STACK_ORDER), name)

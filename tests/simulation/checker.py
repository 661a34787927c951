"""What must hold at the end of every life, whatever happened in it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec

from libs.common.contracts import Call, Event, FailedTask, Task, decode_call
from services.ingest.projection import FINAL, TaskHistory, project
from tests.simulation.processes import RUNGS_S
from tests.simulation.target import Made

SOON_S = 1.0
"""From an answer to its verdict in Redis, with the longest delays of a seed."""
CLOCKS = timedelta(seconds=0.45)
"""Between two processes that are each up to 0.2 s wrong. Postgres is right."""


@dataclass
class Asked:
    """`cancelled_s`: when somebody was told that it is cancelled, for certain; `cancelled_by` which service."""

    is_cancel_asked: bool = False
    cancelled_s: float | None = None
    cancelled_by: str = ""


class Record(NamedTuple):
    """All that was seen from outside."""

    plans: Mapping[UUID, Task]
    asked: Mapping[UUID, Asked]
    calls: Sequence[Made]
    events: Sequence[Event]
    fallback: Sequence[bytes]
    deaths: Sequence[tuple[str, float]]
    redis_was_away: bool


@dataclass
class Report:
    """`faults`: kind, and what is wrong; none in a good life. `repeated`: calls that a death or Redis explains."""

    seed: int
    tasks: int
    calls: int
    repeated: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _what in self.faults}


def check(seed: int, record: Record, failure: BaseException | None) -> Report:
    report = Report(seed, len(record.asked), len(record.calls))
    if failure is not None:
        report.faults.append(("crashed", repr(failure)))
    batch = project(record.events)
    histories = batch.tasks
    failed = {msgspec.json.decode(raw, type=FailedTask).id for raw in record.fallback}
    calls = defaultdict(list)
    for made in sorted(record.calls, key=lambda made: made.began_s):
        calls[made.id].append(made)
    for id_, asked in record.asked.items():
        task, history = record.plans[id_], histories.get(id_)
        for kind, what in _faults(task, asked, calls[id_], history, record):
            report.faults.append((kind, f"{id_} {what}"))
        if history is not None and history.state.name == "failed" and id_ not in failed:
            report.faults.append(("unreported", f"{id_} failed, and nobody will mail it"))
        for made in calls[id_]:
            if (id_, 1, made.attempt) not in batch.attempts and not _is_unheard(made, record):
                report.faults.append(("untold", f"{id_} attempt {made.attempt} is not in the history"))
        report.repeated += len(calls[id_]) - len({made.attempt for made in calls[id_]})
    return report


def _faults(
    task: Task, asked: Asked, calls: Sequence[Made], history: TaskHistory | None, record: Record
) -> Iterator[tuple[str, str]]:
    call = decode_call(task.call)
    state = history.state.name if history else None
    if state not in FINAL:
        yield ("lost" if not calls else "endless", f"is {state} after {len(calls)} calls")
    yield from _early(task, call, calls)
    yield from _repeated(calls, record)
    # What a dispatcher has cancelled stands in Redis alone, and is called when that is away or has forgotten it.
    holds = asked.cancelled_s is not None and not (asked.cancelled_by == "dispatcher" and record.redis_was_away)
    if holds and any(made.began_s > (asked.cancelled_s or 0) for made in calls):
        yield "uncancelled", f"was called after it was cancelled at {asked.cancelled_s:.3f} s"
    yield from _untrue(task, call, asked, calls, state, record)


def _early(task: Task, call: Call, calls: Sequence[Made]) -> Iterator[tuple[str, str]]:
    steps = RUNGS_S if call.schedule_s is None else call.schedule_s
    ended: dict[int, float] = {}
    for made in calls:
        if made.began_at < task.due_at:
            yield "early", f"was called {task.due_at - made.began_at} early"
        if task.expires_at is not None and made.began_at > task.expires_at + CLOCKS:
            yield "expired", f"was called {made.began_at - task.expires_at} after it expired"
        if made.attempt > len(steps) + 1:
            yield "too_often", f"was called for attempt {made.attempt} of {len(steps) + 1}"
        elif made.attempt > 1:
            wait_s = made.began_s - ended.get(made.attempt - 1, float("inf"))
            if wait_s < steps[made.attempt - 2] - CLOCKS.total_seconds():
                yield "early", f"waited {wait_s:.3f} s before attempt {made.attempt}"
        ended.setdefault(made.attempt, made.ended_s)


def _repeated(calls: Sequence[Made], record: Record) -> Iterator[tuple[str, str]]:
    """Only a death before the verdict was written, or Redis away, makes the same call twice."""
    if record.redis_was_away:
        return
    seen: dict[int, Made] = {}
    for made in calls:
        before = seen.setdefault(made.attempt, made)
        if before is not made and not _died_with(before, record):
            yield "repeated", f"attempt {made.attempt} at {before.began_s:.3f} and {made.began_s:.3f} s"
        seen[made.attempt] = made


def _died_with(made: Made, record: Record) -> bool:
    return any(name == made.by and made.began_s <= at <= made.ended_s + SOON_S for name, at in record.deaths)


def _is_unheard(made: Made, record: Record) -> bool:
    """Its dispatcher died with the verdict: before writing it, or later when there was no Redis to write it to."""
    died_later = any(name == made.by and at > made.ended_s for name, at in record.deaths)
    return _died_with(made, record) or (record.redis_was_away and died_later)


def _untrue(
    task: Task, call: Call, asked: Asked, calls: Sequence[Made], state: str | None, record: Record
) -> Iterator[tuple[str, str]]:
    """What the history says against what happened."""
    steps = RUNGS_S if call.schedule_s is None else call.schedule_s
    successes = [made for made in calls if made.step.endswith("200")]
    if any(not _is_unheard(made, record) for made in successes) and state != "succeeded":
        yield "untrue", f"is {state}, and was answered 200"
    if state == "succeeded" and not successes:
        yield "untrue", "is succeeded, and was never answered 200"
    is_at_end = any(made.attempt > len(steps) or made.step == "410" for made in calls)
    if state == "failed" and not is_at_end and not asked.is_cancel_asked:
        yield "untrue", "is failed before the end of its ladder"
    if state == "cancelled" and not asked.is_cancel_asked:
        yield "untrue", "is cancelled, and nobody asked for it"
    if state == "expired" and task.expires_at is None:
        yield "untrue", "is expired, and has no time for that"

"""What was promised against what was called. Pure: the accepted tasks and the calls in, a verdict out.

lost              accepted, and never called with success (a task that shall fail: never called)
early             a call before the task's time, on the same machine's clock, in whole milliseconds
repeated success  a second successful call of one task: allowed by "at least once", and counted
repeated attempt  two calls with the same attempt number: a crash during the call, or after it
stranger          a call for an id that no 201 ever named
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deploy.demo.table import percentile

End = Literal["succeeded", "failed"]


@dataclass(frozen=True)
class Accepted:
    """A task that a 201 named. `due_ms`: since 1970, the moment before which no call may come."""

    id: str
    due_ms: int
    should_end: End = "succeeded"


@dataclass(frozen=True)
class Call:
    """One call as the sink saw it, and what the sink answered."""

    id: str
    attempt: int
    at_ms: int
    status: int

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Lateness:
    """Of the first call of each task, in ms."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True)
class Verdict:
    accepted: int
    called: int
    """Distinct ids."""
    calls: int
    lost: tuple[str, ...]
    early: tuple[Call, ...]
    repeated_successes: int
    repeated_attempts: int
    strangers: tuple[str, ...]
    lateness_ms: Lateness | None
    """None when nothing was called."""


def check(accepted: Sequence[Accepted], calls: Iterable[Call]) -> Verdict:
    """The verdict on a run that is over."""
    by_id: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_id[call.id].append(call)
    promised = {task.id: task for task in accepted}
    return Verdict(
        accepted=len(promised),
        called=len(by_id),
        calls=sum(len(made) for made in by_id.values()),
        lost=tuple(task.id for task in promised.values() if not is_kept(task, by_id.get(task.id, ()))),
        early=tuple(call for task in promised.values() for call in by_id.get(task.id, ()) if call.at_ms < task.due_ms),
        repeated_successes=sum(max(0, sum(call.is_success for call in made) - 1) for made in by_id.values()),
        repeated_attempts=sum(_repeats(call.attempt for call in made) for made in by_id.values()),
        strangers=tuple(id_ for id_ in by_id if id_ not in promised),
        lateness_ms=_lateness(promised, by_id),
    )


def is_kept(task: Accepted, calls: Iterable[Call]) -> bool:
    """Is the promise of the 201 fulfilled by these calls of the task?"""
    return any(call.is_success for call in calls) if task.should_end == "succeeded" else any(True for _ in calls)


def unfinished(accepted: Iterable[Accepted], states: Mapping[str, str]) -> dict[str, str]:
    """The tasks whose history does not end as it should, with the state that the API tells instead."""
    told = {task.id: (task.should_end, states.get(task.id, "unknown")) for task in accepted}
    return {id_: state for id_, (should_end, state) in told.items() if state != should_end}


def _repeats(numbers: Iterable[int]) -> int:
    return sum(count - 1 for count in Counter(numbers).values())


def _lateness(promised: Mapping[str, Accepted], by_id: Mapping[str, Sequence[Call]]) -> Lateness | None:
    late = [min(call.at_ms for call in by_id[id_]) - task.due_ms for id_, task in promised.items() if by_id.get(id_)]
    return Lateness(percentile(late, 0.5), percentile(late, 0.99), max(late)) if late else None

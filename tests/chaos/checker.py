"""What was promised against what was called. Pure: the accepted tasks and the calls in, a verdict out.

lost              accepted, and never called with success (a task that shall fail: never called)
early             a call before the task's time, on the same machine's clock, in whole milliseconds
after cancel      a call after a cancel had been confirmed
at another time   a first call for a time that the task has no more, or never had
backwards         a call of an attempt that was never made before, after one of a later attempt
repeated success  a second successful call of one task: allowed by "at least once", and counted
repeated attempt  two calls with the same attempt number: a crash during the call, or after it
stranger          a call for an id that no 201 ever named
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deploy.demo.table import percentile

End = Literal["succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class Accepted:
    """A task that a 201 named. `due_ms`: since 1970, the moment before which no call may come."""

    id: str
    due_ms: int
    should_end: End = "succeeded"
    may_end: tuple[End, ...] = ()
    """Ends that are as good: a cancel of which nobody knows whether it was in time, a last call that was cut off."""
    number: int = -1
    """Of the request that it was made by."""
    cancelled_ms: int | None = None
    """When a cancel had been confirmed: no call may come any more."""
    dues_ms: tuple[int, ...] = ()
    """The times that a call of it may name as its own; none for any."""


@dataclass(frozen=True)
class Call:
    """One call as the sink saw it, and what the sink answered (0: nothing)."""

    id: str
    attempt: int
    at_ms: int
    status: int
    number: int = -1
    behaviour: str = ""
    due_ms: int | None = None
    """As the call itself says."""
    about: str = ""
    """Of a callback: the task that has ended, and how: `<id>:succeeded`."""

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
    after_cancel: tuple[Call, ...] = ()
    at_another_time: tuple[Call, ...] = ()
    backwards: tuple[Call, ...] = ()


def check(accepted: Sequence[Accepted], calls: Iterable[Call]) -> Verdict:
    """The verdict on a run that is over."""
    by_id = by_task(calls)
    promised = {task.id: task for task in accepted}
    made = {id_: by_id.get(id_, ()) for id_ in promised}
    return Verdict(
        accepted=len(promised),
        called=len(by_id),
        calls=sum(len(each) for each in by_id.values()),
        lost=tuple(task.id for task in promised.values() if not is_kept(task, made[task.id])),
        early=tuple(call for task in promised.values() for call in made[task.id] if call.at_ms < task.due_ms),
        repeated_successes=sum(max(0, sum(call.is_success for call in each) - 1) for each in by_id.values()),
        repeated_attempts=sum(_repeats(call.attempt for call in each) for each in by_id.values()),
        strangers=tuple(id_ for id_ in by_id if id_ not in promised),
        lateness_ms=lateness(promised.values(), by_id),
        after_cancel=tuple(call for task in promised.values() for call in made[task.id] if _is_too_late(task, call)),
        at_another_time=tuple(call for task in promised.values() for call in made[task.id] if _is_misled(task, call)),
        backwards=tuple(call for each in by_id.values() for call in _backwards(each)),
    )


def by_task(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """The calls of each id, in the order of time."""
    found: defaultdict[str, list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda one: one.at_ms):
        found[call.id].append(call)
    return dict(found)


def is_kept(task: Accepted, calls: Iterable[Call]) -> bool:
    """Is the promise of the 201 fulfilled by these calls of the task?"""
    if task.should_end == "cancelled" or "cancelled" in task.may_end:
        return True
    if task.should_end == "failed" or "failed" in task.may_end:
        return any(True for _ in calls)
    return any(call.is_success for call in calls)


def unfinished(accepted: Iterable[Accepted], states: Mapping[str, str]) -> dict[str, str]:
    """The tasks whose history does not end as it should, with the state that the API tells instead."""
    told = {task.id: ((task.should_end, *task.may_end), states.get(task.id, "unknown")) for task in accepted}
    return {id_: state for id_, (ends, state) in told.items() if state not in ends}


def lateness(tasks: Iterable[Accepted], by_id: Mapping[str, Sequence[Call]]) -> Lateness | None:
    """Of the first calls of those that were called."""
    return spread([min(call.at_ms for call in by_id[task.id]) - task.due_ms for task in tasks if by_id.get(task.id)])


def spread(late: Sequence[float]) -> Lateness | None:
    return Lateness(percentile(late, 0.5), percentile(late, 0.99), max(late)) if late else None


def _is_too_late(task: Accepted, call: Call) -> bool:
    return task.cancelled_ms is not None and call.at_ms > task.cancelled_ms


def _is_misled(task: Accepted, call: Call) -> bool:
    return bool(task.dues_ms) and call.due_ms is not None and call.due_ms not in task.dues_ms


def _repeats(numbers: Iterable[int]) -> int:
    return sum(count - 1 for count in Counter(numbers).values())


def _backwards(calls: Iterable[Call]) -> Iterator[Call]:
    """A life begins anew with each redrive, and that has a time of its own."""
    seen: defaultdict[int | None, set[int]] = defaultdict(set)
    for call in calls:
        before = seen[call.due_ms]
        if before and call.attempt < max(before) and call.attempt not in before:
            yield call
        before.add(call.attempt)

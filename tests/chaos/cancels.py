"""Cancels that were confirmed and did not hold, and which of them docs/guarantees.md allows for. Pure.

A cancel of a task that was due by then is kept in Redis. While that is away or cannot be asked, or after it has lost
its memory, the task may be called (again), or turn out to have ended before.
"""

from collections.abc import Iterable, Mapping, Sequence

from tests.chaos.checker import Accepted, Call
from tests.chaos.duplicates import struck
from tests.chaos.fault import Done

NOTICED_MS = 3_000
"""Around a fault of Redis: a dispatcher goes on without it for a while."""


def forgotten_cancels(
    accepted: Iterable[Accepted], by_id: Mapping[str, Sequence[Call]], done: Sequence[Done]
) -> frozenset[str]:
    """Tasks of which Redis was to remember a cancel, and could not: nothing more can be asked of these."""
    faults = [each for each in done if "redis" in struck(each.fault.target) <= {"redis", "dispatcher"}]
    return frozenset(
        task.id
        for task in accepted
        if task.cancelled_ms is not None
        and (made := by_id.get(task.id))
        and task.due_ms <= task.cancelled_ms
        and any(_meets(each, made, task.cancelled_ms) for each in faults)
    )


def _meets(done: Done, made: Sequence[Call], cancelled_ms: int) -> bool:
    first_ms, last_ms = min(cancelled_ms, made[0].at_ms), max(cancelled_ms, made[-1].at_ms)
    return done.began_ms <= last_ms and first_ms <= done.ended_ms + NOTICED_MS

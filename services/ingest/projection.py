"""Events to history, by rules that do not care about order or repetition. Pure.

A task's history is four registers. Each holds the greatest thing it was ever shown, so any order of the same events,
with any of them repeated, ends the same; `store.py` merges rows into the table by the same comparisons.

    state     greatest generation; an end before any other; ends by (rank, hop), others by (hop, rank);
              then moment and reason
    accepted  TaskAccepted: greatest generation, then the earliest created_at
    last      AttemptFinished: greatest (generation, attempt), then the latest start
    first     AttemptFinished: greatest generation, then the smallest attempt, then the earliest start

Taken for granted: events that agree in what their register compares agree in the rest (they tell of one thing).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from libs.common.clock import EPOCH
from libs.common.contracts import (
    AttemptFinished,
    Event,
    TargetChanged,
    Task,
    TaskAccepted,
    TaskConflict,
    TaskFinished,
    TaskParked,
)

State = Literal["scheduled", "parked", "retrying", "expired", "failed", "cancelled", "succeeded"]

_RANKS: dict[State, int] = {
    "scheduled": 0,
    "parked": 1,
    "retrying": 2,
    "expired": 3,
    "failed": 4,
    "cancelled": 5,
    "succeeded": 6,
}
FINAL: frozenset[State] = frozenset({"expired", "failed", "cancelled", "succeeded"})

# One integer per comparison keeps the SQL short: generation, rank and hop side by side.
_HOP_BITS = _ATTEMPT_BITS = 20
_RANK_BITS = 4
_HOP_MAX = (1 << _HOP_BITS) - 1
_ATTEMPT_MAX = (1 << _ATTEMPT_BITS) - 1
GENERATION_SHIFT = 1 + _RANK_BITS + _HOP_BITS
"""A state's order shifted right by this is its generation."""


class StateMark(NamedTuple):
    """Where a task stands. The order implies the name. `at`: due, parked, next attempt or finished."""

    order: int
    at: datetime
    reason: str
    name: State


NO_STATE = StateMark(0, EPOCH, "", "scheduled")


@dataclass(slots=True)
class TaskHistory:
    """What a batch of events says about one task."""

    id: UUID
    project: str
    state: StateMark = NO_STATE
    accepted: Task | None = None
    last: AttemptFinished | None = None
    first: AttemptFinished | None = None


@dataclass(slots=True)
class Batch:
    """One row per task, one per attempt, one per host and replica; the requests that met another under their id."""

    tasks: dict[UUID, TaskHistory] = field(default_factory=dict)
    attempts: dict[tuple[UUID, int, int], AttemptFinished] = field(default_factory=dict)
    conflicts: list[TaskConflict] = field(default_factory=list)
    targets: dict[tuple[str, str], TargetChanged] = field(default_factory=dict)


def project(events: Iterable[Event]) -> Batch:
    """Everything that `events` say, at most once each."""
    batch = Batch()
    for event in events:
        match event:
            case TaskConflict():
                batch.conflicts.append(event)
            case TargetChanged():
                held = batch.targets.get((event.host, event.replica))
                if held is None or event.changed_at > held.changed_at:
                    batch.targets[event.host, event.replica] = event
            case TaskAccepted():
                _accepted(_history(batch, event.task), event.task)
            case AttemptFinished():
                _attempted(batch, _history(batch, event), event)
            case TaskFinished():
                mark = _mark(event, event.state, event.finished_at, event.reason)
                _raise_state(_history(batch, event), mark)
            case TaskParked():
                _raise_state(_history(batch, event), _mark(event, "parked", event.parked_at, event.cause))
    return batch


def generation_of(state_order: int) -> int:
    return state_order >> GENERATION_SHIFT


def attempt_generation_of(order: int) -> int:
    """Of the register of the last attempt, or of the first."""
    return order >> _ATTEMPT_BITS


def last_order(attempt: AttemptFinished) -> int:
    return attempt.generation << _ATTEMPT_BITS | min(attempt.attempt, _ATTEMPT_MAX)


def first_order(attempt: AttemptFinished) -> int:
    return attempt.generation << _ATTEMPT_BITS | _ATTEMPT_MAX - min(attempt.attempt, _ATTEMPT_MAX)


def lateness_ms(attempt: AttemptFinished) -> int:
    return round((attempt.started_at - attempt.due_at).total_seconds() * 1000)


def in_id_order(batch: Batch) -> Sequence[TaskHistory]:
    """Rows in the order of their ids: two writers that lock in the same order cannot deadlock."""
    return sorted(batch.tasks.values(), key=lambda history: history.id.int)


def _history(batch: Batch, event: Task | AttemptFinished | TaskFinished | TaskParked) -> TaskHistory:
    history = batch.tasks.get(event.id)
    if history is None:
        history = batch.tasks[event.id] = TaskHistory(event.id, event.project)
    return history


def _accepted(history: TaskHistory, task: Task) -> None:
    _raise_state(history, _mark(task, "scheduled", task.due_at, None))
    held = history.accepted
    if held is None or (task.generation, held.created_at) > (held.generation, task.created_at):
        history.accepted = task


def _attempted(batch: Batch, history: TaskHistory, event: AttemptFinished) -> None:
    _raise_state(history, _mark_of(event))
    batch.attempts.setdefault((event.id, event.generation, event.attempt), event)
    last, first = history.last, history.first
    if last is None or (last_order(event), event.started_at) > (last_order(last), last.started_at):
        history.last = event
    if first is None or (first_order(event), first.started_at) > (first_order(first), event.started_at):
        history.first = event


def _mark_of(event: AttemptFinished) -> StateMark:
    if event.outcome == "retry":
        return _mark(event, "retrying", event.next_attempt_at or event.started_at, None)
    return _mark(event, event.outcome, event.started_at + timedelta(milliseconds=event.duration_ms), event.error)


def _raise_state(history: TaskHistory, mark: StateMark) -> None:
    history.state = max(history.state, mark)


def _mark(
    event: Task | AttemptFinished | TaskFinished | TaskParked, name: State, at: datetime, reason: str | None
) -> StateMark:
    rank, hop = _RANKS[name], min(event.hop, _HOP_MAX)
    if name in FINAL:  # a success of one fork stands against the failure of a longer one
        within = 1 << (_RANK_BITS + _HOP_BITS) | rank << _HOP_BITS | hop
    else:  # parked or retrying, whichever came later in the task's life
        within = hop << _RANK_BITS | rank
    return StateMark(event.generation << GENERATION_SHIFT | within, at, storable(reason or ""), name)


def storable(text: str) -> str:
    """PostgreSQL's text refuses NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")

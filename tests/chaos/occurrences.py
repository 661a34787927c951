"""Which occurrences of the schedules had to come, which may have come, and which came. Pure.

Between the answer to one change and the question for the next a schedule surely stood as it was told: each of its times
there had to come, once. While a change was being asked for, the times of either may have come. No other may.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.checker import Call


@dataclass(frozen=True)
class Change:
    """`number`: what its calls are known by; None for a schedule that makes none (paused, deleted).

    It comes at each multiple of `every_ms` since 1970. `asked_ms`: the first request; `answered_ms`: the answer.
    """

    asked_ms: int
    answered_ms: int
    number: int | None = None
    every_ms: int = 1


@dataclass(frozen=True)
class Occurrence:
    number: int
    due_ms: int


@dataclass(frozen=True)
class Occurrences:
    wanted: int
    came: int
    missing: tuple[Occurrence, ...]
    unwanted: tuple[Occurrence, ...]
    """At a time that was not its schedule's, any more or yet."""
    doubled: tuple[Occurrence, ...]
    """As two tasks."""


def check_occurrences(changes: Iterable[Sequence[Change]], calls: Iterable[Call], until_ms: int) -> Occurrences:
    """`changes`: of each schedule, in their order. What is due after `until_ms` is not asked for."""
    histories = [_with_an_end(history, until_ms) for history in changes]
    wanted = {one for history in histories for one in _wanted(history)}
    allowed = {one for history in histories for one in _allowed(history)}
    came = _ids(calls)
    return Occurrences(
        wanted=len(wanted),
        came=len(came),
        missing=tuple(sorted(wanted - set(came), key=lambda one: one.due_ms)),
        unwanted=tuple(one for one in came if one not in allowed and one.due_ms <= until_ms),
        doubled=tuple(one for one, ids in came.items() if len(ids) > 1),
    )


def _with_an_end(history: Sequence[Change], until_ms: int) -> list[Change]:
    return [*history, Change(until_ms, until_ms)]


def _wanted(history: Sequence[Change]) -> Iterator[Occurrence]:
    for change, following in pairwise(history):
        yield from _times(change, change.answered_ms + 1, following.asked_ms - 1)


def _allowed(history: Sequence[Change]) -> Iterator[Occurrence]:
    for change, following in pairwise(history):
        yield from _times(change, change.asked_ms, following.answered_ms)


def _times(change: Change, from_ms: int, until_ms: int) -> Iterator[Occurrence]:
    """Both ends included."""
    if change.number is not None:
        first = -(-from_ms // change.every_ms) * change.every_ms
        for due_ms in range(first, until_ms + 1, change.every_ms):
            yield Occurrence(change.number, due_ms)


def _ids(calls: Iterable[Call]) -> Mapping[Occurrence, set[str]]:
    came: defaultdict[Occurrence, set[str]] = defaultdict(set)
    for call in calls:
        if call.behaviour == "occurrence" and call.due_ms is not None:
            came[Occurrence(call.number, call.due_ms)].add(call.id)
    return came

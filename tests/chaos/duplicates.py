"""What came twice, and the fault that explains it. Pure: emissions, calls and faults in, a reckoning out.

A task is emitted again when its first emission was not buried: its scheduler, the broker or Postgres was struck between
the lock on its row and the commit. It is called again when the dispatcher that called it was struck before its verdict
was safe, or when Redis could not tell of the first call. So each duplicate has its fault near its first time, and one
that has none is a bug.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

from tests.chaos.checker import Call
from tests.chaos.fault import Done

HELD_MS = {"emission": 2_500, "call": 6_000}
"""So long before the fault at most. A fire waits 2 s for its confirms and then commits; a call takes 5 s at most, and
then its verdict is written."""
NOTICED_MS = 1_000
"""Others work on for a moment after a death: Postgres' own children, for one."""
RECOVERS_MS = 3_000
"""Around the moment a server is seen to be back: it answers a little before, and confirms a little after."""
KILLERS: Mapping[str, frozenset[str]] = {
    "emission": frozenset({"scheduler", "rabbitmq", "postgres"}),
    "call": frozenset({"dispatcher", "redis"}),
}
"""Who can cause which duplicate. The marks in Redis absorb what anybody else does."""
SUDDEN = frozenset({"kill", "restart"})
"""Whom these strike holds nothing afterwards; all others go on with what they had in hand."""

T = TypeVar("T", "Emission", Call)


class Emission(NamedTuple):
    """One due task as a scheduler published it. Two of the same are two messages."""

    id: str
    generation: int
    attempt: int
    hop: int
    at_ms: int
    """By Postgres' clock, while the row was locked."""


@dataclass(frozen=True)
class Duplicate:
    what: Literal["emission", "call"]
    id: str
    first_ms: int
    again_ms: int


@dataclass(frozen=True)
class Reckoning:
    """`explained` counts by kind, fault and target: `{"emission": {"kill rabbitmq": 3}}`."""

    emissions: int
    duplicates: Mapping[str, int]
    explained: Mapping[str, Mapping[str, int]]
    unexplained: tuple[Duplicate, ...]
    beside_redis: int = 0
    """Repeated calls that no fault of Redis explains, so that the marks in it should have absorbed them."""


def reckon(emissions: Sequence[Emission], calls: Iterable[Call], done: Sequence[Done]) -> Reckoning:
    twice = [*repeated_emissions(emissions), *repeated_calls(calls)]
    causes = {duplicate: cause_of(duplicate, done) for duplicate in set(twice)}
    of_redis = [each for each in done if is_of_redis(each)]
    explained: dict[str, Counter[str]] = {what: Counter() for what in KILLERS}
    for duplicate in twice:
        if (cause := causes[duplicate]) is not None:
            explained[duplicate.what][f"{cause.fault.kind} {cause.fault.target}"] += 1
    return Reckoning(
        emissions=len(emissions),
        duplicates=dict(Counter(duplicate.what for duplicate in twice)),
        explained={what: dict(counts) for what, counts in explained.items()},
        unexplained=tuple(duplicate for duplicate in twice if causes[duplicate] is None),
        beside_redis=sum(each.what == "call" and cause_of(each, of_redis) is None for each in twice),
    )


def repeated_emissions(emissions: Iterable[Emission]) -> Iterator[Duplicate]:
    """The same step of the same task, each time against the time before."""
    for (id_, *_), made in _groups(emissions, lambda one: one[:4]):
        yield from (Duplicate("emission", id_, first.at_ms, again.at_ms) for first, again in pairwise(made))


def repeated_calls(calls: Iterable[Call]) -> Iterator[Duplicate]:
    """The same attempt once more, or any call after a success. A redrive has a time of its own, and is another life."""
    for (id_, _due_ms), made in _groups(calls, lambda call: (call.id, call.due_ms)):
        for number, again in enumerate(made):
            before = [call for call in made[:number] if call.is_success or call.attempt == again.attempt]
            if before:
                yield Duplicate("call", id_, before[-1].at_ms, again.at_ms)


def cause_of(duplicate: Duplicate, done: Iterable[Done]) -> Done | None:
    """The fault of one that had the first in hand: the nearest, when there are several."""
    near = [each for each in done if _is_near(duplicate, each)]
    return min(near, key=lambda each: abs(each.began_ms - duplicate.first_ms), default=None)


def struck(target: str) -> frozenset[str]:
    """The kinds of those who take part: `dispatcher-1>redis` is a dispatcher and redis."""
    return frozenset(name.partition("-")[0] for name in target.split(">"))


def _is_near(duplicate: Duplicate, done: Done) -> bool:
    if not _can_cause(duplicate.what, done) or duplicate.again_ms < done.began_ms:
        return False
    if is_of_redis(done) and duplicate.again_ms <= done.ended_ms + RECOVERS_MS:
        return True  # claims were granted without asking
    if done.fault.kind == "flush" and done.began_ms >= duplicate.first_ms:
        return True  # the marks of the first are gone
    return any(begin <= duplicate.first_ms <= end for begin, end in _windows(done, HELD_MS[duplicate.what]))


def is_of_redis(done: Done) -> bool:
    return "redis" in struck(done.fault.target)


def _can_cause(what: str, done: Done) -> bool:
    """A link between two of which one cannot cause it is none of its business: a dispatcher's to the broker."""
    return struck(done.fault.target) <= KILLERS[what] and done.fault.kind != "clock"


def _windows(done: Done, held_ms: int) -> Iterator[tuple[int, int]]:
    """When it can have been in the hands of who was struck. Nothing leaves while the broker is away, calls do without
    Redis.
    """
    kinds = struck(done.fault.target)
    yield done.began_ms - held_ms, done.began_ms + NOTICED_MS
    if done.fault.kind not in SUDDEN or "redis" in kinds:
        yield done.began_ms, done.ended_ms + NOTICED_MS
    if "rabbitmq" in kinds:
        yield done.ended_ms - RECOVERS_MS, done.ended_ms + RECOVERS_MS


def _groups(made: Iterable[T], key: Callable[[T], tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], list[T]]]:
    """In the order of time."""
    groups: defaultdict[tuple[Any, ...], list[T]] = defaultdict(list)
    for one in sorted(made, key=lambda one: one.at_ms):
        groups[key(one)].append(one)
    yield from groups.items()

"""What came twice, and the death that explains it. Pure: emissions, calls and deaths in, a reckoning out.

A task is emitted again when its first emission was not buried: its scheduler, the broker or Postgres died between the
lock on its row and the commit. It is called again when its first call was not settled. So each duplicate has its death
near its first time, and one that has none is a bug.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

from tests.chaos.checker import Call

HELD_MS = {"emission": 2_500, "call": 5_000}
"""So long before the death at most. A fire waits 2 s for its confirms and then commits; a call takes what it takes."""
NOTICED_MS = 1_000
"""Others work on for a moment after a death: Postgres' own children, for one."""
RECOVERS_MS = 3_000
"""Around the moment a server is seen to be back: it answers a little before, and confirms a little after."""
KILLERS: Mapping[str, tuple[str, ...]] = {
    "emission": ("scheduler", "rabbitmq", "postgres"),
    "call": ("scheduler", "dispatcher", "rabbitmq", "postgres", "redis"),
}
"""Whose death can cause which duplicate. ingest and mailer neither emit nor call."""

T = TypeVar("T", "Emission", Call)


class Emission(NamedTuple):
    """One due task as a scheduler published it. Two of the same are two messages."""

    id: str
    generation: int
    attempt: int
    hop: int
    at_ms: int
    """By Postgres' clock, while the row was locked."""


class Death(NamedTuple):
    victim: str
    at_ms: int
    back_ms: int


@dataclass(frozen=True)
class Duplicate:
    what: Literal["emission", "call"]
    id: str
    first_ms: int
    again_ms: int


@dataclass(frozen=True)
class Reckoning:
    """`explained` counts by kind and victim: `{"emission": {"rabbitmq": 3}}`."""

    emissions: int
    duplicates: Mapping[str, int]
    explained: Mapping[str, Mapping[str, int]]
    unexplained: tuple[Duplicate, ...]


def reckon(emissions: Sequence[Emission], calls: Iterable[Call], deaths: Sequence[Death]) -> Reckoning:
    twice = [*repeated_emissions(emissions), *repeated_calls(calls)]
    causes = {duplicate: cause_of(duplicate, deaths) for duplicate in set(twice)}
    explained: dict[str, Counter[str]] = {what: Counter() for what in KILLERS}
    for duplicate in twice:
        if (death := causes[duplicate]) is not None:
            explained[duplicate.what][death.victim] += 1
    return Reckoning(
        emissions=len(emissions),
        duplicates=dict(Counter(duplicate.what for duplicate in twice)),
        explained={what: dict(counts) for what, counts in explained.items()},
        unexplained=tuple(duplicate for duplicate in twice if causes[duplicate] is None),
    )


def repeated_emissions(emissions: Iterable[Emission]) -> Iterator[Duplicate]:
    """The same step of the same task, each time against the time before."""
    for (id_, *_), made in _groups(emissions, lambda one: one[:4]):
        yield from (Duplicate("emission", id_, first.at_ms, again.at_ms) for first, again in pairwise(made))


def repeated_calls(calls: Iterable[Call]) -> Iterator[Duplicate]:
    """The same attempt once more, or any call after a success."""
    for (id_,), made in _groups(calls, lambda call: (call.id,)):
        for number, again in enumerate(made):
            before = [call for call in made[:number] if call.is_success or call.attempt == again.attempt]
            if before:
                yield Duplicate("call", id_, before[-1].at_ms, again.at_ms)


def cause_of(duplicate: Duplicate, deaths: Iterable[Death]) -> Death | None:
    """The death of one that had the first in hand: the nearest, when there are several."""
    near = [death for death in deaths if _is_near(duplicate, death)]
    return min(near, key=lambda death: abs(death.at_ms - duplicate.first_ms), default=None)


def _is_near(duplicate: Duplicate, death: Death) -> bool:
    kind, _, _number = death.victim.partition("-")
    if kind not in KILLERS[duplicate.what] or duplicate.again_ms < death.at_ms:
        return False
    return any(begin <= duplicate.first_ms <= end for begin, end in _windows(kind, death, HELD_MS[duplicate.what]))


def _windows(kind: str, death: Death, held_ms: int) -> Iterator[tuple[int, int]]:
    """When it can have been in the victim's hands. Nothing leaves while the broker is away, calls do without Redis."""
    yield death.at_ms - held_ms, death.at_ms + NOTICED_MS
    if kind == "redis":
        yield death.at_ms, death.back_ms + NOTICED_MS
    if kind == "rabbitmq":
        yield death.back_ms - RECOVERS_MS, death.back_ms + RECOVERS_MS


def _groups(made: Iterable[T], key: Callable[[T], tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], list[T]]]:
    """In the order of time."""
    groups: defaultdict[tuple[Any, ...], list[T]] = defaultdict(list)
    for one in sorted(made, key=lambda one: one.at_ms):
        groups[key(one)].append(one)
    yield from groups.items()

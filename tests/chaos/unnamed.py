"""Tasks of the legacy doors, whose ids no answer names, known by their number when they are called. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.actor import Unnamed
from tests.chaos.checker import Accepted, Call
from tests.chaos.fault import Done

TAKEN_WITHIN_MS = 60_000
"""After a push. What waits longer in a Redis that is flushed is not ours to lose either, but should not be there."""


@dataclass(frozen=True)
class Named:
    accepted: tuple[Accepted, ...]
    lost: tuple[int, ...]
    """Numbers that were never called."""
    forgotten: tuple[int, ...]
    """The same, of entries that waited in Redis when it was told to forget everything."""
    doubled: tuple[int, ...]
    """Numbers that more tasks were called for than requests can have made."""


def named(unnamed: Sequence[Unnamed], calls: Iterable[Call], done: Sequence[Done]) -> Named:
    ids = _ids_by_number(calls)
    missing = [one for one in unnamed if one.number not in ids]
    forgotten = {one.number for one in missing if _is_forgotten(one, done)}
    return Named(
        accepted=tuple(
            Accepted(id_, one.due_ms, one.story.should_end, number=one.number)
            for one in unnamed
            for id_ in sorted(ids.get(one.number, ()))
        ),
        lost=tuple(one.number for one in missing if one.number not in forgotten),
        forgotten=tuple(sorted(forgotten)),
        doubled=tuple(one.number for one in unnamed if len(ids.get(one.number, ())) > one.tries),
    )


def _ids_by_number(calls: Iterable[Call]) -> dict[int, set[str]]:
    ids: defaultdict[int, set[str]] = defaultdict(set)
    for call in calls:
        if call.behaviour not in ("occurrence", "callback"):
            ids[call.number].add(call.id)
    return dict(ids)


def _is_forgotten(one: Unnamed, done: Sequence[Done]) -> bool:
    """What Redis itself loses is lost (docs/redis-list.md)."""
    return one.story.door == "list" and any(
        each.fault.kind == "flush"
        and one.asked_ms <= each.ended_ms
        and each.began_ms <= one.answered_ms + TAKEN_WITHIN_MS
        for each in done
    )

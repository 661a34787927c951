"""Did everybody who wanted to be told of an end hear of it, of the right one, and by one task? Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tests.chaos.checker import Call


@dataclass(frozen=True)
class Callbacks:
    """Each as `<task>:<end>`."""

    wanted: int
    missing: tuple[str, ...]
    contradicting: tuple[str, ...]
    """Ends that the task never had."""
    doubled: tuple[str, ...]
    """Told by two tasks, which a receiver would take for two ends. A task that was redriven may have succeeded twice: a
    frozen dispatcher may make the call of its first life after the second.
    """


def check_callbacks(
    tasks: Collection[str], redriven: Collection[str], ends: Mapping[str, str], calls: Iterable[Call]
) -> Callbacks:
    """`ends`: as the histories tell them; `redriven` have failed once before."""
    calls = list(calls)
    told, lives = _told(calls), _lives_that_succeeded(redriven, calls)
    wanted = {f"{id_}:{ends[id_]}" for id_ in tasks if ends.get(id_) in ("succeeded", "failed")}
    wanted |= {f"{id_}:failed" for id_ in tasks if id_ in redriven}
    heard = {about for about, made in told.items() if any(call.is_success for call in made)}
    return Callbacks(
        wanted=len(wanted),
        missing=tuple(sorted(wanted - heard)),
        contradicting=tuple(sorted(set(told) - wanted)),
        doubled=tuple(
            sorted(about for about, made in told.items() if len({call.id for call in made}) > lives.get(about, 1))
        ),
    )


def _lives_that_succeeded(redriven: Collection[str], calls: Iterable[Call]) -> dict[str, int]:
    """How many, by `<task>:succeeded`; each has a due time of its own."""
    dues: defaultdict[str, set[int | None]] = defaultdict(set)
    for call in calls:
        if call.is_success and call.id in redriven:
            dues[f"{call.id}:succeeded"].add(call.due_ms)
    return {about: len(each) for about, each in dues.items()}


def _told(calls: Iterable[Call]) -> dict[str, list[Call]]:
    told: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.about:
            told[call.about].append(call)
    return dict(told)

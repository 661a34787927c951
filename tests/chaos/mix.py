"""The mixed load: which tasks are asked for by which door, how they are answered, and what is done to them meanwhile.

Pure, but for the dice handed in: the same dice ask for the same.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from tests.chaos.checker import End

Door = Literal["post", "batch", "form", "list"]
"""`POST /v1/tasks`, one of many in a batch, the ancestor's form, the Redis list."""

DOORS: dict[Door, float] = {"post": 0.60, "batch": 0.25, "form": 0.05, "list": 0.10}
BEHAVIOURS: dict[str, float] = {
    "ok": 0.58, "slow": 0.10, "flaky": 0.07, "flaky2": 0.04, "reset": 0.04, "later": 0.04, "stall": 0.03,
    "broken": 0.02, "hopeless": 0.02, "mended": 0.03,
}  # fmt: skip
"""How the sink answers, by the first segment of the path; `sink.py` says what each does."""
ENDS: dict[str, End] = {"broken": "failed", "hopeless": "failed"}
"""All others succeed; `mended` once it is redriven."""

DeedName = Literal["cancel", "move", "run", "redrive", "again", "rival"]
DEEDS: dict[DeedName | None, float] = {
    None: 0.66, "cancel": 0.09, "move": 0.09, "run": 0.04, "again": 0.09, "rival": 0.03,
}  # fmt: skip
LADDERS: tuple[tuple[float, ...] | None, ...] = (None, None, None, (1, 2, 5), (1, 1.5, 2, 3), (0.5, 4, 2, 1))
"""The dispatcher's own, and custom ones with steps that are on no rung. None is short: a fault may cost an attempt."""
CALLBACK_SHARE = 0.15
# How long before it is due a task is asked for: at the last moment, seconds, or up to the whole run.
NOW_SHARE, LONG_SHARE, AHEAD_S_MAX = 0.15, 0.25, 15.0
BATCH_ITEMS = 12
COPIES = 4
RACE_S = 0.4
"""So near to its time that nobody can say who wins."""
SOON_S = 2.0
NOTICE_EVERY_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Deed:
    """Something asked about a task that is there. `due_at_s`: to which time a `move` moves it."""

    name: DeedName
    at_s: float
    due_at_s: float = 0.0


@dataclass(frozen=True)
class Story:
    """One task, from its request to its end. Times in seconds since the run began."""

    number: int
    door: Door
    behaviour: str
    post_at_s: float
    due_at_s: float
    is_due_now: bool = False
    """It names no time."""
    schedule_s: tuple[float, ...] | None = None
    has_callbacks: bool = False
    copies: int = 1
    """So many requests with its key at the same moment."""
    deeds: tuple[Deed, ...] = ()

    @property
    def should_end(self) -> End:
        return ENDS.get(self.behaviour, "succeeded")


@dataclass(frozen=True)
class Batch:
    number: int
    post_at_s: float
    stories: tuple[Story, ...]
    is_ndjson: bool


ScheduleAct = Literal["put", "pause", "resume", "run", "delete"]


@dataclass(frozen=True)
class ScheduleStep:
    """`every_s` of a `put`; `is_cron`: said as a cron of seconds."""

    act: ScheduleAct
    at_s: float
    every_s: int = 0
    is_cron: bool = False


@dataclass(frozen=True)
class Plot:
    """One schedule and what is asked about it, in this order."""

    number: int
    steps: tuple[ScheduleStep, ...]


@dataclass(frozen=True)
class Mix:
    stories: tuple[Story, ...]
    """By themselves: the others stand in batches."""
    batches: tuple[Batch, ...]
    plots: tuple[Plot, ...]
    notices_s: tuple[float, ...]

    @property
    def tasks(self) -> int:
        return len(self.stories) + sum(len(batch.stories) for batch in self.batches)


def mix(tasks: int, schedules: int, over_s: float, dice: random.Random) -> Mix:
    stories = [_story(number, over_s, dice) for number in range(tasks)]
    return Mix(
        stories=tuple(story for story in stories if story.door != "batch"),
        batches=tuple(_batches([story for story in stories if story.door == "batch"], dice)),
        plots=tuple(_plot(number, over_s, dice) for number in range(schedules)),
        notices_s=tuple(NOTICE_EVERY_S * number for number in range(int(over_s / NOTICE_EVERY_S) + 1)),
    )


def _story(number: int, over_s: float, dice: random.Random) -> Story:
    door, behaviour = _chosen(DOORS, dice), _chosen(BEHAVIOURS, dice)
    if door in ("form", "list"):  # they can say no time limit, and name no id
        behaviour = {"stall": "slow", "mended": "flaky"}.get(behaviour, behaviour)
    due_at_s = dice.uniform(0, over_s)
    lot, ahead_s = dice.random(), dice.uniform(0, AHEAD_S_MAX)
    if lot < LONG_SHARE or ahead_s > due_at_s:  # else all that is due at first would be asked for at the same moment
        ahead_s = dice.uniform(0, due_at_s)
    is_due_now = lot > 1 - NOW_SHARE and door == "post"
    post_at_s = due_at_s if is_due_now else max(0.0, due_at_s - ahead_s)
    can_be_asked_more = door in ("post", "batch")
    schedule_s = dice.choice(LADDERS)
    return Story(
        number,
        door,
        behaviour,
        post_at_s,
        due_at_s,
        is_due_now,
        schedule_s if can_be_asked_more else None,
        has_callbacks=dice.random() < CALLBACK_SHARE and can_be_asked_more,
        copies=COPIES if dice.random() < 0.05 and door == "post" else 1,
        deeds=_deeds(door, behaviour, post_at_s, due_at_s, over_s, dice) if can_be_asked_more else (),
    )


def _deeds(
    door: Door, behaviour: str, post_at_s: float, due_at_s: float, over_s: float, dice: random.Random
) -> tuple[Deed, ...]:
    if behaviour == "mended":
        return (Deed("redrive", due_at_s + dice.uniform(0.5, 5)),)
    name = _chosen(DEEDS, dice)
    at_s = _when(post_at_s, due_at_s, dice)
    match name:
        case "cancel":
            # Of those that are retried: between two calls, most of the time.
            late = behaviour in ("hopeless", "flaky", "flaky2", "later") and dice.random() < 0.7
            return (Deed("cancel", due_at_s + dice.uniform(0.3, 4) if late else at_s),)
        case "move":
            move = Deed("move", at_s, dice.uniform(at_s + SOON_S, max(at_s + SOON_S, over_s)))
            is_cancelled_too = dice.random() < 0.2
            return (move, Deed("cancel", _when(at_s, move.due_at_s, dice))) if is_cancelled_too else (move,)
        case "run":
            return (Deed("run", at_s),)
        case "again" | "rival" if door == "post":
            return (Deed(name, dice.uniform(post_at_s, over_s)),)
        case _:
            return ()


def _when(from_s: float, due_at_s: float, dice: random.Random) -> float:
    """Somewhere before it is due, or in a race with that."""
    if dice.random() < 0.3 or due_at_s - from_s < RACE_S:
        return max(from_s, due_at_s + dice.uniform(-RACE_S, RACE_S))
    return dice.uniform(from_s, due_at_s)


def _batches(stories: Sequence[Story], dice: random.Random) -> Iterator[Batch]:
    """Neighbours in time share a request, which goes out when the first of them would."""
    ordered = sorted(stories, key=lambda story: story.post_at_s)
    for number, begin in enumerate(range(0, len(ordered), BATCH_ITEMS)):
        some = tuple(ordered[begin : begin + BATCH_ITEMS])
        yield Batch(number, some[0].post_at_s, some, is_ndjson=dice.random() < 0.3)


def _plot(number: int, over_s: float, dice: random.Random) -> Plot:
    """Created, perhaps changed, paused and resumed, and at the end deleted: by the trial, when all else is over."""
    moments = sorted(dice.uniform(0.1, 0.9) * over_s for _ in range(4))
    acts: list[ScheduleAct] = dice.choice(
        [["put"], ["pause", "resume"], ["put", "pause", "resume"], ["run", "put"], ["pause", "resume", "run", "put"]]
    )
    steps = [_put(dice.uniform(0, 0.1) * over_s, dice)]
    for act, at_s in zip(acts, moments, strict=False):
        steps.append(_put(at_s, dice) if act == "put" else ScheduleStep(act, at_s))
    return Plot(number, tuple(steps))


def _put(at_s: float, dice: random.Random) -> ScheduleStep:
    return ScheduleStep("put", at_s, dice.choice((2, 3, 4, 5, 6, 10)), is_cron=dice.random() < 0.5)


def _chosen(shares: Mapping[T, float], dice: random.Random) -> T:
    return dice.choices(list(shares), list(shares.values()))[0]

"""What is asked of the stack: tasks spread over the run, and notices for the digest. Pure, but for the dice handed in.

Each task is asked for some seconds before it is due, so that requests come in all the time, also while ingest dies.
"""

import random
from dataclasses import dataclass
from typing import Literal

Behaviour = Literal["ok", "flaky", "broken"]
"""Path segment that tells the sink how to answer: 200; 503 to the first attempt; 410, which ends the task as failed."""

FLAKY_SHARE = 0.10
BROKEN_SHARE = 0.01
AHEAD_S_MAX = 15.0
NOTICE_EVERY_S = 2.0


@dataclass(frozen=True)
class Order:
    """One task to ask for. Times in seconds since the run began."""

    number: int
    behaviour: Behaviour
    post_at_s: float
    due_at_s: float


def orders(tasks: int, over_s: float, dice: random.Random) -> list[Order]:
    """`tasks` orders due at even chances within `over_s`."""
    return [_order(number, over_s, dice) for number in range(tasks)]


def notice_times_s(over_s: float) -> list[float]:
    """When to ask for a notice."""
    return [NOTICE_EVERY_S * number for number in range(int(over_s / NOTICE_EVERY_S) + 1)]


def _order(number: int, over_s: float, dice: random.Random) -> Order:
    due_at_s = dice.uniform(0, over_s)
    behaviour: Behaviour = "ok"
    lot = dice.random()
    if lot < BROKEN_SHARE:
        behaviour = "broken"
    elif lot < BROKEN_SHARE + FLAKY_SHARE:
        behaviour = "flaky"
    return Order(number, behaviour, max(0.0, due_at_s - dice.uniform(0, AHEAD_S_MAX)), due_at_s)

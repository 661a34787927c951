"""Lives of tasks in a world without time (`tests/simulation`): thousands by hand, a hundred or two here."""

from typing import get_args

import pytest

from tests.simulation.life import live
from tests.simulation.world import Rule

SEEDS = range(1, 101)
TRIES = 400
"""Seeds in which somebody must notice that a rule is switched off; the rarest is seen about every fiftieth."""

NOTICED: dict[Rule, set[str]] = {
    "accept waits for a fire": {"lost", "endless"},
    "fire commits after the confirm": {"lost"},
    "the row decides what is due": {"early"},
    "a claim for every call": {"repeated"},
    "a claim lasts as long as its call": {"repeated"},
    "ack after all of it": {"lost", "endless"},
}


def test_no_task_is_lost_early_endless_or_repeated_for_no_reason_in_any_life() -> None:
    bad = [report for report in map(live, SEEDS) if report.faults]

    assert bad == []


def test_without_faults_no_call_is_repeated() -> None:
    reports = [live(seed, faults=0.0) for seed in range(1, 31)]

    assert [report for report in reports if report.faults or report.repeated] == []


def test_a_seed_is_the_same_life_each_time() -> None:
    assert live(7) == live(7)


@pytest.mark.parametrize("rule", get_args(Rule))
def test_a_rule_that_is_switched_off_is_noticed(rule: Rule) -> None:
    seen: set[str] = set()
    for seed in range(1, TRIES + 1):
        seen |= live(seed, broken=rule).kinds
        if seen & NOTICED[rule]:
            return
    pytest.fail(f"{TRIES} seeds without '{rule}' showed {seen or 'nothing'}")

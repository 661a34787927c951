"""Negative controls: with a rule of the design switched off, the same run must report what it guards against.

The rules bear the names that `tests/simulation` gives them; `broken/sitecustomize.py` switches them off, in the
processes of a service and nowhere in the product.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from deploy.local.layout import replica_name
from deploy.local.plan import Override
from tests.chaos.fault import Kind
from tests.chaos.report import Report
from tests.chaos.run import Run
from tests.simulation.world import Rule

RULES: tuple[Rule, ...] = get_args(Rule)
PATCH = Path(__file__).parent / "broken"


@dataclass(frozen=True)
class Control:
    """In which services a rule is switched off, under which faults, and the words of the report of which one must come.

    Where no fault is needed to break the promise, somebody dies who has no part in it.
    """

    services: tuple[str, ...]
    kinds: tuple[Kind, ...]
    targets: tuple[str, ...]
    shows: frozenset[str]


LOST = frozenset({"lost", "history", "occurrence-missing"})
CONTROLS: Mapping[Rule, Control] = {
    "accept waits for a fire": Control(("scheduler",), ("kill",), ("mailer",), LOST),
    "fire commits after the confirm": Control(("scheduler",), ("kill",), ("scheduler", "rabbitmq"), LOST),
    "the row decides what is due": Control(("scheduler",), ("kill",), ("mailer",), frozenset({"early"})),
    "a claim for every call": Control(("dispatcher",), ("reset",), ("dispatcher>rabbitmq",), frozenset({"duplicates"})),
    "ack after all of it": Control(("scheduler", "dispatcher"), ("kill",), ("scheduler", "dispatcher"), LOST),
}


def broken(run: Run, rule: Rule) -> Run:
    """The run with this rule switched off, under the faults that should show it."""
    control = CONTROLS[rule]
    env = {"PYTHONPATH": str(PATCH), "CHAOS_BROKEN": rule}
    names = [replica_name(service, n) for service in control.services for n in range(1, run.replicas + 1)]
    overrides = dict.fromkeys(names, Override(env=env))
    return replace(run, kinds=control.kinds, targets=control.targets, overrides=overrides)


def is_noticed(report: Report, rule: Rule) -> bool:
    return bool(report.kinds & CONTROLS[rule].shows)

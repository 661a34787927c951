"""The plan of the chaos run: the seed makes it, everything comes into it, and nothing is broken all the time."""

from collections import Counter
from itertools import pairwise

import pytest

from tests.chaos.fault import KINDS, Fault
from tests.chaos.links import links
from tests.chaos.plan import (
    BUSY_SHARE_MAX,
    FIRST_SHARE,
    LAST_SHARE,
    SERVERS,
    SERVERS_BUSY_SHARE_MAX,
    SERVES_S,
    bounded_queues,
    lanes,
    make,
)

OVER_S = 180.0
SEEDS = range(40)


@pytest.fixture(scope="module")
def plans() -> list[tuple[Fault, ...]]:
    return [make(seed, OVER_S) for seed in SEEDS]


def test_the_same_seed_makes_the_same_plan(plans: list[tuple[Fault, ...]]) -> None:
    assert [make(seed, OVER_S) for seed in SEEDS] == plans


def test_different_seeds_make_different_plans(plans: list[tuple[Fault, ...]]) -> None:
    assert len(set(map(str, plans))) == len(plans)


def test_every_kind_comes_in_almost_every_plan(plans: list[tuple[Fault, ...]]) -> None:
    missing = Counter(kind for plan in plans for kind in KINDS if kind not in {fault.kind for fault in plan})
    assert max(missing.values(), default=0) <= len(plans) // 4, missing


def test_every_process_and_every_link_is_hurt_in_every_way_over_some_seeds(plans: list[tuple[Fault, ...]]) -> None:
    hurt = {(fault.kind, fault.target) for plan in plans for fault in plan}
    services = [
        f"{service}-{number}" for service in ("ingest", "scheduler", "dispatcher", "mailer") for number in (1, 2)
    ]
    assert {(kind, name) for kind in ("kill", "freeze", "restart") for name in (*services, *SERVERS)} <= hurt
    assert {("clock", name) for name in services} <= hurt
    assert {str(link) for link in links(2)} <= {target for _, target in hurt}


def test_every_fault_is_over_before_the_run_is(plans: list[tuple[Fault, ...]]) -> None:
    for fault in (fault for plan in plans for fault in plan):
        assert FIRST_SHARE * OVER_S - 0.001 <= fault.at_s <= fault.end_s <= LAST_SHARE * OVER_S + 0.001


def test_a_target_serves_between_two_of_its_faults(plans: list[tuple[Fault, ...]]) -> None:
    for lane in (lane for plan in plans for lane in lanes(plan).values()):
        assert all(later.at_s - sooner.end_s >= SERVES_S for sooner, later in pairwise(lane))


@pytest.mark.parametrize("target", ["rabbitmq", "dispatcher-1", "dispatcher-1>redis"])
def test_however_many_faults_are_asked_for_a_target_serves_most_of_the_time(target: str) -> None:
    for seed in range(5):
        plan = make(seed, OVER_S, targets=[target], per_minute=120)
        assert all(sum(fault.for_s for fault in lane) <= BUSY_SHARE_MAX * OVER_S for lane in lanes(plan).values())


def test_however_many_faults_are_asked_for_all_servers_together_serve_half_of_the_time() -> None:
    for seed in range(5):
        plan = make(seed, OVER_S, targets=SERVERS, per_minute=120)
        assert 0.4 * OVER_S < sum(fault.for_s for fault in plan) <= SERVERS_BUSY_SHARE_MAX * OVER_S


def test_a_plan_holds_what_it_is_asked_for_unless_there_is_no_room(plans: list[tuple[Fault, ...]]) -> None:
    assert min(map(len, plans)) >= 32
    assert len(make(1, 30.0, per_minute=12)) == 6


def test_a_wrong_clock_of_ingest_is_wrong_by_little(plans: list[tuple[Fault, ...]]) -> None:
    clocks = [fault for plan in plans for fault in plan if fault.kind == "clock"]
    of_all = {
        name: max(abs(float(fault.parameters["by_s"])) for fault in clocks if fault.process.startswith(name))
        for name in ("ingest", "scheduler", "dispatcher", "mailer")
    }
    assert of_all == {"ingest": 5.0, "scheduler": 3600.0, "dispatcher": 3600.0, "mailer": 3600.0}


def test_only_queues_that_refuse_can_be_full() -> None:
    queues = bounded_queues()
    assert {"dispatcher.due", "scheduler.tasks", "ingest.history", "dispatcher.retry.1000"} <= set(queues)
    assert not {"dispatcher.retry-due", "parking", "ingest.replicas", "mailer.memory"} & set(queues)


@pytest.mark.parametrize(
    ("kinds", "targets", "hurt"),
    [
        (["kill"], ["scheduler", "rabbitmq"], {"scheduler-1", "scheduler-2", "rabbitmq"}),
        (["freeze"], ["scheduler-2"], {"scheduler-2"}),
        (["half_open"], ["dispatcher>redis"], {"dispatcher-1>redis", "dispatcher-2>redis"}),
        (["reset"], [">smtp"], {"mailer-1>smtp", "mailer-2>smtp"}),
        (["clock", "alarm"], ["rabbitmq"], {"rabbitmq"}),
    ],
)
def test_a_plan_can_be_for_some_only(kinds: list[str], targets: list[str], hurt: set[str]) -> None:
    plan = make(1, 600.0, kinds=kinds, targets=targets)  # type: ignore[arg-type]  # words of a parametrization
    assert {fault.target for fault in plan} == hurt
    assert {fault.kind for fault in plan} <= set(kinds)


def test_a_target_that_nobody_is_is_named() -> None:
    with pytest.raises(ValueError, match="gardener"):
        make(1, OVER_S, targets=["scheduler", "gardener"])


def test_a_fault_that_cannot_befall_its_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="alarm cannot befall mailer"):
        make(1, OVER_S, kinds=["alarm"], targets=["mailer"])

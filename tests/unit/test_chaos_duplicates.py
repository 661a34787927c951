"""The reckoning of duplicates: each is seen, and explained by a fault that can have caused it, or by none."""

import pytest

from tests.chaos.checker import Call
from tests.chaos.duplicates import HELD_MS, NOTICED_MS, RECOVERS_MS, Duplicate, Emission, cause_of, reckon, struck
from tests.chaos.fault import Done, Fault, Kind

AT = 1_000_000
LATER = AT + 60_000


def emission(id_: str = "a", at_ms: int = AT, *, attempt: int = 1, hop: int = 0) -> Emission:
    return Emission(id_, 1, attempt, hop, at_ms)


def call(at_ms: int = AT, *, attempt: int = 1, status: int = 200, due_ms: int = AT) -> Call:
    return Call("a", attempt, at_ms, status, due_ms=due_ms)


def done(target: str = "scheduler-1", began_ms: int = AT + 5, ended_ms: int = AT + 3_000, kind: Kind = "kill") -> Done:
    return Done(Fault(0.0, kind, target, 1.0), began_ms, ended_ms)


TWICE = [emission(), emission(at_ms=LATER)]


# --- what is a duplicate


@pytest.mark.parametrize("other", [emission("b"), emission(attempt=2), emission(hop=1)])
def test_another_step_is_no_duplicate(other: Emission) -> None:
    assert reckon([emission(), other], [], []).duplicates == {}


def test_each_emission_after_the_first_is_one_and_is_explained_from_the_one_before() -> None:
    found = reckon([emission(at_ms=LATER), *TWICE], [], [done()])
    assert (found.emissions, found.duplicates) == (3, {"emission": 2})
    assert found.unexplained == (Duplicate("emission", "a", LATER, LATER),)
    assert found.explained == {"emission": {"kill scheduler-1": 1}, "call": {}}


def test_a_retry_is_no_duplicate_and_a_call_after_a_success_is() -> None:
    assert reckon([], [call(status=503), call(LATER, attempt=2)], []).duplicates == {}
    assert reckon([], [call(), call(LATER, attempt=2)], []).duplicates == {"call": 1}
    assert reckon([], [call(status=503), call(LATER, status=503)], []).duplicates == {"call": 1}


def test_the_first_attempt_of_a_new_life_is_no_duplicate() -> None:
    assert reckon([], [call(status=410), call(LATER, due_ms=LATER)], []).duplicates == {}


# --- what explains it


def test_what_nothing_happened_for_is_unexplained() -> None:
    found = reckon(TWICE, [call(), call(LATER)], [])
    assert [duplicate.what for duplicate in found.unexplained] == ["emission", "call"]


HELD = HELD_MS["emission"]


@pytest.mark.parametrize(
    ("began_ms", "is_cause"),
    [(AT + HELD, True), (AT + HELD + 1, False), (AT - NOTICED_MS, True), (AT - NOTICED_MS - 1, False)],
)
def test_only_a_death_at_the_time_of_the_first_explains_the_second(began_ms: int, is_cause: bool) -> None:
    found = reckon(TWICE, [], [done(began_ms=began_ms, ended_ms=AT + 30_000)])
    assert len(found.unexplained) == (not is_cause)


@pytest.mark.parametrize(
    ("target", "ended_ms", "is_cause"),
    [
        ("rabbitmq", AT - RECOVERS_MS, True),
        ("rabbitmq", AT + RECOVERS_MS, True),
        ("rabbitmq", AT - RECOVERS_MS - 1, False),
        ("rabbitmq", AT + RECOVERS_MS + 1, False),
        ("postgres", AT, False),
    ],
)
def test_a_broker_that_comes_back_explains_too_and_nobody_else(target: str, ended_ms: int, is_cause: bool) -> None:
    found = reckon(TWICE, [], [done(target, began_ms=AT - 30_000, ended_ms=ended_ms)])
    assert len(found.unexplained) == (not is_cause)


@pytest.mark.parametrize(
    ("kind", "ended_ms", "is_cause"),
    [
        ("freeze", AT + 9_000, True),
        ("latency", AT - NOTICED_MS, True),
        ("freeze", AT - NOTICED_MS - 1, False),
        ("kill", AT + 9_000, False),
        ("restart", AT + 9_000, False),
    ],
)
def test_what_lasts_explains_as_long_as_it_lasts_and_the_dead_hold_nothing(
    kind: Kind, ended_ms: int, is_cause: bool
) -> None:
    found = reckon(TWICE, [], [done(began_ms=AT - 9_000, ended_ms=ended_ms, kind=kind)])
    assert len(found.unexplained) == (not is_cause)


def test_a_call_while_redis_is_away_may_be_repeated() -> None:
    calls = [call(), call(LATER)]
    assert reckon([], calls, [done("redis", began_ms=AT - 9_000, ended_ms=AT + 9_000)]).unexplained == ()
    assert reckon([], calls, [done("redis", began_ms=AT - 9_000, ended_ms=AT - NOTICED_MS - 1)]).unexplained


@pytest.mark.parametrize(("ended_ms", "is_cause"), [(LATER - RECOVERS_MS, True), (LATER - RECOVERS_MS - 1, False)])
def test_redis_away_at_the_second_call_explains_it_too(ended_ms: int, is_cause: bool) -> None:
    found = reckon([], [call(), call(LATER)], [done("redis", began_ms=LATER - 9_000, ended_ms=ended_ms)])
    assert len(found.unexplained) == (not is_cause)


@pytest.mark.parametrize(("began_ms", "is_cause"), [(AT, True), (LATER - 1, True), (AT - 60_000, False)])
def test_a_flush_between_the_two_explains_the_second_however_late_it_is(began_ms: int, is_cause: bool) -> None:
    calls = [call(), call(LATER + 60_000)]
    found = reckon([], calls, [done("redis", began_ms, began_ms, kind="flush")])
    assert len(found.unexplained) == (not is_cause)


def test_what_redis_explains_is_told_apart_from_what_its_marks_should_have_absorbed() -> None:
    calls = [call(), call(LATER)]
    assert reckon([], calls, [done("dispatcher-1")]).beside_redis == 1
    assert reckon([], calls, [done("dispatcher-1"), done("redis")]).beside_redis == 0
    assert reckon(TWICE, [], []).beside_redis == 0


def test_a_clock_explains_nothing() -> None:
    assert reckon(TWICE, [], [done(kind="clock")]).unexplained


def test_a_fault_after_the_second_explains_nothing() -> None:
    quick = Duplicate("emission", "a", AT, AT + 100)
    assert cause_of(quick, [done(began_ms=AT + 100)])
    assert cause_of(quick, [done(began_ms=AT + 101)]) is None


@pytest.mark.parametrize(
    ("what", "targets"),
    [
        ("emission", {"scheduler-1", "rabbitmq", "postgres", "scheduler-1>postgres", "scheduler-2>rabbitmq"}),
        ("call", {"dispatcher-2", "redis", "dispatcher-1>redis"}),
    ],
)
def test_only_those_who_had_it_in_hand_explain_it(what: str, targets: set[str]) -> None:
    processes = {"scheduler-1", "dispatcher-2", "ingest-1", "mailer-1", "rabbitmq", "postgres", "redis"}
    links = {"scheduler-1>postgres", "scheduler-2>rabbitmq", "dispatcher-1>rabbitmq", "dispatcher-1>redis"}
    links |= {"ingest-1>rabbitmq", "ingest-1>redis", "mailer-1>rabbitmq"}
    duplicate = Duplicate(what, "a", AT, LATER)  # type: ignore[arg-type]
    assert {target for target in processes | links if cause_of(duplicate, [done(target)])} == targets


def test_a_link_is_both_its_ends() -> None:
    assert struck("dispatcher-1>redis") == {"dispatcher", "redis"}
    assert struck("rabbitmq") == {"rabbitmq"}


def test_the_nearest_fault_is_the_cause() -> None:
    far, near = done("rabbitmq", began_ms=AT - 900), done("postgres", began_ms=AT + 20)
    assert reckon(TWICE, [], [far, near]).explained["emission"] == {"kill postgres": 1}

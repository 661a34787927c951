"""The reckoning of duplicates: each is seen, and explained by a death that can have caused it, or by none."""

import random

import pytest

from deploy.local.readiness import Question
from tests.chaos.checker import Call
from tests.chaos.duplicates import HELD_MS, NOTICED_MS, RECOVERS_MS, Death, Duplicate, Emission, cause_of, reckon
from tests.chaos.killer import chosen, plan_at_random

AT = 1_000_000
LATER = AT + 60_000


def emission(id_: str = "a", at_ms: int = AT, *, attempt: int = 1, hop: int = 0) -> Emission:
    return Emission(id_, 1, attempt, hop, at_ms)


def call(at_ms: int = AT, *, attempt: int = 1, status: int = 200) -> Call:
    return Call("a", attempt, at_ms, status)


def death(victim: str = "scheduler-1", at_ms: int = AT + 5, back_ms: int = AT + 3_000) -> Death:
    return Death(victim, at_ms, back_ms)


TWICE = [emission(), emission(at_ms=LATER)]


# --- what is a duplicate


@pytest.mark.parametrize("other", [emission("b"), emission(attempt=2), emission(hop=1)])
def test_another_step_is_no_duplicate(other: Emission) -> None:
    assert reckon([emission(), other], [], []).duplicates == {}


def test_each_emission_after_the_first_is_one_and_is_explained_from_the_one_before() -> None:
    found = reckon([emission(at_ms=LATER), *TWICE], [], [death()])
    assert (found.emissions, found.duplicates) == (3, {"emission": 2})
    assert found.unexplained == (Duplicate("emission", "a", LATER, LATER),)
    assert found.explained == {"emission": {"scheduler-1": 1}, "call": {}}


def test_a_retry_is_no_duplicate_and_a_call_after_a_success_is() -> None:
    assert reckon([], [call(status=503), call(LATER, attempt=2)], []).duplicates == {}
    assert reckon([], [call(), call(LATER, attempt=2)], []).duplicates == {"call": 1}
    assert reckon([], [call(status=503), call(LATER, status=503)], []).duplicates == {"call": 1}


# --- what explains it


def test_what_nobody_died_for_is_unexplained() -> None:
    found = reckon(TWICE, [call(), call(LATER)], [])
    assert [duplicate.what for duplicate in found.unexplained] == ["emission", "call"]


HELD = HELD_MS["emission"]


@pytest.mark.parametrize(
    ("at_ms", "is_cause"),
    [(AT + HELD, True), (AT + HELD + 1, False), (AT - NOTICED_MS, True), (AT - NOTICED_MS - 1, False)],
)
def test_only_a_death_at_the_time_of_the_first_explains_the_second(at_ms: int, is_cause: bool) -> None:
    found = reckon(TWICE, [], [death(at_ms=at_ms, back_ms=AT + 30_000)])
    assert len(found.unexplained) == (not is_cause)


@pytest.mark.parametrize(
    ("victim", "back_ms", "is_cause"),
    [
        ("rabbitmq", AT - RECOVERS_MS, True),
        ("rabbitmq", AT + RECOVERS_MS, True),
        ("rabbitmq", AT - RECOVERS_MS - 1, False),
        ("rabbitmq", AT + RECOVERS_MS + 1, False),
        ("postgres", AT, False),
    ],
)
def test_a_broker_that_comes_back_explains_too_and_nobody_else(victim: str, back_ms: int, is_cause: bool) -> None:
    found = reckon(TWICE, [], [death(victim, at_ms=AT - 30_000, back_ms=back_ms)])
    assert len(found.unexplained) == (not is_cause)


def test_a_call_while_redis_is_away_may_be_repeated() -> None:
    calls = [call(), call(LATER)]
    assert reckon([], calls, [death("redis", at_ms=AT - 9_000, back_ms=AT + 9_000)]).unexplained == ()
    assert reckon([], calls, [death("redis", at_ms=AT - 9_000, back_ms=AT - NOTICED_MS - 1)]).unexplained


def test_a_death_after_the_second_explains_nothing() -> None:
    quick = Duplicate("emission", "a", AT, AT + 100)
    assert cause_of(quick, [death(at_ms=AT + 100)])
    assert cause_of(quick, [death(at_ms=AT + 101)]) is None


@pytest.mark.parametrize(
    ("what", "victims"),
    [
        ("emission", {"scheduler-1", "rabbitmq", "postgres"}),
        ("call", {"scheduler-1", "dispatcher-2", "rabbitmq", "postgres", "redis"}),
    ],
)
def test_only_those_who_had_it_in_hand_explain_it(what: str, victims: set[str]) -> None:
    everybody = {"scheduler-1", "dispatcher-2", "ingest-1", "mailer-1", "rabbitmq", "postgres", "redis"}
    duplicate = Duplicate(what, "a", AT, LATER)  # type: ignore[arg-type]
    assert {one for one in everybody if cause_of(duplicate, [death(one)])} == victims


def test_the_nearest_death_is_the_cause() -> None:
    far, near = death("rabbitmq", at_ms=AT - 900), death("postgres", at_ms=AT + 20)
    assert reckon(TWICE, [], [far, near]).explained["emission"] == {"postgres": 1}


# --- who is killed


async def _asked() -> None:
    raise AssertionError("not asked")


EVERYBODY: dict[str, Question] = dict.fromkeys(
    ["scheduler-1", "scheduler-2", "ingest-1", "rabbitmq", "postgres"], _asked
)


def test_victims_are_chosen_by_their_own_name_or_their_services() -> None:
    assert set(chosen(EVERYBODY, [])) == set(EVERYBODY)
    assert set(chosen(EVERYBODY, ["scheduler", "rabbitmq"])) == {"scheduler-1", "scheduler-2", "rabbitmq"}
    assert set(chosen(EVERYBODY, ["scheduler-2"])) == {"scheduler-2"}


def test_a_victim_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="called mongodb, scheduler-9: choose from scheduler-1"):
        chosen(EVERYBODY, ["scheduler-9", "mongodb", "postgres"])


def test_so_many_deaths_in_all_are_spread_over_everybody_and_repeat_with_the_seed() -> None:
    plans = [plan_at_random(list(EVERYBODY), 30, 100, random.Random(7)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert set(plans[0]) == set(EVERYBODY)
    times = [at_s for of_one in plans[0].values() for at_s in of_one]
    assert len(times) == 30
    assert 5 <= min(times) <= max(times) <= 90
    assert all(of_one == sorted(of_one) and of_one for of_one in plans[0].values())

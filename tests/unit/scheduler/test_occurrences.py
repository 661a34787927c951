"""Which occurrences become tasks: on time, late, missed; within start and end; once, whatever clocks do."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from libs.common.contracts import Call, HeldSchedule, Schedule, encode
from services.scheduler import occurrences
from services.scheduler.occurrences import (
    CATCH_UP_MAX,
    LEAD,
    MISSED,
    Plan,
    ahead,
    first_after,
    occurrence_id,
    plan,
    run_id,
    schedule_id,
    task_of,
)
from services.scheduler.schedule_commands import changed, put
from services.scheduler.store_schedules import Change
from tests.unit.scheduler.schedules import a_put

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
CALL = msgspec.Raw(encode(Call(url="https://example.org/bell")))


def a_schedule(**fields: Any) -> Schedule:
    return Schedule(**{"call": CALL, **fields})


def held(schedule: Schedule, next_at: datetime | None, **fields: Any) -> HeldSchedule:
    known: dict[str, Any] = {
        "id": schedule_id("acme", "bell"),
        "project": "acme",
        "name": "bell",
        "revision": 1,
        "status": "active",
        "created_at": NOON - DAY,
        "changed_at": NOON - DAY,
    }
    return HeldSchedule(**known | fields, next_at=next_at, schedule=schedule)


def planned(schedule: Schedule, next_at: datetime, now: datetime = NOON) -> Plan:
    return plan(held(schedule, next_at), schedule, now)


def times(made: Plan) -> list[datetime]:
    return [occurrence.at for occurrence in made.occurrences]


# --- on time and late


def test_what_comes_within_the_lead_becomes_a_task_and_what_comes_after_it_is_next() -> None:
    made = planned(a_schedule(cron="* * * * *"), NOON + MINUTE, NOON + MINUTE - LEAD)
    assert times(made) == [NOON + MINUTE]  # at exactly the lead
    assert made.next_at == NOON + 2 * MINUTE


def test_what_comes_later_than_the_lead_stays_next() -> None:
    made = planned(a_schedule(cron="* * * * *"), NOON + MINUTE, NOON + MINUTE - LEAD - timedelta(microseconds=1))
    assert made == Plan((), NOON + MINUTE)


def test_every_second_of_the_lead_becomes_a_task_and_pass_after_pass_makes_each_once() -> None:
    schedule = a_schedule(cron="* * * * * *")
    next_at: datetime | None = NOON + SECOND
    made: list[datetime] = []
    for tenth in range(100):
        assert next_at is not None
        one = planned(schedule, next_at, NOON + tenth * SECOND / 10)
        made += times(one)
        next_at = one.next_at
    assert made == [NOON + n * SECOND for n in range(1, 15)]  # until 9.9 s + 5 s


@pytest.mark.parametrize("catch_up", ["latest", "all", "none"])
def test_what_is_late_by_less_than_a_minute_is_made_whatever_is_said_about_the_missed(catch_up: str) -> None:
    now = NOON + MISSED - timedelta(microseconds=1)
    made = planned(a_schedule(cron="*/30 * * * * *", catch_up=catch_up), NOON, now)
    assert times(made) == [NOON, NOON + 30 * SECOND, NOON + MINUTE]
    assert made.next_at == NOON + 90 * SECOND


# --- missed


@pytest.mark.parametrize(("catch_up", "expected"), [("latest", [3]), ("all", [1, 2, 3]), ("none", [])])
def test_what_was_missed_is_made_up_for_as_the_schedule_says(catch_up: str, expected: list[int]) -> None:
    made = planned(a_schedule(cron="0 * * * *", catch_up=catch_up), NOON + HOUR, NOON + 3 * HOUR + 30 * MINUTE)
    assert times(made) == [NOON + n * HOUR for n in expected]
    assert made.next_at == NOON + 4 * HOUR


def test_what_is_overdue_by_exactly_a_minute_was_missed() -> None:
    assert times(planned(a_schedule(cron="0 * * * *", catch_up="none"), NOON, NOON + MISSED)) == []
    assert times(planned(a_schedule(cron="0 * * * *", catch_up="latest"), NOON, NOON + MISSED)) == [NOON]


@pytest.mark.parametrize("catch_up", ["latest", "all", "none"])
def test_the_missed_the_late_and_the_coming_meet_without_a_gap_and_without_a_double(catch_up: str) -> None:
    now = NOON + 10 * MINUTE + SECOND / 2
    made = times(planned(a_schedule(cron="* * * * * *", catch_up=catch_up), NOON, now))
    missed = {"latest": 1, "all": 541, "none": 0}[catch_up]
    until_missed = NOON + 9 * MINUTE
    assert made[missed:] == [until_missed + n * SECOND for n in range(1, 66)]
    assert made[:missed] == [until_missed - n * SECOND for n in reversed(range(missed))]


@pytest.mark.parametrize("fields", [{"cron": "* * * * * *"}, {"every": "1s"}], ids=str)
def test_after_a_long_outage_all_means_the_newest_thousand(fields: dict[str, str], counted: list[int]) -> None:
    now = NOON + 365 * DAY
    made = planned(a_schedule(catch_up="all", start_at=NOON, **fields), NOON, now)
    newest = now - MISSED
    assert CATCH_UP_MAX == 1_000
    assert times(made) == [newest + n * SECOND for n in range(-999, 66)]
    assert made.next_at == now + 6 * SECOND
    assert counted[0] < 20_000  # of 31 million


@pytest.mark.parametrize("count", [999, 1_000, 1_001])
def test_around_a_thousand_missed_none_too_many_and_none_too_few(count: int) -> None:
    now = NOON + (count - 1) * HOUR + MISSED
    made = planned(a_schedule(cron="0 * * * *", catch_up="all"), NOON, now)
    assert times(made) == [NOON + n * HOUR for n in range(max(0, count - 1000), count)]


@pytest.mark.parametrize("fields", [{"cron": "* * * * * *"}, {"every": "1s"}], ids=str)
@pytest.mark.parametrize("catch_up", ["latest", "none"])
def test_after_a_long_outage_the_latest_costs_little(fields: dict[str, str], catch_up: str, counted: list[int]) -> None:
    made = planned(a_schedule(catch_up=catch_up, start_at=NOON, **fields), NOON, NOON + 365 * DAY)
    assert len(made.occurrences) == 65 + (catch_up == "latest")
    assert counted[0] < 200


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many occurrences have been looked at."""
    count = [0]
    real = occurrences._until

    def until(*args: Any) -> Iterator[Any]:
        for each in real(*args):
            count[0] += 1
            yield each

    monkeypatch.setattr(occurrences, "_until", until)
    return count


# --- start and end


def test_the_start_itself_is_an_occurrence() -> None:
    schedule = a_schedule(cron="0 * * * *", start_at=NOON + HOUR)
    assert first_after(schedule, NOON - DAY, NOON) == NOON + HOUR
    schedule = a_schedule(cron="0 * * * *", start_at=NOON + HOUR + timedelta(milliseconds=1))
    assert first_after(schedule, NOON - DAY, NOON) == NOON + 2 * HOUR
    assert first_after(a_schedule(every="1h", start_at=NOON + SECOND), NOON - DAY, NOON) == NOON + SECOND


def test_a_start_in_the_past_brings_nothing_back() -> None:
    assert first_after(a_schedule(cron="0 * * * *", start_at=NOON - DAY), NOON - DAY, NOON) == NOON + HOUR


def test_the_end_itself_is_an_occurrence_and_the_last() -> None:
    schedule = a_schedule(cron="* * * * * *", end_at=NOON + 3 * SECOND)
    made = planned(schedule, NOON + SECOND, NOON)
    assert times(made) == [NOON + n * SECOND for n in (1, 2, 3)]
    assert made.next_at is None
    assert first_after(schedule, NOON - DAY, NOON + 2 * SECOND) == NOON + 3 * SECOND
    assert first_after(schedule, NOON - DAY, NOON + 3 * SECOND) is None


def test_an_end_between_two_occurrences_lets_the_later_one_go() -> None:
    made = planned(a_schedule(cron="0 * * * *", end_at=NOON + HOUR - SECOND), NOON, NOON)
    assert made == Plan(made.occurrences, None)
    assert times(made) == [NOON]


@pytest.mark.parametrize(("catch_up", "expected"), [("latest", [2]), ("all", [0, 1, 2]), ("none", [])])
def test_a_schedule_that_ended_during_an_outage_is_caught_up_on_until_its_end(
    catch_up: str, expected: list[int]
) -> None:
    schedule = a_schedule(cron="0 * * * *", end_at=NOON + 2 * HOUR, catch_up=catch_up)
    made = planned(schedule, NOON, NOON + 9 * HOUR)
    assert times(made) == [NOON + n * HOUR for n in expected]
    assert made.next_at is None


def test_an_end_within_the_minute_that_is_late_still_makes_what_is_late() -> None:
    made = planned(a_schedule(cron="* * * * * *", end_at=NOON + 2 * SECOND, catch_up="none"), NOON, NOON + 30 * SECOND)
    assert times(made) == [NOON, NOON + SECOND, NOON + 2 * SECOND]
    assert made.next_at is None


# --- every


def test_an_interval_counts_from_its_start_whenever_it_is_asked() -> None:
    schedule = a_schedule(every="7m", start_at=NOON)
    assert first_after(schedule, NOON - DAY, NOON + 100 * MINUTE) == NOON + 105 * MINUTE
    made = planned(schedule, NOON + 105 * MINUTE, NOON + 106 * MINUTE - SECOND)
    assert times(made) == [NOON + 105 * MINUTE]
    assert made.next_at == NOON + 112 * MINUTE


def test_an_interval_without_a_start_counts_from_the_creation() -> None:
    created_at = NOON - 20 * SECOND
    assert first_after(a_schedule(every="30s"), created_at, created_at) == NOON + 10 * SECOND
    assert first_after(a_schedule(every="30s"), created_at, NOON + 15 * SECOND) == NOON + 40 * SECOND


def test_a_replacement_with_the_same_interval_keeps_the_beat() -> None:
    standing = held(a_schedule(every="1h"), NOON + 40 * MINUTE, created_at=NOON - 20 * MINUTE)
    change = _decided(put(a_put(a_schedule(every="1h", labels={"a": "b"})), standing.id), standing)
    assert change.held.next_at == NOON + 40 * MINUTE
    assert change.held.created_at == standing.created_at


def _decided(decide: Any, standing: HeldSchedule, now: datetime = NOON) -> Change:
    change = decide(standing, now)
    assert isinstance(change, Change)
    return change


# --- ids, and the changes of clocks


def ids(schedule: Schedule, begin: datetime, end: datetime, step: timedelta = 3 * SECOND) -> list[tuple[Any, datetime]]:
    """What passes from `begin` to `end` make, with the time of each."""
    next_at, now = first_after(schedule, NOON - DAY, begin), begin
    made: list[tuple[Any, datetime]] = []
    while now <= end and next_at is not None:
        standing = held(schedule, next_at)
        one = plan(standing, schedule, now)
        made += [(occurrence_id(standing, schedule, occurrence), occurrence.at) for occurrence in one.occurrences]
        next_at, now = one.next_at, now + step
    return made


SPRING = datetime(2027, 3, 28, 0, 30, tzinfo=UTC)  # Paris skips 02:00-03:00 local at 01:00 UTC
AUTUMN = datetime(2027, 10, 31, 0, 30, tzinfo=UTC)  # and has 02:00-03:00 twice, from 00:00 UTC


@pytest.mark.parametrize(
    ("cron", "begin", "minutes"),
    [
        ("30 2 * * *", SPRING, [30]),  # swallowed: the first instant after the gap
        ("0,30 2 * * *", SPRING, [30]),  # two swallowed, one instant, one task
        ("30 2,3 * * *", SPRING, [30, 60]),
        ("*/15 * * * *", SPRING, [15, 30, 45, 60]),
        ("30 2 * * *", AUTUMN - HOUR, [60]),  # twice on the clock, once as a task
        ("*/30 * * * *", AUTUMN - HOUR, [30, 60, 90, 120]),  # both passes
    ],
)
def test_a_change_of_clocks_makes_no_task_twice_and_loses_none(cron: str, begin: datetime, minutes: list[int]) -> None:
    made = ids(a_schedule(cron=cron, timezone="Europe/Paris"), begin, begin + max(minutes) * MINUTE)
    assert [at for _, at in made] == [begin + n * MINUTE for n in minutes]
    assert len({id_ for id_, _ in made}) == len(made)


def test_both_passes_of_a_repeated_hour_have_ids_of_their_own() -> None:
    schedule = a_schedule(cron="0 30 * * * *", timezone="Europe/Paris")
    (first, first_at), (second, second_at) = ids(schedule, AUTUMN - 10 * MINUTE, AUTUMN + HOUR)
    assert second_at - first_at == HOUR
    assert first != second


@pytest.mark.parametrize("fields", [{"cron": "*/10 * * * * *"}, {"every": "10s"}], ids=str)
def test_the_same_occurrence_has_the_same_id_whoever_plans_it_and_when(fields: dict[str, str]) -> None:
    schedule = a_schedule(timezone="Europe/Paris", start_at=NOON, catch_up="all", **fields)
    in_time = ids(schedule, NOON, NOON + 5 * MINUTE, SECOND)
    standing = held(schedule, NOON)
    late = [
        (occurrence_id(standing, schedule, one), one.at)
        for one in plan(standing, schedule, NOON + 5 * MINUTE).occurrences
    ]
    assert late[1:] == in_time  # it began at noon itself
    assert len(set(late)) == 31


def test_another_revision_schedule_or_project_has_other_ids_for_the_same_time() -> None:
    schedule = a_schedule(cron="* * * * *")
    [one] = planned(schedule, NOON, NOON).occurrences
    standing = held(schedule, NOON)
    others: list[dict[str, Any]] = [{"revision": 2}, {"id": schedule_id("acme", "gong")}, {"project": "other"}]
    every = [standing, *(msgspec.structs.replace(standing, **other) for other in others)]
    assert len({occurrence_id(each, schedule, one) for each in every}) == 4
    assert schedule_id("acme", "bell") != schedule_id("other", "bell")


def test_a_run_has_an_id_of_its_command_whatever_the_revision() -> None:
    standing = held(a_schedule(cron="* * * * *"), NOON)
    command, other = a_put(a_schedule()).command_id, a_put(a_schedule()).command_id
    assert run_id(standing, command) == run_id(msgspec.structs.replace(standing, revision=9), command)
    assert run_id(standing, command) != run_id(standing, other)


def test_a_task_carries_its_schedule_and_expires_by_its_own_time() -> None:
    schedule = a_schedule(cron="* * * * *", labels={"a": "b"}, expires_after_s=1.5)
    standing = held(schedule, NOON)
    task = task_of(standing, schedule, standing.id, NOON - HOUR, NOON)
    assert (task.due_at, task.expires_at, task.created_at) == (NOON - HOUR, NOON - HOUR + 1.5 * SECOND, NOON)
    assert (task.schedule, task.labels, task.fingerprint) == ("bell", {"a": "b"}, f"{standing.id}:1")
    assert bytes(task.call) == bytes(CALL)


# --- what was made ahead


def taken_back(standing: HeldSchedule, now: datetime = NOON) -> list[datetime]:
    assert standing.schedule is not None
    return [occurrence.at for occurrence in ahead(standing, standing.schedule, now)]


def test_whatever_a_pass_has_made_and_is_not_due_is_what_a_change_takes_back() -> None:
    schedule = a_schedule(cron="* * * * * *")
    made = planned(schedule, NOON + SECOND, NOON)
    assert taken_back(held(schedule, made.next_at), NOON + SECOND) == [*times(made)[1:], NOON + 6 * SECOND]


def test_what_was_published_without_anybody_hearing_is_taken_back_too() -> None:
    """The confirm or the commit was lost: `next_at` still names what may be a task already."""
    schedule = a_schedule(cron="* * * * *")
    assert taken_back(held(schedule, NOON + MINUTE), NOON + MINUTE - LEAD) == [NOON + MINUTE]
    assert taken_back(held(schedule, NOON + MINUTE), NOON + MINUTE - LEAD - SECOND) == []


def test_the_last_of_a_schedule_that_has_ended_is_taken_back() -> None:
    schedule = a_schedule(cron="* * * * *", end_at=NOON + MINUTE)
    assert taken_back(held(schedule, None, status="ended"), NOON + MINUTE - LEAD) == [NOON + MINUTE]
    assert taken_back(held(schedule, None, status="ended"), NOON + HOUR - LEAD - SECOND) == []


def test_a_paused_schedule_has_made_nothing_ahead() -> None:
    assert taken_back(held(a_schedule(cron="* * * * * *"), None, status="paused")) == []


def test_a_schedule_that_begins_in_a_year_has_made_nothing_ahead_and_says_so_at_once() -> None:
    begin = NOON + 365 * DAY
    schedule = a_schedule(cron="* * * * * *", start_at=begin)
    assert taken_back(held(schedule, begin)) == []
    assert taken_back(held(schedule, begin), begin - LEAD) == [begin]
    assert taken_back(held(schedule, begin), begin - SECOND) == [begin + n * SECOND for n in range(5)]


# --- decisions


def test_a_schedule_said_again_changes_nothing_in_any_state() -> None:
    schedule = a_schedule(every="1h")
    for status, next_at in (("active", NOON + HOUR), ("paused", None), ("ended", None)):
        again = put(a_put(msgspec.structs.replace(schedule)), schedule_id("acme", "bell"))
        assert again(held(schedule, next_at, status=status), NOON) is None


def test_a_replacement_of_a_paused_schedule_stays_paused_and_one_of_an_ended_begins_again() -> None:
    new, id_ = put(a_put(a_schedule(cron="0 * * * *")), schedule_id("acme", "bell")), schedule_id("acme", "bell")
    old = a_schedule(cron="* * * * *")
    paused = _decided(new, held(old, None, status="paused"))
    assert (paused.held.id, paused.held.status, paused.held.next_at) == (id_, "paused", None)
    ended = _decided(new, held(old, None, status="ended"))
    assert (ended.held.status, ended.held.next_at) == ("active", NOON + HOUR)


def test_a_resume_begins_after_now_and_makes_up_for_nothing() -> None:
    schedule = a_schedule(cron="0 * * * *", catch_up="all")
    change = _decided(changed("resume"), held(schedule, None, status="paused"), NOON + 9 * HOUR)
    assert (change.held.status, change.held.next_at) == ("active", NOON + 10 * HOUR)


def test_a_resume_after_the_end_finds_it_ended() -> None:
    schedule = a_schedule(cron="0 * * * *", end_at=NOON)
    change = _decided(changed("resume"), held(schedule, None, status="paused"))
    assert (change.held.status, change.held.next_at) == ("ended", None)


@pytest.mark.parametrize(("action", "status"), [("pause", "paused"), ("pause", "ended"), ("resume", "active")])
def test_a_pause_or_resume_with_nothing_to_do_changes_nothing(action: Any, status: str) -> None:
    standing = held(a_schedule(cron="* * * * *"), NOON + MINUTE if status == "active" else None, status=status)
    assert changed(action)(standing, NOON) is None


@pytest.mark.parametrize("action", ["pause", "resume", "delete"])
def test_a_change_of_a_schedule_that_there_is_not_changes_nothing(action: Any) -> None:
    assert changed(action)(None, NOON) is None


def test_a_schedule_that_can_no_longer_be_read_can_be_replaced_paused_and_deleted() -> None:
    standing = held(a_schedule(cron="* * * * *", timezone="Europe/Atlantis"), NOON + HOUR)
    for decide in (put(a_put(a_schedule(cron="* * * * *")), standing.id), changed("pause"), changed("delete")):
        assert _decided(decide, standing).withdrawn == {}

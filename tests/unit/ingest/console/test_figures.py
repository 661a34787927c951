"""What the overview makes of counts: steps of charts, and what a person should look at."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from services.ingest.calls import Calls
from services.ingest.console.figures import SCALES, Span, columns, concerns, count, in_flight, says, series, standings
from services.ingest.store_overview import COUNT_MAX, Host, Waiting
from services.ingest.store_replicas import Replica

NOW = datetime(2026, 11, 21, 12, 34, 56, tzinfo=UTC)
CALM = Waiting(scheduled=3, overdue=0, oldest_due_at=None, retrying=0, parked=0)


def calls(minutes_ago: float, succeeded: int = 1) -> Calls:
    at = (NOW - timedelta(minutes=minutes_ago)).replace(second=0)
    return Calls(at, succeeded, 2, 3, [0, 4], [7])


def replica(service: str, name: str = "one", age_s: float = 3.0, **vitals: float) -> Replica:
    return Replica(service, name, "1.2.3", NOW - timedelta(hours=1), NOW - timedelta(seconds=age_s), age_s, vitals)


ALL = [replica(service) for service in ("ingest", "scheduler", "dispatcher", "mailer")]


def texts(waiting: Waiting = CALM, replicas: list[Replica] | None = None, **hosts: Any) -> list[str]:
    breakers, paused = hosts.get("breakers", []), hosts.get("paused", [])
    found = concerns(waiting, breakers, paused, ALL if replicas is None else replicas, NOW)
    return [f"{concern.weight} {concern.text} {concern.to}" for concern in found]


@pytest.mark.parametrize(("span", "steps"), [("1h", 60), ("24h", 96), ("7d", 168)])
def test_a_chart_has_a_step_for_every_part_of_its_span(span: Span, steps: int) -> None:
    scale = SCALES[span]
    found = series([calls(0), calls(1)], scale, NOW)
    assert len(found) == steps
    assert {later.at - earlier.at for earlier, later in pairwise(found)} == {scale.step}
    assert found[-1].at <= NOW < found[-1].at + scale.step
    assert sum(step.made for step in found) == 2 * 6


def test_calls_of_one_step_are_added_up_and_others_stay_apart() -> None:
    found = series([calls(1, 10), calls(2, 20), calls(40, 5)], SCALES["24h"], NOW)
    assert [(step.at.minute, step.succeeded, step.lateness) for step in found if step.made] == [
        (45, 5, [0, 4]),
        (30, 30, [0, 8]),
    ]


def test_calls_before_and_after_the_chart_are_left_out() -> None:
    found = series([calls(61), calls(-2)], SCALES["1h"], NOW)
    assert not any(step.made for step in found)


def test_a_chart_gets_numbers_and_gaps_where_there_are_none() -> None:
    told = columns(series([calls(0)], SCALES["1h"], NOW)[-2:])
    assert told == {
        "at": [NOW.replace(minute=33, second=0).timestamp(), NOW.replace(minute=34, second=0).timestamp()],
        "succeeded": [0, 1], "retried": [0, 3], "failed": [0, 2], "p50": [None, 1], "p99": [None, 1],
    }  # fmt: skip


def test_when_all_is_well_nothing_needs_attention() -> None:
    assert texts() == []


def test_a_service_that_nobody_has_heard_of_is_named_and_what_that_means() -> None:
    [bad] = texts(replicas=[each for each in ALL if each.service != "scheduler"])
    assert bad == "bad No scheduler has been heard of for 30 s: no task comes due. #services"


def test_a_silent_replica_is_missed_for_a_while_when_others_work() -> None:
    two = [*ALL, replica("dispatcher", "two", age_s=31)]
    assert texts(replicas=two) == [
        "bad dispatcher two is silent; others do its work. Last heard of #services"
    ]  # fmt: skip
    assert texts(replicas=[*ALL, replica("dispatcher", "two", age_s=601)]) == []
    assert texts(replicas=[*ALL, replica("dispatcher", "two", age_s=30)]) == []


def test_a_service_whose_every_process_is_silent_is_down_however_long() -> None:
    replicas = [each for each in ALL if each.service != "mailer"] + [replica("mailer", age_s=7_000)]
    [bad] = texts(replicas=replicas)
    assert bad.startswith("bad No mailer has been heard of for 30 s: nobody is told of failures. The last one")
    assert [standing.live for standing in standings(replicas)] == [1, 1, 1, 0]


def test_what_is_overdue_for_more_than_a_moment_is_told() -> None:
    overdue = CALM._replace(overdue=7)
    assert texts(overdue._replace(oldest_due_at=NOW - timedelta(seconds=30))) == []
    assert texts(overdue._replace(oldest_due_at=NOW - timedelta(seconds=31))) == [
        "bad Due and not called yet: 7, the oldest since /tasks?q=status:due"
    ]


def test_hosts_are_named_up_to_a_few() -> None:
    hosts = [Host(f"h{number}:81", NOW) for number in range(7)]
    found = texts(breakers=hosts)
    assert found[0] == "bad h0:81 is not called: its circuit breaker is open, since /targets/h0%3A81"
    assert found[5:] == ["bad 2 more, each is not called: its circuit breaker is open /targets"]


def test_what_was_done_on_purpose_is_noted_after_what_is_bad() -> None:
    found = texts(CALM._replace(parked=2), paused=[Host("a.example.com", NOW)])
    assert found == [
        "bad Messages that no service could process: 2 /dead-letters",
        "note a.example.com is paused and its tasks wait, since /targets/a.example.com",
    ]


def test_mail_that_waits_is_noted_and_a_refused_log_in_is_bad() -> None:
    def with_mailer(**vitals: float) -> list[str]:
        return texts(replicas=[*ALL[:3], replica("mailer", "one", 3.0, **vitals)])

    assert with_mailer(waiting=0) == []
    assert with_mailer(waiting=12, waiting_since=NOW.timestamp()) == [
        "note Messages of failures that wait for the next digest: 12, since /digest"
    ]
    assert with_mailer(login_refused=1) == ["bad The mail server refuses the mailer's user or password /digest"]


def test_calls_in_flight_are_those_of_dispatchers_that_live() -> None:
    dead = replica("dispatcher", "two", age_s=60, in_flight=100)
    assert in_flight([*ALL, replica("dispatcher", "three", in_flight=7), dead]) == 7


def test_a_count_that_was_given_up_says_so() -> None:
    assert (count(1_234), count(COUNT_MAX), count(COUNT_MAX + 1)) == (
        "1\N{NARROW NO-BREAK SPACE}234",
        "10\N{NARROW NO-BREAK SPACE}000",
        "10\N{NARROW NO-BREAK SPACE}000+",
    )


def test_vitals_are_told_in_words_and_zeros_go_without_saying() -> None:
    assert says(replica("scheduler", waiting=1_200.0, overdue=3.0, overdue_oldest_s=75.0, unknown=5.0)) == (
        "1\N{NARROW NO-BREAK SPACE}200 waiting, 3 overdue, the oldest by 1 min 15 s"
    )
    assert says(replica("mailer", login_refused=0.0, waiting=0.0)) == ""

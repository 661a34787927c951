"""When a schedule comes, over the clock changes of zones that change in different ways."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.wallclock import resolve, zone
from services.ingest.console.fires import SKIPPED_MAX, Fire, fires
from services.ingest.schedule_view import coming
from services.ingest.schedules import NewPreview, Plan, plan_of


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def a_plan(now: str, **times: Any) -> Plan:
    return plan_of(NewPreview(**times), at(now))


def shown(now: str, count: int, **times: Any) -> list[Fire]:
    return fires(a_plan(now, **times), at(now), count)


def told(rows: Sequence[Fire]) -> list[tuple[str, str, str | None]]:
    return [(row.local, f"{row.at:%d %H:%M}" if row.at else "-", row.mark) for row in rows]


@pytest.mark.parametrize(
    ("timezone", "cron", "now", "expected"),
    [
        (
            "Europe/Berlin", "30 2 * * *", "2027-03-26T23:00",
            [
                ("Sat 27 Mar 2027 02:30:00 +01:00", "27 01:30", None),
                ("Sun 28 Mar 2027 03:00:00 +02:00", "28 01:00", "moved"),
                ("Mon 29 Mar 2027 02:30:00 +02:00", "29 00:30", None),
            ],
        ),
        (
            "Europe/Berlin", "30 2 * * *", "2027-10-30T12:00",
            [
                ("Sun 31 Oct 2027 02:30:00 +02:00", "31 00:30", "once"),
                ("Mon 01 Nov 2027 02:30:00 +01:00", "01 01:30", "clocks change"),
                ("Tue 02 Nov 2027 02:30:00 +01:00", "02 01:30", None),
            ],
        ),
        (
            "America/New_York", "30 2 * * *", "2027-03-13T12:00",
            [
                ("Sun 14 Mar 2027 03:00:00 -04:00", "14 07:00", "moved"),
                ("Mon 15 Mar 2027 02:30:00 -04:00", "15 06:30", None),
            ],
        ),
        (
            "America/New_York", "*/30 1 * * *", "2027-11-07T04:00",
            [
                ("Sun 07 Nov 2027 01:00:00 -04:00", "07 05:00", "once"),
                ("Sun 07 Nov 2027 01:30:00 -04:00", "07 05:30", "once"),
            ],
        ),
        (
            "Australia/Lord_Howe", "15 2 * * *", "2027-10-02T00:00",  # clocks go forward by 30 minutes, at 2
            [
                ("Sun 03 Oct 2027 02:30:00 +11:00", "02 15:30", "moved"),
                ("Mon 04 Oct 2027 02:15:00 +11:00", "03 15:15", None),
            ],
        ),
        (
            "Australia/Lord_Howe", "45 1 * * *", "2027-04-03T00:00",
            [
                ("Sun 04 Apr 2027 01:45:00 +11:00", "03 14:45", "once"),
                ("Mon 05 Apr 2027 01:45:00 +10:30", "04 15:15", "clocks change"),
            ],
        ),
        (
            "Pacific/Apia", "0 9 * * *", "2011-12-28T12:00",  # which went over the date line, and had no 30 December
            [
                ("Wed 28 Dec 2011 09:00:00 -10:00", "28 19:00", None),
                ("Thu 29 Dec 2011 09:00:00 -10:00", "29 19:00", None),
                ("Sat 31 Dec 2011 00:00:00 +14:00", "30 10:00", "moved"),
                ("Sat 31 Dec 2011 09:00:00 +14:00", "30 19:00", None),
            ],
        ),
        (
            "Asia/Kolkata", "0 9 * * *", "2027-03-27T12:00",  # no clock changes at all
            [("Sun 28 Mar 2027 09:00:00 +05:30", "28 03:30", None)],
        ),
    ],
)  # fmt: skip
def test_a_fixed_time_comes_once_on_each_day(
    timezone: str, cron: str, now: str, expected: list[tuple[str, str, str | None]]
) -> None:
    if cron.startswith("*"):
        cron = cron.replace("*/30", "0,30", 1)
    assert told(shown(now, len(expected), cron=cron, timezone=timezone)) == expected


@pytest.mark.parametrize(
    ("timezone", "cron", "now", "expected"),
    [
        (
            "Europe/Berlin", "*/20 * * * *", "2027-03-28T00:30",
            [
                ("Sun 28 Mar 2027 01:40:00 +01:00", "28 00:40", None),
                ("Sun 28 Mar 2027, 02:00, 02:20, 02:40", "-", "skipped"),
                ("Sun 28 Mar 2027 03:00:00 +02:00", "28 01:00", "clocks change"),
                ("Sun 28 Mar 2027 03:20:00 +02:00", "28 01:20", None),
            ],
        ),
        (
            "Europe/Berlin", "0 * * * *", "2027-10-30T23:30",
            [
                ("Sun 31 Oct 2027 02:00:00 +02:00", "31 00:00", "first of two"),
                ("Sun 31 Oct 2027 02:00:00 +01:00", "31 01:00", "second of two"),
                ("Sun 31 Oct 2027 03:00:00 +01:00", "31 02:00", None),
            ],
        ),
        (
            "Australia/Lord_Howe", "*/10 * * * *", "2027-10-02T15:15",
            [
                ("Sun 03 Oct 2027 01:50:00 +10:30", "02 15:20", None),
                ("Sun 03 Oct 2027, 02:00, 02:10, 02:20", "-", "skipped"),
                ("Sun 03 Oct 2027 02:30:00 +11:00", "02 15:30", "clocks change"),
            ],
        ),
        (
            "Pacific/Apia", "0 */3 * * *", "2011-12-30T05:00",
            [
                ("Thu 29 Dec 2011 21:00:00 -10:00", "30 07:00", None),
                ("Fri 30 Dec 2011, 8 times from 00:00 on", "-", "skipped"),
                ("Sat 31 Dec 2011 00:00:00 +14:00", "30 10:00", "clocks change"),
            ],
        ),
    ],
)  # fmt: skip
def test_a_recurrent_time_comes_whenever_clocks_show_it(
    timezone: str, cron: str, now: str, expected: list[tuple[str, str, str | None]]
) -> None:
    count = sum(at_ != "-" for _local, at_, _mark in expected)
    assert told(shown(now, count, cron=cron, timezone=timezone)) == expected


def test_what_happens_is_said_in_words() -> None:
    [gap] = shown("2027-03-27T12:00", 1, cron="0,30 2 * * *", timezone="Europe/Berlin")
    assert gap.note == "Clocks skip 02:00 and 02:30 that day: it comes at the first instant after."
    [once, later] = shown("2027-10-30T12:00", 2, cron="30 2 * * *", timezone="Europe/Berlin")
    assert once.note == "Clocks show 02:30 twice that day: it comes the first time only."
    assert later.note == "Clocks are set back by 1 h before this one."
    [first, second] = shown("2027-10-30T23:30", 2, cron="0 * * * *", timezone="Europe/Berlin")
    assert (first.note, second.note) == (
        "Clocks show 02:00 twice that day: this is the first time.",
        "Clocks show 02:00 twice that day: this is the second time.",
    )
    [skipped, after] = shown("2027-03-28T00:59", 1, cron="59 * * * *", timezone="Europe/Berlin")
    assert skipped.local == "Sun 28 Mar 2027, 02:59"
    assert skipped.note == "Clocks skip these, and show 03:00 at once: it does not come then."
    assert after.note == "Clocks are set forward by 1 h before this one."
    [half] = shown("2027-10-02T12:00", 1, cron="0 12 * * *", timezone="Australia/Lord_Howe")
    assert half.note == "Clocks are set forward by 30 min before this one."


def test_an_interval_goes_by_real_time() -> None:
    rows = shown("2027-10-30T12:00", 3, every="12h", timezone="Europe/Berlin", start_at="2027-10-31T00:30:00Z")
    assert told(rows) == [
        ("Sun 31 Oct 2027 02:30:00 +02:00", "31 00:30", "first of two"),
        ("Sun 31 Oct 2027 13:30:00 +01:00", "31 12:30", "clocks change"),
        ("Mon 01 Nov 2027 01:30:00 +01:00", "01 00:30", None),
    ]
    rows = shown("2027-03-28T00:00", 2, every="20m", timezone="Europe/Berlin", start_at="2027-03-28T00:40:00Z")
    assert [row.mark for row in rows] == [None, "clocks change"]  # and skips nothing


def test_of_a_gap_full_of_times_not_all_are_counted() -> None:
    [_, skipped, after] = shown(
        "2027-03-28T00:00", 2, cron="* * * * * *", timezone="Europe/Berlin", start_at="2027-03-28T00:59:59Z"
    )
    assert skipped.local == f"Sun 28 Mar 2027, more than {SKIPPED_MAX} times from 02:00 on"
    assert after.local == "Sun 28 Mar 2027 03:00:00 +02:00"


def test_milliseconds_are_shown_where_there_are_any() -> None:
    [row] = shown("2027-01-01T00:00", 1, every="1h", start_at="2027-01-02T00:00:00.250Z")
    assert row.local == "Sat 02 Jan 2027 00:00:00.250 +00:00"


def test_it_ends_where_the_schedule_ends() -> None:
    assert shown("2027-01-01T00:00", 10, cron="0 9 * * *", end_at="2026-01-01T00:00:00Z") == []
    assert len(shown("2027-01-01T00:00", 10, cron="0 9 * * *", end_at="2027-01-03T09:00:00Z")) == 3


ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca")


@given(
    st.sampled_from(ZONES),
    st.sampled_from(("* * * * *", "*/7 * * * *", "13 * * * *", "30 2 * * *", "0,20,40 1-3 * * *", "*/15 2 * * *")),
    st.integers(0, 10_000).map(lambda days: at("2008-01-01") + timedelta(days=days)),
    st.integers(-90, 90),
)
def test_the_times_that_come_are_those_of_the_schedule_and_no_skipped_one_exists(
    name: str, cron: str, day: datetime, minutes: int
) -> None:
    where = zone(name)
    now = _near_a_change(day, where) + timedelta(minutes=minutes)
    plan = plan_of(NewPreview(cron=cron, timezone=name), now)
    rows = fires(plan, now, 8)
    assert [row.at for row in rows if row.at] == [one.at for one in islice(coming(plan, now), 8)]
    for row in rows:
        if row.at is None:
            first = row.local.partition(", ")[2].partition(", ")[0].removesuffix(" on").rpartition(" ")[2]
            wall = datetime.strptime(f"{row.local[:15]} {first}", "%a %d %b %Y %H:%M")  # noqa: DTZ007 - no zone has it
            assert resolve(wall, where).dst == "gap"


def _near_a_change(day: datetime, where: ZoneInfo) -> datetime:
    """The beginning of the next day whose end has another offset; the day itself where there is none in a year."""
    for ahead in range(366):
        begin = day + timedelta(days=ahead)
        if begin.astimezone(where).utcoffset() != (begin + timedelta(days=1)).astimezone(where).utcoffset():
            return begin + timedelta(hours=12)
    return day

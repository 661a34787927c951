"""Schedules against a second reading of the rules: each five minutes of two years are asked whether they are one.

The reading below takes an expression as sets of numbers, and shares no code with the product or with cronsim.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice, pairwise, takewhile
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.cron import ALIASES, Cron, CronError, Every, EveryError, Occurrence
from libs.common.wallclock import zone

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
CAIRO, SAO_PAULO, APIA = "Africa/Cairo", "America/Sao_Paulo", "Pacific/Apia"
MINUTE = timedelta(minutes=1)
JANUARY_2026 = datetime(2026, 1, 1, tzinfo=UTC)
JANUARY_2028 = datetime(2028, 1, 1, tzinfo=UTC)
# The local days on which clocks are set; Apia had none on 2011-12-30.
CHANGES = {
    BERLIN: ("2026-03-29", "2026-10-25", "2027-03-28", "2027-10-31"),
    NEW_YORK: ("2026-03-08", "2026-11-01", "2027-03-14", "2027-11-07"),
    LORD_HOWE: ("2026-04-05", "2026-10-04", "2027-04-04", "2027-10-03"),
    CAIRO: ("2026-04-24", "2026-10-29", "2027-04-30", "2027-10-28"),
    SAO_PAULO: ("2018-02-18", "2018-11-04"),
    APIA: ("2011-04-02", "2011-09-24", "2011-12-30"),
}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(expression: str, name: str = "UTC") -> Cron:
    return Cron.parse(expression, zone(name))


def between(schedule: Cron | Every, first: datetime, end: datetime) -> list[Occurrence]:
    """The occurrences in [first, end)."""
    found = schedule.occurrences(first - timedelta(microseconds=1))
    return list(takewhile(lambda occurrence: occurrence.at < end, found))


# The second reading.


@dataclass(frozen=True)
class Reading:
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # Monday is 1, Sunday 7
    is_recurrent: bool = False

    def has(self, wall: datetime) -> bool:
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.day in self.days
            and wall.month in self.months
            and wall.isoweekday() in self.weekdays
        )

    def comes(self, tick: "Tick") -> bool:
        if self.is_recurrent:
            return self.has(tick.wall)
        first = not tick.is_second_pass and self.has(tick.wall)
        return first or any(self.has(skipped) for skipped in tick.skipped)


@dataclass(frozen=True)
class Tick:
    at: datetime
    wall: datetime
    is_second_pass: bool
    skipped: tuple[datetime, ...]  # the wall times between the tick before and this one


@cache
def ticks(name: str, first: datetime, end: datetime, step: timedelta = MINUTE) -> tuple[Tick, ...]:
    """[first, end) in steps, with what clocks show: seen going by, not computed from a rule."""
    return tuple(_ticks(name, first, end, step))


def _ticks(name: str, first: datetime, end: datetime, step: timedelta) -> Iterator[Tick]:
    there = zone(name)
    highest = (first - step).astimezone(there).replace(tzinfo=None)
    at = first
    while at < end:
        wall = at.astimezone(there).replace(tzinfo=None, fold=0)
        skipped = tuple(highest + n * step for n in range(1, (wall - highest) // step))
        yield Tick(at, wall, is_second_pass=wall <= highest, skipped=skipped)
        highest = max(highest, wall)
        at += step


ALL_MINUTES, ALL_HOURS, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS = (
    frozenset(values) for values in (range(60), range(24), range(1, 32), range(1, 13), range(1, 8))
)


def reading(
    minutes: object, hours: object, days: object = ALL_DAYS, weekdays: object = ALL_WEEKDAYS, recurrent: bool = False
) -> Reading:
    def values(given: object) -> frozenset[int]:
        return frozenset({given}) if isinstance(given, int) else frozenset(given)  # type: ignore[call-overload]

    return Reading(values(minutes), values(hours), values(days), ALL_MONTHS, values(weekdays), recurrent)


QUARTERS = range(0, 60, 15)
READINGS = {  # times of whole five minutes, as all changes are
    "30 2 * * *": reading(30, 2),
    "45 1 * * *": reading(45, 1),
    "0 0 * * *": reading(0, 0),
    "0,30 1-3 * * *": reading((0, 30), (1, 2, 3)),
    "0 2,3 * * *": reading(0, (2, 3)),
    "0 0-23 * * *": reading(0, range(24)),
    "15 2 * * SUN": reading(15, 2, weekdays=7),
    "10 1 1-7 * *": reading(10, 1, days=range(1, 8)),
    "0 * * * *": reading(0, range(24), recurrent=True),
    "5 */2 * * *": reading(5, range(0, 24, 2), recurrent=True),
    "*/15 2 * * *": reading(QUARTERS, 2, recurrent=True),
    "*/15 1 * * 0": reading(QUARTERS, 1, weekdays=7, recurrent=True),
}


@pytest.mark.parametrize("name", [BERLIN, NEW_YORK, LORD_HOWE])
@pytest.mark.parametrize("expression", READINGS)
def test_over_two_years_it_comes_at_the_times_that_the_rules_give_and_no_other(expression: str, name: str) -> None:
    rules = READINGS[expression]
    expected = [tick.at for tick in ticks(name, JANUARY_2026, JANUARY_2028, 5 * MINUTE) if rules.comes(tick)]

    found = between(cron(expression, name), JANUARY_2026, JANUARY_2028)

    assert [occurrence.at for occurrence in found] == expected


# How often a day: on an ordinary one, when clocks go forward, when they go back. Written by hand from cron(8).
A_DAY = [
    ("30 2 * * *", BERLIN, 1, 1, 1),
    ("30 2 * * *", NEW_YORK, 1, 1, 1),
    ("15 2 * * *", LORD_HOWE, 1, 1, 1),
    ("0,30 2 * * *", BERLIN, 2, 1, 2),
    ("0 2,3 * * *", NEW_YORK, 2, 1, 2),
    ("0 0-23 * * *", BERLIN, 24, 23, 24),
    ("30 1 * * *", NEW_YORK, 1, 1, 1),
    ("45 1 * * *", LORD_HOWE, 1, 1, 1),
    ("0 12 * * *", LORD_HOWE, 1, 1, 1),
    ("0 * * * *", BERLIN, 24, 23, 25),
    ("0 * * * *", NEW_YORK, 24, 23, 25),
    ("0 * * * *", LORD_HOWE, 24, 23, 24),
    ("30 * * * *", LORD_HOWE, 24, 24, 25),
    ("*/30 * * * *", BERLIN, 48, 46, 50),
    ("*/30 * * * *", LORD_HOWE, 48, 47, 49),
    ("*/15 2 * * *", BERLIN, 4, 0, 8),
    ("*/15 2 * * *", LORD_HOWE, 4, 2, 4),
    ("*/10 1 * * *", NEW_YORK, 6, 6, 12),
    ("0 0 2 * * *", BERLIN, 1, 1, 1),
    ("0 0 * * * *", BERLIN, 24, 23, 25),
]


@pytest.mark.parametrize(("expression", "name", "usual", "forward", "back"), A_DAY)
def test_over_two_years_each_local_day_has_its_number_of_occurrences(
    expression: str, name: str, usual: int, forward: int, back: int
) -> None:
    # North of the equator spring is the change of the first half of the year.
    spring_first = name != LORD_HOWE
    expected = {date(2026, 1, 2) + timedelta(days=n): usual for n in range(728)}
    for text in CHANGES[name]:
        day = date.fromisoformat(text)
        expected[day] = forward if (day.month < 7) is spring_first else back

    found = between(cron(expression, name), JANUARY_2026, JANUARY_2028)

    a_day = Counter(occurrence.local.date() for occurrence in found)
    assert {day: a_day[day] for day in expected} == expected


HALF_A_DAY = timedelta(hours=15)  # and the distance of any zone from UTC
AROUND = [(name, utc(day) - HALF_A_DAY, utc(day) + HALF_A_DAY) for name in CHANGES for day in CHANGES[name]]


@pytest.mark.parametrize(("name", "first", "end"), AROUND)
@pytest.mark.parametrize("expression", ["30 2 * * *", "15 0,1,23 * * *", "*/20 * * * *", "*/20 1 * * *"])
def test_from_whichever_minute_around_a_change_the_next_one_is_the_same(
    expression: str, name: str, first: datetime, end: datetime
) -> None:
    schedule = cron(expression, name)
    ahead = between(schedule, first, end + timedelta(days=2))
    instants = [occurrence.at for occurrence in ahead]

    for tick in ticks(name, first, end):
        for moment in (tick.at - timedelta(microseconds=1), tick.at):
            assert schedule.after(moment) == ahead[bisect_right(instants, moment)]


@pytest.mark.parametrize(
    ("expression", "name", "after", "at", "local", "fold", "dst"),
    [
        ("30 2 * * *", BERLIN, "2027-03-27T12:00", "2027-03-28T01:00", "2027-03-28T02:30", 0, "gap"),
        ("30 2 * * *", BERLIN, "2027-03-28T00:59:59", "2027-03-28T01:00", "2027-03-28T02:30", 0, "gap"),
        ("30 2 * * *", BERLIN, "2027-03-28T00:59:59.999999", "2027-03-28T01:00", "2027-03-28T02:30", 0, "gap"),
        ("0,30 2,3 * * *", BERLIN, "2027-03-27T12:00", "2027-03-28T01:00", "2027-03-28T02:00", 0, "gap"),
        ("0,30 2,3 * * *", BERLIN, "2027-03-28T01:00", "2027-03-28T01:30", "2027-03-28T03:30", 0, ""),
        ("30 2 * * *", BERLIN, "2027-10-30T12:00", "2027-10-31T00:30", "2027-10-31T02:30", 0, "repeated"),
        ("30 2 * * *", BERLIN, "2027-10-31T00:30", "2027-11-01T01:30", "2027-11-01T02:30", 0, ""),
        ("30 * * * *", BERLIN, "2027-10-31T00:30", "2027-10-31T01:30", "2027-10-31T02:30", 1, "repeated"),
        ("30 * * * *", BERLIN, "2027-03-28T00:30", "2027-03-28T01:30", "2027-03-28T03:30", 0, ""),
        ("0 0 * * *", CAIRO, "2026-04-23T12:00", "2026-04-23T22:00", "2026-04-24T00:00", 0, "gap"),
        ("0 0 * * *", SAO_PAULO, "2018-11-03T12:00", "2018-11-04T03:00", "2018-11-04T00:00", 0, "gap"),
        ("0 8 * * *", APIA, "2011-12-29T18:00", "2011-12-30T10:00", "2011-12-30T08:00", 0, "gap"),
        ("0 8 * * *", APIA, "2011-12-30T10:00", "2011-12-30T18:00", "2011-12-31T08:00", 0, ""),
        ("*/15 2 * * *", LORD_HOWE, "2026-04-04T14:50", "2026-04-04T15:30", "2026-04-05T02:00", 0, ""),
        ("20 30 2 * * *", BERLIN, "2027-03-27T12:00", "2027-03-28T01:00", "2027-03-28T02:30:20", 0, "gap"),
        ("*/20 59 2 * * *", BERLIN, "2027-10-31T00:59:40", "2027-10-31T01:59", "2027-10-31T02:59", 1, "repeated"),
    ],
)
def test_an_occurrence_says_which_wall_time_it_stands_for(
    expression: str, name: str, after: str, at: str, local: str, fold: int, dst: str
) -> None:
    occurrence = cron(expression, name).after(utc(after))

    assert occurrence is not None
    assert (occurrence.at, occurrence.local) == (utc(at), datetime.fromisoformat(local))
    assert (occurrence.fold, occurrence.dst) == (fold, dst)


# Any simple expression, in any of the zones, around any of their changes.


@st.composite
def expressions(draw: st.DrawFn) -> tuple[str, Reading]:
    """An expression and what it means; a step or `*` for minutes or hours makes it recurrent."""

    def part(everything: range) -> tuple[str, frozenset[int]]:
        match draw(st.sampled_from(["*", "step", "list", "range"])):
            case "*":
                return "*", frozenset(everything)
            case "step":
                step = draw(st.integers(2, len(everything) - 1))
                return f"*/{step}", frozenset(everything[::step])
            case "list":
                values = draw(st.sets(st.sampled_from(everything), min_size=1, max_size=3))
                return ",".join(map(str, values)), frozenset(values)
            case _:
                low, high = sorted(draw(st.tuples(st.sampled_from(everything), st.sampled_from(everything))))
                return f"{low}-{high}", frozenset(range(low, high + 1))

    (minute, minutes), (hour, hours), (day, days) = part(range(60)), part(range(24)), part(range(1, 32))
    recurrent = minute.startswith("*") or hour.startswith("*")
    text = f"{minute} {hour} {day} * *"
    return text, Reading(minutes, hours, days, ALL_MONTHS, ALL_WEEKDAYS, recurrent)


@given(expressions(), st.sampled_from(AROUND))
@settings(max_examples=200)
def test_any_simple_expression_comes_around_a_change_as_the_rules_say(
    written: tuple[str, Reading], around: tuple[str, datetime, datetime]
) -> None:
    (expression, rules), (name, first, end) = written, around
    expected = [tick.at for tick in ticks(name, first, end) if rules.comes(tick)]

    assert [occurrence.at for occurrence in between(cron(expression, name), first, end)] == expected


moments = st.datetimes(datetime(2010, 1, 1), datetime(2080, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
near_changes = st.builds(
    lambda around, offset: around[1] + offset,
    st.sampled_from(AROUND),
    st.timedeltas(timedelta(0), 2 * HALF_A_DAY),
)


@given(expressions(), st.sampled_from(sorted(CHANGES)), moments | near_changes)
@settings(max_examples=200)
def test_occurrences_are_strictly_ahead_in_order_and_never_twice_one_wall_time(
    written: tuple[str, Reading], name: str, moment: datetime
) -> None:
    schedule = cron(written[0], name)

    found = list(islice(schedule.occurrences(moment), 10))

    assert all(earlier.at < later.at for earlier, later in pairwise(found))
    assert all(occurrence.at > moment for occurrence in found)
    assert len({(occurrence.local, occurrence.fold) for occurrence in found}) == len(found)
    assert all(schedule.after(earlier.at) == later for earlier, later in pairwise(found))
    assert all(schedule.after(occurrence.at - timedelta(microseconds=1)) == occurrence for occurrence in found)


# Reading an expression.


@pytest.mark.parametrize(
    ("expression", "after", "at"),
    [
        ("0 0 29 2 *", "2027-01-01", "2028-02-29"),
        ("0 0 29 2 *", "2096-03-01", "2104-02-29"),
        ("0 0 L * *", "2028-02-01", "2028-02-29"),
        ("0 0 LW * *", "2027-01-01", "2027-01-29"),
        ("0 0 * * MON#2", "2027-01-01", "2027-01-11"),
        ("0 0 * 2 MON#5", "2027-01-01", "2044-02-29"),
        ("0 0 * * 5L", "2027-01-01", "2027-01-29"),
        ("0 0 * * 7", "2027-01-01", "2027-01-03"),
        ("0 0 1 jan,JUL mon-wed", "2027-01-01", "2027-01-04"),
        ("0 0 13 * FRI", "2027-01-02", "2027-01-08"),
        ("5/20 * * * *", "2027-01-01T00:26", "2027-01-01T00:45"),
        ("10 0 0 * * *", "2027-01-01", "2027-01-01T00:00:10"),
        ("* * * * * *", "2027-01-01T00:00:00.999999", "2027-01-01T00:00:01"),
        ("  0   0  1 1 * ", "2027-01-01", "2028-01-01"),
    ],
)
def test_the_next_occurrence(expression: str, after: str, at: str) -> None:
    occurrence = cron(expression).after(utc(after))

    assert occurrence is not None
    assert occurrence.at == utc(at)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_comes_as_what_it_stands_for(alias: str) -> None:
    short, long = cron(alias, BERLIN), cron(ALIASES[alias], BERLIN)

    assert list(islice(short.occurrences(JANUARY_2026), 5)) == list(islice(long.occurrences(JANUARY_2026), 5))
    assert (cron(alias.upper()).words, short.expression) == (long.words, alias)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("", "of 5 or 6 fields: it has 0; write minute hour "),
        ("* * * *", "of 5 or 6 fields: it has 4; write minute hour "),
        ("* * * * * * *", "of 5 or 6 fields: it has 7; write minute hour "),
        ("61 * * * * *", "'61' is no second; write *, one of 0-59"),
        ("61 * * * *", "'61' is no minute; write *, one of 0-59"),
        ("0 24 * * *", "'24' is no hour; write *, one of 0-23"),
        ("0 0 ? * *", "'?' is no day-of-month; write *, one of 1-31, L"),
        ("0 0 1 13 *", "'13' is no month; write *, one of 1-12 or JAN-DEC"),
        ("0 0 * * 8", "'8' is no day-of-week; write *, one of 0-7 or SUN-SAT"),
        ("*/0 * * * *", "'*/0' is no minute"),
        ("1,, * * * *", "'1,,' is no minute"),
        ("5-1 * * * *", "'5-1' is no minute"),
        ("0 0 30 2 *", "day-of-month '30' never comes in month '2'"),
        ("0 0 31 2,4,6 *", "day-of-month '31' never comes in month '2,4,6'"),
        ("0 0 LW * */7", "that comes within 50 years"),
        ("@reboot", "there is no alias '@REBOOT'; write one of @hourly, "),
        ("@every 5m", "or `every` for an interval"),
        ("x" * 100 + " * * * *", "'XXXXXXXXXXXXXXXXXXXX...' is no minute"),
        ("9" * 513, "is longer than 512 characters"),
    ],
)
def test_a_bad_expression_is_refused_with_the_field_and_the_remedy(expression: str, text: str) -> None:
    with pytest.raises(CronError) as refused:
        cron(expression)

    assert str(refused.value).startswith("is no cron expression")
    assert text in str(refused.value)


def test_what_clocks_of_its_zone_never_show_is_refused() -> None:
    expression = "*/5 2 * 3 7L"  # the hour that is skipped each year

    assert cron(expression, "UTC")
    with pytest.raises(CronError, match="within 50 years"):
        cron(expression, BERLIN)


def test_an_expression_that_never_comes_is_refused_without_going_through_all_years() -> None:
    started = process_time()

    with pytest.raises(CronError):
        cron("*/5 2 * 3 7L", BERLIN)

    assert process_time() - started < 0.2  # measured: 0.01, and 1.0 through all years


@given(st.text("0123456789*/-,#LW?@ MONJAFEB", max_size=30) | st.text(max_size=30))
@settings(max_examples=300)
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        schedule = cron(text, LORD_HOWE)
    except CronError:
        return
    assert schedule.words
    assert schedule.after(JANUARY_2026) is not None


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 8 * * *", "At 08:00 every day"),
        ("*/5 * * * * *", "Every fifth second of every minute"),
        ("0 0 31 * *", "At 00:00 on the 31st day of every month"),
        ("*/22 * * * *", "Every 22nd minute of every hour"),
        ("*/13 * * * *", "Every 13th minute of every hour"),
        ("@hourly", "At the start of every hour"),
    ],
)
def test_an_expression_has_plain_words(expression: str, words: str) -> None:
    assert cron(expression).words == words


def test_where_the_calendar_ends_nothing_comes() -> None:
    end = utc("9999-12-31T23:59:59.999999")

    for name in ("UTC", BERLIN, NEW_YORK):
        assert cron("* * * * *", name).after(end) is None
        assert cron("0 0 1 1 *", name).after(end) is None
        assert Every.parse(60, JANUARY_2026, zone(name)).after(end) is None


@pytest.mark.parametrize("schedule", [cron("* * * * *"), Every.parse(60, JANUARY_2026, zone("UTC"))])
def test_a_moment_without_a_zone_is_refused(schedule: Cron | Every) -> None:
    with pytest.raises((ValueError, TypeError), match=r"time zone|offset-naive"):
        schedule.after(datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_moment_in_any_zone_is_the_instant_it_is() -> None:
    moment = utc("2027-10-31T01:10")

    assert cron("30 2 * * *", BERLIN).after(moment.astimezone(zone(NEW_YORK))) == cron("30 2 * * *", BERLIN).after(
        moment
    )


# Intervals.


@pytest.mark.parametrize("written", [900, 900.0, "900s", "15m", "0.25h", "PT15M", "PT0.25H"])
def test_an_interval_is_written_in_seconds_or_short_or_as_iso_8601(written: str | float) -> None:
    assert Every.parse(written, JANUARY_2026, zone("UTC")).interval == timedelta(minutes=15)


@given(
    st.integers(1000, 10_000_000).map(lambda ms: ms / 1000),
    st.timedeltas(timedelta(days=-1), timedelta(days=4000)),
    st.integers(0, 10),
)
def test_an_interval_comes_at_its_start_and_then_without_drift(seconds: float, offset: timedelta, further: int) -> None:
    every = Every.parse(seconds, JANUARY_2026, zone(BERLIN))
    moment = JANUARY_2026 + offset

    found = list(islice(every.occurrences(moment), further + 1))

    first, last = found[0].at, found[-1].at
    assert moment < first
    assert first == JANUARY_2026 or first - every.interval <= moment
    assert first >= JANUARY_2026
    assert not (first - JANUARY_2026) % every.interval
    assert last == first + further * every.interval
    assert every.interval == timedelta(milliseconds=round(seconds * 1000))


def test_before_its_start_the_next_of_an_interval_is_the_start() -> None:
    every = Every.parse("15m", JANUARY_2026, zone("UTC"))

    assert next(every.occurrences(JANUARY_2026 - timedelta(days=1))).at == JANUARY_2026
    assert next(every.occurrences(JANUARY_2026)).at == JANUARY_2026 + timedelta(minutes=15)


def test_an_interval_does_not_care_about_clock_changes_and_says_what_clocks_show() -> None:
    every = Every.parse("30m", utc("2027-10-31T00:00"), zone(BERLIN))

    found = list(islice(every.occurrences(utc("2027-10-31T00:00")), 4))

    assert [occurrence.at for occurrence in found] == [every.start + n * every.interval for n in (1, 2, 3, 4)]
    assert [f"{o.local:%H:%M} {o.fold} {o.dst}".strip() for o in found] == [
        "02:30 0 repeated",
        "02:00 1 repeated",
        "02:30 1 repeated",
        "03:00 0",
    ]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("", "is no interval; write seconds"),
        ("soon", "is no interval; write seconds"),
        (float("nan"), "is no interval; write seconds"),
        (float("inf"), "is no interval; write seconds"),
        (0, "is not between 1 second and 10 years"),
        ("0.999s", "is not between 1 second and 10 years"),
        (-60, "is not between 1 second and 10 years"),
        ("3653d", "is not between 1 second and 10 years"),
        (1e300, "is not between 1 second and 10 years"),
        ("1.0005s", "has a part of a millisecond"),
    ],
)
def test_a_bad_interval_is_refused_with_the_remedy(written: str | float, text: str) -> None:
    with pytest.raises(EveryError, match=text):
        Every.parse(written, JANUARY_2026, zone("UTC"))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (1, "Every second"),
        (60, "Every minute"),
        ("90s", "Every 90 seconds"),
        ("15m", "Every 15 minutes"),
        ("1h", "Every hour"),
        ("36h", "Every 36 hours"),
        ("2d", "Every 2 days"),
        ("1.5s", "Every 1.5 seconds"),
        ("1000001.001s", "Every 1000001.001 seconds"),
    ],
)
def test_an_interval_has_plain_words(written: str | float, words: str) -> None:
    assert Every.parse(written, JANUARY_2026, zone("UTC")).words == words

"""A time as a person types it."""

from datetime import UTC, datetime

import pytest

from services.ingest.console.when import read_moment, read_when
from services.ingest.creation import due_time
from services.ingest.problems import FieldError
from services.ingest.requests import LocalTime, NewTime

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def read(text: str, timezone: str = "") -> tuple[str | None, list[str]]:
    """As the API reads it: the moment, or what is wrong."""
    errors: list[FieldError] = []
    due_at = due_time(read_when(text, timezone), NOW, errors)
    return (None if errors else due_at.strftime("%Y-%m-%dT%H:%M:%S")), [error.code for error in errors]


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("in 10 m", "2026-11-21T12:10:00"),
        ("In 10m", "2026-11-21T12:10:00"),
        ("10m", "2026-11-21T12:10:00"),
        ("in 1.5 h", "2026-11-21T13:30:00"),
        ("in 90", "2026-11-21T12:01:30"),
        ("PT5M", "2026-11-21T12:05:00"),
        ("2027-03-01T09:00:00Z", "2027-03-01T09:00:00"),
        ("2027-03-01 09:00 Z", "2027-03-01T09:00:00"),
        ("2027-03-01 09:00 +02:00", "2027-03-01T07:00:00"),
        ("1800000000", "2027-01-15T08:00:00"),
        ("now", "2026-11-21T12:00:00"),
        ("  ", "2026-11-21T12:00:00"),
    ],
)
def test_what_people_write_is_understood(text: str, due: str) -> None:
    assert read(text) == (due, [])


def test_a_zone_makes_it_a_clock_somewhere() -> None:
    assert read_when("2027-03-28 02:30", "Europe/Paris") == NewTime(
        local_time=LocalTime(at="2027-03-28T02:30:00", timezone="Europe/Paris")
    )
    assert read("2027-07-01 09:00", "Europe/Paris") == ("2027-07-01T07:00:00", [])


def test_a_delay_needs_no_zone() -> None:
    assert read("in 10 m", "Europe/Paris") == ("2026-11-21T12:10:00", [])


@pytest.mark.parametrize(
    ("text", "timezone", "code"),
    [
        ("2027-03-01 09:00", "", "naive_time"),
        ("soon", "", "not_a_time"),
        ("in soon", "", "not_a_delay"),
        ("in a while", "Europe/Paris", "not_a_delay"),
        ("2027-03-01T09:00:00Z", "Europe/Paris", "offset"),
        ("2027-03-01 09:00", "Mars/Olympus", "unknown_zone"),
        ("999999999999999", "", "too_far"),
        ("in 99999 d", "", "too_far"),
        ("1" * 400, "", "not_a_time"),
        ("in " + "1" * 400, "", "not_a_delay"),
        ("2027-03-01T09:00:00Z\0", "", "not_a_time"),
        ("in -5 m", "", "not_a_delay"),
    ],
)
def test_what_is_wrong_is_told_by_the_rules_of_the_api(text: str, timezone: str, code: str) -> None:
    assert read(text, timezone) == (None, [code])


def test_nothing_is_no_time() -> None:
    assert read_when(" ") == NewTime()
    assert read_moment("") is None
    assert read_moment("2027-03-01 09:00 Z") == "2027-03-01T09:00:00Z"
    assert read_moment("1800000000") == 1800000000.0

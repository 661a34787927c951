"""When the digest is due, on ordinary days and on those of 23 and 25 hours."""

from datetime import UTC, datetime

import pytest

from services.mailer.schedule import Schedule

PARIS = "Europe/Paris"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("0 8 * * *", "UTC", "2027-01-01T07:59:59", "2027-01-01T08:00:00"),
        ("0 8 * * *", "UTC", "2027-01-01T08:00:00", "2027-01-02T08:00:00"),
        ("0 8 * * *", PARIS, "2027-01-01T00:00:00", "2027-01-01T07:00:00"),
        ("0 8 * * *", PARIS, "2027-07-01T00:00:00", "2027-07-01T06:00:00"),
        ("@daily", PARIS, "2027-01-01T00:00:00", "2027-01-01T23:00:00"),
        ("*/5 * * * * *", "UTC", "2027-01-01T00:00:01.250", "2027-01-01T00:00:05"),
        # 28 March 2027: 02:00 is followed by 03:00; half past two is made up for at once.
        ("30 2 * * *", PARIS, "2027-03-28T00:00:00", "2027-03-28T01:00:00"),
        ("30 2 * * *", PARIS, "2027-03-28T01:00:00", "2027-03-29T00:30:00"),
        # 31 October 2027: 02:00 to 03:00 comes twice; once is enough.
        ("30 2 * * *", PARIS, "2027-10-31T00:00:00", "2027-10-31T00:30:00"),
        ("30 2 * * *", PARIS, "2027-10-31T00:30:00", "2027-11-01T01:30:00"),
    ],
)
def test_the_next_fire(expression: str, zone: str, after: str, expected: str) -> None:
    assert Schedule(expression, zone).after(utc(after)) == utc(expected)


def test_in_the_repeated_hour_the_next_fire_is_not_one_of_the_past() -> None:
    # 02:10 for the second time: half past two was 40 minutes ago.
    assert Schedule("30 2 * * *", PARIS).after(utc("2027-10-31T01:10:00")) == utc("2027-11-01T01:30:00")


@pytest.mark.parametrize("expression", ["0 8 * * *", "15 * * * *", "30 2 * * *", "*/10 * * * *", "0 30 2 * * *"])
@pytest.mark.parametrize("day", ["2027-03-28", "2027-10-31"])
def test_on_the_days_of_a_clock_change_the_next_fire_is_always_ahead(expression: str, day: str) -> None:
    schedule = Schedule(expression, PARIS)
    for minute in range(0, 24 * 60, 7):
        moment = utc(f"{day}T{minute // 60:02}:{minute % 60:02}:00")
        assert schedule.after(moment) > moment


@pytest.mark.parametrize("expression", ["", "8 *", "61 * * * *", "@reboot", "0 0 30 2 *", "a b c d e"])
def test_a_bad_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="is no cron expression"):
        Schedule(expression, "UTC")


@pytest.mark.parametrize("zone", ["Mars/Base", "", "../etc/passwd", "Europe"])
def test_a_bad_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="is no IANA time zone"):
        Schedule("0 8 * * *", zone)

"""When a schedule comes, as a preview shows it: over clock changes, within its bounds."""

from datetime import UTC, datetime
from typing import Any

from services.ingest.schedule_view import Fire, preview
from services.ingest.schedules import NewPreview, plan_of


def previewed(now: datetime, **times: Any) -> list[Fire]:
    new = NewPreview(**times)
    return preview(plan_of(new, now), now, new.count).data


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_time_that_clocks_skip_is_shown_with_what_it_meant() -> None:
    fires = previewed(at("2027-03-26T23:00:00"), cron="30 2 * * *", timezone="Europe/Paris", count=3)
    assert fires == [
        Fire(at="2027-03-27T01:30:00.000Z", local="2027-03-27T02:30:00.000+01:00"),
        Fire(
            at="2027-03-28T01:00:00.000Z", local="2027-03-28T03:00:00.000+02:00", dst="gap", meant="2027-03-28T02:30:00"
        ),
        Fire(at="2027-03-29T00:30:00.000Z", local="2027-03-29T02:30:00.000+02:00"),
    ]


def test_a_fixed_time_that_clocks_show_twice_comes_the_first_time() -> None:
    fires = previewed(at("2027-10-30T22:00:00"), cron="30 2 * * *", timezone="Europe/Paris", count=2)
    assert [(fire.at, fire.dst) for fire in fires] == [
        ("2027-10-31T00:30:00.000Z", "first"),
        ("2027-11-01T01:30:00.000Z", None),
    ]


def test_a_recurrent_time_comes_in_both_passes() -> None:
    fires = previewed(at("2027-10-30T23:00:00"), cron="0 * * * *", timezone="Europe/Paris", count=4)
    assert [(fire.local, fire.dst) for fire in fires] == [
        ("2027-10-31T02:00:00.000+02:00", "first"),
        ("2027-10-31T02:00:00.000+01:00", "second"),
        ("2027-10-31T03:00:00.000+01:00", None),
        ("2027-10-31T04:00:00.000+01:00", None),
    ]


def test_the_first_and_the_last_moment_belong_to_it() -> None:
    times = {"start_at": "2027-01-01T00:00:00Z", "end_at": "2027-01-01T02:00:00Z"}
    fires = previewed(at("2026-11-21T12:00:00"), every="1h", **times)
    assert [fire.at[11:16] for fire in fires] == ["00:00", "01:00", "02:00"]
    fires = previewed(at("2026-11-21T12:00:00"), cron="0 * * * *", **times)
    assert [fire.at[11:16] for fire in fires] == ["00:00", "01:00", "02:00"]
    assert [fire.at[11:16] for fire in previewed(at("2027-01-01T01:00:00"), every="1h", **times)] == ["02:00"]

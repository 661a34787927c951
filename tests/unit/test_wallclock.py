"""Wall times in zones with clock changes of every kind: an hour, half an hour, at midnight, a whole day."""

import zoneinfo
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common import wallclock
from libs.common.wallclock import Instant, UnknownZone, resolve, second_pass, shown, zone

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Antarctica/Troll",
)
zones = st.sampled_from(ZONES).map(zone)
wall_times = st.datetimes(datetime(1975, 1, 1), datetime(2090, 1, 1))  # noqa: DTZ001 - a wall time has no zone
moments = st.datetimes(datetime(1975, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def naive(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


@pytest.mark.parametrize(
    ("name", "local", "at", "dst"),
    [
        ("Europe/Berlin", "2027-07-01T12:00:00", "2027-07-01T10:00:00", ""),
        ("Europe/Berlin", "2027-03-28T01:59:59.999", "2027-03-28T00:59:59.999", ""),
        ("Europe/Berlin", "2027-03-28T02:00:00", "2027-03-28T01:00:00", "gap"),
        ("Europe/Berlin", "2027-03-28T02:30:00.5", "2027-03-28T01:00:00", "gap"),
        ("Europe/Berlin", "2027-03-28T02:59:59.999999", "2027-03-28T01:00:00", "gap"),
        ("Europe/Berlin", "2027-03-28T03:00:00", "2027-03-28T01:00:00", ""),
        ("Europe/Berlin", "2027-10-31T02:00:00", "2027-10-31T00:00:00", "repeated"),
        ("Europe/Berlin", "2027-10-31T02:59:59.999", "2027-10-31T00:59:59.999", "repeated"),
        ("Europe/Berlin", "2027-10-31T03:00:00", "2027-10-31T02:00:00", ""),
        ("America/New_York", "2027-03-14T02:30:00", "2027-03-14T07:00:00", "gap"),
        ("America/New_York", "2027-11-07T01:30:00", "2027-11-07T05:30:00", "repeated"),
        ("Australia/Lord_Howe", "2026-10-04T02:10:00", "2026-10-03T15:30:00", "gap"),
        ("Australia/Lord_Howe", "2026-10-04T02:30:00", "2026-10-03T15:30:00", ""),
        ("Australia/Lord_Howe", "2026-04-05T01:45:00", "2026-04-04T14:45:00", "repeated"),
        ("America/Sao_Paulo", "2018-11-04T00:00:00", "2018-11-04T03:00:00", "gap"),
        ("Africa/Cairo", "2026-04-24T00:15:00", "2026-04-23T22:00:00", "gap"),
        ("Pacific/Apia", "2011-12-30T08:00:00", "2011-12-30T10:00:00", "gap"),
        ("Antarctica/Troll", "2027-03-28T01:30:00", "2027-03-28T01:00:00", "gap"),
    ],
)
def test_a_wall_time_is_one_instant(name: str, local: str, at: str, dst: str) -> None:
    seen = resolve(wall(local), zone(name))

    assert (seen.at, seen.local, seen.fold, seen.dst) == (utc(at), wall(local), 0, dst)


def test_the_second_of_two_passes_can_be_asked_for() -> None:
    first, second = (resolve(wall("2027-10-31T02:30"), zone("Europe/Berlin"), fold) for fold in (0, 1))

    assert second == Instant(first.at + timedelta(hours=1), first.local, 1, "repeated")


@pytest.mark.parametrize("local", ["2027-07-01T12:00", "2027-03-28T02:30"])
def test_where_there_is_no_second_pass_asking_for_it_changes_nothing(local: str) -> None:
    berlin = zone("Europe/Berlin")

    assert resolve(wall(local), berlin, 1) == resolve(wall(local), berlin)


def test_a_wall_time_that_has_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="give the wall time alone"):
        resolve(utc("2027-01-01"), zone("UTC"))


@given(wall_times, zones)
def test_clocks_show_an_existing_wall_time_at_its_instant(local: datetime, zone: ZoneInfo) -> None:
    seen = resolve(local, zone)

    if seen.dst == "gap":
        # Skipped: just before, clocks show less, and at the instant more.
        assert naive(seen.at - timedelta(microseconds=1), zone) < local < naive(seen.at, zone)
    else:
        assert naive(seen.at, zone) == local


@given(st.lists(wall_times, min_size=2, max_size=2).map(sorted), zones)
def test_a_later_wall_time_is_never_an_earlier_instant(locals_: list[datetime], zone: ZoneInfo) -> None:
    earlier, later = locals_

    assert resolve(earlier, zone).at <= resolve(later, zone).at


@given(moments, zones)
def test_what_clocks_show_leads_back_to_the_instant(moment: datetime, zone: ZoneInfo) -> None:
    seen = shown(moment, zone)

    assert seen.at == moment
    assert seen.local == naive(moment, zone)
    assert resolve(seen.local, zone, seen.fold) == seen


@pytest.mark.parametrize(
    ("name", "at", "back_at"),
    [
        ("Europe/Berlin", "2027-10-30T23:59:59", None),
        ("Europe/Berlin", "2027-10-31T00:00:00", "2027-10-31T01:00:00"),
        ("Europe/Berlin", "2027-10-31T00:59:59.999999", "2027-10-31T01:00:00"),
        ("Europe/Berlin", "2027-10-31T01:00:00", None),
        ("Australia/Lord_Howe", "2026-04-04T14:31:00", "2026-04-04T15:00:00"),
        ("Australia/Lord_Howe", "2026-04-04T14:29:00", None),
    ],
)
def test_only_the_first_pass_has_a_second(name: str, at: str, back_at: str | None) -> None:
    assert second_pass(utc(at), zone(name)) == (utc(back_at) if back_at else None)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("europe/paris", "Europe/Paris"),
        ("Paris", "Europe/Paris"),
        ("New York", "America/New_York"),
        ("America/NewYork", "America/New_York"),
        (" UTC ", "UTC"),
    ],
)
def test_an_almost_right_zone_is_answered_with_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(UnknownZone, match=rf"did you mean {meant}\?"):
        zone(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Base",
        "Europe",
        "localtime",
        "posixrules",
        "Factory",
        "posix/UTC",
        "/etc/localtime",
        "../zones",
        "x" * 10**6,
    ],
)
def test_what_is_no_iana_zone_is_refused(name: str) -> None:
    with pytest.raises(UnknownZone, match="is no IANA time zone such as Europe/Paris"):
        zone(name)


def test_every_zone_of_the_package_can_be_asked_for() -> None:
    names = files("tzdata").joinpath("zones").read_text().split()

    assert len(names) > 400
    assert all(zone(name).key == name for name in names if name != "Factory")


def test_the_rules_are_the_packages_whatever_the_system_has(tmp_path: Path) -> None:
    (tmp_path / "Asia").mkdir()
    (tmp_path / "Asia" / "Tokyo").write_bytes(files("tzdata.zoneinfo").joinpath("UTC").read_bytes())
    system_path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([str(tmp_path)])
    wallclock._load.cache_clear()
    try:
        assert ZoneInfo.no_cache("Asia/Tokyo").utcoffset(wall("2027-01-01")) == timedelta(0)
        assert zone("Asia/Tokyo").utcoffset(wall("2027-01-01")) == timedelta(hours=9)
    finally:
        zoneinfo.reset_tzpath(system_path)
